#include "model/decoder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/thread_pool.h"

namespace keye::model {
namespace {

enum Plane { kKeyPlane, kValuePlane, kIndexPlane };

/// What the rank has of a decoder.
TextConfig part_of(const TextConfig& full, const Shard& shard) {
  TextConfig part = full;
  if (shard.size == 1) return part;
  part.heads = static_cast<int>(shard.of(full.heads).length());
  part.kv_heads = static_cast<int>(kv_heads_of(full, shard).length());
  part.intermediate = static_cast<int>(shard.of(full.intermediate).length());
  part.vocab = static_cast<int>(shard.of(full.vocab).length());
  if (part.moe) part.moe->intermediate = static_cast<int>(expert_share(full, shard).width.length());
  return part;
}

Tensor inverse_frequencies(ops::Backend& backend, int dim, double theta) {
  std::vector<float> values;
  for (int i = 0; i < dim; i += 2) {
    // In f32 throughout, as the reference computes them: 1 / theta^(i / dim).
    values.push_back(1.0F / std::pow(static_cast<float>(theta), static_cast<float>(i) / static_cast<float>(dim)));
  }
  Tensor result = backend.tensor(DType::f32, {dim / 2});
  backend.write(result.view(), values.data());
  return result;
}

KvSpec make_kv_spec(const TextConfig& config, const ModelOptions& options, IndexerArithmetic arithmetic,
                    bool wants_rows) {
  KvSpec spec{config.layers, {}};
  const auto add = [&](std::string_view name, const std::optional<DType>& wanted, ops::PlaneLayout packed) {
    const DType dtype = wanted.value_or(options.dtype);
    // Single tokens are read of a cache under an indexer, and only rows can be quantised.
    const bool rows = wants_rows || config.indexer || dtype != options.dtype;
    spec.planes.push_back({name, dtype, rows ? ops::PlaneLayout::rows : packed, config.kv_heads, config.head_dim});
  };
  add("key", options.attention.key_dtype, ops::PlaneLayout::keys);
  add("value", options.attention.value_dtype, ops::PlaneLayout::values);
  if (config.indexer) {
    const DType dtype = arithmetic == IndexerArithmetic::exact ? DType::f32 : DType::bf16;
    const ops::PlaneLayout layout = wants_rows ? ops::PlaneLayout::rows : ops::PlaneLayout::keys;
    spec.planes.push_back({"index_key", dtype, layout, 1, config.indexer->head_dim});
  }
  return spec;
}

}  // namespace

Decoder::Decoder(const TextConfig& config, ops::Backend& backend, const ModelOptions& options)
    : full_(config),
      config_(part_of(config, options.shard)),
      shard_(options.shard),
      group_(options.group),
      backend_(backend),
      dtype_(options.dtype) {
  const AttentionOptions& attention = options.attention;
  ignores_indexer_ = config_.indexer && attention.sparse == SparseAttention::off;
  if (ignores_indexer_) config_.indexer.reset();
  if (config_.indexer) {
    const int topk = attention.topk > 0 ? attention.topk : config_.indexer->topk;
    config_.indexer->topk = std::min(topk, config_.positions_max);
  }
  indexer_arithmetic_ =
      attention.indexer.value_or(dtype_ == DType::f32 ? IndexerArithmetic::exact : IndexerArithmetic::f8);
  if (config_.latent) {
    latent_.emplace(full_, backend, options);
    kv_spec_ = {config_.layers, {latent_->plane(options)}};
  } else {
    kv_spec_ = make_kv_spec(config_, options, indexer_arithmetic_, backend.wants_rows());
  }
  const int64_t n = options.step_tokens_max;
  const int64_t c = config_.hidden;
  const int64_t q_width = int64_t{config_.heads} * config_.head_dim;
  const int64_t kv_width = int64_t{config_.kv_heads} * config_.head_dim;
  const int64_t half = config_.head_dim / 2;
  work_.hidden = backend.tensor(DType::f32, {n, c});
  work_.normed = backend.tensor(dtype_, {n, c});
  if (!latent_) {
    work_.qkv = backend.tensor(DType::f32, {n, q_width + 2 * kv_width});
    work_.q = backend.tensor(dtype_, {n, config_.heads, config_.head_dim});
    work_.mixed = backend.tensor(dtype_, {n, q_width});
    work_.cos = backend.tensor(DType::f32, {n, half});
    work_.sin = backend.tensor(DType::f32, {n, half});
    inv_freq_ = inverse_frequencies(backend, config_.head_dim, config_.rope_theta);
    sections_ = config_.mrope_sections.value_or(std::array<int, 3>{static_cast<int>(half), 0, 0});
  }
  work_.inner = backend.tensor(dtype_, {n, config_.intermediate});
  if (config_.moe || config_.indexer) work_.exact_input = backend.tensor(DType::f32, {n, c});
  work_.selected = backend.tensor(dtype_, {options.step_logits_max, c});
  work_.selected_hidden = backend.tensor(DType::f32, {options.step_logits_max, c});
  if (group_ != nullptr) {
    work_.own_logits = backend.tensor(DType::f32, {options.step_logits_max, config_.vocab});
  }
  logits_order_.resize(static_cast<size_t>(options.step_logits_max));
  std::iota(logits_order_.begin(), logits_order_.end(), 0);
  if (config_.moe) {
    const MoeConfig& moe = *config_.moe;
    const int64_t pairs = n * moe.experts_per_token;
    work_.router_logits = backend.tensor(DType::f32, {n, moe.experts});
    work_.experts = backend.tensor(DType::i32, {n, moe.experts_per_token});
    work_.expert_weights = backend.tensor(DType::f32, {n, moe.experts_per_token});
    work_.places = backend.tensor(DType::i32, {n, moe.experts_per_token});
    work_.expert_inner = backend.tensor(dtype_, {pairs, moe.intermediate});
    // A device is limited by the memory here, and rounds as the published code does.
    work_.expert_out = backend.tensor(backend.on_host() ? DType::f32 : dtype_, {pairs, c});
    work_.group_rows = backend.tensor(DType::i32, {pairs});
    work_.group_offsets = backend.tensor(DType::i32, {expert_share(full_, shard_).experts.length() + 1});
    if (moe.shared_experts > 0) {
      work_.shared_inner = backend.tensor(dtype_, {n, shared_range(full_, shard_).length()});
    }
  }
  if (config_.indexer) {
    const IndexerConfig& indexer = *config_.indexer;
    const int64_t width = int64_t{indexer.heads} * indexer.head_dim;
    work_.index_cos = backend.tensor(DType::f32, {n, indexer.head_dim / 2});
    work_.index_sin = backend.tensor(DType::f32, {n, indexer.head_dim / 2});
    work_.index_q_gate = backend.tensor(DType::f32, {n, width + indexer.heads});
    work_.index_k = backend.tensor(DType::f32, {n, indexer.head_dim});
    work_.index_q = backend.tensor(kv_spec_.planes[kIndexPlane].dtype, {n, indexer.heads, indexer.head_dim});
    work_.index_gate = backend.tensor(DType::f32, {n, indexer.heads});
    work_.chosen = backend.tensor(DType::i32, {n, indexer.topk});
    // The reference truncates theta to a whole number for the indexer.
    index_inv_freq_ = inverse_frequencies(backend, indexer.head_dim, std::trunc(config_.rope_theta));
    index_sections_ = {indexer.head_dim / 2, 0, 0};
    if (config_.mrope_sections) {
      const double ratio = static_cast<double>(indexer.head_dim) / config_.head_dim;
      for (size_t i = 0; i < 3; ++i) index_sections_[i] = static_cast<int>((*config_.mrope_sections)[i] * ratio);
    }
  }
}

void Decoder::list_weights(WeightList& list, bool fused_experts) {
  const int64_t c = config_.hidden;
  layers_.resize(static_cast<size_t>(config_.layers));
  list.table("model.embed_tokens.weight", {full_.vocab, c}, &embeddings_);
  list.vector("model.norm.weight", {c}, &final_norm_);
  const bool tied = config_.tied_embeddings;
  list.matrix(
      {rows_of_matrix(tied ? "model.embed_tokens.weight" : "lm_head.weight", full_.vocab, c, shard_.of(full_.vocab))},
      &head_);
  if (tied) list.ignore("lm_head.weight");
  list.ignore("rotary_emb.inv_freq");
  if (ignores_indexer_) list.ignore(".self_attn.sa_indexer.");
  for (int i = 0; i < config_.unused_layers; ++i) list.ignore(fmt::format("model.layers.{}.", config_.layers + i));
  for (int i = 0; i < config_.layers; ++i) {
    Layer& layer = layers_[static_cast<size_t>(i)];
    const std::string p = fmt::format("model.layers.{}.", i);
    list.vector(p + "input_layernorm.weight", {c}, &layer.input_norm);
    list.vector(p + "post_attention_layernorm.weight", {c}, &layer.post_attention_norm);
    if (latent_) {
      latent_->list_weights(list, p + "self_attn.");
    } else {
      list_attention(list, layer, p + "self_attn.");
    }
    list_feed_forward(list, i, fused_experts);
  }
}

void Decoder::list_attention(WeightList& list, Layer& layer, const std::string& a) {
  const int64_t c = config_.hidden;
  const int64_t d = config_.head_dim;
  const int64_t q_width = full_.heads * d;
  const int64_t kv_width = full_.kv_heads * d;
  const Shard::Range q = shard_.of(full_.heads).widened(d);
  const Shard::Range kv = kv_heads_of(full_, shard_).widened(d);
  list.matrix({rows_of_matrix(a + "q_proj.weight", q_width, c, q), rows_of_matrix(a + "k_proj.weight", kv_width, c, kv),
               rows_of_matrix(a + "v_proj.weight", kv_width, c, kv)},
              &layer.qkv);
  list.vector(a + "q_norm.weight", {d}, &layer.q_norm);
  list.vector(a + "k_norm.weight", {d}, &layer.k_norm);
  list.matrix({cols_of_matrix(a + "o_proj.weight", c, q_width, q)}, &layer.out);
  if (config_.indexer) {
    const std::string s = a + "sa_indexer.";
    const int64_t heads = config_.indexer->heads;
    const int64_t dim = config_.indexer->head_dim;
    MatrixPart q_gate = whole_matrix(s + "q_proj.weight", heads * dim + heads, c);
    MatrixPart k = whole_matrix(s + "k_proj.weight", dim, c);
    if (indexer_arithmetic_ == IndexerArithmetic::exact) {
      list.matrix_f32(std::move(q_gate), &layer.indexer.q_gate);
      list.matrix_f32(std::move(k), &layer.indexer.k);
    } else {
      list.matrix({std::move(q_gate)}, &layer.indexer.q_gate);
      list.matrix({std::move(k)}, &layer.indexer.k);
    }
    list.vector(s + "q_norm.weight", {dim}, &layer.indexer.q_norm);
    list.vector(s + "k_norm.weight", {dim}, &layer.indexer.k_norm);
    list.vector(s + "k_norm.bias", {dim}, &layer.indexer.k_bias);
  }
}

void Decoder::list_feed_forward(WeightList& list, int index, bool fused_experts) {
  Layer& layer = layers_[static_cast<size_t>(index)];
  const int64_t c = config_.hidden;
  const std::string m = fmt::format("model.layers.{}.mlp.", index);
  const auto list_gated = [&](const std::string& name, int64_t f, const Shard::Range& part, ops::PackedMatrix* gate_up,
                              ops::PackedMatrix* down) {
    list.gated_matrix(rows_of_matrix(name + "gate_proj.weight", f, c, part),
                      rows_of_matrix(name + "up_proj.weight", f, c, part), gate_up);
    list.matrix({cols_of_matrix(name + "down_proj.weight", c, f, part)}, down);
  };
  if (!full_.moe || !full_.moe->is_moe_layer(index)) {
    return list_gated(m, full_.intermediate, shard_.of(full_.intermediate), &layer.gate_up, &layer.down);
  }
  const MoeConfig& moe = *full_.moe;
  const int64_t f = moe.intermediate;
  const int64_t experts = moe.experts;
  // A flipped choice of expert changes everything after it, so the router alone is f32 in every mode.
  list.matrix_f32(whole_matrix(m + "gate.weight", experts, c), &layer.router);
  if (moe.router) list.vector(m + "gate.e_score_correction_bias", {experts}, &layer.router_bias);
  if (moe.shared_experts > 0) {
    list_gated(m + "shared_experts.", moe.shared_experts * f, shared_range(full_, shard_), &layer.shared_gate_up,
               &layer.shared_down);
  }
  const ExpertShare share = expert_share(full_, shard_);
  const Shard::Range& part = share.width;
  layer.expert_gate_up.resize(static_cast<size_t>(share.experts.length()));
  layer.expert_down.resize(static_cast<size_t>(share.experts.length()));
  for (int64_t e = 0; e < experts && !fused_experts; ++e) {
    if (e >= share.experts.begin && e < share.experts.end) continue;
    const std::string name = fmt::format("{}experts.{}.", m, e);
    list.elsewhere(whole_matrix(name + "gate_proj.weight", f, c));
    list.elsewhere(whole_matrix(name + "up_proj.weight", f, c));
    list.elsewhere(whole_matrix(name + "down_proj.weight", c, f));
  }
  for (int64_t e = share.experts.begin; e < share.experts.end; ++e) {
    ops::PackedMatrix* gate_up = &layer.expert_gate_up[static_cast<size_t>(e - share.experts.begin)];
    ops::PackedMatrix* down = &layer.expert_down[static_cast<size_t>(e - share.experts.begin)];
    if (!fused_experts) {
      list_gated(fmt::format("{}experts.{}.", m, e), f, part, gate_up, down);
      continue;
    }
    // Stored as (in, out): [e, c, 2 f] with gate in the first f columns, and [e, f, c].
    const std::string name = m + "experts.gate_up_proj";
    const Shape stored{experts, c, 2 * f};
    const int64_t gate = e * c * 2 * f + part.begin;
    list.gated_matrix({name, stored, gate, part.length(), c, 1, 2 * f},
                      {name, stored, gate + f, part.length(), c, 1, 2 * f}, gate_up);
    list.matrix({{m + "experts.down_proj", {experts, f, c}, (e * f + part.begin) * c, c, part.length(), 1, c}}, down);
  }
}

void Decoder::forward(const StepInput& input, KvCache& cache, View logits) {
  const auto n = static_cast<int64_t>(input.tokens.size());
  KEYE_CHECK(n > 0 && n <= work_.hidden.shape()[0], "{} tokens in a step of {}", n, work_.hidden.shape()[0]);
  if (group_ == nullptr) return compute(input, cache, logits);
  is_between_ranks_ = true;
  try {
    compute(input, cache, logits);
    finish_step(logits);
  } catch (const LoopInterrupted&) {
    // Left on rank 0, between two collectives: the others hear of it at their next one. They have left theirs.
    if (shard_.rank == 0 && is_between_ranks_) group_->abandon();
    throw;
  }
}

void Decoder::compute(const StepInput& input, KvCache& cache, View logits) {
  backend_.begin_step();
  split_rows(input);
  upload(input);
  backend_.run_step(replay_key(input, cache, logits), [&] { layers(input, cache, logits); });
}

/// Rank 0 has the others' logits beside its own. Also the end of a step that wants none.
void Decoder::finish_step(View logits) {
  const auto s = static_cast<int64_t>(step_.logits_rows.size());
  const ConstView own = take(work_.own_logits, s);
  is_between_ranks_ = false;
  const auto take_part = [&](int rank, size_t offset, std::span<const std::byte> piece) {
    const Shard::Range range = Shard{rank, shard_.size, shard_.expert_groups}.of(full_.vocab);
    const auto row_bytes = static_cast<size_t>(range.length()) * sizeof(float);
    while (!piece.empty()) {
      const size_t row = offset / row_bytes;
      const size_t begin = offset % row_bytes;
      const size_t count = std::min(row_bytes - begin, piece.size());
      KEYE_CHECK(static_cast<int64_t>(row) < s, "row {} of {} from rank {}", row, s, rank);
      auto* to =
          reinterpret_cast<std::byte*>(logits.as<float>() + static_cast<int64_t>(row) * full_.vocab + range.begin);
      std::memcpy(to + begin, piece.data(), count);
      piece = piece.subspan(count);
      offset += count;
    }
  };
  group_->gather({static_cast<const std::byte*>(own.data), own.bytes()}, take_part);
}

Decoder::Partial Decoder::partial(int64_t n) {
  if (group_ == nullptr) return {take(work_.hidden, n), true};
  const std::span<float> terms = group_->terms(n * full_.hidden);
  return {{terms.data(), DType::f32, {n, full_.hidden}}, false};
}

void Decoder::add_partials(int64_t n) {
  if (group_ == nullptr) return;
  is_between_ranks_ = false;
  group_->add_sum({take(work_.hidden, n).as<float>(), static_cast<size_t>(n * full_.hidden)});
  is_between_ranks_ = true;
}

void Decoder::upload(const StepInput& input) {
  step_.n = static_cast<int64_t>(input.tokens.size());
  step_.tokens = backend_.upload(input.tokens);
  step_.slots = backend_.upload(input.slots);
  for (size_t axis = 0; axis < 3; ++axis) step_.positions[axis] = backend_.upload(input.positions[axis]);
  step_.logits_rows = backend_.upload(input.logits_rows);
  step_.logits_order = backend_.upload(std::span<const int32_t>(logits_order_).first(input.logits_rows.size()));
  step_.dense = backend_.upload(dense_rows_);
  step_.sparse = backend_.upload(sparse_rows_);
  if (probe_) step_.all = backend_.upload(input.sequences);
  step_.vision.clear();
  for (const VisionRows& vision : input.vision) {
    step_.vision.emplace_back(backend_.upload(vision.from), backend_.upload(vision.rows));
  }
}

/// Steps of one new token for each sequence come again and again with the same shapes; others hardly do.
uint64_t Decoder::replay_key(const StepInput& input, const KvCache& cache, const View& logits) const {
  if (probe_ || latent_ || !input.vision.empty() || input.tokens.size() != input.sequences.size()) return 0;
  uint64_t key = 1;
  for (const uint64_t part :
       {static_cast<uint64_t>(input.tokens.size()), static_cast<uint64_t>(dense_rows_.size()),
        static_cast<uint64_t>(input.logits_rows.size()), std::bit_cast<uint64_t>(cache.plane(kKeyPlane, 0).data),
        std::bit_cast<uint64_t>(cache.plane(kValuePlane, 0).data), static_cast<uint64_t>(cache.pages()),
        std::bit_cast<uint64_t>(logits.data)}) {
    key = (key ^ part) * 0x9e3779b97f4a7c15ULL;
    key ^= key >> 29;
  }
  return key | 1;
}

void Decoder::layers(const StepInput& input, KvCache& cache, View logits) {
  const int64_t n = step_.n;
  embed(input);
  prepare_positions();
  const View hidden = take(work_.hidden, n);
  const View normed = take(work_.normed, n);
  for (int i = 0; i < config_.layers; ++i) {
    const Layer& layer = layers_[static_cast<size_t>(i)];
    probe("hidden", i, hidden);
    ops::rms_norm(backend_, {hidden, layer.input_norm.view(), config_.norm_eps, normed});
    attention(i, cache);
    const View exact = layer.router.empty() ? View{} : take(work_.exact_input, n);
    ops::rms_norm(backend_, {hidden, layer.post_attention_norm.view(), config_.norm_eps, normed, exact});
    feed_forward(i, n);
  }
  probe("hidden", config_.layers, hidden);
  const auto s = static_cast<int64_t>(step_.logits_rows.size());
  if (s == 0) return;
  const View selected_hidden = take(work_.selected_hidden, s);
  const View selected = take(work_.selected, s);
  ops::copy_rows(backend_, {hidden, step_.logits_rows, step_.logits_order, selected_hidden});
  ops::rms_norm(backend_, {selected_hidden, final_norm_.view(), config_.norm_eps, selected});
  probe("final_hidden", config_.layers, selected);
  const View out = group_ == nullptr ? logits : take(work_.own_logits, s);
  ops::linear(backend_, {.x = selected, .w = head_, .bias = {}, .out = out});
}

void Decoder::embed(const StepInput& input) {
  const View hidden = take(work_.hidden, step_.n);
  ops::embed(backend_, {embeddings_, step_.tokens, hidden});
  for (size_t i = 0; i < input.vision.size(); ++i) {
    const auto& [from, rows] = step_.vision[i];
    ops::copy_rows(backend_, {input.vision[i].features, from, rows, hidden});
  }
}

void Decoder::prepare_positions() {
  const int64_t n = step_.n;
  if (latent_) return latent_->begin_step(step_.positions, n);
  ops::rope_table(backend_, {step_.positions, inv_freq_.view(), sections_, take(work_.cos, n), take(work_.sin, n)});
  if (config_.indexer) {
    ops::rope_table(backend_, {step_.positions, index_inv_freq_.view(), index_sections_, take(work_.index_cos, n),
                               take(work_.index_sin, n)});
  }
}

void Decoder::attention(int index, KvCache& cache) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const int64_t n = step_.n;
  if (latent_) {
    const Partial to = partial(n);
    latent_->attend(index, take(work_.normed, n), step_.slots, step_.dense, cache.plane(kKeyPlane, index), to.out,
                    to.accumulate);
    return add_partials(n);
  }
  const View qkv = take(work_.qkv, n);
  const View q = take(work_.q, n);
  const View mixed = take(work_.mixed, n);
  const ops::KvPlane k = cache.plane(kKeyPlane, index);
  const ops::KvPlane v = cache.plane(kValuePlane, index);
  ops::linear(backend_, {.x = take(work_.normed, n), .w = layer.qkv, .bias = {}, .out = qkv});
  ops::attention_input(backend_, {qkv, layer.q_norm.view(), layer.k_norm.view(), config_.norm_eps, take(work_.cos, n),
                                  take(work_.sin, n), step_.slots, q, k, v});
  const float scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim));
  if (config_.indexer) index_tokens(index, cache);
  if (!dense_rows_.empty()) {
    ops::paged_attention(backend_, {.q = q, .k = k, .v = v, .sequences = step_.dense, .scale = scale, .out = mixed});
  }
  if (!sparse_rows_.empty()) {
    select(index, cache);
    ops::paged_attention(backend_, {.q = q,
                                    .k = k,
                                    .v = v,
                                    .sequences = step_.sparse,
                                    .scale = scale,
                                    .chosen = take(work_.chosen, n),
                                    .out = mixed});
  }
  const Partial to = partial(n);
  ops::linear(backend_, {.x = mixed, .w = layer.out, .bias = {}, .accumulate = to.accumulate, .out = to.out});
  add_partials(n);
}

