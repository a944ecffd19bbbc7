#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace keye::model {
namespace {

struct Architecture {
  std::string_view name;
  bool vision;
  bool moe;
  bool sparse;  // may carry sa_config
  bool latent;  // DeepSeek-V3's decoder
};

constexpr Architecture kArchitectures[] = {
    {"Qwen3ForCausalLM", false, false, false, false},
    {"Qwen3MoeForCausalLM", false, true, false, false},
    {"DeepseekV3ForCausalLM", false, true, false, true},
    {"KeyeForConditionalGeneration", true, false, false, false},
    {"KeyeVL1_5ForConditionalGeneration", true, false, false, false},
    {"KeyeVL2ForConditionalGeneration", true, false, true, false},
    {"KeyeVL2MoeForConditionalGeneration", true, true, true, false},
    {"KeyeVLMoeForConditionalGeneration", true, true, false, true},
};

constexpr int kLatentWidthMax = 576;  // of a token in the cache: as wide as the kernels go
constexpr int kSizeMax = 1 << 24;     // of any single dimension: larger is a damaged file

/// Reads fields of one JSON object and remembers the first that is wrong.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  bool has(const char* key) const { return object_.contains(key) && !object_[key].is_null(); }

  int integer(const char* key, std::optional<int> fallback, int low = 1, int high = kSizeMax) {
    if (!has(key)) {
      if (!fallback) fail(key, "is missing");
      return fallback.value_or(low);
    }
    const Json& value = object_[key];
    if (!value.is_number_integer() || value < low || value > high) {
      fail(key, fmt::format("should be a whole number in [{}, {}], got {}", low, high, value.dump()));
      return low;
    }
    return value.get<int>();
  }

  double number(const char* key, std::optional<double> fallback, double low, double high) {
    if (!has(key)) {
      if (!fallback) fail(key, "is missing");
      return fallback.value_or(low);
    }
    const Json& value = object_[key];
    if (!value.is_number() || !(value.get<double>() >= low) || !(value.get<double>() <= high)) {
      fail(key, fmt::format("should be a number in [{}, {}], got {}", low, high, value.dump()));
      return low;
    }
    return value.get<double>();
  }

  bool boolean(const char* key, bool fallback) {
    if (!has(key)) return fallback;
    if (!object_[key].is_boolean()) {
      fail(key, fmt::format("should be true or false, got {}", object_[key].dump()));
      return fallback;
    }
    return object_[key].get<bool>();
  }

  std::vector<int> integers(const char* key, int low, int high) {
    std::vector<int> result;
    if (!has(key)) return result;
    const Json& list = object_[key];
    if (!list.is_array()) fail(key, fmt::format("should be a list, got {}", list.dump()));
    if (!list.is_array()) return result;
    for (const Json& value : list) {
      if (!value.is_number_integer() || value < low || value > high) {
        fail(key, fmt::format("should hold whole numbers in [{}, {}], got {}", low, high, value.dump()));
        return result;
      }
      result.push_back(value.get<int>());
    }
    return result;
  }

  /// The field must be absent, null or one of these values.
  void only(const char* key, std::initializer_list<Json> accepted, std::string_view instead) {
    if (!has(key)) return;
    const Json& value = object_[key];
    if (std::find(accepted.begin(), accepted.end(), value) != accepted.end()) return;
    if (!error_)
      error_ =
          make_error(ErrorCode::unsupported, where_, "\"{}\": {} is not supported; {}", key, value.dump(), instead);
  }

  void fail(const char* key, std::string_view what) {
    if (!error_) error_ = make_error(ErrorCode::corrupt_data, where_, "\"{}\" {}", key, what);
  }
  void set_error(Error error) {
    if (!error_) error_ = std::move(error);
  }
  const std::optional<Error>& error() const { return error_; }
  const Json& object() const { return object_; }
  const std::string& where() const { return where_; }

 private:
  const Json& object_;
  std::string where_;
  std::optional<Error> error_;
};

