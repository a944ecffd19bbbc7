// How long a sum over all ranks takes: microseconds, median and 99th percentile, of several sizes.
//
//   comm_bench_all_reduce [RANKS]                           processes of this machine
//   comm_bench_all_reduce RANKS NODES NODE HOST:PORT        the same command on each node; KEYE_DIST_TOKEN in the
//                                                           environment
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "comm/ranks.h"

namespace keye::comm {
namespace {

constexpr int64_t kTermsMax = int64_t{512} * 7168;

void measure(Group& group) {
  using Clock = std::chrono::steady_clock;
  std::vector<float> sum(static_cast<size_t>(kTermsMax));
  const bool reports = group.place().rank == 0;
  if (reports)
    std::printf("%d ranks on %d nodes\n%10s %12s %12s\n", group.place().size, group.place().nodes, "floats",
                "median us", "p99 us");
  for (const int64_t count :
       {int64_t{1}, int64_t{1024}, int64_t{7168}, int64_t{65536}, int64_t{64} * 7168, kTermsMax}) {
    const int times = static_cast<int>(std::clamp<int64_t>(40'000'000 / (count + 1), 40, 4000));
    std::vector<double> seconds;
    for (int i = 0; i < times + times / 10; ++i) {
      const std::span<float> terms = group.terms(count);
      terms[0] = 1;
      const Clock::time_point start = Clock::now();
      group.add_sum(std::span(sum).first(static_cast<size_t>(count)));
      if (i >= times / 10) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    std::sort(seconds.begin(), seconds.end());
    if (!reports) continue;
    std::printf("%10lld %12.2f %12.2f\n", static_cast<long long>(count), 1e6 * seconds[seconds.size() / 2],
                1e6 * seconds[seconds.size() * 99 / 100]);
  }
}

int run(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "rank") {
    const auto ranks = join_ranks(std::atoi(argv[3]));
    if (!ranks) return 1;
    measure((*ranks)->group());
    return 0;
  }
  RanksOptions options;
  options.place.size = argc > 1 ? std::atoi(argv[1]) : 2;
  if (argc > 4) {
    options.place.nodes = std::atoi(argv[2]);
    options.place.rank = std::atoi(argv[3]) * options.place.locals();
    options.init_address = argv[4];
    const char* token = std::getenv("KEYE_DIST_TOKEN");
    options.token = token == nullptr ? "" : token;
  }
  options.terms_max = kTermsMax;
  options.rank_arguments = {"rank"};
  const auto ranks = start_ranks(options);
  if (!ranks) {
    std::fprintf(stderr, "%s\n", ranks.error().to_string().c_str());
    return 1;
  }
  measure((*ranks)->group());
  return 0;
}

}  // namespace
}  // namespace keye::comm

int main(int argc, char** argv) { return keye::comm::run(argc, argv); }