/// A row that has at most top-k tokens attends to all of them.
void Decoder::split_rows(const StepInput& input) {
  dense_rows_.clear();
  sparse_rows_.clear();
  for (const ops::SequenceRows& rows : input.sequences) {
    const int32_t dense = config_.indexer ? std::clamp(config_.indexer->topk - rows.context, 0, rows.rows) : rows.rows;
    if (dense > 0) dense_rows_.push_back({rows.first_row, dense, rows.context, rows.pages});
    if (dense < rows.rows) {
      sparse_rows_.push_back({rows.first_row + dense, rows.rows - dense, rows.context + dense, rows.pages});
    }
  }
}

/// Writes the index keys of all new tokens, for later ones, and their index queries.
void Decoder::index_tokens(int index, KvCache& cache) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const Indexer& indexer = layer.indexer;
  const int64_t n = step_.n;
  const View q_gate = take(work_.index_q_gate, n);
  const View k = take(work_.index_k, n);
  View x = take(work_.normed, n);
  if (indexer_arithmetic_ == IndexerArithmetic::exact) {
    x = take(work_.exact_input, n);
    ops::rms_norm(backend_, {take(work_.hidden, n), layer.input_norm.view(), config_.norm_eps, x});
  }
  probe("indexer_input", index, x);
  ops::linear(backend_, {.x = x, .w = indexer.q_gate, .bias = {}, .out = q_gate});
  ops::linear(backend_, {.x = x, .w = indexer.k, .bias = {}, .out = k});
  ops::indexer_input(backend_, {q_gate, k, indexer.q_norm.view(), indexer.k_norm.view(), indexer.k_bias.view(), 1e-6F,
                                take(work_.index_cos, n), take(work_.index_sin, n), step_.slots, take(work_.index_q, n),
                                take(work_.index_gate, n), cache.plane(kIndexPlane, index)});
}