/// rope_scaling: absent, or mrope in any of its spellings.
void parse_rope(Fields& fields, TextConfig& text) {
  // Newer exporters put theta and scaling into one "rope_parameters" object.
  const char* key = fields.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  text.rope_theta =
      fields.number("rope_theta", fields.has("rope_parameters") ? std::optional(0.0) : std::optional(10000.0), 0, 1e12);
  if (!fields.has(key)) return;
  if (!fields.object()[key].is_object()) return fields.fail(key, "should be an object or null");
  Fields rope(fields.object()[key], fields.where() + ": " + key);
  if (text.rope_theta == 0) text.rope_theta = rope.number("rope_theta", 10000.0, 1, 1e12);
  const std::string_view help = "only plain and mrope rotary positions are; use a checkpoint without rope scaling";
  rope.only("type", {"default", "mrope"}, help);
  rope.only("rope_type", {"default", "mrope"}, help);
  rope.only("mrope_interleaved", {false}, "only sectioned mrope is");
  if (rope.has("mrope_section")) {
    const std::vector<int> sections = rope.integers("mrope_section", 0, 4096);
    if (sections.size() != 3 || sections[0] + sections[1] + sections[2] != text.head_dim / 2) {
      rope.fail("mrope_section",
                fmt::format("should hold three numbers that sum to {} (half of head_dim)", text.head_dim / 2));
    } else {
      text.mrope_sections = {sections[0], sections[1], sections[2]};
    }
  }
  if (rope.error()) fields.set_error(*rope.error());
}

void parse_moe(Fields& fields, TextConfig& text) {
  MoeConfig moe;
  moe.experts = fields.integer("num_experts", std::nullopt, 1, 65536);
  moe.experts_per_token = fields.integer("num_experts_per_tok", std::nullopt, 1, std::max(1, moe.experts));
  moe.intermediate = fields.integer("moe_intermediate_size", std::nullopt);
  moe.sparse_step = fields.integer("decoder_sparse_step", 1);
  moe.dense_layers = fields.integers("mlp_only_layers", 0, kSizeMax);
  moe.normalise_weights = fields.boolean("norm_topk_prob", true);
  text.moe = std::move(moe);
}

void parse_indexer(Fields& fields, TextConfig& text) {
  if (!fields.object()["sa_config"].is_object()) return fields.fail("sa_config", "should be an object or null");
  Fields sparse(fields.object()["sa_config"], fields.where() + ": sa_config");
  IndexerConfig indexer;
  indexer.heads = sparse.integer("indexer_num_heads", 4, 1, 1024);
  indexer.head_dim = sparse.integer("indexer_head_dim", 128, 2, 1024);
  indexer.topk = sparse.integer("topk", 2048);
  if (!sparse.error() && (indexer.head_dim & (indexer.head_dim - 1)) != 0) {
    sparse.fail("indexer_head_dim", fmt::format("should be a power of two, got {}", indexer.head_dim));
  }
  if (!sparse.error() && text.mrope_sections) {
    // Each main section scaled by the ratio of the head sizes, truncated, must still fill half of the indexer's head.
    int sum = 0;
    for (int section : *text.mrope_sections)
      sum += static_cast<int>(section * (static_cast<double>(indexer.head_dim) / text.head_dim));
    if (sum != indexer.head_dim / 2) {
      sparse.fail("indexer_head_dim",
                  fmt::format("{} does not fit the mrope sections: scaled, they sum to {} instead of {}",
                              indexer.head_dim, sum, indexer.head_dim / 2));
    }
  }
  if (sparse.error()) return fields.set_error(*sparse.error());
  text.indexer = indexer;
}

/// rope_scaling of DeepSeek-V3: absent, or YaRN.
void parse_yarn(Fields& fields, TextConfig& text) {
  text.rope_theta = fields.number("rope_theta", 10000.0, 1, 1e12);
  if (!fields.has("rope_scaling")) return;
  if (!fields.object()["rope_scaling"].is_object()) return fields.fail("rope_scaling", "should be an object or null");
  Fields rope(fields.object()["rope_scaling"], fields.where() + ": rope_scaling");
  rope.only("type", {"yarn", "deepseek_yarn"}, "YaRN is");
  rope.only("rope_type", {"yarn", "deepseek_yarn"}, "YaRN is");
  rope.only("mrope_section", {}, "latent attention has one-dimensional positions");
  YarnConfig yarn;
  yarn.factor = rope.number("factor", std::nullopt, 1, 1e6);
  yarn.beta_fast = rope.number("beta_fast", 32.0, 1e-3, 1e6);
  yarn.beta_slow = rope.number("beta_slow", 1.0, 1e-3, 1e6);
  yarn.mscale = rope.number("mscale", 1.0, 0, 1e3);
  yarn.mscale_all_dim = rope.number("mscale_all_dim", 0.0, 0, 1e3);
  yarn.original_positions = rope.integer("original_max_position_embeddings", std::nullopt, 1, 1 << 30);
  if (rope.error()) return fields.set_error(*rope.error());
  text.yarn = yarn;
}

