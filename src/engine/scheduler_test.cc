// Plans of the scheduler, written by hand.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <numeric>

namespace keye::engine {
namespace {

constexpr int kPage = 64;
using Rows = std::vector<std::array<int64_t, 4>>;  // id, first, count, samples

std::shared_ptr<const prompt::Prompt> text_prompt(int64_t tokens, int32_t first = 0) {
  auto prompt = std::make_shared<prompt::Prompt>();
  prompt->tokens.resize(static_cast<size_t>(tokens));
  std::iota(prompt->tokens.begin(), prompt->tokens.end(), first);
  return prompt;
}

std::shared_ptr<const prompt::Prompt> picture_prompt(int64_t tokens, int32_t first_token, int32_t picture_tokens,
                                                     uint8_t content) {
  auto prompt = std::make_shared<prompt::Prompt>(*text_prompt(tokens));
  std::fill_n(prompt->tokens.begin() + first_token, picture_tokens, 7);
  prompt::VisionItem item;
  item.first_token = first_token;
  item.tokens = picture_tokens;
  item.content.bytes[0] = content;
  prompt->vision.push_back(std::move(item));
  return prompt;
}

class SchedulerTest : public testing::Test {
 protected:
  void start(SchedulerLimits limits, int pages, bool keeps = true) { scheduler_.emplace(limits, pages, keeps); }
  void add(SequenceId id, std::shared_ptr<const prompt::Prompt> prompt, int priority = 0, std::string_view salt = "") {
    const Digest root = page_key_root("model", salt);
    auto keys = std::make_shared<const std::vector<Digest>>(page_keys(*prompt, root));
    scheduler_->add({id, std::move(prompt), std::move(keys), root, priority});
  }
  /// The plan's rows in short.
  Rows plan() {
    last_ = &scheduler_->plan();
    scheduler_->check_invariants();
    Rows rows;
    for (const PlannedRows& r : last_->rows)
      rows.push_back({static_cast<int64_t>(r.sequence->spec.id), r.first, r.count, r.samples ? 1 : 0});
    return rows;
  }
  void commit(int32_t token = 5) {
    const auto samples = std::count_if(last_->rows.begin(), last_->rows.end(), [](const auto& r) { return r.samples; });
    scheduler_->commit(std::vector<int32_t>(static_cast<size_t>(samples), token));
    scheduler_->check_invariants();
  }
  /// Plans and commits until no sequence has more than its newest token to compute.
  void settle() {
    for (int i = 0; i < 1000; ++i) {
      const Rows rows = plan();
      commit();
      if (std::all_of(rows.begin(), rows.end(), [](const auto& row) { return row[2] == 1; })) return;
    }
    FAIL() << "never settles";
  }

