#include "engine/bench_attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>

#include "engine/runner.h"

namespace keye::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A generator that is quick enough to fill gigabytes.
class Noise {
 public:
  uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  float number() { return static_cast<float>(next() >> 40) * 0x1p-23F - 1.0F; }  // in [-1, 1)

 private:
  uint64_t state_ = 0x9e3779b97f4a7c15ULL;
};

void fill(const View& view, Noise& noise) {
  for (int64_t i = 0; i < view.elements(); ++i) {
    if (view.dtype == DType::f32) {
      view.as<float>()[i] = noise.number();
    } else {
      view.as<BFloat16>()[i] = BFloat16(noise.number());
    }
  }
}

Tensor random_tensor(DType dtype, Shape shape, Noise& noise) {
  Tensor tensor(dtype, shape);
  fill(tensor.view(), noise);
  return tensor;
}

void fill_page(const model::PlaneSpec& spec, std::byte* page, Noise& noise) {
  const ops::KvPlane plane = spec.plane(page);
  for (int head = 0; head < spec.heads; ++head) {
    std::byte* block = plane.block(0, head);
    const int64_t elements = int64_t{ops::kPageTokens} * spec.dim;
    if (!plane.scaled()) {
      fill({block, spec.dtype, {elements}}, noise);
      continue;
    }
    // Any code but NaN.
    for (int64_t i = 0; i < elements; ++i) block[i] = static_cast<std::byte>(noise.next() % 0x7f);
    for (int i = 0; i < ops::kPageTokens; ++i) plane.scales(block)[i] = 0.01F * std::abs(noise.number());
  }
}

/// Pages of random numbers: a few dozen different ones are enough.
void fill_cache(const model::KvSpec& spec, const model::KvCache& cache, ops::Backend& backend, Noise& noise) {
  constexpr int kDifferent = 64;
  for (int index = 0; index < static_cast<int>(spec.planes.size()); ++index) {
    const model::PlaneSpec& plane = spec.planes[static_cast<size_t>(index)];
    const size_t bytes = plane.plane(nullptr).page_bytes();
    std::vector<std::byte> pages(kDifferent * bytes);
    for (size_t i = 0; i < kDifferent; ++i) fill_page(plane, pages.data() + i * bytes, noise);
    for (int layer = 0; layer < spec.layers; ++layer) {
      for (int page = 0; page < cache.pages(); ++page) {
        const size_t from = noise.next() % kDifferent;
        backend.write({cache.plane(index, layer).block(page, 0), DType::u8, {static_cast<int64_t>(bytes)}},
                      pages.data() + from * bytes);
      }
    }
  }
}

/// One layer's attention with everything it works on. Several copies of the cache take turns, as a model's layers do:
/// none finds its own in the processor's caches.
class Bench {
 public:
  Bench(const model::TextConfig& config, const BenchAttentionOptions& options, ops::Backend& backend, bool sparse)
      : config_(config),
        options_(options),
        backend_(backend),
        rows_max_(options.chunk),
        spec_(model::kv_spec_of({.architecture = {}, .text = one_layer(config), .vision = {}, .media = {}},
                                model_options(sparse))) {
    const double bytes = static_cast<double>(spec_.bytes_per_token()) * (options.context + rows_max_);
    spec_.layers = std::clamp(static_cast<int>(std::ceil(kCacheBytes / bytes)), 3, 64);
    const auto pages = static_cast<int>(ops::pages_for(options.context + rows_max_));
    cache_ = std::make_unique<model::KvCache>(spec_, pages, backend_);
    fill_cache(spec_, *cache_, backend_, noise_);
    page_list_.resize(static_cast<size_t>(pages));
    std::iota(page_list_.begin(), page_list_.end(), 0);
    q_ = random_tensor(DType::bf16, {rows_max_, config.heads, config.head_dim}, noise_);
    out_ = Tensor(DType::bf16, {rows_max_, int64_t{config.heads} * config.head_dim});
    if (sparse) prepare_indexer();
  }

