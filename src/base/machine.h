// What the machine gives this process.
#pragma once

#include <cstddef>
#include <string>

namespace keye {

/// Memory that this process may use at most: the machine's, or its control group's limit.
size_t memory_limit_bytes();
/// Of that, what nobody uses now (page cache counts as free).
size_t memory_available_bytes();
/// Resident memory of this process.
size_t resident_bytes();
/// "model name" of the processor; empty if the system does not say.
std::string processor_name();

}  // namespace keye
