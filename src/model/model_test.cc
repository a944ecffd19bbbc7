#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "model/model.h"
#include "model/shapes.h"
#include "tensor/safetensors.h"

namespace keye::model {
namespace {

const char* const kTiny =
    R"({"architectures": ["Qwen3ForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
  "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 6, "vocab_size": 10})";

Json tiny() { return parse_json(kTiny, "tiny").value(); }

std::string refusal(const Json& json) {
  const auto config = parse_config(json, "config.json");
  return config ? "accepted" : config.error().to_string();
}

TEST(Config, ReadsWhatItIsGiven) {
  const auto config = parse_config(tiny(), "config.json");
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_EQ(config->text.hidden, 8);
  EXPECT_EQ(config->text.rope_theta, 10000);
  EXPECT_FALSE(config->vision);
  EXPECT_FALSE(config->text.mrope_sections);
}

TEST(Config, AcceptsEverySpellingOfMrope) {
  for (const char* scaling : {R"({"type": "mrope", "mrope_section": [1, 1, 0]})",
                              R"({"type": "default", "rope_type": "default", "mrope_section": [1, 1, 0]})",
                              R"({"rope_type": "mrope", "mrope_section": [1, 1, 0]})"}) {
    Json json = tiny();
    json["rope_scaling"] = Json::parse(scaling);
    const auto config = parse_config(json, "c");
    ASSERT_TRUE(config) << config.error().to_string();
    EXPECT_EQ(*config->text.mrope_sections, (std::array<int, 3>{1, 1, 0}));
  }
}

TEST(Config, AcceptsNestedTextConfig) {
  Json json = tiny();
  Json nested = {{"architectures", json["architectures"]}, {"text_config", json}, {"tie_word_embeddings", true}};
  const auto config = parse_config(nested, "c");
  ASSERT_TRUE(config) << config.error().to_string();
  EXPECT_TRUE(config->text.tied_embeddings);
}

TEST(Config, RefusesByName) {
  struct Case {
    const char* key;
    const char* value;
    const char* expect;
  };
  const Case cases[] = {
      {"architectures", R"(["LlamaForCausalLM"])",
       "\"LlamaForCausalLM\" is not supported; supported are Qwen3ForCausalLM"},
      {"architectures", "[]", "\"architectures\" should be a list"},
      {"hidden_size", "null", "\"hidden_size\" is missing"},
      {"hidden_size", "-1", "\"hidden_size\" should be a whole number in [1,"},
      {"hidden_size", "1e30", "\"hidden_size\" should be a whole number"},
      {"hidden_size", "\"8\"", "got \"8\""},
      {"head_dim", "5", "\"head_dim\" should be even"},
      {"head_dim", "512", "\"head_dim\" should be a whole number in [2, 256]"},
      {"num_key_value_heads", "3", "is not a multiple of num_key_value_heads"},
      {"rms_norm_eps", "-1", "\"rms_norm_eps\" should be a number"},
      {"hidden_act", "\"gelu\"", "\"hidden_act\": \"gelu\" is not supported"},
      {"attention_bias", "true", "\"attention_bias\": true is not supported"},
      {"use_sliding_window", "true", "sliding-window"},
      {"quantization_config", R"({"quant_method": "fp8"})", "\"weight_block_size\" is missing"},
      {"quantization_config", R"({"quant_method": "awq"})", "\"quant_method\": \"awq\" is not supported"},
      {"quantization_config", R"({"quant_method": "fp8", "weight_block_size": [128]})", "should hold two numbers"},
      {"quantization_config", R"({"bits": 4})", "\"quant_method\" is missing"},
      {"rope_scaling", R"({"type": "yarn", "factor": 4})", "\"type\": \"yarn\" is not supported"},
      {"rope_scaling", R"({"type": "mrope", "mrope_section": [1, 2, 3]})", "sum to 2"},
      {"rope_scaling", "3", "should be an object"},
  };
  for (const Case& c : cases) {
    Json json = tiny();
    json[c.key] = Json::parse(c.value);
    const std::string message = refusal(json);
    EXPECT_NE(message.find(c.expect), std::string::npos) << c.key << ": " << message;
  }
  EXPECT_NE(refusal(Json(3)).find("should be a JSON object"), std::string::npos);
}

TEST(Config, ChecksExpertsAndIndexer) {
  Json json = tiny();
  json["architectures"][0] = "KeyeVL2MoeForConditionalGeneration";
  EXPECT_NE(refusal(json).find("\"num_experts\" is missing"), std::string::npos);
  json.update({{"num_experts", 4}, {"num_experts_per_tok", 5}, {"moe_intermediate_size", 4}});
  EXPECT_NE(refusal(json).find("num_experts_per_tok"), std::string::npos);
  json["num_experts_per_tok"] = 2;
  EXPECT_NE(refusal(json).find("vision_config"), std::string::npos);
  json["vision_config"] = {{"hidden_size", 8}, {"num_attention_heads", 2}};
  json["image_token_id"] = 10;
  EXPECT_NE(refusal(json).find("image_token_id"), std::string::npos);
  json["image_token_id"] = 9;
  EXPECT_EQ(refusal(json), "accepted");
  json["sa_config"] = {{"indexer_head_dim", 12}};
  EXPECT_NE(refusal(json).find("power of two"), std::string::npos);
  json["sa_config"] = {{"indexer_num_heads", 2}, {"indexer_head_dim", 8}, {"topk", 4}};
  EXPECT_EQ(refusal(json), "accepted");
}

TEST(Config, ChecksLatentAttention) {
  Json json = {{"architectures", {"DeepseekV3ForCausalLM"}},
               {"hidden_size", 8},
               {"num_hidden_layers", 2},
               {"num_attention_heads", 2},
               {"intermediate_size", 8},
               {"vocab_size", 10},
               {"kv_lora_rank", 4},
               {"qk_nope_head_dim", 4},
               {"qk_rope_head_dim", 2},
               {"v_head_dim", 4},
               {"n_routed_experts", 4},
               {"num_experts_per_tok", 2},
               {"moe_intermediate_size", 4},
               {"n_group", 2},
               {"topk_group", 1}};
  EXPECT_NE(refusal(json).find("q_lora_rank"), std::string::npos);
  json["q_lora_rank"] = 4;
  EXPECT_EQ(refusal(json), "accepted");
  const std::vector<std::tuple<const char*, Json, const char*>> cases = {
      {"qk_rope_head_dim", 3, "should be even"},
      {"kv_lora_rank", 1024, "at most 576"},
      {"n_group", 3, "does not divide"},
      {"num_experts_per_tok", 3, "3 of 1 groups of 2 experts"},
      {"topk_group", 3, "topk_group"},
      {"scoring_func", "softmax", "sigmoid"},
      {"topk_method", "greedy", "noaux_tc"},
      {"rope_scaling", Json{{"type", "linear"}, {"factor", 2}}, "YaRN"},
      {"rope_scaling", Json{{"type", "yarn"}, {"factor", 2}}, "original_max_position_embeddings"},
  };
  for (const auto& [key, value, expected] : cases) {
    Json changed = json;
    changed[key] = value;
    EXPECT_NE(refusal(changed).find(expected), std::string::npos) << key << ": " << refusal(changed);
  }
}

TEST(Generation, FallsBackToConfig) {
  const Json config = Json::parse(R"({"eos_token_id": 7})");
  EXPECT_EQ(parse_generation(Json(), config, "g")->eos_ids, std::vector<int32_t>{7});
  EXPECT_EQ(parse_generation(Json::parse(R"({"eos_token_id": [1, 2]})"), config, "g")->eos_ids,
            (std::vector<int32_t>{1, 2}));
  EXPECT_FALSE(parse_generation(Json::parse(R"({"temperature": -1})"), config, "g"));
  EXPECT_FALSE(parse_generation(Json::parse(R"({"eos_token_id": "x"})"), config, "g"));
}

/// A folder with a tiny checkpoint whose tensors a test may change before it is written.
struct TinyCheckpoint {
  std::map<std::string, std::pair<DType, Shape>> tensors = {
      {"model.embed_tokens.weight", {DType::f32, {10, 8}}},
      {"model.norm.weight", {DType::f32, {8}}},
      {"lm_head.weight", {DType::f32, {10, 8}}},
      {"model.layers.0.input_layernorm.weight", {DType::f32, {8}}},
      {"model.layers.0.post_attention_layernorm.weight", {DType::f32, {8}}},
      {"model.layers.0.self_attn.q_proj.weight", {DType::f32, {8, 8}}},
      {"model.layers.0.self_attn.k_proj.weight", {DType::f32, {4, 8}}},
      {"model.layers.0.self_attn.v_proj.weight", {DType::f32, {4, 8}}},
      {"model.layers.0.self_attn.o_proj.weight", {DType::f32, {8, 8}}},
      {"model.layers.0.self_attn.q_norm.weight", {DType::f32, {4}}},
      {"model.layers.0.self_attn.k_norm.weight", {DType::f32, {4}}},
      {"model.layers.0.mlp.gate_proj.weight", {DType::f32, {6, 8}}},
      {"model.layers.0.mlp.up_proj.weight", {DType::f32, {6, 8}}},
      {"model.layers.0.mlp.down_proj.weight", {DType::f32, {8, 6}}}};

