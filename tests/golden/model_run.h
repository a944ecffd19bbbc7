// Runs a prompt the way a test needs it: everything in one step with all intermediate values kept, or cut into steps.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/load.h"
#include "engine/prefill.h"
#include "engine/runner.h"

namespace keye::golden {

/// How a model is run: every kind, in f32 and bf16, on every instruction set that this build and processor have; or,
/// built with KEYE_CUDA_DEVICE_TEST, on this machine's CUDA device.
struct Setting {
  std::string kind;
  DType dtype = DType::f32;
  std::string isa;  // or "cuda"

  engine::DeviceOptions device(int threads = 0) const;
};
std::vector<Setting> settings();
/// For GoogleTest: "keye_2_0_bf16_avx2".
std::string setting_name(const Setting& setting);

/// A copy of a tensor of the model, as doubles hold every dtype's values exactly.
struct Captured {
  Shape shape;
  std::vector<double> values;
};

/// What one pass over a prompt showed. Tensors by name and layer as the model's probe gives them: "hidden.0", ...
struct PassRecord {
  std::map<std::string, Captured> tensors;
  std::vector<float> last_logits;  // [vocab]
};

struct GreedyStep {
  int32_t token = 0;
  float logit = 0;
};

/// A model and a prompt in it.
class ModelRun {
 public:
  ModelRun(const engine::LoadedModel& loaded, const prompt::Prompt& prompt, int tokens_max);

  const engine::EncodedPictures& pictures() const { return pictures_; }
  /// The whole prompt in one step, watched.
  PassRecord pass();
  /// After pass(): the tokens of greatest logit, end-of-sequence or not.
  std::vector<GreedyStep> greedy(const std::vector<float>& first_logits, int count);

 private:
  model::Model& model_;
  const prompt::Prompt& prompt_;
  PassRecord record_;
  engine::EncodedPictures pictures_;
  std::vector<int32_t> pages_;
  model::KvCache cache_;
  engine::Runner runner_;
};

/// One sequence of a batch and how many of its tokens go into each of its steps, the last size repeating.
struct Slice {
  const prompt::Prompt* prompt;
  std::vector<int> sizes;
};

/// Logits [n, vocab] of every token of every sequence, run together: step i takes the i-th slice of each that is not
/// over. Pages are handed out in turn, so that no sequence has neighbouring ones.
std::vector<std::vector<float>> run_batch(const engine::LoadedModel& loaded, const std::vector<Slice>& slices);

}  // namespace keye::golden
