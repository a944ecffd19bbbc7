#include "engine/load.h"

#include <algorithm>
#include <new>

#include "engine/parallel_model.h"

namespace keye::engine {

Result<FolderConfig> read_folder_config(const Path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    return make_error(ErrorCode::not_found, folder.string(),
                      "is not a folder; expected a checkpoint with config.json and *.safetensors");
  }
  const Path config_path = folder / "config.json";
  KEYE_TRY(const Json json, read_json(config_path));
  FolderConfig config;
  KEYE_TRY(config.model, model::parse_config(json, config_path.string()));
  const Path generation_path = folder / "generation_config.json";
  Json generation;
  if (std::filesystem::exists(generation_path)) {
    KEYE_TRY(generation, read_json(generation_path));
  }
  KEYE_TRY(config.generation, model::parse_generation(generation, json, generation_path.string()));
  return config;
}

Result<Digest> folder_digest(const Path& folder) {
  constexpr size_t kWhole = size_t{64} << 20;  // tokenizers and configurations are smaller
  constexpr size_t kSample = 4096;
  constexpr size_t kSamples = 64;
  std::vector<Path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string suffix = entry.path().extension();
    if (entry.is_regular_file(error) && (suffix == ".json" || suffix == ".safetensors" || suffix == ".jinja" ||
                                         suffix == ".txt" || suffix == ".model")) {
      files.push_back(entry.path());
    }
  }
  if (error) return make_error(ErrorCode::io, folder.string(), "cannot be listed: {}", error.message());
  std::sort(files.begin(), files.end());
  Sha256 hash;
  for (const Path& path : files) {
    KEYE_TRY(const MappedFile file, MappedFile::open(path));
    const std::span<const std::byte> bytes = file.bytes();
    hash.add_text(path.filename().string()).add_value(static_cast<uint64_t>(bytes.size()));
    if (bytes.size() <= kWhole) {
      hash.add(bytes);
      continue;
    }
    for (size_t i = 0; i < kSamples; ++i) hash.add(bytes.subspan(bytes.size() / kSamples * i, kSample));
  }
  return hash.finish();
}

namespace {

/// Each generation's way with videos. The 8B preview's has no published description.
std::optional<prompt::VideoPolicy> video_policy(const std::string& architecture) {
  if (architecture.starts_with("KeyeVL2")) return prompt::VideoPolicy::all_slow;
  if (architecture == "KeyeVL1_5ForConditionalGeneration" || architecture == "KeyeVLMoeForConditionalGeneration")
    return prompt::VideoPolicy::slow_fast;
  return std::nullopt;
}

}  // namespace

prompt::PromptSpec prompt_spec(const model::ModelConfig& config) {
  return {.has_vision = config.vision.has_value(),
          .three_axes = config.text.mrope_sections.has_value(),
          .image_token = config.media.image,
          .video_token = config.media.video,
          .video = config.media.video >= 0 ? video_policy(config.architecture) : std::nullopt,
          .merge = config.vision ? config.vision->merge : 1};
}

void spread(LoadedModel& loaded, comm::Group& group) {
  loaded.ranks = group.place().size;
  group.use_threads(
      [backend = loaded.backend.get()](int64_t items, const auto& body) { backend->for_each(items, body); });
  if (group.place().rank == 0) loaded.model = make_leader(std::move(loaded.model), group);
}

Result<LoadedModel> load(const Path& folder, const LoadOptions& options) {
  KEYE_TRY(FolderConfig config, read_folder_config(folder));
  LoadedModel loaded;
  loaded.generation = std::move(config.generation);
  KEYE_TRY(auto prompts, prompt::PromptBuilder::load(folder, prompt_spec(config.model)));
  loaded.prompts = std::make_unique<prompt::PromptBuilder>(std::move(prompts));
  KEYE_TRY(loaded.backend, open_device(options.device));
  KEYE_TRY(model::Checkpoint checkpoint, model::Checkpoint::open(folder));
  const model::ModelOptions model_options{.dtype = options.dtype,
                                          .attention = options.attention,
                                          .step_tokens_max = options.step_tokens_max,
                                          .step_logits_max = options.step_logits_max,
                                          .shard = options.shard,
                                          .group = options.group};
  const auto needed = static_cast<double>(model::weight_bytes(config.model, options.dtype, options.shard));
  const auto available = static_cast<double>(loaded.backend->memory_available());
  const auto too_small = [&](std::string_view what) {
    return make_error(ErrorCode::too_large, "memory", "{}: {} need {:.2f} GB, and {:.2f} of {:.2f} GB are free",
                      loaded.backend->name(), what, needed / 1e9, available / 1e9,
                      static_cast<double>(loaded.backend->memory_total()) / 1e9);
  };
  if (!loaded.backend->on_host() && needed > available) return too_small("the weights");
  try {
    KEYE_TRY(loaded.model,
             model::load_model(config.model, std::make_shared<const model::Checkpoint>(std::move(checkpoint)),
                               *loaded.backend, model_options, options.progress));
  } catch (const std::bad_alloc&) {
    return too_small("weights and activations");
  }
  if (options.group != nullptr) {
    spread(loaded, *options.group);
  }
  return loaded;
}

}  // namespace keye::engine
