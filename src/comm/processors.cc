#include "comm/processors.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>
#include <algorithm>
#include <filesystem>
#include <string>
#include <system_error>
#include <tuple>

#include "base/thread_pool.h"

namespace keye::comm {
namespace {

/// The memory node that a processor lies at; 0 where the system does not say.
int memory_node_of(int processor) {
  std::error_code error;
  const std::filesystem::path folder = fmt::format("/sys/devices/system/cpu/cpu{}", processor);
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("node") && name.size() > 4 && name.find_first_not_of("0123456789", 4) == std::string::npos) {
      return std::stoi(name.substr(4));
    }
  }
  return 0;
}

}  // namespace

std::vector<Processor> usable_processors() {
  std::vector<Processor> usable;
  for (const int number : ThreadPool::usable_processors()) usable.push_back({number, memory_node_of(number)});
  std::sort(usable.begin(), usable.end(), [](const Processor& a, const Processor& b) {
    return std::tie(a.memory_node, a.number) < std::tie(b.memory_node, b.number);
  });
  return usable;
}

std::vector<Processor> share_of_processors(const std::vector<Processor>& usable, int local, int locals) {
  const auto count = static_cast<int>(usable.size());
  if (count < locals) return {};
  const auto begin = usable.begin() + count * local / locals;
  return {begin, usable.begin() + count * (local + 1) / locals};
}

void stay_on(const std::vector<Processor>& processors) {
  if (processors.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const Processor& processor : processors) CPU_SET(processor.number, &set);
  ::sched_setaffinity(0, sizeof set, &set);
  // Preferred, not bound: a full node must not end the program.
  constexpr int kPreferred = 1;
  constexpr int kMaskBits = 1024;
  const int node = processors.front().memory_node;
  const bool is_one = std::all_of(processors.begin(), processors.end(),
                                  [node](const Processor& processor) { return processor.memory_node == node; });
  if (!is_one || node >= kMaskBits) return;
  unsigned long mask[kMaskBits / (8 * sizeof(unsigned long))] = {};
  constexpr int kBits = 8 * sizeof(unsigned long);
  mask[node / kBits] = 1UL << (node % kBits);
  ::syscall(SYS_set_mempolicy, kPreferred, mask, kMaskBits);
}

}  // namespace keye::comm
