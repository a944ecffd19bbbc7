// config.json: what a checkpoint says about its shapes. Every field is checked; what is not supported is refused by
// name.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace keye::model {

/// The sparse-attention indexer of Keye-VL-2.0 (`sa_config`).
struct IndexerConfig {
  int heads = 4;
  int head_dim = 128;
  int topk = 2048;
};

/// Mixture-of-experts layers of the Qwen3-MoE decoder.
struct MoeConfig {
  int experts = 0;
  int experts_per_token = 0;
  int intermediate = 0;
  int sparse_step = 1;            // layer i is MoE if (i + 1) % sparse_step == 0 ...
  std::vector<int> dense_layers;  // ... and it is not listed here (`mlp_only_layers`)
  bool normalise_weights = true;  // `norm_topk_prob`

  bool is_moe_layer(int layer) const;
};

/// The Qwen3 decoder. Sizes in elements.
struct TextConfig {
  int hidden = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int intermediate = 0;
  int vocab = 0;
  float norm_eps = 1e-6F;
  double rope_theta = 10000;
  std::optional<std::array<int, 3>> mrope_sections;  // pairs of time, height, width; absent: one-dimensional positions
  int positions_max = 0;
  bool tied_embeddings = false;
  std::optional<MoeConfig> moe;
  std::optional<IndexerConfig> indexer;
};

/// The SigLIP-type vision encoder and its projector.
struct VisionConfig {
  int hidden = 0;
  int layers = 0;
  int heads = 0;
  int intermediate = 0;
  int patch = 14;
  int channels = 3;
  int grid_side = 27;  // of the learned position table: image_size / patch
  int merge = 2;
  float norm_eps = 1e-6F;
  double rope_theta = 10000;

  int head_dim() const { return hidden / heads; }
};

/// Placeholder token ids that the engine itself puts into a prompt. -1: the checkpoint has none.
struct MediaTokens {
  int32_t image = -1;
  int32_t video = -1;
};

struct ModelConfig {
  std::string architecture;  // architectures[0]
  TextConfig text;
  std::optional<VisionConfig> vision;
  MediaTokens media;
};

/// Errors: corrupt_data (a field that is missing, of the wrong type or out of range), unsupported (an architecture,
/// activation, rope scaling, quantisation ... by name, with what is supported). `where` names the file.
Result<ModelConfig> parse_config(const Json& json, std::string_view where);

/// All architectures that parse_config accepts, for messages.
std::vector<std::string_view> supported_architectures();

/// generation_config.json, or its defaults.
struct GenerationDefaults {
  std::vector<int32_t> eos_ids;
  bool do_sample = false;
  float temperature = 1.0F;
  int top_k = 0;  // 0: off
  float top_p = 1.0F;
  float repetition_penalty = 1.0F;
};
/// Falls back to config.json's eos_token_id where generation_config.json (null if the file is absent) has none.
Result<GenerationDefaults> parse_generation(const Json& generation, const Json& config, std::string_view where);

}  // namespace keye::model