  Json config = tiny();
  uint8_t fill = 0;  // of every byte

  Result<std::unique_ptr<Model>> load(ops::Backend& backend) const {
    const Path folder = Path(testing::TempDir()) / "keye_tiny_checkpoint";
    std::filesystem::create_directories(folder);
    std::vector<Tensor> storage;
    std::vector<NamedTensor> named;
    for (const auto& [name, entry] : tensors) {
      storage.emplace_back(entry.first, entry.second);
      std::memset(storage.back().view().data, entry.first == DType::f8_e4m3 ? fill : 0, storage.back().view().bytes());
    }
    size_t i = 0;
    for (const auto& [name, entry] : tensors) named.push_back({name, storage[i++].view()});
    KEYE_TRY_VOID(write_safetensors(folder / "model.safetensors", named));
    KEYE_TRY(Checkpoint checkpoint, Checkpoint::open(folder));
    KEYE_TRY(const ModelConfig parsed, parse_config(config, "c"));
    return load_model(parsed, std::make_shared<const Checkpoint>(std::move(checkpoint)), backend, {}, {});
  }
};

TEST(Weights, LoadsATinyCheckpoint) {
  const auto backend = ops::make_ref_backend();
  const auto model = TinyCheckpoint().load(*backend);
  ASSERT_TRUE(model) << model.error().to_string();
  EXPECT_EQ((*model)->kv_spec().bytes_per_token(), 2U * 4U * 2U);
}

TEST(Weights, BlocksAreMultipliedByTheirScales) {
  const BlockQuantisation blocks{4, 2};
  Tensor codes(DType::f8_e4m3, {9, 5});
  Tensor scales(DType::f32, {3, 3});
  for (int i = 0; i < 45; ++i) codes.as<uint8_t>()[i] = static_cast<uint8_t>(7 * i % 127 + (i % 2) * 128);
  for (int i = 0; i < 9; ++i) scales.as<float>()[i] = 0.01F * static_cast<float>(i + 1);
  std::vector<float> values(45);
  dequantise_blocks(codes.view(), scales.view(), blocks, {0, 0, codes.shape()[0], codes.shape()[1]}, values.data());
  for (int r = 0; r < 9; ++r) {
    for (int c = 0; c < 5; ++c) {
      EXPECT_EQ(values[static_cast<size_t>(r * 5 + c)],
                f8_to_float(codes.as<uint8_t>()[r * 5 + c]) * scales.as<float>()[r / 4 * 3 + c / 2]);
    }
  }
}

TEST(Weights, BlocksNeedScalesThatFit) {
  const auto backend = ops::make_ref_backend();
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  TinyCheckpoint checkpoint;
  checkpoint.tensors[down].first = DType::f8_e4m3;
  const auto message = [&] {
    const auto model = checkpoint.load(*backend);
    return model ? std::string("loaded") : model.error().message;
  };
  EXPECT_NE(message().find("expected bf16, f16 or f32, found f8_e4m3"), std::string::npos) << message();
  checkpoint.config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {4, 4}}};
  EXPECT_NE(message().find(down + "_scale_inv [2, 2]"), std::string::npos) << message();
  checkpoint.tensors[down + "_scale_inv"] = {DType::f32, {2, 3}};
  EXPECT_NE(message().find("expected f32 [2, 2], found f32 [2, 3]"), std::string::npos) << message();
  checkpoint.tensors[down + "_scale_inv"] = {DType::f32, {2, 2}};
  EXPECT_EQ(message(), "loaded");
  checkpoint.fill = 0xff;
  EXPECT_NE(message().find("not a number"), std::string::npos) << message();
  checkpoint.fill = 0;
  checkpoint.tensors["model.norm.weight"].first = DType::f8_e4m3;
  EXPECT_NE(message().find("model.norm.weight: expected bf16"), std::string::npos) << message();
}

