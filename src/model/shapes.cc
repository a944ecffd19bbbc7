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

/// One of the 58 MoE layers of DeepSeek-V3's decoder, with a small vocabulary: 11.5 GB of e4m3.
ModelConfig keye_671b_layer() {
  ModelConfig config = qwen3(7168, 1, 128, 1, 18432, false);
  config.architecture = "DeepseekV3ForCausalLM";
  config.text.vocab = 1024;
  config.text.rope_theta = 10000;
  config.text.positions_max = 163840;
  config.text.latent = {.query_rank = 1536, .kv_rank = 512, .plain_dim = 128, .rope_dim = 64, .value_dim = 128};
  config.text.yarn = {.factor = 40, .mscale = 1, .mscale_all_dim = 1, .original_positions = 4096};
  MoeConfig moe;
  moe.experts = 256;
  moe.experts_per_token = 8;
  moe.intermediate = 2048;
  moe.shared_experts = 1;
  moe.router = {.groups = 8, .groups_kept = 4, .factor = 2.5};
  config.text.moe = std::move(moe);
  config.quantisation = BlockQuantisation{};
  return config;
}

/// All of it, with three dense layers first, behind the family's vision encoder.
ModelConfig keye_671b() {
  ModelConfig config = keye_671b_layer();
  config.architecture = "KeyeVLMoeForConditionalGeneration";
  config.text.layers = 61;
  config.text.vocab = 129280;
  config.text.moe->first_layer = 3;
  config.vision = keye_vision();
  return config;
}

}  // namespace

std::vector<std::string_view> shape_names() {
  return {"qwen3-0.6b", "qwen3-8b", "keye-2.0-30b-a3b", "keye-vision", "keye-671b-layer", "keye-671b"};
}

Result<ModelConfig> named_shape(std::string_view name) {
  if (name == "qwen3-0.6b") return qwen3(1024, 28, 16, 8, 3072, true);
  if (name == "qwen3-8b") return qwen3(4096, 36, 32, 8, 12288, false);
  if (name == "keye-2.0-30b-a3b") return keye_2_0();
  if (name == "keye-vision") return keye_vision_only();
  if (name == "keye-671b-layer") return keye_671b_layer();
  if (name == "keye-671b") return keye_671b();
  return make_error(ErrorCode::invalid_argument, "shape", "unknown shape \"{}\"; known are {}", name,
                    fmt::join(shape_names(), ", "));
}

StepCost step_cost(const ModelConfig& model, DType dtype) {
  const TextConfig& config = model.text;
  const double c = config.hidden;
  const double q_width = static_cast<double>(config.heads) * config.head_dim;
  const double kv_width = static_cast<double>(config.kv_heads) * config.head_dim;
  const auto element = static_cast<double>(dtype_bytes(dtype));
  const double stored =
      model.quantisation ? 1 : element;  // of the layers' matrices, those into the latent space excepted
  StepCost cost;
  double shared = 0;   // multiply-adds of one token in matrices that every step reads
  double by_head = 0;  // the same, between each head and the latent space: from its query ...
  double values = 0;   // ... and into its values
  double routed = 0;   // multiply-adds of one token in its experts
  double whole = 0;    // of shared: on every rank
  for (int i = 0; i < config.layers; ++i) {
    if (config.latent) {
      const LatentConfig& l = *config.latent;
      shared += (l.query_rank + l.kv_rank + l.rope_dim) * c +
                config.heads * ((l.plain_dim + l.rope_dim) * static_cast<double>(l.query_rank) + l.value_dim * c);
      whole += (l.query_rank + l.kv_rank + l.rope_dim) * c;
      by_head += static_cast<double>(config.heads) * l.kv_rank * l.plain_dim;
      values += static_cast<double>(config.heads) * l.kv_rank * l.value_dim;
      cost.attention_flops_per_key += 2.0 * config.heads * (2 * l.kv_rank + l.rope_dim);
    } else {
      shared += (q_width + 2 * kv_width) * c + q_width * c;
      cost.attention_flops_per_key += 4 * q_width;
    }
    if (config.indexer) {
      const double indexer = (config.indexer->heads * (config.indexer->head_dim + 1.0) + config.indexer->head_dim) * c;
      shared += indexer;
      whole += indexer;
    }
    if (config.moe && config.moe->is_moe_layer(i)) {
      shared += config.moe->experts * c + config.moe->shared_experts * 3.0 * config.moe->intermediate * c;
      whole += config.moe->experts * c;
      routed += config.moe->experts_per_token * 3.0 * config.moe->intermediate * c;
      ++cost.moe_layers;
    } else {
      shared += 3.0 * config.intermediate * c;
    }
  }
  const double head = static_cast<double>(config.vocab) * c;
  cost.matmul_flops_per_token = 2 * (shared + by_head + values + routed);
  cost.head_flops = 2 * head;
  cost.replicated_flops = 2 * whole;
  cost.replicated_bytes = whole * stored;
  cost.shared_weight_bytes = (shared + values) * stored + (by_head + head) * element;
  if (cost.moe_layers > 0) {
    cost.experts = config.moe->experts;
    cost.experts_per_token = config.moe->experts_per_token;
    cost.expert_bytes = 3.0 * config.moe->intermediate * c * stored;
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
