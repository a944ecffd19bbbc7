// The decoder: Qwen3's, dense or mixture-of-experts, with optional sparse attention, or DeepSeek-V3's.
#pragma once

#include <vector>

#include "model/latent_attention.h"
#include "model/model.h"

namespace keye::model {

class Decoder {
 public:
  Decoder(const TextConfig& config, ops::Backend& backend, const ModelOptions& options);

  const KvSpec& kv_spec() const { return kv_spec_; }
  /// Names every weight once. `fused_experts`: the checkpoint stores all experts of a layer in one tensor, transposed.
  void list_weights(WeightList& list, bool fused_experts);
  void forward(const StepInput& input, KvCache& cache, View logits);
  void set_probe(Probe probe) { probe_ = std::move(probe); }

 private:
  struct Indexer {
    ops::PackedMatrix q_gate;  // [H D + H, c]
    ops::PackedMatrix k;       // [D, c]
    Tensor q_norm, k_norm, k_bias;
  };
  struct Layer {
    Tensor input_norm, post_attention_norm;  // [c]
    ops::PackedMatrix qkv;                   // [(h + 2 g) d, c]
    Tensor q_norm, k_norm;                   // [d]
    ops::PackedMatrix out;                   // [c, h d]
    Indexer indexer;
    // Dense layers:
    ops::PackedMatrix gate_up;  // gated [2 f, c]
    ops::PackedMatrix down;     // [c, f]
    // Mixture-of-experts layers:
    ops::PackedMatrix router;  // [e, c]
    Tensor router_bias;        // [e]
    std::vector<ops::PackedMatrix> expert_gate_up, expert_down;
    ops::PackedMatrix shared_gate_up, shared_down;  // of the experts that every token has, as one
  };
  /// Activations of one step, sized once for options.step_tokens_max rows.
  struct Workspace {
    Tensor hidden;        // [n, c] f32: the residual stream
    Tensor normed;        // [n, c]
    Tensor exact_input;   // [n, c] f32: of router and indexer
    Tensor qkv;           // [n, (h + 2 g) d] f32
    Tensor q;             // [n, h, d]
    Tensor mixed;         // [n, h d]
    Tensor inner;         // [n, f]
    Tensor shared_inner;  // [n, f of the shared experts]
    Tensor cos, sin;      // [n, d / 2] f32
    Tensor index_cos, index_sin, index_q_gate, index_k, index_q, index_gate;
    Tensor chosen;  // [n, topk] i32
    Tensor router_logits, experts, expert_weights;
    Tensor group_rows, group_offsets, places;
    Tensor expert_inner, expert_out;
    Tensor selected;  // [s, c]: the rows whose logits are wanted
    Tensor selected_hidden;
    Tensor own_logits;  // [s, this rank's part of v], with other ranks
  };

  /// A step's numbers where the ops can read them.
  struct Step {
    int64_t n = 0;
    ops::Indices tokens, slots, logits_rows, logits_order;
    std::array<ops::Indices, 3> positions;
    ops::Sequences all, dense, sparse;
    std::vector<std::pair<ops::Indices, ops::Indices>> vision;  // from, rows
  };

  /// Where a product of this rank's columns goes: to `hidden` at once, or, with other ranks, into the terms of a sum.
  struct Partial {
    View out;
    bool accumulate = true;
  };
  Partial partial(int64_t n);
  /// After all of a layer's half are in partial(): hidden += the sum over all ranks.
  void add_partials(int64_t n);
  void compute(const StepInput& input, KvCache& cache, View logits);
  void finish_step(View logits);

  void upload(const StepInput& input);
  void list_attention(WeightList& list, Layer& layer, const std::string& prefix);
  void list_feed_forward(WeightList& list, int index, bool fused_experts);
  uint64_t replay_key(const StepInput& input, const KvCache& cache, const View& logits) const;
  void layers(const StepInput& input, KvCache& cache, View logits);
  void embed(const StepInput& input);
  void prepare_positions();
  void attention(int index, KvCache& cache);
  void index_tokens(int index, KvCache& cache);
  void select(int index, KvCache& cache);
  void feed_forward(int index, int64_t n);
  void gated(const ops::PackedMatrix& gate_up, const ops::PackedMatrix& down, View inner, const Partial& to, int64_t n);
  void mixture(const Layer& layer, int index, int64_t n);
  void split_rows(const StepInput& input);
  View take(Tensor& tensor, int64_t n) { return rows(tensor.view(), 0, n); }
  void probe(std::string_view name, int layer, ConstView value) {
    if (probe_) probe_on_host(backend_, probe_, name, layer, value);
  }

  TextConfig full_;    // of all ranks
  TextConfig config_;  // this rank's heads, widths, experts and vocabulary; without an indexer where sparse attention
                       // is off
  Shard shard_;
  comm::Group* group_;  // null: one rank
  bool ignores_indexer_ = false;
  ops::Backend& backend_;
  DType dtype_;
  KvSpec kv_spec_;
  std::optional<LatentAttention> latent_;
  ConstView embeddings_;
  std::vector<Layer> layers_;
  Tensor final_norm_;
  ops::PackedMatrix head_;
  Workspace work_;
  Step step_;
  Tensor inv_freq_, index_inv_freq_;  // [p] f32
  std::array<int, 3> sections_{}, index_sections_{};
  IndexerArithmetic indexer_arithmetic_ = IndexerArithmetic::exact;
  // The step's rows that attend to all earlier tokens, and those that have more of them than top-k.
  std::vector<ops::SequenceRows> dense_rows_, sparse_rows_;
  std::vector<int32_t> logits_order_;  // 0, 1, ...
  bool is_between_ranks_ = false;      // whether the other ranks still wait for this one in the step
  Probe probe_;
};

}  // namespace keye::model
