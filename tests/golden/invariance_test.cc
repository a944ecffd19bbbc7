// The same request has the same logits, to the last bit, whatever runs beside it: threads, chunks, batch, pages.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "golden/golden_case.h"
#include "golden/model_run.h"

namespace keye::golden {
namespace {

constexpr int kStepTokensMax = 512;

/// The first case is looked at, the others run beside it: more than one page, more tokens than the indexer keeps, and
/// pictures where the model sees.
const std::map<std::string, std::vector<std::string>>& cases() {
  static const std::map<std::string, std::vector<std::string>> all = {
      {"qwen3-text", {"chinese", "tools", "one_token"}},
      {"qwen3-moe-text", {"chinese", "tools", "one_token"}},
      {"deepseek-v3-text", {"chinese", "tools", "one_token"}},
      {"keye-671b", {"three_images", "text_long", "image_rgb"}},
      {"keye-1_5", {"three_images", "exif_multi_turn", "text_short"}},
      {"keye-8b", {"exif_multi_turn", "image_rgb", "text_short"}},
      {"keye-2_0-dense", {"exif_multi_turn", "image_rgb", "text_short"}},
      {"keye-2_0", {"three_images", "text_long", "image_rgb"}},
      {"keye-nano", {"scene_7_order", "scene_0_describe", "scene_3_word"}},
  };
  return all;
}

class Invariance : public testing::TestWithParam<Setting> {
 protected:
  static engine::LoadedModel load(int threads) {
    engine::LoadOptions options;
    options.dtype = GetParam().dtype;
    options.device = GetParam().device(threads);
    options.step_tokens_max = kStepTokensMax;
    options.step_logits_max = kStepTokensMax;
    return must(engine::load(checkpoint_folder(GetParam().kind), options));
  }
};

void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b, int vocab, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(float)), 0)
        << what << ": token " << i / static_cast<size_t>(vocab) << " logit " << i % static_cast<size_t>(vocab) << " is "
        << b[i] << ", not " << a[i];
  }
}

TEST_P(Invariance, SameBitsWhateverRunsBeside) {
  constexpr int kWhole = kStepTokensMax;
  std::vector<float> alone;
  for (const int threads : {1, 2}) {
    const engine::LoadedModel loaded = load(threads);
    model::Model& model = *loaded.model;
    const int vocab = model.config().text.vocab;
    std::vector<prompt::Prompt> prompts;
    for (const std::string& name : cases().at(GetParam().kind)) {
      prompts.push_back(build_prompt(*loaded.prompts, load_case(GetParam().kind, name)));
    }
    for (const int chunk : {kWhole, 64, 7, 1}) {
      auto logits = run_batch(loaded, {{prompts.data(), {chunk}}});
      if (alone.empty()) alone = logits[0];
      expect_same_bits(alone, logits[0], vocab, fmt::format("{} threads, chunks of {}", threads, chunk));
    }
    // Ragged: whole prompts beside single tokens, sequences that start and end at different steps.
    const std::vector<Slice> together[] = {
        {{prompts.data(), {kWhole / 4}}, {&prompts[1], {kWhole / 2}}, {&prompts[2], {kWhole / 4}}},
        {{&prompts[1], {1, 63, 2}}, {prompts.data(), {33, 1, 5, 1}}, {&prompts[2], {1}}},
    };
    for (const std::vector<Slice>& slices : together) {
      const auto logits = run_batch(loaded, slices);
      const auto place =
          std::find_if(slices.begin(), slices.end(), [&](const Slice& s) { return s.prompt == prompts.data(); });
      expect_same_bits(alone, logits[static_cast<size_t>(place - slices.begin())], vocab,
                       fmt::format("{} threads, in a batch", threads));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Settings, Invariance, testing::ValuesIn(settings()),
                         [](const auto& param) { return setting_name(param.param); });

}  // namespace
}  // namespace keye::golden