  std::optional<Scheduler> scheduler_;
  const StepPlan* last_ = nullptr;
};

TEST_F(SchedulerTest, TakesAPromptInChunksThenTokenByToken) {
  start({.step_tokens = 100, .chunk_tokens = 40, .running = 4}, 10);
  add(1, text_prompt(90));
  EXPECT_EQ(plan(), (Rows{{1, 0, 40, 0}}));
  commit();
  EXPECT_EQ(plan(), (Rows{{1, 40, 40, 0}}));
  commit();
  EXPECT_EQ(plan(), (Rows{{1, 80, 10, 1}}));
  commit();
  EXPECT_EQ(plan(), (Rows{{1, 90, 1, 1}}));
  commit();
  EXPECT_EQ(plan(), (Rows{{1, 91, 1, 1}}));
  EXPECT_EQ(scheduler_->find(1)->tokens.back(), 5);
}

TEST_F(SchedulerTest, RepliesComeBeforePrompts) {
  start({.step_tokens = 64, .chunk_tokens = 64, .running = 4}, 20);
  add(1, text_prompt(10));
  plan();
  commit();
  add(2, text_prompt(100, 1000));
  add(3, text_prompt(30, 2000));
  EXPECT_EQ(plan(), (Rows{{1, 10, 1, 1}, {2, 0, 63, 0}}));
  commit();
  EXPECT_EQ(plan(), (Rows{{1, 11, 1, 1}, {2, 63, 37, 1}, {3, 0, 26, 0}}));
  commit();
  EXPECT_EQ(plan(), (Rows{{1, 12, 1, 1}, {2, 100, 1, 1}, {3, 26, 4, 1}}));
}

TEST_F(SchedulerTest, HigherPriorityGoesFirst) {
  start({.step_tokens = 64, .chunk_tokens = 64, .running = 1}, 20);
  add(1, text_prompt(10), 0);
  add(2, text_prompt(10, 100), 0);
  add(3, text_prompt(10, 200), 5);
  EXPECT_EQ(plan(), (Rows{{3, 0, 10, 1}}));
  EXPECT_EQ(scheduler_->waiting(), 2);
  scheduler_->remove(3);
  EXPECT_EQ(plan(), (Rows{{1, 0, 10, 1}}));
}

TEST_F(SchedulerTest, FindsWhatWasComputedBefore) {
  start({.step_tokens = 256, .chunk_tokens = 256, .running = 4}, 20);
  add(1, text_prompt(3 * kPage));
  settle();
  scheduler_->remove(1);
  EXPECT_EQ(scheduler_->store().kept_pages(), 3);
  add(2, text_prompt(3 * kPage));  // the last page is computed again: its last token's logits are wanted
  EXPECT_EQ(plan(), (Rows{{2, 2 * kPage, kPage, 1}}));
  EXPECT_EQ(scheduler_->find(2)->prompt_hits, 2 * kPage);
  commit();
  add(3, text_prompt(3 * kPage + 1));  // one more token, so all three pages serve
  EXPECT_EQ(plan(), (Rows{{2, 3 * kPage, 1, 1}, {3, 3 * kPage, 1, 1}}));
}

TEST_F(SchedulerTest, RepliesServeTheNextTurn) {
  start({.step_tokens = 256, .chunk_tokens = 256, .running = 4}, 20);
  add(1, text_prompt(60));
  plan();
  commit(1);
  for (int i = 0; i < 10; ++i) {
    plan();
    commit(1);
  }
  const std::vector<int32_t> said = scheduler_->find(1)->tokens;
  scheduler_->remove(1);
  auto next = std::make_shared<prompt::Prompt>();
  next->tokens = said;
  next->tokens.push_back(99);
  add(2, next);
  EXPECT_EQ(plan(), (Rows{{2, kPage, static_cast<int64_t>(said.size()) + 1 - kPage, 1}}));
}

TEST_F(SchedulerTest, KeepsNothingWhereItIsTurnedOff) {
  start({.step_tokens = 256, .chunk_tokens = 256, .running = 4}, 20, false);
  add(1, text_prompt(3 * kPage));
  settle();
  scheduler_->remove(1);
  EXPECT_EQ(scheduler_->store().free_pages(), 20);
}

TEST_F(SchedulerTest, EqualPromptsAreComputedOnce) {
  start({.step_tokens = 64, .chunk_tokens = 64, .running = 4}, 20);
  add(1, text_prompt(2 * kPage + 10));
  add(2, text_prompt(2 * kPage + 10));
  EXPECT_EQ(plan(), (Rows{{1, 0, 64, 0}}));
  commit();
  EXPECT_EQ(plan(), (Rows{{1, 64, 64, 0}}));
  commit();
  EXPECT_EQ(plan(), (Rows{{1, 128, 10, 1}, {2, 128, 10, 1}}));
  EXPECT_EQ(scheduler_->find(1)->pages[0], scheduler_->find(2)->pages[0]);
  EXPECT_NE(scheduler_->find(1)->pages[2], scheduler_->find(2)->pages[2]);
}

TEST_F(SchedulerTest, WaitersGoOnWhenTheOneTheyWaitForIsGone) {
  start({.step_tokens = 64, .chunk_tokens = 64, .running = 4}, 20);
  add(1, text_prompt(200));
  add(2, text_prompt(200));
  EXPECT_EQ(plan().size(), 1U);
  commit();
  scheduler_->remove(1);
  EXPECT_EQ(plan(), (Rows{{2, 64, 64, 0}}));
}

// CVE-2025-46570: what one tenant has asked must not make another one's request faster.
TEST_F(SchedulerTest, CVE_2025_46570_tenants_share_no_pages) {
  start({.step_tokens = 256, .chunk_tokens = 256, .running = 4}, 20);
  add(1, text_prompt(200), 0, "tenant a");
  settle();
  scheduler_->remove(1);
  add(2, text_prompt(200), 0, "tenant b");
  EXPECT_EQ(plan(), (Rows{{2, 0, 200, 1}}));
}

// CVE-2025-46722: placeholders of different pictures are equal tokens.
TEST_F(SchedulerTest, CVE_2025_46722_pages_are_named_by_pixels) {
  start({.step_tokens = 512, .chunk_tokens = 512, .running = 4}, 40);
  const auto ready = [&](SequenceId id) { scheduler_->picture_ready({id, 0}); };
  add(1, picture_prompt(300, 70, 150, 1));
  plan();
  ready(1);
  settle();
  scheduler_->remove(1);
  add(2, picture_prompt(300, 70, 150, 2));  // another picture: only the page before it is shared
  EXPECT_EQ(plan(), (Rows{{2, 64, 6, 0}}));
  EXPECT_EQ(scheduler_->find(2)->prompt_hits, 64);
  scheduler_->remove(2);
  add(3, picture_prompt(300, 70, 150, 1));  // the same one
  EXPECT_EQ(plan(), (Rows{{3, 256, 44, 1}}));
  scheduler_->remove(3);
  add(4, picture_prompt(300, 71, 150, 1));  // the same one elsewhere
  EXPECT_EQ(plan(), (Rows{{4, 64, 7, 0}}));
}

TEST_F(SchedulerTest, PromptsWaitForTheirPictures) {
  start({.step_tokens = 512, .chunk_tokens = 512, .running = 4}, 40);
  add(1, picture_prompt(300, 70, 150, 1));
  add(2, text_prompt(10, 5000));
  EXPECT_EQ(plan(), (Rows{{1, 0, 70, 0}, {2, 0, 10, 1}}));
  ASSERT_TRUE(last_->picture.has_value());
  EXPECT_EQ(last_->picture->sequence, 1U);
  commit();
  EXPECT_EQ(plan(), (Rows{{2, 10, 1, 1}}));
  scheduler_->picture_ready({1, 0});
  EXPECT_EQ(plan(), (Rows{{2, 10, 1, 1}, {1, 70, 230, 1}}));
  EXPECT_FALSE(last_->picture.has_value());
}

TEST_F(SchedulerTest, WhoeverCameLastGivesUpItsPages) {
  start({.step_tokens = 512, .chunk_tokens = 512, .running = 4}, 4);
  add(1, text_prompt(63));
  add(2, text_prompt(60, 1000));
  plan();
  commit();
  // Each has one page; sequence 1 grows past it, then 2, then 1 again.
  for (int i = 0; i < 70; ++i) {
    plan();
    commit();
  }
  EXPECT_EQ(scheduler_->find(1)->pages.size(), 3U);
  EXPECT_FALSE(scheduler_->find(2)->running);
  EXPECT_EQ(scheduler_->find(2)->preemptions, 1);
  EXPECT_GT(scheduler_->find(2)->length(), 61);
  scheduler_->remove(1);
  // What it had said is computed again, but for the page that is still there.
  const Rows again = plan();
  EXPECT_EQ(again[0][1], 64);
  EXPECT_EQ(again[0][3], 1);
}

TEST_F(SchedulerTest, NobodyOvertakesOneThatWaitsForPages) {
  start({.step_tokens = 512, .chunk_tokens = 512, .running = 4}, 4);
  add(1, text_prompt(100));
  add(2, text_prompt(150, 1000));  // three pages, of which two are free
  add(3, text_prompt(10, 2000));
  EXPECT_EQ(plan(), (Rows{{1, 0, 100, 1}}));
  EXPECT_EQ(scheduler_->waiting(), 2);
}

TEST_F(SchedulerTest, HeldSequencesStandStillAndLoseTheirPagesFirst) {
  start({.step_tokens = 512, .chunk_tokens = 512, .running = 4}, 4);
  add(1, text_prompt(63));
  add(2, text_prompt(60, 1000));
  plan();
  commit();
  scheduler_->hold(1, true);
  EXPECT_EQ(plan(), (Rows{{2, 60, 1, 1}}));
  commit();
  add(3, text_prompt(100, 2000));
  const Rows rows = plan();
  EXPECT_FALSE(scheduler_->find(1)->running) << "its reader is slow, and another one could use the page";
  EXPECT_EQ(rows.back(), (std::array<int64_t, 4>{3, 0, 100, 1}));
  scheduler_->remove(3);
  scheduler_->hold(1, false);
  plan();
  EXPECT_TRUE(scheduler_->find(1)->running);
}

TEST_F(SchedulerTest, OldestKeptPagesAreGivenUpFirst) {
  start({.step_tokens = 512, .chunk_tokens = 512, .running = 4}, 6);
  for (SequenceId id : {1, 2}) {
    add(id, text_prompt(130, static_cast<int32_t>(id) * 1000));
    settle();
    scheduler_->remove(id);
  }
  EXPECT_EQ(scheduler_->store().kept_pages(), 4);
  add(3, text_prompt(130, 3000));  // takes the two free ones and the end of the oldest chain
  plan();
  scheduler_->remove(3);
  add(4, text_prompt(130, 1000));
  plan();
  EXPECT_EQ(scheduler_->find(4)->prompt_hits, 64) << "its first page outlives its second";
  scheduler_->remove(4);
  add(5, text_prompt(130, 2000));
  plan();
  EXPECT_EQ(scheduler_->find(5)->prompt_hits, 128);
}

}  // namespace
}  // namespace keye::engine
