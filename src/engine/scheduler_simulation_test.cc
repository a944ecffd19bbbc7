// The scheduler under random load: aborts, bursts, too few pages, slow readers, pictures that take their time. A cache
// of fingerprints stands in for the model's, so a page that is shared, moved or given up wrongly shows in the replies.
//
// Every seed is a run of its own; KEYE_SIMULATION_SEED=N runs that one alone, KEYE_SIMULATION_RUNS=N so many.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "engine/scheduler.h"
#include "ops/paged_kv.h"

namespace keye::engine {
namespace {

using ops::kPageTokens;

uint64_t g_seed = 0;  // for the signal handler: a failed check ends the process

void print_seed(int) {
  std::fprintf(stderr, "scheduler simulation: KEYE_SIMULATION_SEED=%llu shows this again\n",
               static_cast<unsigned long long>(g_seed));
  std::_Exit(1);
}

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t z = (a ^ (b * 0x9e3779b97f4a7c15ULL)) + 0xd1342543de82ef95ULL;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  return z ^ (z >> 29);
}

/// What stands in the cache for token `index`: a fingerprint of all that came before it, pictures included.
uint64_t fingerprint(uint64_t before, int32_t token, int64_t index, const std::vector<prompt::VisionItem>& vision) {
  uint64_t content = 0;
  for (const prompt::VisionItem& item : vision) {
    if (index >= item.first_token && index < item.first_token + item.tokens) {
      content = mix(item.content.bytes[0] + 1U, static_cast<uint64_t>(index - item.first_token));
    }
  }
  return mix(before, static_cast<uint64_t>(token) * 31 + content);
}

int32_t next_token(uint64_t print) { return static_cast<int32_t>(print % 97); }

struct Client {
  SequenceId id = 0;
  std::shared_ptr<const prompt::Prompt> prompt;
  int max_tokens = 1;
  std::vector<int32_t> expected;  // the reply of the request alone
  bool over = false;
  bool held = false;
};

class Simulation {
 public:
  explicit Simulation(uint64_t seed)
      : random_(seed),
        pages_(roll(6, 40)),
        limits_{.step_tokens = roll(8, 200), .chunk_tokens = roll(1, 200), .running = roll(1, 8)},
        scheduler_(limits_, pages_, roll(0, 3) != 0),
        cache_(static_cast<size_t>(pages_) * kPageTokens, 0) {}

