// A checkpoint folder, loaded: everything that a command or server needs to answer with it.
#pragma once

#include <memory>
#include <string>

#include "base/file.h"
#include "base/hash.h"
#include "comm/group.h"
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
  model::Shard shard = {};       // the part of the model that this rank has ...
  comm::Group* group = nullptr;  // ... and the ranks that have the others; it must outlive the model
  model::LoadProgress progress;
};

struct LoadedModel {
  std::unique_ptr<ops::Backend> backend;
  std::unique_ptr<model::Model> model;  // uses the backend
  std::unique_ptr<prompt::PromptBuilder> prompts;
  model::GenerationDefaults generation;
  int ranks = 1;  // that the model is spread over
};

/// What the folder says, without its weights. Errors: not_found, corrupt_data, unsupported.
struct FolderConfig {
  model::ModelConfig model;
  model::GenerationDefaults generation;
};
Result<FolderConfig> read_folder_config(const Path& folder);

/// A name for what the folder holds, for machines to compare: all of its small files, names and sizes of the weights'
/// files, and samples of them. Errors: io.
Result<Digest> folder_digest(const Path& folder);

/// Reads the configuration, the prompt parts and the weights. With a group, rank 0's model is that of all ranks, and
/// the others' are for follow() (engine/parallel_model.h). Errors: as of the parts, each naming its file.
Result<LoadedModel> load(const Path& folder, const LoadOptions& options);

/// Makes this rank's part one of the group's: load() does so for what it loads.
void spread(LoadedModel& loaded, comm::Group& group);

/// What a prompt builder must know of this model.
prompt::PromptSpec prompt_spec(const model::ModelConfig& config);

}  // namespace keye::engine