void Decoder::select(int index, KvCache& cache) {
  const int64_t n = step_.n;
  const View chosen = take(work_.chosen, n);
  ops::SparseSelect op{.q = take(work_.index_q, n),
                       .gate = take(work_.index_gate, n),
                       .keys = cache.plane(kIndexPlane, index),
                       .sequences = step_.sparse,
                       .chosen = chosen};
  Tensor scores;
  if (probe_) {
    size_t pages = 0;
    for (const ops::SequenceRows& sequence : step_.all) pages = std::max(pages, sequence.pages.size());
    scores = backend_.tensor(DType::f32, {n, static_cast<int64_t>(pages) * ops::kPageTokens});
    op.sequences = step_.all;
    op.scores = scores.view();
  }
  ops::sparse_select(backend_, op);
  if (probe_) {
    probe("indexer_scores", index, scores.view());
    probe("indexer_chosen", index, chosen);
  }
}

void Decoder::feed_forward(int index, int64_t n) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  if (!layer.router.empty()) {
    mixture(layer, index, n);
  } else {
    gated(layer.gate_up, layer.down, take(work_.inner, n), partial(n), n);
  }
  add_partials(n);
}

/// down (silu(gate normed) * up normed)
void Decoder::gated(const ops::PackedMatrix& gate_up, const ops::PackedMatrix& down, View inner, const Partial& to,
                    int64_t n) {
  ops::linear(
      backend_,
      {.x = take(work_.normed, n), .w = gate_up, .bias = {}, .activation = ops::Activation::silu_mul, .out = inner});
  ops::linear(backend_, {.x = inner, .w = down, .bias = {}, .accumulate = to.accumulate, .out = to.out});
}

