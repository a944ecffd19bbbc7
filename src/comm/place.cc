#include "comm/ranks.h"
namespace keye::comm {
Result<std::unique_ptr<Ranks>> start_ranks(const RanksOptions&) { return Error{}; }
Result<std::unique_ptr<Ranks>> join_ranks(int) { return Error{}; }
}  // namespace keye::comm
