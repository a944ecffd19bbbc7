// What the engine sees of a model.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "comm/group.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/shard.h"
#include "model/weights.h"
#include "ops/backend.h"
#include "tensor/tensor.h"

namespace keye::model {

/// One picture or frame for the vision encoder, in patches.
struct VisionGrid {
  int rows = 0;
  int cols = 0;

  int patches() const { return rows * cols; }
};

/// Rows of the step whose embedding is a vision feature instead of a token's: row rows[i] takes features[from[i]].
struct VisionRows {
  ConstView features;  // [m, hidden] f32, in the backend's memory
  std::span<const int32_t> from;
  std::span<const int32_t> rows;
};

/// One step over the new tokens of a ragged batch, sequences back to back.
struct StepInput {
  std::span<const int32_t> tokens;                    // [n]
  std::array<std::span<const int32_t>, 3> positions;  // [n] each: time, height, width
  std::span<const VisionRows> vision;
  std::span<const ops::SequenceRows> sequences;
  std::span<const int32_t> slots;        // [n] where each new token's planes go: page * 64 + offset
  std::span<const int32_t> logits_rows;  // [s] rows whose logits are wanted
};

/// Intermediate values for tests against goldens: called with a name ("hidden", "indexer_scores", "router_logits",
/// ...), the layer and the value. A step runs slower with one.
using Probe = std::function<void(std::string_view name, int layer, ConstView value)>;
/// Calls the probe with a value that may lie in the backend's memory.
void probe_on_host(ops::Backend& backend, const Probe& probe, std::string_view name, int layer, const ConstView& value);

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const KvSpec& kv_spec() const = 0;
  virtual ops::Backend& backend() = 0;
  /// The most tokens that one step takes.
  virtual int step_tokens_max() const = 0;
  /// The most rows of logits that one step gives.
  virtual int step_logits_max() const = 0;

  /// Begins to encode: pixels [patches, 3 p p] f32 of the grids one after another, in the host's memory; out [sum of
  /// merged tokens, hidden] f32 in the backend's. Both must live until advance_vision says that it is done, or another
  /// begin_vision takes its place.
  virtual void begin_vision(ConstView pixels, std::span<const VisionGrid> grids, View out) = 0;
  /// A slice of that work, so that steps of the decoder can run between two of them. True: `out` is complete.
  virtual bool advance_vision() = 0;
  /// All of it at once.
  void encode_vision(ConstView pixels, std::span<const VisionGrid> grids, View out) {
    begin_vision(pixels, grids, out);
    while (!advance_vision()) {
    }
  }
  /// logits [s, vocab] f32, in the backend's memory.
  virtual void forward(const StepInput& input, KvCache& cache, View logits) = 0;

  virtual void set_probe(Probe probe) = 0;
};

/// Sparse attention keeps, for each token, the earlier tokens that the checkpoint's indexer scores highest.
enum class SparseAttention : uint8_t {
  automatic,  // where the checkpoint has an indexer
  on,         // and refuse a checkpoint without one
  off,        // dense attention over everything: not the function that the checkpoint was trained for
};
/// exact: f32 from the input on. f8: the published arithmetic (ops/indexer.h).
enum class IndexerArithmetic : uint8_t { exact, f8 };

struct AttentionOptions {
  SparseAttention sparse = SparseAttention::automatic;
  int topk = 0;                                 // 0: the checkpoint's
  std::optional<IndexerArithmetic> indexer;     // default: exact in f32, f8 in bf16
  std::optional<DType> key_dtype, value_dtype;  // of the cache: the model's dtype (the default), i8 or f8_e4m3
};

struct ModelOptions {
  DType dtype = DType::bf16;  // of weights, activations and KV: bf16 or f32
  AttentionOptions attention = {};
  int step_tokens_max = 512;
  int step_logits_max = 512;
  Shard shard = {};              // the part of the model that is loaded and computed here
  comm::Group* group = nullptr;  // with the ranks that have the others; it must outlive the model
};

/// Merged tokens of a grid.
inline int merged_tokens(const VisionGrid& grid, int merge) { return grid.patches() / (merge * merge); }

/// Loads the weights of `config` from the checkpoint. The backend must outlive the model; mapped tables keep the
/// checkpoint alive. Errors as in Checkpoint::load; unsupported, invalid_argument (attention options that do not fit).
Result<std::unique_ptr<Model>> load_model(const ModelConfig& config, std::shared_ptr<const Checkpoint> checkpoint,
                                          ops::Backend& backend, const ModelOptions& options,
                                          const LoadProgress& progress);

/// The same model with random weights: for benchmarks of named shapes.
Result<std::unique_ptr<Model>> random_model(const ModelConfig& config, ops::Backend& backend,
                                            const ModelOptions& options, uint64_t seed);

/// What load_model would report about the checkpoint's names and shapes, without loading.
Result<void> check_weights(const ModelConfig& config, const Checkpoint& checkpoint);

/// What the KV cache of this model remembers for each token.
KvSpec kv_spec_of(const ModelConfig& config, const ModelOptions& options);

/// Parameters of a model of this shape (all tensors that inference reads).
int64_t count_parameters(const ModelConfig& config);
/// Memory for the activations of a step, as the model takes it when it is made.
size_t workspace_bytes(const ModelConfig& config, const ModelOptions& options);
/// Memory for them where the model computes in `dtype`.
size_t weight_bytes(const ModelConfig& config, DType dtype, const Shard& shard = {});

}  // namespace keye::model
