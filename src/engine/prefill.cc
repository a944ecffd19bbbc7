#include "engine/prefill.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace keye::engine {

EncodedPictures encode_pictures(model::Model& model, const prompt::ImageProcessor* images, const prompt::Prompt& prompt,
                                const Progress& progress) {
  EncodedPictures encoded;
  int64_t total = 0;
  for (const prompt::VisionItem& item : prompt.vision) total += item.tokens;
  if (total == 0) return encoded;
  encoded.features = model.backend().tensor(DType::f32, {total, model.config().text.hidden});
  int64_t done = 0;
  for (const prompt::VisionItem& item : prompt.vision) {
    const std::array<model::VisionGrid, 1> grid = {model::VisionGrid{item.grid.rows, item.grid.cols}};
    const View out = rows(encoded.features.view(), done, done + item.tokens);
    const prompt::ImagePatches patches = images->patchify(*item.image);
    model.encode_vision(patches.pixel_values.view(), grid, out);
    encoded.placed.push_back({out, item.first_token});
    done += item.tokens;
    if (progress) progress("vision", done, total);
  }
  return encoded;
}

SequenceStep prompt_step(const prompt::Prompt& prompt, int64_t first, int64_t count, std::span<const int32_t> pages,
                         std::span<const PlacedFeatures> features) {
  const auto begin = static_cast<size_t>(first);
  const auto size = static_cast<size_t>(count);
  SequenceStep step{.tokens = std::span(prompt.tokens).subspan(begin, size),
                    .positions = {},
                    .context = static_cast<int32_t>(first),
                    .pages = pages,
                    .features = features,
                    .logits = SequenceStep::Logits::none};
  for (size_t axis = 0; axis < 3; ++axis) step.positions[axis] = std::span(prompt.positions[axis]).subspan(begin, size);
  return step;
}

Result<Tensor> all_logits(model::Model& model, const prompt::ImageProcessor* images, const prompt::Prompt& prompt,
                          int chunk, const Progress& progress) {
  const model::TextConfig& text = model.config().text;
  const auto n = static_cast<int64_t>(prompt.tokens.size());
  if (n > text.positions_max) {
    return make_error(ErrorCode::too_large, "prompt", "{} tokens exceed the model's context of {}", n,
                      text.positions_max);
  }
  const EncodedPictures pictures = encode_pictures(model, images, prompt, progress);
  std::vector<int32_t> pages(static_cast<size_t>(ops::pages_for(n)));
  std::iota(pages.begin(), pages.end(), 0);
  model::KvCache cache(model.kv_spec(), static_cast<int>(pages.size()), model.backend());
  Runner runner(model, cache);
  Tensor all(DType::f32, {n, text.vocab});
  const int64_t step_tokens =
      std::min({int64_t{chunk}, int64_t{model.step_tokens_max()}, int64_t{model.step_logits_max()}});
  for (int64_t done = 0; done < n;) {
    const int64_t count = std::min(step_tokens, n - done);
    SequenceStep step = prompt_step(prompt, done, count, pages, pictures.placed);
    step.logits = SequenceStep::Logits::all;
    const ConstView logits = runner.step({&step, 1});
    std::memcpy(rows(all.view(), done, done + count).data, logits.data, logits.bytes());
    done += count;
    if (progress) progress("prefill", done, n);
  }
  return all;
}

}  // namespace keye::engine
