// Collectives between ranks as threads of one process, on one node and on several.
#include "comm/group.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <thread>

#include "base/thread_pool.h"
#include "comm/ranks.h"

namespace keye::comm {
namespace {

constexpr std::chrono::milliseconds kTimeout{20'000};

struct Layout {
  int size, nodes;
};
const Layout kLayouts[] = {{1, 1}, {2, 1}, {3, 1}, {4, 1}, {2, 2}, {4, 2}, {3, 3}, {6, 2}, {6, 3}, {8, 2}};

/// Every rank's part of a test, each on a thread of its own.
void run(const Layout& layout, int64_t terms_max, const std::function<void(Group& group)>& body) {
  const auto groups = make_local_groups(layout.size, layout.nodes, terms_max, kTimeout);
  std::vector<std::thread> threads;
  for (const auto& group : groups) threads.emplace_back([&body, &group] { body(*group); });
  for (std::thread& thread : threads) thread.join();
}

/// A rank's terms: of very different sizes, so that the order of additions shows.
float term(int rank, int64_t i, int round = 0) {
  const auto hash = static_cast<uint32_t>(i * 2654435761U) ^ static_cast<uint32_t>(rank * 40503 + round * 977);
  return std::ldexp(static_cast<float>(hash % 1000003) - 500000.0F, static_cast<int>(hash % 13) - 20);
}

/// The sum as group.h defines it.
float pairwise(int size, int64_t i, int round = 0) {
  std::vector<float> level;
  for (int rank = 0; rank < size; ++rank) level.push_back(term(rank, i, round));
  while (level.size() > 1) {
    std::vector<float> next;
    for (size_t pair = 0; pair + 1 < level.size(); pair += 2) next.push_back(level[pair] + level[pair + 1]);
    if (level.size() % 2 != 0) next.push_back(level.back());
    level = std::move(next);
  }
  return level[0];
}

bool is_power_of_two(int n) { return (n & (n - 1)) == 0; }

TEST(GroupTest, SumsAreThoseOfThePairsWhateverTheCountAndTheNodes) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(fmt::format("{} ranks, {} nodes", layout.size, layout.nodes));
    // Of other numbers of ranks a node, order between nodes is another one (group.h); those are compared below.
    const bool is_flat = layout.nodes == 1 || is_power_of_two(layout.size / layout.nodes);
    std::atomic<int> wrong = 0;
    run(layout, 200'000, [&](Group& group) {
      ThreadPool pool(2);
      if (group.place().rank % 2 == 0) {
        group.use_threads([&](int64_t items, const auto& body) { pool.finish_each(items, body); });
      }
      int round = 0;
      for (const int64_t count : {0, 1, 7, 63, 64, 1000, 7168, 16384, 16385, 100'003, 200'000}) {
        const std::span<float> terms = group.terms(count);
        std::vector<float> sum(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) terms[static_cast<size_t>(i)] = term(group.place().rank, i, round);
        for (int64_t i = 0; i < count; ++i) sum[static_cast<size_t>(i)] = static_cast<float>(i);
        group.add_sum(sum);
        for (int64_t i = 0; i < count; ++i) {
          const float expected = static_cast<float>(i) + pairwise(layout.size, i, round);
          const float error = std::abs(sum[static_cast<size_t>(i)] - expected);
          if (is_flat ? error != 0 : error > 0.5F) ++wrong;
        }
        ++round;
      }
    });
    EXPECT_EQ(wrong, 0);
  }
}

TEST(GroupTest, AllRanksHaveTheSameBits) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(fmt::format("{} ranks, {} nodes", layout.size, layout.nodes));
    std::vector<std::vector<float>> sums(static_cast<size_t>(layout.size));
    run(layout, 50'000, [&](Group& group) {
      for (const size_t count : {size_t{50'000}, size_t{333}}) {  // the second: a beginning of the first
        const std::span<float> terms = group.terms(static_cast<int64_t>(count));
        for (size_t i = 0; i < count; ++i) terms[i] = term(group.place().rank, static_cast<int64_t>(i));
        std::vector<float> sum(count);
        group.add_sum(sum);
        auto& kept = sums[static_cast<size_t>(group.place().rank)];
        kept.insert(kept.end(), sum.begin(), sum.end());
      }
    });
    for (const auto& of_rank : sums) {
      EXPECT_EQ(of_rank, sums[0]);
      EXPECT_TRUE(std::equal(of_rank.begin() + 50'000, of_rank.end(), of_rank.begin()));
    }
  }
}

std::vector<std::byte> some_bytes(int rank, size_t count) {
  std::vector<std::byte> bytes(count);
  for (size_t i = 0; i < count; ++i)
    bytes[i] = static_cast<std::byte>(i * 31 + static_cast<size_t>(rank) * 7 + i / 999);
  return bytes;
}

TEST(GroupTest, PartsArriveWholeAndInOrder) {
  const auto bytes_of = [](int rank, int round) {
    const size_t sizes[] = {0, 5, 3'500'000, 1 << 20, 77};
    return sizes[(rank + round) % 5];
  };
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(fmt::format("{} ranks, {} nodes", layout.size, layout.nodes));
    run(layout, 64, [&](Group& group) {
      for (int round = 0; round < 5; ++round) {
        std::vector<std::vector<std::byte>> parts(static_cast<size_t>(layout.size));
        int last = -1;
        const auto own = some_bytes(group.place().rank, bytes_of(group.place().rank, round));
        group.gather(own, [&](int rank, size_t offset, std::span<const std::byte> piece) {
          EXPECT_EQ(group.place().rank, 0);
          EXPECT_GE(rank, last);
          last = rank;
          auto& part = parts[static_cast<size_t>(rank)];
          EXPECT_EQ(offset, part.size());
          part.insert(part.end(), piece.begin(), piece.end());
        });
        if (group.place().rank != 0) continue;
        for (int rank = 0; rank < layout.size; ++rank) {
          EXPECT_EQ(parts[static_cast<size_t>(rank)], some_bytes(rank, bytes_of(rank, round)));
        }
      }
    });
  }
}

