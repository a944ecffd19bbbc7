#include "model/latent_attention.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace keye::model {
namespace {

double yarn_mscale(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

/// In f32 where the reference computes in f32.
std::vector<float> inverse_frequencies(int dim, double theta, const std::optional<YarnConfig>& yarn) {
  std::vector<float> values;
  for (int i = 0; i < dim; i += 2) {
    values.push_back(1.0F / std::pow(static_cast<float>(theta), static_cast<float>(i) / static_cast<float>(dim)));
  }
  if (!yarn) return values;
  // The pair that turns so often within the original context.
  const auto pair_of = [&](double turns) {
    return dim * std::log(yarn->original_positions / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  const double low = std::max(std::floor(pair_of(yarn->beta_fast)), 0.0);
  const double high = std::min(std::ceil(pair_of(yarn->beta_slow)), dim - 1.0);
  const auto span = static_cast<float>(std::max(high - low, 0.001));
  const auto factor = static_cast<float>(yarn->factor);
  for (size_t i = 0; i < values.size(); ++i) {
    const float ramp = std::clamp((static_cast<float>(i) - static_cast<float>(low)) / span, 0.0F, 1.0F);
    const float kept = 1.0F - ramp;
    values[i] = values[i] / factor * (1.0F - kept) + values[i] * kept;
  }
  return values;
}

}  // namespace

LatentAttention::LatentAttention(const TextConfig& config, ops::Backend& backend, const ModelOptions& options)
    : all_heads_(config.heads),
      head_range_(options.shard.of(config.heads)),
      heads_(static_cast<int>(head_range_.length())),
      hidden_(config.hidden),
      norm_eps_(config.norm_eps),
      config_(*config.latent),
      backend_(backend),
      dtype_(options.dtype),
      layers_(static_cast<size_t>(config.layers)) {
  const int64_t n = options.step_tokens_max;
  const int64_t h = heads_;
  const LatentConfig& l = config_;
  const int width = l.kv_rank + l.rope_dim;
  work_.down = backend.tensor(DType::f32, {n, l.query_rank + width});
  work_.query = backend.tensor(dtype_, {n, l.query_rank});
  work_.heads = backend.tensor(DType::f32, {n, h * (l.plain_dim + l.rope_dim)});
  work_.plain = backend.tensor(dtype_, {h * n, l.plain_dim});
  work_.latent_query = backend.tensor(dtype_, {h * n, l.kv_rank});
  work_.q = backend.tensor(dtype_, {n, h, width});
  work_.mixed = backend.tensor(dtype_, {n, h * l.kv_rank});
  work_.values = backend.tensor(dtype_, {h * n, l.value_dim});
  work_.joined = backend.tensor(dtype_, {n, h * l.value_dim});
  work_.cos = backend.tensor(DType::f32, {n, l.rope_dim / 2});
  work_.sin = backend.tensor(DType::f32, {n, l.rope_dim / 2});
  work_.offsets = backend.tensor(DType::i32, {h + 1});
  work_.rows = backend.tensor(DType::i32, {h * n});

  const std::vector<float> frequencies = inverse_frequencies(l.rope_dim, config.rope_theta, config.yarn);
  inv_freq_ = backend.tensor(DType::f32, {l.rope_dim / 2});
  backend.write(inv_freq_.view(), frequencies.data());
  double scale = 1.0 / std::sqrt(static_cast<double>(l.plain_dim + l.rope_dim));
  double rope_scale = 1;
  if (config.yarn) {
    const double all = yarn_mscale(config.yarn->factor, config.yarn->mscale_all_dim);
    rope_scale = yarn_mscale(config.yarn->factor, config.yarn->mscale) / all;
    scale *= all * all;
  }
  rope_scale_ = static_cast<float>(rope_scale);
  softmax_scale_ = static_cast<float>(scale);
}

PlaneSpec LatentAttention::plane(const ModelOptions& options) const {
  const DType dtype = options.attention.key_dtype.value_or(options.dtype);
  return {"latent", dtype, ops::PlaneLayout::rows, 1, config_.kv_rank + config_.rope_dim};
}

void LatentAttention::list_weights(WeightList& list, const std::string& prefix) {
  Layer& layer = layers_[static_cast<size_t>(listed_++)];
  const LatentConfig& l = config_;
  const int64_t h = heads_;
  const int64_t width = l.kv_rank + l.rope_dim;
  list.matrix({whole_matrix(prefix + "q_a_proj.weight", l.query_rank, hidden_),
               whole_matrix(prefix + "kv_a_proj_with_mqa.weight", width, hidden_)},
              &layer.down);
  list.vector(prefix + "q_a_layernorm.weight", {l.query_rank}, &layer.query_norm);
  list.vector(prefix + "kv_a_layernorm.weight", {l.kv_rank}, &layer.latent_norm);
  const int64_t query_dim = l.plain_dim + l.rope_dim;
  list.matrix({rows_of_matrix(prefix + "q_b_proj.weight", all_heads_ * query_dim, l.query_rank,
                              head_range_.widened(query_dim))},
              &layer.query_up);
  // Stored head by head, the rows of its keys before those of its values.
  const std::string name = prefix + "kv_b_proj.weight";
  const int64_t rows = l.plain_dim + l.value_dim;
  const Shape stored{all_heads_ * rows, l.kv_rank};
  layer.key_up.resize(static_cast<size_t>(h));
  layer.value_up.resize(static_cast<size_t>(h));
  for (int64_t i = 0; i < h; ++i) {
    const int64_t keys = (head_range_.begin + i) * rows * l.kv_rank;
    const int64_t values = keys + int64_t{l.plain_dim} * l.kv_rank;
    list.matrix({{name, stored, keys, l.kv_rank, l.plain_dim, 1, l.kv_rank}}, &layer.key_up[static_cast<size_t>(i)]);
    list.matrix({{name, stored, values, l.value_dim, l.kv_rank, l.kv_rank, 1}},
                &layer.value_up[static_cast<size_t>(i)]);
  }
  list.matrix({cols_of_matrix(prefix + "o_proj.weight", hidden_, int64_t{all_heads_} * l.value_dim,
                              head_range_.widened(l.value_dim))},
              &layer.out);
}

void LatentAttention::begin_step(const std::array<ops::Indices, 3>& positions, int64_t tokens) {
  tokens_ = tokens;
  ops::rope_table(backend_, {positions,
                             inv_freq_.view(),
                             {config_.rope_dim / 2, 0, 0},
                             rows(work_.cos.view(), 0, tokens),
                             rows(work_.sin.view(), 0, tokens)});
  auto* offsets = work_.offsets.as<int32_t>();
  auto* token_rows = work_.rows.as<int32_t>();
  for (int64_t head = 0; head <= heads_; ++head) offsets[head] = static_cast<int32_t>(head * tokens);
  for (int64_t head = 0; head < heads_; ++head) {
    for (int64_t t = 0; t < tokens; ++t) token_rows[head * tokens + t] = static_cast<int32_t>(t * heads_ + head);
  }
}

void LatentAttention::attend(int index, ConstView normed, ops::Indices slots, ops::Sequences sequences,
                             const ops::KvPlane& plane, View out, bool accumulate) {
  const Layer& layer = layers_[static_cast<size_t>(index)];
  const int64_t n = tokens_;
  const int64_t h = heads_;
  const LatentConfig& l = config_;
  const View down = rows(work_.down.view(), 0, n);
  const View query = rows(work_.query.view(), 0, n);
  const View cos = rows(work_.cos.view(), 0, n);
  const View sin = rows(work_.sin.view(), 0, n);
  ops::linear(backend_, {.x = normed, .w = layer.down, .bias = {}, .out = down});
  ops::latent_input(backend_, {down, layer.query_norm.view(), layer.latent_norm.view(), norm_eps_, cos, sin,
                               rope_scale_, slots, query, plane});
  const View heads = rows(work_.heads.view(), 0, n);
  ops::linear(backend_, {.x = query, .w = layer.query_up, .bias = {}, .out = heads});

  const View by_token = reshape(heads, {n, h, l.plain_dim + l.rope_dim});
  const View plain = rows(work_.plain.view(), 0, h * n);
  const View latent_query = rows(work_.latent_query.view(), 0, h * n);
  const View offsets = work_.offsets.view();
  const View q = rows(work_.q.view(), 0, n);
  ops::swap_axes(backend_, {by_token, reshape(plain, {h, n, l.plain_dim})});
  ops::grouped_linear(backend_, {plain, layer.key_up, {}, offsets, ops::Activation::none, latent_query});
  ops::latent_query(backend_, {by_token, reshape(latent_query, {h, n, l.kv_rank}), cos, sin, rope_scale_, q});

  ops::KvPlane values = plane;
  values.dim = l.kv_rank;
  values.stride = plane.dim;
  const View mixed = rows(work_.mixed.view(), 0, n);
  ops::paged_attention(
      backend_, {.q = q, .k = plane, .v = values, .sequences = sequences, .scale = softmax_scale_, .out = mixed});

  const View head_values = rows(work_.values.view(), 0, h * n);
  const View joined = rows(work_.joined.view(), 0, n);
  ops::grouped_linear(backend_, {reshape(mixed, {n * h, l.kv_rank}), layer.value_up, rows(work_.rows.view(), 0, h * n),
                                 offsets, ops::Activation::none, head_values});
  ops::swap_axes(backend_, {reshape(head_values, {h, n, l.value_dim}), reshape(joined, {n, h, l.value_dim})});
  ops::linear(backend_, {.x = joined, .w = layer.out, .bias = {}, .accumulate = accumulate, .out = out});
}

}  // namespace keye::model