  void run() {
    const int steps = roll(50, 400);
    for (int step = 0; step < steps && !testing::Test::HasFailure(); ++step) {
      const int burst = roll(0, 9) == 0 ? roll(1, 6) : (roll(0, 3) == 0 ? 1 : 0);
      for (int i = 0; i < burst; ++i) arrive();
      if (roll(0, 15) == 0) abort_one();
      if (roll(0, 10) == 0) toggle_hold();
      if (roll(0, 60) == 0) scheduler_.flush();
      one_step();
    }
    for (Client& client : clients_) set_held(client, false);
    for (int step = 0; unfinished() > 0 && !testing::Test::HasFailure(); ++step) {
      ASSERT_LT(step, 100'000) << "never ends";
      one_step();
    }
    scheduler_.flush();
    scheduler_.check_invariants();
    EXPECT_EQ(scheduler_.store().free_pages(), pages_) << "pages were lost";
  }

 private:
  int roll(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  void arrive() {
    auto prompt = std::make_shared<prompt::Prompt>();
    // A few beginnings that many share, then something of its own, perhaps with a picture in it.
    const int kind = roll(0, 2);
    const int shared = roll(0, 3) * 50;
    for (int i = 0; i < shared; ++i) prompt->tokens.push_back(1000 * kind + i);
    if (roll(0, 2) == 0) {
      prompt::VisionItem item;
      item.first_token = static_cast<int32_t>(prompt->tokens.size());
      item.tokens = roll(1, 120);
      item.content.bytes[0] = static_cast<uint8_t>(roll(0, 2));
      prompt->tokens.insert(prompt->tokens.end(), static_cast<size_t>(item.tokens), 9999);
      prompt->vision.push_back(std::move(item));
    }
    for (int i = roll(prompt->tokens.empty() ? 1 : 0, 80); i > 0; --i) prompt->tokens.push_back(roll(0, 3));
    Client client{.id = clients_.size() + 1, .prompt = prompt, .max_tokens = roll(1, 150), .expected = {}};
    const int64_t room = int64_t{pages_} * kPageTokens - static_cast<int64_t>(prompt->tokens.size());
    if (room < 1) return;
    client.max_tokens = static_cast<int>(std::min<int64_t>(client.max_tokens, room));
    client.expected = reply_alone(client);
    const Digest root = page_key_root("simulation", roll(0, 4) == 0 ? "other" : "");
    auto keys = std::make_shared<const std::vector<Digest>>(page_keys(*prompt, root));
    scheduler_.add({client.id, prompt, keys, root, roll(0, 5) == 0 ? 1 : 0});
    clients_.push_back(std::move(client));
  }

  static bool is_end(int32_t token) { return token == 0; }

  static std::vector<int32_t> reply_alone(const Client& client) {
    std::vector<int32_t> tokens = client.prompt->tokens;
    uint64_t print = 0;
    for (size_t i = 0; i < tokens.size(); ++i)
      print = fingerprint(print, tokens[i], static_cast<int64_t>(i), client.prompt->vision);
    std::vector<int32_t> reply;
    while (true) {
      reply.push_back(next_token(print));
      if (is_end(reply.back()) || static_cast<int>(reply.size()) == client.max_tokens) return reply;
      print = fingerprint(print, reply.back(), static_cast<int64_t>(tokens.size() + reply.size()) - 1,
                          client.prompt->vision);
    }
  }

  Client& client(SequenceId id) { return clients_[id - 1]; }

  void abort_one() {
    if (clients_.empty()) return;
    Client& chosen = clients_[static_cast<size_t>(roll(0, static_cast<int>(clients_.size()) - 1))];
    scheduler_.remove(chosen.id);  // also when it is over already
    chosen.over = true;
  }

  void toggle_hold() {
    if (clients_.empty()) return;
    Client& chosen = clients_[static_cast<size_t>(roll(0, static_cast<int>(clients_.size()) - 1))];
    if (!chosen.over) set_held(chosen, !chosen.held);
  }

  void set_held(Client& chosen, bool held) {
    chosen.held = held;
    scheduler_.hold(chosen.id, held);
  }

  int unfinished() const {
    return static_cast<int>(std::count_if(clients_.begin(), clients_.end(), [](const Client& c) { return !c.over; }));
  }

  void one_step() {
    const StepPlan& plan = scheduler_.plan();
    scheduler_.check_invariants();
    const bool somebody_can_run =
        std::any_of(clients_.begin(), clients_.end(), [](const Client& c) { return !c.over && !c.held; });
    if (somebody_can_run && plan.rows.empty() && !plan.picture && plan.preempted.empty()) {
      // A held one may be in the way of the others' pages for one plan only.
      ADD_FAILURE() << "nothing planned for " << unfinished() << " sequences";
      return;
    }
    const std::optional<PictureNeed> picture = plan.picture;
    int64_t tokens = 0;
    std::vector<int32_t> sampled;
    std::vector<SequenceId> sampled_ids;
    for (const PlannedRows& rows : plan.rows) {
      tokens += rows.count;
      const uint64_t print = execute(rows);
      if (!rows.samples) continue;
      sampled.push_back(next_token(print));
      sampled_ids.push_back(rows.sequence->spec.id);
    }
    EXPECT_LE(tokens, limits_.step_tokens);
    scheduler_.commit(sampled);
    scheduler_.check_invariants();
    for (size_t i = 0; i < sampled.size(); ++i) accept(sampled_ids[i]);
    if (picture && roll(0, 2) == 0) scheduler_.picture_ready(*picture);
  }

  /// Writes the rows' fingerprints and reads all earlier ones, as attention does.
  uint64_t execute(const PlannedRows& rows) {
    const Sequence& sequence = *rows.sequence;
    const auto& vision = sequence.spec.prompt->vision;
    EXPECT_EQ(rows.samples, rows.first + rows.count == sequence.length());
    uint64_t print = 0;
    for (int64_t i = 0; i < rows.first + rows.count; ++i) {
      print = fingerprint(print, sequence.tokens[static_cast<size_t>(i)], i, vision);
      uint64_t& slot = cache_[static_cast<size_t>(sequence.pages[static_cast<size_t>(i / kPageTokens)]) * kPageTokens +
                              static_cast<size_t>(i % kPageTokens)];
      if (i >= rows.first) {
        slot = print;
      } else if (slot != print) {
        ADD_FAILURE() << "sequence " << sequence.spec.id << " reads another one's token " << i;
        return 0;
      }
    }
    for (size_t p = 0; p < vision.size(); ++p) {
      const bool touched =
          rows.first < vision[p].first_token + vision[p].tokens && rows.first + rows.count > vision[p].first_token;
      EXPECT_TRUE(!touched || p < sequence.next_picture) << "a picture's tokens are computed before it is encoded";
    }
    return print;
  }

  void accept(SequenceId id) {
    Client& c = client(id);
    const Sequence* sequence = scheduler_.find(id);
    ASSERT_NE(sequence, nullptr);
    ASSERT_FALSE(c.over);
    const std::vector<int32_t> reply(sequence->tokens.begin() + sequence->prompt_length(), sequence->tokens.end());
    ASSERT_LE(reply.size(), c.expected.size());
    ASSERT_EQ(reply.back(), c.expected[reply.size() - 1]) << "sequence " << id << ", token " << reply.size();
    if (reply.size() < c.expected.size()) return;
    scheduler_.remove(id);
    c.over = true;
  }

  std::mt19937_64 random_;
  int pages_;
  SchedulerLimits limits_;
  Scheduler scheduler_;
  std::vector<uint64_t> cache_;
  std::vector<Client> clients_;
};

TEST(SchedulerSimulation, EveryRequestGetsTheReplyThatItGetsAlone) {
  std::signal(SIGABRT, print_seed);
  const char* one = std::getenv("KEYE_SIMULATION_SEED");
  const char* runs = std::getenv("KEYE_SIMULATION_RUNS");
  const uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 1;
  const uint64_t count = one != nullptr ? 1 : (runs != nullptr ? std::strtoull(runs, nullptr, 10) : 300);
  for (uint64_t seed = first; seed < first + count; ++seed) {
    g_seed = seed;
    Simulation(seed).run();
    ASSERT_FALSE(testing::Test::HasFailure()) << "KEYE_SIMULATION_SEED=" << seed << " shows this again";
  }
}

}  // namespace
}  // namespace keye::engine