TEST(Weights, ReportsAllThatIsWrongTogether) {
  const auto backend = ops::make_ref_backend();
  TinyCheckpoint checkpoint;
  checkpoint.tensors.erase("model.norm.weight");
  checkpoint.tensors.erase("model.layers.0.self_attn.q_norm.weight");
  checkpoint.tensors["lm_head.weight"].second = {8, 10};
  checkpoint.tensors["model.layers.0.mlp.up_proj.weight"].first = DType::i32;
  checkpoint.tensors["model.layers.1.extra"] = {DType::f32, {3}};
  const auto model = checkpoint.load(*backend);
  ASSERT_FALSE(model);
  const std::string message = model.error().to_string();
  for (const char* expect :
       {"2 tensors are missing", "model.norm.weight [8]", "model.layers.0.self_attn.q_norm.weight [4]",
        "lm_head.weight: expected [10, 8], found [8, 10]", "up_proj.weight: expected bf16, f16 or f32, found i32",
        "1 tensors are not expected", "model.layers.1.extra [3]"}) {
    EXPECT_NE(message.find(expect), std::string::npos) << expect << " in " << message;
  }
}

TEST(Weights, AcceptsExportersPrefixesAndRefusesNamesTwice) {
  const auto backend = ops::make_ref_backend();
  TinyCheckpoint renamed;
  std::map<std::string, std::pair<DType, Shape>> tensors;
  for (const auto& [name, entry] : renamed.tensors) {
    tensors[name.starts_with("model.") ? "model.language_model." + name.substr(6) : name] = entry;
  }
  renamed.tensors = tensors;
  EXPECT_TRUE(renamed.load(*backend));
  renamed.tensors["model.norm.weight"] = {DType::f32, {8}};
  const auto model = renamed.load(*backend);
  ASSERT_FALSE(model);
  EXPECT_NE(model.error().message.find("appears twice"), std::string::npos) << model.error().message;
}

TEST(Shapes, CountWhatThePublishedModelsHave) {
  EXPECT_EQ(count_parameters(*named_shape("qwen3-8b")), 8'190'735'360);
  EXPECT_EQ(count_parameters(*named_shape("qwen3-0.6b")), 596'049'920);
  // The published 31,122,082,160 less packing_position_embedding (32768 x 1152), which inference does not read.
  EXPECT_EQ(count_parameters(*named_shape("keye-2.0-30b-a3b")), 31'122'082'160 - 37'748'736);
  // Attention, router and its bias, 257 experts; e4m3 but for what is multiplied out, f32 or a table.
  const ModelConfig layer = *named_shape("keye-671b-layer");
  const int64_t attention = 2112 * 7168 + 1536 + 512 + 24576 * 1536 + 32768 * 512 + int64_t{7168} * 16384;
  EXPECT_EQ(count_parameters(layer),
            attention + 257 * 7168 + 256 - 7168 + int64_t{257} * 3 * 2048 * 7168 + 3 * 7168 + 2 * 1024 * 7168);
  EXPECT_NEAR(static_cast<double>(weight_bytes(layer, DType::bf16)), 11.55e9, 0.05e9);
  EXPECT_EQ(named_shape("nonsense").error().code, ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace keye::model