/// What DeepSeek-V3 calls otherwise than Qwen3, and what only it has.
void parse_latent(Fields& fields, TextConfig& text) {
  LatentConfig latent;
  if (!fields.has("q_lora_rank"))
    fields.fail("q_lora_rank", "is missing: queries that are not compressed are not supported");
  latent.query_rank = fields.integer("q_lora_rank", 1);
  latent.kv_rank = fields.integer("kv_lora_rank", std::nullopt);
  latent.plain_dim = fields.integer("qk_nope_head_dim", std::nullopt, 1, 4096);
  latent.rope_dim = fields.integer("qk_rope_head_dim", std::nullopt, 2, 4096);
  latent.value_dim = fields.integer("v_head_dim", std::nullopt, 1, 4096);
  if (fields.error()) return;
  if (latent.rope_dim % 2 != 0) fields.fail("qk_rope_head_dim", fmt::format("should be even, got {}", latent.rope_dim));
  if (latent.kv_rank % 2 != 0 || latent.kv_rank + latent.rope_dim > kLatentWidthMax) {
    fields.fail("kv_lora_rank", fmt::format("should be even, and at most {} with qk_rope_head_dim, got {} and {}",
                                            kLatentWidthMax, latent.kv_rank, latent.rope_dim));
  }
  text.latent = latent;
  text.unused_layers = fields.integer("num_nextn_predict_layers", 0, 0, 64);
  parse_yarn(fields, text);

  MoeConfig moe;
  moe.experts = fields.integer("n_routed_experts", std::nullopt, 1, 65536);
  moe.experts_per_token = fields.integer("num_experts_per_tok", std::nullopt, 1, std::max(1, moe.experts));
  moe.intermediate = fields.integer("moe_intermediate_size", std::nullopt);
  moe.sparse_step = fields.integer("moe_layer_freq", 1);
  moe.first_layer = fields.integer("first_k_dense_replace", 0, 0);
  moe.normalise_weights = fields.boolean("norm_topk_prob", true);
  moe.shared_experts = fields.integer("n_shared_experts", 0, 0, 1024);
  fields.only("scoring_func", {"sigmoid"}, "experts must be scored by sigmoid");
  fields.only("topk_method", {"noaux_tc"}, "experts must be chosen by biased scores (noaux_tc)");
  GroupedRouterConfig router;
  router.groups = fields.integer("n_group", 1, 1, std::max(1, moe.experts));
  router.groups_kept = fields.integer("topk_group", 1, 1, router.groups);
  router.factor = fields.number("routed_scaling_factor", 1.0, 0, 1e6);
  if (fields.error()) return;
  if (moe.experts % router.groups != 0) {
    fields.fail("n_group", fmt::format("{} does not divide n_routed_experts {}", router.groups, moe.experts));
  } else if (moe.experts_per_token > moe.experts / router.groups * router.groups_kept) {
    fields.fail("num_experts_per_tok", fmt::format("{} of {} groups of {} experts", moe.experts_per_token,
                                                   router.groups_kept, moe.experts / router.groups));
  }
  moe.router = router;
  text.moe = std::move(moe);
}