  AttentionTimes time(int rows) {
    const bool sparse = spec_.planes.size() > 2;
    AttentionTimes times;
    std::vector<double> indexer;
    std::vector<double> selection;
    std::vector<double> attention;
    const auto begin = Clock::now();
    for (int run = 0; run < 4 || seconds_since(begin) < options_.seconds; ++run) {
      const int layer = run % spec_.layers;
      const ops::SequenceRows sequence{0, rows, options_.context, page_list_};
      auto start = Clock::now();
      if (sparse) {
        index_tokens(layer, rows);
        indexer.push_back(seconds_since(start));
        start = Clock::now();
        ops::sparse_select(backend_, {.q = keye::rows(index_q_.view(), 0, rows),
                                      .gate = keye::rows(index_gate_.view(), 0, rows),
                                      .keys = cache_->plane(2, layer),
                                      .sequences = {&sequence, 1},
                                      .chosen = keye::rows(chosen_.view(), 0, rows)});
        selection.push_back(seconds_since(start));
        start = Clock::now();
      }
      ops::paged_attention(backend_, {.q = keye::rows(q_.view(), 0, rows),
                                      .k = cache_->plane(0, layer),
                                      .v = cache_->plane(1, layer),
                                      .sequences = {&sequence, 1},
                                      .scale = 1.0F / std::sqrt(static_cast<float>(config_.head_dim)),
                                      .chosen = sparse ? ConstView(keye::rows(chosen_.view(), 0, rows)) : ConstView{},
                                      .out = keye::rows(out_.view(), 0, rows)});
      attention.push_back(seconds_since(start));
    }
    times.indexer_s = median(indexer);
    times.selection_s = median(selection);
    times.attention_s = median(attention);
    times.total_s = times.indexer_s + times.selection_s + times.attention_s;
    const double visible = static_cast<double>(rows) * (options_.context + 0.5 * (rows + 1));  // over all rows
    const double attended = sparse ? static_cast<double>(rows) * config_.indexer->topk : visible;
    times.attention_flops = 4.0 * attended * config_.heads * config_.head_dim;
    const double token_bytes =
        static_cast<double>(spec_.planes[0].plane(nullptr).page_bytes() + spec_.planes[1].plane(nullptr).page_bytes()) /
        ops::kPageTokens;
    times.attention_bytes = token_bytes * (sparse ? attended : options_.context + rows);
    if (sparse) {
      times.scoring_flops = 2.0 * visible * config_.indexer->heads * config_.indexer->head_dim;
      times.scoring_bytes = static_cast<double>(spec_.planes[2].plane(nullptr).page_bytes()) / ops::kPageTokens *
                            (options_.context + rows);
    }
    return times;
  }

 private:
  static constexpr double kCacheBytes = 2.5e9;

  static double median(std::vector<double>& values) {
    if (values.empty()) return 0;
    values.erase(values.begin());  // the first run also allocates
    std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
    return values[values.size() / 2];
  }

  static model::TextConfig one_layer(const model::TextConfig& config) {
    model::TextConfig one = config;
    one.layers = 1;
    return one;
  }
  model::ModelOptions model_options(bool sparse) const {
    model::ModelOptions options;
    options.attention.sparse = sparse ? model::SparseAttention::on : model::SparseAttention::off;
    options.attention.key_dtype = options_.key_dtype;
    options.attention.value_dtype = options_.value_dtype;
    return options;
  }

  void prepare_indexer() {
    const model::IndexerConfig& indexer = *config_.indexer;
    const int64_t width = int64_t{indexer.heads} * indexer.head_dim;
    const auto weight = [&](int64_t rows) {
      Tensor source = random_tensor(DType::bf16, {rows, config_.hidden}, noise_);
      const ops::StridedMatrix block{source.view().data, DType::bf16, rows, config_.hidden, config_.hidden, 1};
      return ops::pack(backend_, {.blocks = {&block, 1}, .gated = false, .dtype = DType::bf16});
    };
    q_gate_weight_ = weight(width + indexer.heads);
    k_weight_ = weight(indexer.head_dim);
    x_ = random_tensor(DType::bf16, {rows_max_, config_.hidden}, noise_);
    norm_ = random_tensor(DType::f32, {indexer.head_dim}, noise_);
    cos_ = random_tensor(DType::f32, {rows_max_, indexer.head_dim / 2}, noise_);
    q_gate_ = Tensor(DType::f32, {rows_max_, width + indexer.heads});
    k_ = Tensor(DType::f32, {rows_max_, indexer.head_dim});
    index_q_ = Tensor(DType::bf16, {rows_max_, indexer.heads, indexer.head_dim});
    index_gate_ = Tensor(DType::f32, {rows_max_, indexer.heads});
    chosen_ = Tensor(DType::i32, {rows_max_, indexer.topk});
    for (int i = 0; i < rows_max_; ++i) slots_.push_back(options_.context + i);
  }

  void index_tokens(int layer, int rows) {
    const View x = keye::rows(x_.view(), 0, rows);
    const View q_gate = keye::rows(q_gate_.view(), 0, rows);
    const View k = keye::rows(k_.view(), 0, rows);
    const View angles = keye::rows(cos_.view(), 0, rows);
    ops::linear(backend_, {.x = x, .w = q_gate_weight_, .bias = {}, .out = q_gate});
    ops::linear(backend_, {.x = x, .w = k_weight_, .bias = {}, .out = k});
    ops::indexer_input(backend_,
                       {q_gate, k, norm_.view(), norm_.view(), norm_.view(), 1e-6F, angles, angles,
                        std::span(slots_).first(static_cast<size_t>(rows)), keye::rows(index_q_.view(), 0, rows),
                        keye::rows(index_gate_.view(), 0, rows), cache_->plane(2, layer)});
  }