TEST(GroupTest, MessagesReachAll) {
  for (const Layout& layout : kLayouts) {
    SCOPED_TRACE(fmt::format("{} ranks, {} nodes", layout.size, layout.nodes));
    run(layout, 64, [&](Group& group) {
      int round = 0;
      for (const size_t count : {size_t{0}, size_t{3}, size_t{1} << 20, size_t{20'000'001}, size_t{100}}) {
        const auto message = some_bytes(++round, count);
        if (group.place().rank == 0) {
          group.send(message);
        } else {
          const auto heard = group.receive();
          EXPECT_TRUE(std::equal(heard.begin(), heard.end(), message.begin(), message.end()));
        }
      }
      group.meet();
    });
  }
}

TEST(GroupTest, AnAbandonedCollectiveIsLeftByAllAndTheNextOnesWork) {
  for (const Layout& layout : kLayouts) {
    if (layout.size == 1) continue;
    SCOPED_TRACE(fmt::format("{} ranks, {} nodes", layout.size, layout.nodes));
    std::atomic<int> wrong = 0;
    run(layout, 40'000, [&](Group& group) {
      std::mt19937 random(7);  // the same on all ranks
      const int rank = group.place().rank;
      for (int step = 0; step < 60; ++step) {
        const int collectives = static_cast<int>(random() % 5) + 1;
        const int leaves_at = static_cast<int>(random() % 8);
        if (rank == 0) {
          group.send(some_bytes(step, 10));
        } else if (group.receive().size() != 10) {
          ++wrong;
        }
        try {
          for (int i = 0; i < collectives; ++i) {
            const bool is_sum = random() % 3 != 0;
            const auto count = static_cast<size_t>(random() % 40'000);
            if (rank == 0 && i == leaves_at) {
              group.abandon();
              throw LoopInterrupted{};
            }
            if (i == leaves_at && random() % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200 * rank));
            if (is_sum) {
              const std::span<float> terms = group.terms(static_cast<int64_t>(count));
              for (size_t k = 0; k < count; ++k) terms[k] = static_cast<float>(rank + 1);
              std::vector<float> sum(count);
              group.add_sum(sum);
              const auto expected = static_cast<float>(layout.size * (layout.size + 1) / 2);
              if (std::any_of(sum.begin(), sum.end(), [&](float value) { return value != expected; })) ++wrong;
            } else {
              group.gather(some_bytes(rank, count), [](int, size_t, std::span<const std::byte>) {});
            }
            if (i == leaves_at) ++wrong;
          }
        } catch (const LoopInterrupted&) {
          if (leaves_at >= collectives) ++wrong;
        }
        random.seed(static_cast<uint32_t>(step));  // some have drawn fewer numbers
      }
    });
    EXPECT_EQ(wrong, 0);
  }
}

TEST(GroupTest, WhoDoesNotComeIsNamed) {
  for (const Layout& layout : {Layout{3, 1}, Layout{4, 2}}) {
    const int absent = layout.size - 1;
    const auto groups = make_local_groups(layout.size, layout.nodes, 64, std::chrono::milliseconds(600));
    std::vector<std::thread> threads;
    std::vector<std::string> losses(static_cast<size_t>(layout.size));
    for (const auto& group : groups) {
      if (group->place().rank == absent) continue;
      threads.emplace_back([&losses, &group] {
        try {
          std::vector<float> sum(64);
          group->terms(64);
          group->add_sum(sum);
        } catch (const PeerLost& lost) {
          losses[static_cast<size_t>(group->place().rank)] = lost.what();
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    // On its own node it is missed first; threads have nobody who tells the other node.
    const std::string expected =
        layout.nodes == 1 ? "rank 2 did not come to a collective" : "rank 3 (node 1) did not come to a collective";
    EXPECT_TRUE(losses[static_cast<size_t>(absent - 1)].starts_with(expected))
        << losses[static_cast<size_t>(absent - 1)];
  }
}

}  // namespace
}  // namespace keye::comm