/// quantization_config of an e4m3 checkpoint.
void parse_quantisation(Fields& fields, ModelConfig& config) {
  if (!fields.has("quantization_config")) return;
  if (!fields.object()["quantization_config"].is_object()) {
    return fields.fail("quantization_config", "should be an object or null");
  }
  Fields given(fields.object()["quantization_config"], fields.where() + ": quantization_config");
  const std::string_view help = "bf16, f16, f32 and e4m3 weights with block scales are";
  if (!given.has("quant_method")) given.fail("quant_method", "is missing");
  given.only("quant_method", {"fp8"}, help);
  given.only("fmt", {"e4m3"}, help);
  given.only("activation_scheme", {"dynamic"}, help);
  given.only("scale_fmt", {"ue8m0", "float"}, help);
  BlockQuantisation blocks;
  const std::vector<int> size = given.integers("weight_block_size", 1, 1 << 16);
  if (size.size() == 2) {
    blocks = {size[0], size[1]};
  } else if (given.has("weight_block_size")) {
    given.fail("weight_block_size", "should hold two numbers");
  } else {
    given.fail("weight_block_size", "is missing: e4m3 weights with one scale for each tensor are not supported");
  }
  if (given.error()) return fields.set_error(*given.error());
  config.quantisation = blocks;
}

TextConfig parse_text(Fields& fields, const Architecture& architecture) {
  TextConfig text;
  text.hidden = fields.integer("hidden_size", std::nullopt);
  text.layers = fields.integer("num_hidden_layers", std::nullopt, 1, 4096);
  text.heads = fields.integer("num_attention_heads", std::nullopt, 1, 4096);
  text.kv_heads = architecture.latent ? 1 : fields.integer("num_key_value_heads", text.heads, 1, 4096);
  text.head_dim = fields.integer("head_dim", std::max(2, text.hidden / std::max(1, text.heads)), 2, 256);
  text.intermediate = fields.integer("intermediate_size", architecture.moe ? std::optional(1) : std::nullopt);
  text.vocab = fields.integer("vocab_size", std::nullopt);
  text.norm_eps = static_cast<float>(fields.number("rms_norm_eps", 1e-6, 0, 1));
  text.positions_max = fields.integer("max_position_embeddings", 32768, 1, 1 << 30);
  text.tied_embeddings = fields.boolean("tie_word_embeddings", false);
  fields.only("hidden_act", {"silu"}, "the decoder's activation must be silu");
  fields.only("attention_bias", {false}, "the decoder's attention must have no bias");
  fields.only("use_sliding_window", {false}, "sliding-window attention is not; set it to false");
  if (fields.error()) return text;
  if (architecture.latent) {
    parse_latent(fields, text);
    return text;
  }
  if (text.heads % text.kv_heads != 0) {
    fields.fail("num_attention_heads",
                fmt::format("{} is not a multiple of num_key_value_heads {}", text.heads, text.kv_heads));
  }
  if (text.head_dim % 2 != 0) fields.fail("head_dim", fmt::format("should be even, got {}", text.head_dim));
  parse_rope(fields, text);
  if (architecture.moe) parse_moe(fields, text);
  if (architecture.sparse && fields.has("sa_config") && !fields.error()) parse_indexer(fields, text);
  return text;
}

Result<VisionConfig> parse_vision(const Json& json, const std::string& where) {
  Fields fields(json, where);
  VisionConfig vision;
  vision.hidden = fields.integer("hidden_size", 1152);
  vision.layers = fields.integer("num_hidden_layers", 27, 1, 4096);
  vision.heads = fields.integer("num_attention_heads", 16, 1, 4096);
  vision.intermediate = fields.integer("intermediate_size", 4304);
  vision.patch = fields.integer("patch_size", 14, 1, 1024);
  vision.channels = fields.integer("num_channels", 3, 3, 3);
  const int image = fields.integer("image_size", 384);
  vision.merge = fields.integer("spatial_merge_size", 2, 1, 16);
  vision.norm_eps = static_cast<float>(fields.number("layer_norm_eps", 1e-6, 0, 1));
  vision.rope_theta = fields.number("rope_theta", 10000, 1, 1e12);
  fields.only("hidden_act", {"gelu_pytorch_tanh"}, "the vision encoder's activation must be gelu_pytorch_tanh");
  if (!fields.error()) {
    vision.grid_side = image / vision.patch;
    if (vision.grid_side < 1) fields.fail("image_size", fmt::format("{} is smaller than one patch", image));
    if (vision.hidden % vision.heads != 0 || vision.head_dim() % 4 != 0 || vision.head_dim() > 256) {
      fields.fail("num_attention_heads",
                  fmt::format("{} heads of hidden_size {}: a head should have a multiple of 4 channels, at most 256",
                              vision.heads, vision.hidden));
    }
  }
  if (fields.error()) return *fields.error();
  return vision;
}

