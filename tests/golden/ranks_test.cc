// Models over several ranks, as threads of this process: the goldens, the same bits again, and the same bits whatever
// runs beside.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <thread>

#include "comm/ranks.h"
#include "engine/parallel_model.h"
#include "golden/golden_case.h"
#include "golden/model_run.h"
#include "ops/cpu/isa.h"

namespace keye::golden {
namespace {

constexpr double kLogitTolerance = 2e-3;  // of golden_test.cc
constexpr int kStepTokensMax = 512;

struct Layout {
  int ranks, nodes, expert_groups;
};

/// A model over threads of this process. Rank 0's is used like any other.
class SpreadModel {
 public:
  SpreadModel(const std::string& kind, DType dtype, const Layout& layout) {
    const Path folder = checkpoint_folder(kind);
    const auto config = must(engine::read_folder_config(folder));
    groups_ = comm::make_local_groups(layout.ranks, layout.nodes, int64_t{kStepTokensMax} * config.model.text.hidden,
                                      std::chrono::milliseconds(60'000));
    engine::LoadOptions options;
    options.dtype = dtype;
    options.device.threads = 1;
    if (kind == kF8Indexer) options.attention.indexer = model::IndexerArithmetic::f8;
    options.step_tokens_max = kStepTokensMax;
    options.step_logits_max = kStepTokensMax;
    for (int rank = layout.ranks - 1; rank >= 0; --rank) {
      options.shard = {rank, layout.ranks, layout.expert_groups};
      options.group = groups_[static_cast<size_t>(rank)].get();
      auto loaded = std::make_unique<engine::LoadedModel>(must(engine::load(folder, options)));
      if (rank == 0) {
        leader_ = std::move(loaded);
        break;
      }
      followers_.emplace_back([this, rank, part = std::move(loaded)] {
        engine::follow(*part->model, *groups_[static_cast<size_t>(rank)]);
      });
    }
  }
  ~SpreadModel() {
    leader_->model.reset();
    for (std::thread& follower : followers_) follower.join();
  }
  SpreadModel(const SpreadModel&) = delete;
  SpreadModel& operator=(const SpreadModel&) = delete;

  const engine::LoadedModel& loaded() const { return *leader_; }

 private:
  std::vector<std::unique_ptr<comm::Group>> groups_;
  std::vector<std::thread> followers_;
  std::unique_ptr<engine::LoadedModel> leader_;
};

/// The first case is looked at, the others run beside it; as in invariance_test.cc.
struct Kind {
  std::vector<std::string> cases;
  std::vector<Layout> layouts;
};
const std::map<std::string, Kind>& spread_kinds() {
  static const std::map<std::string, Kind> all = {
      {"qwen3-text", {{"chinese", "tools", "one_token"}, {{2, 1, 1}, {4, 1, 1}, {4, 2, 1}}}},
      {"qwen3-moe-text", {{"chinese", "tools", "one_token"}, {{2, 1, 1}, {4, 1, 1}, {2, 1, 2}, {4, 2, 2}, {4, 1, 4}}}},
      {"deepseek-v3-text", {{"chinese", "tools", "one_token"}, {{2, 1, 1}, {4, 1, 1}, {4, 2, 2}}}},
      {"keye-671b", {{"three_images", "text_long", "image_rgb"}, {{2, 1, 1}, {4, 2, 1}, {4, 1, 2}}}},
      {"keye-1_5", {{"three_images", "exif_multi_turn", "text_short"}, {{2, 1, 1}, {4, 1, 1}}}},
      {"keye-8b", {{"exif_multi_turn", "image_rgb", "text_short"}, {{2, 2, 1}}}},
      {"keye-2_0", {{"three_images", "text_long", "image_rgb"}, {{2, 1, 1}, {4, 1, 2}}}},
      {"keye-nano", {{"scene_7_order", "scene_0_describe", "scene_3_word"}, {{2, 1, 1}}}},
  };
  return all;
}

struct SpreadSetting {
  std::string kind;
  DType dtype;
  Layout layout;
};

bool is_here(const std::string& kind) { return std::find(kinds().begin(), kinds().end(), kind) != kinds().end(); }

std::vector<SpreadSetting> all_settings() {
  std::vector<SpreadSetting> all;
  for (const auto& [kind, of_kind] : spread_kinds()) {
    if (!is_here(kind)) continue;  // among the goldens of other seeds alone
    for (const Layout& layout : of_kind.layouts) all.push_back({kind, DType::f32, layout});
    all.push_back({kind, DType::bf16, of_kind.layouts[0]});
  }
  return all;
}

class Ranks : public testing::TestWithParam<SpreadSetting> {};

engine::LoadedModel load_whole(const std::string& kind, DType dtype) {
  engine::LoadOptions options;
  options.dtype = dtype;
  options.device.threads = 1;
  options.step_tokens_max = kStepTokensMax;
  options.step_logits_max = kStepTokensMax;
  return must(engine::load(checkpoint_folder(kind), options));
}

double largest_gap(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || a.empty()) return INFINITY;
  double gap = 0;
  for (size_t i = 0; i < a.size(); ++i) gap = std::max(gap, std::abs(double{a[i]} - double{b[i]}));
  return gap;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(Ranks, AsOneRankAndTheSameBitsWhateverRunsBeside) {
  const SpreadSetting& setting = GetParam();
  const engine::LoadedModel whole = load_whole(setting.kind, setting.dtype);
  std::vector<prompt::Prompt> prompts;
  for (const std::string& name : spread_kinds().at(setting.kind).cases) {
    prompts.push_back(build_prompt(*whole.prompts, load_case(setting.kind, name)));
  }
  const std::vector<Slice> alone = {{prompts.data(), {kStepTokensMax}}};
  const std::vector<float> of_one_rank = run_batch(whole, alone)[0];
  std::vector<float> first;
  for (int time = 0; time < 2; ++time) {
    const SpreadModel spread(setting.kind, setting.dtype, setting.layout);
    const std::vector<float> logits = run_batch(spread.loaded(), alone)[0];
    if (time == 0) first = logits;
    EXPECT_TRUE(same_bits(first, logits)) << "another run";
    if (time == 1) break;
    if (setting.dtype == DType::f32) {
      EXPECT_LE(largest_gap(logits, of_one_rank), kLogitTolerance);
    }
    for (const int chunk : {64, 7}) {
      EXPECT_TRUE(same_bits(first, run_batch(spread.loaded(), {{prompts.data(), {chunk}}})[0]))
          << "chunks of " << chunk;
    }
    const std::vector<Slice> together = {
        {&prompts[1], {1, 63, 2, 16}}, {prompts.data(), {33, 1, 5, 16}}, {&prompts[2], {1, 16}}};
    EXPECT_TRUE(same_bits(first, run_batch(spread.loaded(), together)[1])) << "in a batch";
  }
}

std::string name_of(const SpreadSetting& setting) {
  return identifier(fmt::format("{}_{}_tp{}_nodes{}_ep{}", setting.kind, dtype_name(setting.dtype),
                                setting.layout.ranks, setting.layout.nodes, setting.layout.expert_groups));
}

INSTANTIATE_TEST_SUITE_P(Settings, Ranks, testing::ValuesIn(all_settings()),
                         [](const auto& param) { return name_of(param.param); });

/// Every case of a kind against the reference.
class RanksGolden : public testing::TestWithParam<std::string> {};

TEST_P(RanksGolden, LogitsAreTheReferences) {
  const SpreadModel spread(GetParam(), DType::f32, {2, 1, 1});
  for (const GoldenCase& golden : load_cases(GetParam())) {
    SCOPED_TRACE(golden.name);
    const prompt::Prompt prompt = build_prompt(*spread.loaded().prompts, golden);
    if (prompt.tokens.size() > kStepTokensMax) continue;  // one step of golden_test.cc
    ModelRun run(spread.loaded(), prompt, static_cast<int>(prompt.tokens.size()) + 8);
    const PassRecord record = run.pass();
    const ConstView stored = golden.find("last_logits");
    const std::vector<float> expected(stored.as<float>(), stored.as<float>() + stored.elements());
    EXPECT_LE(largest_gap(record.last_logits, expected), kLogitTolerance);
  }
}

std::vector<std::string> kinds_here() {
  std::vector<std::string> here;
  for (const auto& [kind, of_kind] : spread_kinds()) {
    if (is_here(kind)) here.push_back(kind);
  }
  return here;
}

INSTANTIATE_TEST_SUITE_P(Kinds, RanksGolden, testing::ValuesIn(kinds_here()),
                         [](const auto& param) { return identifier(param.param); });

}  // namespace
}  // namespace keye::golden
