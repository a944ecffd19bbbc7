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

/// Attention of DeepSeek-V3 (MLA): all heads share one compressed key and value for each token. Widths in elements.
struct LatentConfig {
  int query_rank = 0;  // of the compressed query (`q_lora_rank`)
  int kv_rank = 0;     // of the latent key and value (`kv_lora_rank`)
  int plain_dim = 0;   // of a head's query and key, what is not rotated (`qk_nope_head_dim`)
  int rope_dim = 0;    // what is (`qk_rope_head_dim`)
  int value_dim = 0;   // of a head's value (`v_head_dim`)
};

/// Rotary positions stretched by `factor` (YaRN): slow pairs are slowed down, fast ones are not.
struct YarnConfig {
  double factor = 1;
  double beta_fast = 32;  // turns within the original context above which a pair counts as fast ...
  double beta_slow = 1;   // ... and below which as slow
  double mscale = 1;
  double mscale_all_dim = 0;
  int original_positions = 4096;
};

/// How DeepSeek-V3 chooses experts (ops/moe.h); Qwen3's way has no fields.
struct GroupedRouterConfig {
  int groups = 1;
  int groups_kept = 1;
  double factor = 1;  // `routed_scaling_factor`
};

/// Mixture-of-experts layers.
struct MoeConfig {
  int experts = 0;
  int experts_per_token = 0;
  int intermediate = 0;
  int sparse_step = 1;            // layer i is MoE if (i + 1) % sparse_step == 0 (DeepSeek: i % sparse_step) ...
  std::vector<int> dense_layers;  // ... and it is not listed here (`mlp_only_layers`)
  int first_layer = 0;            // layers before it are dense (`first_k_dense_replace`)
  bool normalise_weights = true;  // `norm_topk_prob`
  int shared_experts = 0;         // of the same width each, for all tokens
  std::optional<GroupedRouterConfig> router;

  bool is_moe_layer(int layer) const;
};

/// The decoder: Qwen3's, or DeepSeek-V3's. Sizes in elements.
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
  int unused_layers = 0;  // that predict tokens further ahead (`num_nextn_predict_layers`): stored behind the others
  std::optional<MoeConfig> moe;
  std::optional<IndexerConfig> indexer;
  std::optional<LatentConfig> latent;  // heads, but neither kv_heads nor head_dim, count then
  std::optional<YarnConfig> yarn;
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

/// Weights in e4m3 with a factor for each block of so many rows and columns (`quantization_config`).
struct BlockQuantisation {
  int rows = 128;
  int cols = 128;
};

struct ModelConfig {
  std::string architecture;  // architectures[0]
  TextConfig text;
  std::optional<VisionConfig> vision;
  MediaTokens media;
  std::optional<BlockQuantisation> quantisation;
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
