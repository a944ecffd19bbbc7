// The Keye-VL models (and the plain Qwen3 ones): an optional vision encoder in front of a Qwen3 decoder.
#include <utility>

#include "model/decoder.h"
#include "model/model.h"
#include "model/vision_encoder.h"
#include "ops/ref/ref_backend.h"

namespace keye::model {
namespace {

/// What a checkpoint's own layout decides.
struct Layout {
  bool fused_experts = false;
  bool norm_before_merge = false;
};

Layout layout_of(const ModelConfig& config, const Checkpoint& checkpoint) {
  Layout layout;
  for (const auto& [name, stored] : checkpoint.tensors()) {
    if (name.ends_with(".mlp.experts.gate_up_proj")) layout.fused_experts = true;
    if (config.vision && name == "mlp_AR.pre_norm.weight") {
      layout.norm_before_merge = stored.view.shape == Shape{config.vision->hidden} && config.vision->merge > 1;
    }
  }
  return layout;
}

class KeyeModel final : public Model {
 public:
  KeyeModel(const ModelConfig& config, ops::Backend& backend, const ModelOptions& options)
      : config_(config), options_(options), backend_(backend), decoder_(config.text, backend, options) {
    if (config.vision) vision_.emplace(*config.vision, config.text.hidden, backend, options.dtype);
  }

  WeightList list_weights(const Layout& layout) {
    WeightList list;
    list.allow_blocks(config_.quantisation);
    decoder_.list_weights(list, layout.fused_experts);
    if (vision_) vision_->list_weights(list, layout.norm_before_merge);
    return list;
  }
  void keep(std::shared_ptr<const Checkpoint> checkpoint) { checkpoint_ = std::move(checkpoint); }
  std::vector<Tensor>& storage() { return storage_; }

  const ModelConfig& config() const override { return config_; }
  const KvSpec& kv_spec() const override { return decoder_.kv_spec(); }
  ops::Backend& backend() override { return backend_; }
  int step_tokens_max() const override { return options_.step_tokens_max; }
  int step_logits_max() const override { return options_.step_logits_max; }

  void begin_vision(ConstView pixels, std::span<const VisionGrid> grids, View out) override {
    KEYE_CHECK(vision_.has_value(), "{} has no vision encoder", config_.architecture);
    vision_->begin(pixels, grids, out);
  }
  bool advance_vision() override { return vision_->advance(); }
  void forward(const StepInput& input, KvCache& cache, View logits) override { decoder_.forward(input, cache, logits); }
  void set_probe(Probe probe) override {
    decoder_.set_probe(probe);
    if (vision_) vision_->set_probe(std::move(probe));
  }

 private:
  ModelConfig config_;
  ModelOptions options_;
  ops::Backend& backend_;
  std::shared_ptr<const Checkpoint> checkpoint_;  // owns the mapped tables
  std::vector<Tensor> storage_;                   // owns tables that are not mapped
  Decoder decoder_;
  std::optional<VisionEncoder> vision_;
};

/// A model without weights, to ask what it would need.
struct Unloaded {
  std::unique_ptr<ops::Backend> backend = ops::make_ref_backend();
  std::unique_ptr<KeyeModel> model;

  explicit Unloaded(const ModelConfig& config, ModelOptions options = {}) {
    options.step_tokens_max = 1;
    options.step_logits_max = 1;
    model = std::make_unique<KeyeModel>(config, *backend, options);
  }
};

/// Counts what is asked of it. Nobody writes to much of it, so that the machine need not have it.
class CountingMemory final : public Memory {
 public:
  void* allocate(size_t bytes) override {
    bytes_ += bytes;
    return host_memory().allocate(bytes);
  }
  void release(void* data, size_t bytes) override { host_memory().release(data, bytes); }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

class CountingBackend final : public ops::RefBackend {
 public:
  explicit CountingBackend(CountingMemory& memory) : memory_(memory) {}
  Memory& memory() override { return memory_; }