void Decoder::mixture(const Layer& layer, int index, int64_t n) {
  const MoeConfig& moe = *config_.moe;
  const View normed = take(work_.normed, n);
  const View logits = take(work_.router_logits, n);
  const View experts = take(work_.experts, n);
  const View weights = take(work_.expert_weights, n);
  const View places = take(work_.places, n);
  ops::linear(backend_, {.x = take(work_.exact_input, n), .w = layer.router, .bias = {}, .out = logits});
  ops::MoeRoute route{logits, moe.normalise_weights, experts, weights};
  if (moe.router) {
    route.score = ops::RouterScore::sigmoid;
    route.bias = layer.router_bias.view();
    route.groups = moe.router->groups;
    route.groups_kept = moe.router->groups_kept;
    route.factor = static_cast<float>(moe.router->factor);
  }
  ops::moe_route(backend_, route);
  probe("router_logits", index, logits);
  probe("router_experts", index, experts);
  probe("router_weights", index, weights);

  int64_t pairs = n * moe.experts_per_token;
  const View offsets = work_.group_offsets.view();
  ops::moe_group(backend_, {experts, take(work_.group_rows, pairs), offsets, places,
                            static_cast<int>(expert_share(full_, shard_).experts.begin),
                            shard_.expert_groups > 1 ? moe.experts : 0});
  if (shard_.expert_groups > 1) pairs = offsets.as<int32_t>()[offsets.elements() - 1];  // of experts that are here
  const View token_rows = take(work_.group_rows, pairs);
  const View inner = take(work_.expert_inner, pairs);
  const View out = take(work_.expert_out, pairs);
  ops::grouped_linear(backend_, {normed, layer.expert_gate_up, token_rows, offsets, ops::Activation::silu_mul, inner});
  ops::grouped_linear(backend_, {inner, layer.expert_down, {}, offsets, ops::Activation::none, out});
  Partial to = partial(n);
  if (moe.shared_experts > 0) {
    // First, if it has to begin a sum; behind the others where it always was.
    const auto shared = [&] { gated(layer.shared_gate_up, layer.shared_down, take(work_.shared_inner, n), to, n); };
    if (!to.accumulate) shared();
    ops::moe_combine(backend_, {out, places, weights, to.out});
    if (to.accumulate) shared();
    return;
  }
  if (!to.accumulate) std::memset(to.out.data, 0, to.out.bytes());
  ops::moe_combine(backend_, {out, places, weights, to.out});
}

}  // namespace keye::model