Result<std::vector<int32_t>> token_ids(const Json& value, const char* key, std::string_view where) {
  std::vector<int32_t> ids;
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > kSizeMax) {
      return make_error(ErrorCode::corrupt_data, where, "\"{}\" should hold token ids, got {}", key, id.dump());
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace

bool MoeConfig::is_moe_layer(int layer) const {
  if (router) return layer >= first_layer && layer % sparse_step == 0;
  return (layer + 1) % sparse_step == 0 &&
         std::find(dense_layers.begin(), dense_layers.end(), layer) == dense_layers.end();
}

std::vector<std::string_view> supported_architectures() {
  std::vector<std::string_view> names;
  for (const Architecture& entry : kArchitectures) names.push_back(entry.name);
  return names;
}

Result<ModelConfig> parse_config(const Json& json, std::string_view where) {
  if (!json.is_object()) return make_error(ErrorCode::corrupt_data, where, "should be a JSON object");
  const auto list = json.find("architectures");
  if (list == json.end() || !list->is_array() || list->empty() || !(*list)[0].is_string()) {
    return make_error(ErrorCode::corrupt_data, where, "\"architectures\" should be a list with one name");
  }
  ModelConfig config;
  config.architecture = (*list)[0].get<std::string>();
  const auto* entry = std::find_if(std::begin(kArchitectures), std::end(kArchitectures),
                                   [&](const Architecture& a) { return a.name == config.architecture; });
  if (entry == std::end(kArchitectures)) {
    return make_error(ErrorCode::unsupported, where, "architecture \"{}\" is not supported; supported are {}",
                      config.architecture, fmt::join(supported_architectures(), ", "));
  }
  // The published files are flat; ports to newer libraries nest the decoder's fields in text_config.
  const bool nested = json.contains("text_config") && json["text_config"].is_object();
  Json merged = nested ? json["text_config"] : json;
  if (nested && json.contains("tie_word_embeddings") && !merged.contains("tie_word_embeddings")) {
    merged["tie_word_embeddings"] = json["tie_word_embeddings"];
  }
  if (nested && json.contains("quantization_config")) merged["quantization_config"] = json["quantization_config"];
  Fields fields(merged, std::string(where) + (nested ? ": text_config" : ""));
  config.text = parse_text(fields, *entry);
  parse_quantisation(fields, config);
  if (fields.error()) return *fields.error();
  if (!entry->vision) return config;

  if (!json.contains("vision_config") || !json["vision_config"].is_object()) {
    return make_error(ErrorCode::corrupt_data, where, "\"vision_config\" is missing");
  }
  KEYE_TRY(config.vision, parse_vision(json["vision_config"], std::string(where) + ": vision_config"));
  Fields top(json, std::string(where));
  config.media.image = top.integer("image_token_id", std::nullopt, 0, config.text.vocab - 1);
  config.media.video = top.integer("video_token_id", -1, -1, config.text.vocab - 1);
  if (top.error()) return *top.error();
  return config;
}

Result<GenerationDefaults> parse_generation(const Json& generation, const Json& config, std::string_view where) {
  GenerationDefaults result;
  const Json empty = Json::object();
  if (!generation.is_null() && !generation.is_object()) {
    return make_error(ErrorCode::corrupt_data, where, "should be a JSON object");
  }
  Fields fields(generation.is_null() ? empty : generation, std::string(where));
  const Json& source = fields.has("eos_token_id") ? fields.object() : config;
  if (source.contains("eos_token_id") && !source["eos_token_id"].is_null()) {
    KEYE_TRY(result.eos_ids, token_ids(source["eos_token_id"], "eos_token_id", where));
  }
  result.do_sample = fields.boolean("do_sample", false);
  result.temperature = static_cast<float>(fields.number("temperature", 1.0, 0, 1e6));
  result.top_k = fields.integer("top_k", 0, 0, std::numeric_limits<int>::max());
  result.top_p = static_cast<float>(fields.number("top_p", 1.0, 0, 1));
  result.repetition_penalty = static_cast<float>(fields.number("repetition_penalty", 1.0, 0, 1e6));
  if (fields.error()) return *fields.error();
  return result;
}

}  // namespace keye::model
