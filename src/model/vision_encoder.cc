#include "model/vision_encoder.h"

#include <algorithm>
#include <cmath>

namespace keye::model {
namespace {

constexpr float kProjectorEps = 1e-5F;
/// Patches of one pass, if a single picture has no more: bounds the activations, as frames are independent.
constexpr int64_t kPatchesPerPass = 8192;
/// Rows of the MLP at a time: its inner activation is the widest.
constexpr int64_t kRowsPerPass = 2048;
/// A device is busy only with more at a time, and has no caches that these must fit.
constexpr int64_t kDevicePatchesPerPass = 65536;

}  // namespace

VisionEncoder::VisionEncoder(const VisionConfig& config, int text_hidden, ops::Backend& backend, DType dtype)
    : config_(config),
      text_hidden_(text_hidden),
      backend_(backend),
      dtype_(dtype),
      patches_per_pass_(backend.on_host() ? kPatchesPerPass : kDevicePatchesPerPass),
      rows_per_pass_(backend.on_host() ? kRowsPerPass : kDevicePatchesPerPass) {
  // Half of a head's pairs turn with the row, half with the column; each axis has its own run of frequencies.
  const int axis_dim = config_.head_dim() / 2;
  std::vector<float> inv_freq;
  for (int axis = 0; axis < 2; ++axis) {
    for (int i = 0; i < axis_dim; i += 2) {
      inv_freq.push_back(1.0F / std::pow(static_cast<float>(config_.rope_theta),
                                         static_cast<float>(i) / static_cast<float>(axis_dim)));
    }
  }
  inv_freq_ = backend.tensor(DType::f32, {static_cast<int64_t>(inv_freq.size())});
  backend.write(inv_freq_.view(), inv_freq.data());
}

void VisionEncoder::list_weights(WeightList& list, bool norm_before_merge) {
  norm_before_merge_ = norm_before_merge;
  const int64_t c = config_.hidden;
  const int64_t f = config_.intermediate;
  const int64_t patch = config_.patch;
  const int64_t merged = c * config_.merge * config_.merge;
  const std::string t = "visual.vision_model.";
  auto norm = [&](const std::string& name, int64_t width, Norm* to) {
    list.vector(name + ".weight", {width}, &to->weight);
    list.vector(name + ".bias", {width}, &to->bias);
  };
  auto product = [&](const std::string& name, int64_t rows, int64_t cols, Product* to) {
    list.matrix({whole_matrix(name + ".weight", rows, cols)}, &to->weight);
    list.vector(name + ".bias", {rows}, &to->bias);
  };
  const int64_t inputs = config_.channels * patch * patch;
  list.matrix({{t + "embeddings.patch_embedding.weight", {c, config_.channels, patch, patch}, 0, c, inputs, inputs, 1}},
              &patch_embedding_.weight);
  list.vector(t + "embeddings.patch_embedding.bias", {c}, &patch_embedding_.bias);
  list.vector(t + "embeddings.position_embedding.weight", {int64_t{config_.grid_side} * config_.grid_side, c},
              &position_table_);
  layers_.resize(static_cast<size_t>(config_.layers));
  for (int i = 0; i < config_.layers; ++i) {
    Layer& layer = layers_[static_cast<size_t>(i)];
    const std::string p = fmt::format("{}encoder.layers.{}.", t, i);
    norm(p + "layer_norm1", c, &layer.norm1);
    norm(p + "layer_norm2", c, &layer.norm2);
    const std::string a = p + "self_attn.";
    list.matrix({whole_matrix(a + "q_proj.weight", c, c), whole_matrix(a + "k_proj.weight", c, c),
                 whole_matrix(a + "v_proj.weight", c, c)},
                &layer.qkv.weight);
    list.vector(a + "q_proj.bias", {c}, &layer.q_bias);
    list.vector(a + "k_proj.bias", {c}, &layer.k_bias);
    list.vector(a + "v_proj.bias", {c}, &layer.v_bias);
    product(a + "out_proj", c, c, &layer.out);
    product(p + "mlp.fc1", f, c, &layer.fc1);
    product(p + "mlp.fc2", c, f, &layer.fc2);
  }
  norm(t + "post_layernorm", c, &post_norm_);
  norm("mlp_AR.pre_norm", norm_before_merge ? c : merged, &projector_norm_);
  product("mlp_AR.linear_1", merged, merged, &projector1_);
  product("mlp_AR.linear_2", text_hidden_, merged, &projector2_);
  // The pooling head of SigLIP and a table of packed positions are stored but take no part in inference.
  list.ignore("packing_position_embedding");
  list.ignore("visual.vision_model.head.");
}

void VisionEncoder::stack_biases() {
  const auto c = static_cast<size_t>(config_.hidden);
  for (Layer& layer : layers_) {
    layer.qkv.bias = backend_.tensor(DType::f32, {3 * config_.hidden});
    float* to = layer.qkv.bias.as<float>();
    for (const Tensor* from : {&layer.q_bias, &layer.k_bias, &layer.v_bias}) {
      backend_.copy(to, from->as<float>(), c * sizeof(float));
      to += c;
    }
  }
  biases_stacked_ = true;
}

void VisionEncoder::begin(ConstView pixels, std::span<const VisionGrid> grids, View out) {
  if (!biases_stacked_) stack_biases();
  job_ = Job{.pixels = pixels, .grids = {grids.begin(), grids.end()}, .out = out, .segments = {}};
  int64_t patches = 0;
  for (const VisionGrid& grid : grids) patches += grid.patches();
  KEYE_CHECK(patches == pixels.shape[0] && patches > 0, "grids cover {} patches of {}", patches, pixels.shape[0]);
  next_pass();
}

bool VisionEncoder::next_pass() {
  job_.first_grid = job_.end_grid;
  job_.first_patch += job_.patches;
  job_.first_token += job_.tokens;
  job_.patches = 0;
  job_.tokens = 0;
  job_.half_layers = 0;
  while (job_.end_grid < job_.grids.size()) {
    const VisionGrid& grid = job_.grids[job_.end_grid];
    if (job_.patches > 0 && job_.patches + grid.patches() > patches_per_pass_) break;
    job_.patches += grid.patches();
    job_.tokens += merged_tokens(grid, config_.merge);
    ++job_.end_grid;
  }
  return job_.patches > 0;
}

bool VisionEncoder::advance() {
  KEYE_CHECK(job_.patches > 0, "no vision work was begun");
  backend_.begin_step();
  if (job_.half_layers == 0) embed();
  const Layer& layer = layers_[job_.half_layers / 2];
  if (job_.half_layers % 2 == 0) {
    attend(layer);
  } else {
    feed_forward(layer);
    if (probe_) {
      probe_on_host(backend_, probe_, "vision_hidden", static_cast<int>(job_.half_layers / 2) + 1,
                    rows(work_.hidden.view(), 0, job_.patches));
    }
  }
  if (++job_.half_layers < 2 * layers_.size()) return false;
  project();
  return !next_pass();
}

void VisionEncoder::reserve(int64_t patches) {
  if (patches <= work_.patches) return;
  const int64_t c = config_.hidden;
  const int64_t m2 = int64_t{config_.merge} * config_.merge;
  work_ = Workspace{};
  work_.patches = patches;
  work_.hidden = backend_.tensor(DType::f32, {patches, c});
  work_.pixels = backend_.tensor(dtype_, {patches, int64_t{config_.channels} * config_.patch * config_.patch});
  if (!backend_.on_host()) work_.uploaded_pixels = backend_.tensor(DType::f32, work_.pixels.shape());
  work_.normed = backend_.tensor(dtype_, {patches, c});
  work_.qkv = backend_.tensor(dtype_, {patches, 3, config_.heads, config_.head_dim()});
  work_.mixed = backend_.tensor(dtype_, {patches, c});
  work_.inner = backend_.tensor(dtype_, {std::min(patches, rows_per_pass_), config_.intermediate});
  work_.cos = backend_.tensor(DType::f32, {patches, config_.head_dim() / 2});
  work_.sin = backend_.tensor(DType::f32, {patches, config_.head_dim() / 2});
  work_.final_hidden = backend_.tensor(DType::f32, {patches, c});
  work_.merged = backend_.tensor(DType::f32, {patches / m2, m2 * c});
  work_.merged_normed = backend_.tensor(dtype_, {patches / m2, m2 * c});
  work_.projected = backend_.tensor(dtype_, {patches / m2, m2 * c});
}

void VisionEncoder::embed() {
  const int64_t p = job_.patches;
  reserve(p);
  ConstView pixels = rows(job_.pixels, job_.first_patch, job_.first_patch + p);
  const View hidden = rows(work_.hidden.view(), 0, p);
  const View input = rows(work_.pixels.view(), 0, p);
  if (!backend_.on_host()) {
    const View uploaded = rows(work_.uploaded_pixels.view(), 0, p);
    backend_.write(uploaded, pixels.data);
    pixels = uploaded;
  }
  ops::convert(backend_, {reshape(pixels, input.shape), input});
  ops::linear(backend_,
              {.x = input, .w = patch_embedding_.weight, .bias = patch_embedding_.bias.view(), .out = hidden});
  job_.segments = {0};
  for (const VisionGrid& grid : job_.pass_grids()) {
    const int64_t begin = job_.segments.back();
    ops::add_position_grid(backend_,
                           {position_table_.view(), grid.rows, grid.cols, rows(hidden, begin, begin + grid.patches())});
    job_.segments.push_back(static_cast<int32_t>(begin + grid.patches()));
  }
  prepare_positions(job_.pass_grids());
  if (probe_) probe_on_host(backend_, probe_, "vision_hidden", 0, hidden);
}

void VisionEncoder::prepare_positions(std::span<const VisionGrid> grids) {
  std::vector<int32_t> patch_rows;
  std::vector<int32_t> patch_cols;
  for (const VisionGrid& grid : grids) {
    for (int r = 0; r < grid.rows; ++r) {
      for (int c = 0; c < grid.cols; ++c) {
        patch_rows.push_back(r);
        patch_cols.push_back(c);
      }
    }
  }
  const auto p = static_cast<int64_t>(patch_rows.size());
  const int pairs = static_cast<int>(inv_freq_.shape()[0]);
  const ops::Indices by_row = backend_.upload(patch_rows);
  const ops::Indices by_col = backend_.upload(patch_cols);
  ops::rope_table(backend_, {{by_row, by_col, by_col},
                             inv_freq_.view(),
                             {pairs / 2, pairs / 2, 0},
                             rows(work_.cos.view(), 0, p),
                             rows(work_.sin.view(), 0, p)});
}

void VisionEncoder::norm(const Norm& norm, ConstView x, float eps, View out) {
  ops::layer_norm(backend_, {x, norm.weight.view(), norm.bias.view(), eps, out});
}

void VisionEncoder::attend(const Layer& layer) {
  const int64_t p = job_.patches;
  const View hidden = rows(work_.hidden.view(), 0, p);
  const View normed = rows(work_.normed.view(), 0, p);
  const View qkv = rows(work_.qkv.view(), 0, p);
  const View mixed = rows(work_.mixed.view(), 0, p);
  norm(layer.norm1, hidden, config_.norm_eps, normed);
  ops::linear(backend_, {.x = normed,
                         .w = layer.qkv.weight,
                         .bias = layer.qkv.bias.view(),
                         .out = reshape(qkv, {p, 3 * config_.hidden})});
  ops::vision_attention(
      backend_, {qkv, rows(work_.cos.view(), 0, p), rows(work_.sin.view(), 0, p), backend_.upload(job_.segments),
                 config_.heads, 1.0F / std::sqrt(static_cast<float>(config_.head_dim())), mixed});
  ops::linear(backend_,
              {.x = mixed, .w = layer.out.weight, .bias = layer.out.bias.view(), .accumulate = true, .out = hidden});
}

void VisionEncoder::feed_forward(const Layer& layer) {
  const int64_t p = job_.patches;
  const View hidden = rows(work_.hidden.view(), 0, p);
  const View normed = rows(work_.normed.view(), 0, p);
  norm(layer.norm2, hidden, config_.norm_eps, normed);
  for (int64_t begin = 0; begin < p; begin += rows_per_pass_) {
    const int64_t end = std::min(p, begin + rows_per_pass_);
    const View inner = rows(work_.inner.view(), 0, end - begin);
    ops::linear(backend_, {.x = rows(normed, begin, end),
                           .w = layer.fc1.weight,
                           .bias = layer.fc1.bias.view(),
                           .activation = ops::Activation::gelu_tanh,
                           .out = inner});
    ops::linear(backend_, {.x = inner,
                           .w = layer.fc2.weight,
                           .bias = layer.fc2.bias.view(),
                           .accumulate = true,
                           .out = rows(hidden, begin, end)});
  }
}

void VisionEncoder::project() {
  const int64_t p = job_.patches;
  const View out = rows(job_.out, job_.first_token, job_.first_token + job_.tokens);
  const int64_t m2 = int64_t{config_.merge} * config_.merge;
  const View final_hidden = rows(work_.final_hidden.view(), 0, p);
  norm(post_norm_, rows(work_.hidden.view(), 0, p), config_.norm_eps, final_hidden);
  const View merged = rows(work_.merged.view(), 0, p / m2);
  const View merged_normed = rows(work_.merged_normed.view(), 0, p / m2);
  const View projected = rows(work_.projected.view(), 0, p / m2);
  if (norm_before_merge_) norm(projector_norm_, final_hidden, kProjectorEps, final_hidden);
  int64_t begin = 0;
  for (const VisionGrid& grid : job_.pass_grids()) {
    const int64_t end = begin + grid.patches();
    ops::merge_patches(backend_, {rows(final_hidden, begin, end), grid.rows, grid.cols, config_.merge,
                                  rows(merged, begin / m2, end / m2)});
    begin = end;
  }
  if (norm_before_merge_) {
    ops::convert(backend_, {merged, merged_normed});
  } else {
    norm(projector_norm_, merged, kProjectorEps, merged_normed);
  }
  ops::linear(backend_, {.x = merged_normed,
                         .w = projector1_.weight,
                         .bias = projector1_.bias.view(),
                         .activation = ops::Activation::gelu_erf,
                         .out = projected});
  ops::linear(backend_, {.x = projected, .w = projector2_.weight, .bias = projector2_.bias.view(), .out = out});
}

}  // namespace keye::model
