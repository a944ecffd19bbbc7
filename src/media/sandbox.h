// What a process gives up before it touches bytes from outside.
#pragma once

#include <cstdint>

namespace keye::media {

struct SandboxLimits {
  int64_t memory_max = 0;   // bytes of address space beside what the process has now
  int64_t cpu_seconds = 0;  // of all its threads
};

/// Memory, processor time, descriptors, files and core dumps are limited for the rest of this process; it is the first
/// to go when the machine runs out of memory. Returns 0, or errno.
int limit_process(const SandboxLimits& limits);

/// From here on this process, all its threads, may read and write descriptors that it has or is sent over
/// `socket`, ask for memory that is not executable, start threads and end. Opening a file fails; any other system call
/// kills it: there is no connecting, no executing, no signal to others. Cannot be undone. Returns 0, or errno when the
/// system does not allow filters.
int enter_sandbox(int socket);

}  // namespace keye::media