  const model::TextConfig& config_;
  const BenchAttentionOptions& options_;
  ops::Backend& backend_;
  int rows_max_;
  model::KvSpec spec_;
  std::unique_ptr<model::KvCache> cache_;
  Noise noise_;
  std::vector<int32_t> page_list_, slots_;
  Tensor q_, out_;
  ops::PackedMatrix q_gate_weight_, k_weight_;
  Tensor x_, norm_, cos_, q_gate_, k_, index_q_, index_gate_, chosen_;
};

/// Decode and prefill steps of the whole layer, experts and all: a model of that one layer with a small vocabulary.
Result<void> time_layer(model::ModelConfig config, const BenchAttentionOptions& options, ops::Backend& backend,
                        model::SparseAttention sparse, AttentionReport::Kind& kind) {
  config.text.layers = 1;
  config.text.vocab = 1024;
  config.vision.reset();
  model::ModelOptions model_options{.step_tokens_max = options.chunk, .step_logits_max = 1};
  model_options.attention = {.sparse = sparse,
                             .topk = options.topk.value_or(0),
                             .indexer = {},
                             .key_dtype = options.key_dtype,
                             .value_dtype = options.value_dtype};
  if (sparse == model::SparseAttention::off) model_options.attention.topk = 0;
  KEYE_TRY(const auto model, model::random_model(config, backend, model_options, 1));
  const auto pages = static_cast<int>(ops::pages_for(options.context + options.chunk));
  model::KvCache cache(model->kv_spec(), pages, backend);
  Noise noise;
  fill_cache(model->kv_spec(), cache, backend, noise);
  Runner runner(*model, cache);
  std::vector<int32_t> page_list(static_cast<size_t>(pages));
  std::iota(page_list.begin(), page_list.end(), 0);
  const auto time = [&](int rows) {
    std::vector<double> seconds;
    std::vector<int32_t> tokens(static_cast<size_t>(rows));
    std::vector<int32_t> positions(static_cast<size_t>(rows));
    std::iota(positions.begin(), positions.end(), options.context);
    const auto begin = Clock::now();
    for (int run = 0; run < 4 || seconds_since(begin) < options.seconds; ++run) {
      // Other tokens each time, and so other experts, whose weights are not in the processor's caches.
      for (int32_t& token : tokens) token = static_cast<int32_t>(noise.next() % 1024);
      const SequenceStep step{.tokens = tokens,
                              .positions = {positions, positions, positions},
                              .context = options.context,
                              .pages = page_list,
                              .features = {},
                              .logits = SequenceStep::Logits::none};
      const auto start = Clock::now();
      runner.step({&step, 1});
      if (run > 0) seconds.push_back(seconds_since(start));
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  };
  kind.decode.layer_s = time(1);
  kind.prefill.layer_s = time(options.chunk);
  return {};
}

}  // namespace

Result<AttentionReport> run_bench_attention(const model::ModelConfig& shape, const BenchAttentionOptions& options,
                                            const BenchProgress& progress) {
  model::ModelConfig config = shape;
  if (options.context < 1 || options.chunk < 1 || options.context + options.chunk > (1 << 24)) {
    return make_error(ErrorCode::invalid_argument, "context, chunk", "should be positive, and {} in all at most",
                      1 << 24);
  }
  if (options.sparse && !config.text.indexer) {
    return make_error(ErrorCode::unsupported, "sparse", "{} has no indexer: measure its dense attention",
                      config.architecture);
  }
  if (config.text.indexer && options.topk) config.text.indexer->topk = *options.topk;
  config.text.positions_max = std::max(config.text.positions_max, options.context + options.chunk);
  KEYE_TRY(const auto backend, ops::make_cpu_backend({.threads = options.threads, .isa = options.isa}));
  AttentionReport report;
  report.backend = std::string(backend->name());
  report.topk = config.text.indexer ? config.text.indexer->topk : 0;
  const auto say = [&](std::string_view what) {
    if (progress) progress(what);
  };
  const DeviceOptions limits{.threads = options.threads, .isa = options.isa};
  say("limits");
  raise_limits(report.limits, limits, DType::bf16);
  const auto measure = [&](bool sparse) -> Result<AttentionReport::Kind> {
    AttentionReport::Kind kind;
    {
      Bench bench(config.text, options, *backend, sparse);
      say(sparse ? "sparse decode" : "dense decode");
      kind.decode = bench.time(1);
      say(sparse ? "sparse prefill" : "dense prefill");
      kind.prefill = bench.time(options.chunk);
    }
    if (options.layer) {
      say("the whole layer");
      KEYE_TRY_VOID(time_layer(config, options, *backend,
                               sparse ? model::SparseAttention::on : model::SparseAttention::off, kind));
    }
    return kind;
  };
  if (options.dense) {
    KEYE_TRY(report.dense, measure(false));
  }
  if (options.sparse) {
    KEYE_TRY(report.sparse, measure(true));
  }
  say("limits");
  raise_limits(report.limits, limits, DType::bf16);
  return report;
}

}  // namespace keye::engine
