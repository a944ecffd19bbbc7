#include "model/shapes.h"

#include <cmath>

#include "tensor/dtype.h"

namespace keye::model {
namespace {

VisionConfig keye_vision() {
  return {.hidden = 1152,
          .layers = 27,
          .heads = 16,
          .intermediate = 4304,
          .patch = 14,
          .channels = 3,
          .grid_side = 27,
          .merge = 2};
}

ModelConfig qwen3(int hidden, int layers, int heads, int kv_heads, int intermediate, bool tied) {
  ModelConfig config{.architecture = "Qwen3ForCausalLM", .text = {}, .vision = {}, .media = {}};
  config.text = {.hidden = hidden,
                 .layers = layers,
                 .heads = heads,
                 .kv_heads = kv_heads,
                 .head_dim = 128,
                 .intermediate = intermediate,
                 .vocab = 151936,
                 .rope_theta = 1e6,
                 .mrope_sections = {},
                 .positions_max = 40960,
                 .tied_embeddings = tied,
                 .moe = {},
                 .indexer = {}};
  return config;
}

ModelConfig keye_2_0() {
  ModelConfig config = qwen3(2048, 48, 32, 4, 6144, false);
  config.architecture = "KeyeVL2MoeForConditionalGeneration";
  config.text.rope_theta = 8e6;
  config.text.mrope_sections = {16, 24, 24};
  config.text.positions_max = 262144;
  config.text.moe = {.experts = 128,
                     .experts_per_token = 8,
                     .intermediate = 768,
                     .sparse_step = 1,
                     .dense_layers = {},
                     .normalise_weights = true};
  config.text.indexer = {.heads = 16, .head_dim = 64, .topk = 2048};
  config.vision = keye_vision();
  config.media = {.image = 151655, .video = 151656};
  return config;
}

/// The vision encoder of the family in front of a single small decoder layer.
ModelConfig keye_vision_only() {
  ModelConfig config = qwen3(2048, 1, 16, 4, 256, true);
  config.architecture = "KeyeVL1_5ForConditionalGeneration";
  config.text.vocab = 1024;
  config.vision = keye_vision();
  return config;
}

}  // namespace

std::vector<std::string_view> shape_names() {
  return {"qwen3-0.6b", "qwen3-8b", "keye-2.0-30b-a3b", "keye-vision", "keye-671b-layer"};
}

Result<ModelConfig> named_shape(std::string_view name) {
  if (name == "qwen3-0.6b") return qwen3(1024, 28, 16, 8, 3072, true);
  if (name == "qwen3-8b") return qwen3(4096, 36, 32, 8, 12288, false);
  if (name == "keye-2.0-30b-a3b") return keye_2_0();
  if (name == "keye-vision") return keye_vision_only();
  if (name == "keye-671b-layer") {
    return make_error(
        ErrorCode::unsupported, "shape",
        "\"keye-671b-layer\" needs multi-head latent attention and FP8 experts, which this version does not "
        "have; use qwen3-0.6b, qwen3-8b, keye-2.0-30b-a3b or keye-vision");
  }
  return make_error(ErrorCode::invalid_argument, "shape", "unknown shape \"{}\"; known are {}", name,
                    fmt::join(shape_names(), ", "));
}

StepCost step_cost(const TextConfig& config, DType dtype) {
  const double c = config.hidden;
  const double q_width = static_cast<double>(config.heads) * config.head_dim;
  const double kv_width = static_cast<double>(config.kv_heads) * config.head_dim;
  const auto element = static_cast<double>(dtype_bytes(dtype));
  StepCost cost;
  double shared = 0;  // multiply-adds of one token in matrices that every step reads
  double routed = 0;  // multiply-adds of one token in its experts
  for (int i = 0; i < config.layers; ++i) {
    shared += (q_width + 2 * kv_width) * c + q_width * c;
    if (config.indexer)
      shared += (config.indexer->heads * (config.indexer->head_dim + 1.0) + config.indexer->head_dim) * c;
    if (config.moe && config.moe->is_moe_layer(i)) {
      shared += config.moe->experts * c;
      routed += config.moe->experts_per_token * 3.0 * config.moe->intermediate * c;
      ++cost.moe_layers;
    } else {
      shared += 3.0 * config.intermediate * c;
    }
  }
  const double head = static_cast<double>(config.vocab) * c;
  cost.matmul_flops_per_token = 2 * (shared + routed);
  cost.head_flops = 2 * head;
  cost.attention_flops_per_key = 4 * q_width * config.layers;
  cost.shared_weight_bytes = (shared + head) * element;
  if (cost.moe_layers > 0) {
    cost.experts = config.moe->experts;
    cost.experts_per_token = config.moe->experts_per_token;
    cost.expert_bytes = 3.0 * config.moe->intermediate * c * element;
  }
  return cost;
}

double StepCost::weight_bytes(double tokens) const {
  if (moe_layers == 0) return shared_weight_bytes;
  const double missed = std::pow(1.0 - static_cast<double>(experts_per_token) / experts, tokens);
  return shared_weight_bytes + moe_layers * experts * (1.0 - missed) * expert_bytes;
}

double vision_flops(const VisionConfig& config, int text_hidden, double patches) {
  const double c = config.hidden;
  const double m2 = static_cast<double>(config.merge) * config.merge;
  const double merged = m2 * c;
  const double layer = 4 * c * c + 2 * c * config.intermediate;  // multiply-adds of one patch
  const double attention = 2 * patches * c;                      // q.k and p.v
  const double embedding = static_cast<double>(config.channels) * config.patch * config.patch * c;
  return 2 * patches *
         (config.layers * (layer + attention) + embedding + (merged * merged + merged * text_hidden) / m2);
}

}  // namespace keye::model
