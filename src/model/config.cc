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
};

constexpr Architecture kArchitectures[] = {
    {"Qwen3ForCausalLM", false, false, false},
    {"Qwen3MoeForCausalLM", false, true, false},
    {"KeyeForConditionalGeneration", true, false, false},
    {"KeyeVL1_5ForConditionalGeneration", true, false, false},
    {"KeyeVL2ForConditionalGeneration", true, false, true},
    {"KeyeVL2MoeForConditionalGeneration", true, true, true},
};

constexpr int kSizeMax = 1 << 24;  // of any single dimension: larger is a damaged file

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

TextConfig parse_text(Fields& fields, const Architecture& architecture) {
  TextConfig text;
  text.hidden = fields.integer("hidden_size", std::nullopt);
  text.layers = fields.integer("num_hidden_layers", std::nullopt, 1, 4096);
  text.heads = fields.integer("num_attention_heads", std::nullopt, 1, 4096);
  text.kv_heads = fields.integer("num_key_value_heads", text.heads, 1, 4096);
  text.head_dim = fields.integer("head_dim", std::max(2, text.hidden / std::max(1, text.heads)), 2, 256);
  text.intermediate = fields.integer("intermediate_size", architecture.moe ? std::optional(1) : std::nullopt);
  text.vocab = fields.integer("vocab_size", std::nullopt);
  text.norm_eps = static_cast<float>(fields.number("rms_norm_eps", 1e-6, 0, 1));
  text.positions_max = fields.integer("max_position_embeddings", 32768, 1, 1 << 30);
  text.tied_embeddings = fields.boolean("tie_word_embeddings", false);
  fields.only("hidden_act", {"silu"}, "the decoder's activation must be silu");
  fields.only("attention_bias", {false}, "the decoder's attention must have no bias");
  fields.only("use_sliding_window", {false}, "sliding-window attention is not; set it to false");
  fields.only("quantization_config", {}, "use an unquantised bf16, f16 or f32 checkpoint");
  if (fields.error()) return text;
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