 private:
  CountingMemory& memory_;
};

Result<void> check_options(const ModelConfig& config, const ModelOptions& options) {
  const AttentionOptions& attention = options.attention;
  const bool has_indexer = config.text.indexer.has_value();
  if (!has_indexer && attention.sparse == SparseAttention::on) {
    return make_error(ErrorCode::unsupported, "sparse attention", "{} has no indexer (sa_config in config.json)",
                      config.architecture);
  }
  if (attention.topk != 0 && (!has_indexer || attention.sparse == SparseAttention::off)) {
    return make_error(ErrorCode::invalid_argument, "sparse attention", "top-k {} without sparse attention",
                      attention.topk);
  }
  if (attention.topk < 0) {
    return make_error(ErrorCode::invalid_argument, "sparse attention", "top-k should be positive, got {}",
                      attention.topk);
  }
  if (config.text.latent && attention.value_dtype != attention.key_dtype) {
    return make_error(ErrorCode::invalid_argument, "KV cache",
                      "{} keeps keys and values in one: they have the same element type", config.architecture);
  }
  for (const auto& dtype : {attention.key_dtype, attention.value_dtype}) {
    if (!dtype || *dtype == options.dtype || *dtype == DType::i8 || *dtype == DType::f8_e4m3) continue;
    return make_error(ErrorCode::unsupported, "KV cache", "in {} beside a model in {}: it can be {}, i8 or f8_e4m3",
                      dtype_name(*dtype), dtype_name(options.dtype), dtype_name(options.dtype));
  }
  return {};
}

Result<void> check_device(const ModelConfig& config, ops::Backend& backend, const ModelOptions& options) {
  KEYE_TRY_VOID(check_shard(config, options.shard));
  KEYE_CHECK((options.shard.size > 1) == (options.group != nullptr), "{} ranks without a group", options.shard.size);
  if (options.shard.size > 1 && !backend.on_host()) {
    return make_error(ErrorCode::unsupported, backend.name(), "ranks over several processes run on CPUs only");
  }
  if (!config.text.latent || backend.has_latent_attention()) return {};
  return make_error(ErrorCode::unsupported, backend.name(),
                    "{} has latent attention, which is not there yet; use the CPU", config.architecture);
}

}  // namespace

void probe_on_host(ops::Backend& backend, const Probe& probe, std::string_view name, int layer,
                   const ConstView& value) {
  if (backend.on_host()) return probe(name, layer, value);
  Tensor copy(value.dtype, value.shape);
  backend.read(value, copy.view().data);
  probe(name, layer, copy.view());
}

Result<std::unique_ptr<Model>> load_model(const ModelConfig& config, std::shared_ptr<const Checkpoint> checkpoint,
                                          ops::Backend& backend, const ModelOptions& options,
                                          const LoadProgress& progress) {
  KEYE_TRY_VOID(check_options(config, options));
  KEYE_TRY_VOID(check_device(config, backend, options));
  auto model = std::make_unique<KeyeModel>(config, backend, options);
  const WeightList list = model->list_weights(layout_of(config, *checkpoint));
  KEYE_TRY_VOID(checkpoint->load(list, backend, options.dtype, progress, model->storage()));
  model->keep(std::move(checkpoint));
  return std::unique_ptr<Model>(std::move(model));
}

Result<std::unique_ptr<Model>> random_model(const ModelConfig& config, ops::Backend& backend,
                                            const ModelOptions& options, uint64_t seed) {
  KEYE_TRY_VOID(check_options(config, options));
  KEYE_TRY_VOID(check_device(config, backend, options));
  auto model = std::make_unique<KeyeModel>(config, backend, options);
  fill_random(model->list_weights({}), backend, options.dtype, seed, model->storage());
  return std::unique_ptr<Model>(std::move(model));
}

Result<void> check_weights(const ModelConfig& config, const Checkpoint& checkpoint) {
  const Unloaded unloaded(config);
  return checkpoint.check(unloaded.model->list_weights(layout_of(config, checkpoint)));
}

KvSpec kv_spec_of(const ModelConfig& config, const ModelOptions& options) {
  return Unloaded(config, options).model->kv_spec();
}

size_t workspace_bytes(const ModelConfig& config, const ModelOptions& options) {
  CountingMemory memory;
  CountingBackend backend(memory);
  const KeyeModel model(config, backend, options);
  // A group's ranks have room for their own part of the logits, too.
  const int64_t logits =
      options.shard.size > 1 ? options.step_logits_max * options.shard.of(config.text.vocab).length() : 0;
  return memory.bytes() + static_cast<size_t>(logits) * sizeof(float);
}

size_t weight_bytes(const ModelConfig& config, DType dtype, const Shard& shard) {
  return Unloaded(config, {.shard = shard}).model->list_weights({}).bytes(dtype);
}

int64_t count_parameters(const ModelConfig& config) { return Unloaded(config).model->list_weights({}).parameters(); }

}  // namespace keye::model
