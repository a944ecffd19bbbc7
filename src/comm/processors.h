// Which processors each rank of a node has: its own, and of one NUMA node of the machine where there are enough.
#pragma once

#include <vector>

namespace keye::comm {

struct Processor {
  int number = 0;
  int memory_node = 0;  // of the machine (NUMA)
};

/// Those that this process may use, by memory node, then number.
std::vector<Processor> usable_processors();

/// Rank `local`'s share of them, of `locals`: contiguous in that order, so that a rank's lie on one memory node where
/// the shares divide the nodes. Empty: there are fewer than ranks, and nobody has his own.
std::vector<Processor> share_of_processors(const std::vector<Processor>& usable, int local, int locals);

/// Restricts the calling thread, and all that it starts, to these, and its memory to their memory node as far as there
/// is room; nothing is changed where they are empty, or the system does not permit it.
void stay_on(const std::vector<Processor>& processors);

}  // namespace keye::comm
