// A checkpoint folder, loaded: everything that a command or server needs to answer with it.
#pragma once

#include <memory>
#include <string>

#include "base/file.h"
#include "engine/device.h"
#include "model/model.h"
#include "ops/backend.h"
#include "prompt/prompt_builder.h"

namespace keye::engine {

struct LoadOptions {
  DType dtype = DType::bf16;  // of weights, activations and KV: bf16 or f32
  model::AttentionOptions attention = {};
  DeviceOptions device;
  int step_tokens_max = 512;
  int step_logits_max = 128;
  model::LoadProgress progress;
};

struct LoadedModel {
  std::unique_ptr<ops::Backend> backend;
  std::unique_ptr<model::Model> model;  // uses the backend
  std::unique_ptr<prompt::PromptBuilder> prompts;
  model::GenerationDefaults generation;
};

/// What the folder says, without its weights. Errors: not_found, corrupt_data, unsupported.
struct FolderConfig {
  model::ModelConfig model;
  model::GenerationDefaults generation;
};
Result<FolderConfig> read_folder_config(const Path& folder);

/// Reads the configuration, the prompt parts and the weights. Errors: as of the parts, each naming its file.
Result<LoadedModel> load(const Path& folder, const LoadOptions& options);

/// What a prompt builder must know of this model.
prompt::PromptSpec prompt_spec(const model::ModelConfig& config);

}  // namespace keye::engine
