// Plans beside what models really take, and beside figures worked out by hand.
#include "engine/plan.h"

#include <gtest/gtest.h>

#include "comm/ranks.h"
#include "engine/load.h"
#include "model/shapes.h"

namespace keye::engine {
namespace {

template <class T>
T must(Result<T> result) {
  KEYE_CHECK(result.has_value(), "{}", result.error().to_string());
  return std::move(result).value();
}

constexpr int kStepTokens = 128;

/// What the ranks of a model take of the host's memory, one after another, beside what is planned for each.
TEST(PlanTest, MemoryIsWhatRanksTake) {
  for (const char* kind : {"qwen3-text", "keye-1_5", "qwen3-moe-text", "deepseek-v3-text"}) {
    const Path folder = Path("tests/golden/checkpoints") / kind;
    const auto config = must(read_folder_config(folder)).model;
    for (const int ranks : {1, 2, 4}) {
      SCOPED_TRACE(fmt::format("{}, {} ranks", kind, ranks));
      const auto groups = comm::make_local_groups(ranks, 1, kStepTokens * config.text.hidden, std::chrono::seconds(10));
      const model::Shard shard{ranks - 1, ranks};  // one that does not lead
      LoadOptions options;
      options.dtype = DType::f32;
      options.device.threads = 1;
      options.step_tokens_max = kStepTokens;
      options.step_logits_max = 8;
      options.shard = shard;
      options.group = ranks == 1 ? nullptr : groups.back().get();
      const size_t before = host_memory_bytes();
      const LoadedModel loaded = must(load(folder, options));
      const auto taken = static_cast<double>(host_memory_bytes() - before);
      const model::ModelOptions planned{
          .dtype = DType::f32, .step_tokens_max = kStepTokens, .step_logits_max = 8, .shard = shard};
      const auto weights = static_cast<double>(model::weight_bytes(config, DType::f32, shard));
      const auto workspace = static_cast<double>(model::workspace_bytes(config, planned));
      // Tables stay in the mapped file, and small matrices are padded to whole panels.
      const auto table = static_cast<double>(config.text.vocab) * config.text.hidden * sizeof(float);
      EXPECT_GT(taken, 0.95 * (weights + workspace) - table);
      EXPECT_LT(taken, 1.25 * (weights + workspace));
      EXPECT_EQ(loaded.model->kv_spec().bytes_per_token(), model::kv_spec_of(config, planned).bytes_per_token());
    }
  }
}

TEST(PlanTest, TheWholeOfTheLargestModelOnTwoNodes) {
  const auto config = must(model::named_shape("keye-671b"));
  PlanOptions options;
  options.model.shard = {0, 16};
  options.nodes = 2;
  options.context = 8192;
  const Plan plan = must(make_plan(config, options, must(gpu_spec("h800"))));
  EXPECT_EQ(plan.kv_per_token, 61 * 576 * 2);         // latent and rotated key, bf16, on every rank
  EXPECT_EQ(plan.wire_per_token, 61 * 2 * 7168 * 4);  // two sums a layer, to one other node
  EXPECT_NEAR(plan.weights / 1e9, 671.0 / 16, 5);
  EXPECT_EQ(plan.first_token.limit(), "network");
  options.model.shard = {0, 8};
  const auto too_large = make_plan(config, options, must(gpu_spec("h800")));
  ASSERT_FALSE(too_large.has_value());
  EXPECT_EQ(too_large.error().code, ErrorCode::too_large);
  options.model.shard = {0, 48};
  EXPECT_FALSE(make_plan(config, options, must(gpu_spec("h800"))).has_value());
  EXPECT_FALSE(gpu_spec("a100").has_value());
}

}  // namespace
}  // namespace keye::engine
