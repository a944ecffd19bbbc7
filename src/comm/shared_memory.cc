#include "comm/shared_memory.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <ctime>
#include <new>

namespace keye::comm {
namespace {

constexpr size_t kPage = 4096;

size_t in_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
size_t terms_bytes(int64_t terms_max) { return in_pages(static_cast<size_t>(terms_max) * sizeof(float)); }

Error system_error(const char* what) {
  return make_error(ErrorCode::io, "shared memory", "cannot {}: {}", what, std::strerror(errno));
}

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

}  // namespace

SharedMemory::SharedMemory(Descriptor descriptor, int locals, int64_t terms_max)
    : descriptor_(std::move(descriptor)), locals_(locals), terms_max_(terms_max) {}

size_t SharedMemory::bytes_for(int locals, int64_t terms_max) {
  const auto count = static_cast<size_t>(locals);
  return in_pages(sizeof(State)) + in_pages(sizeof(Common)) + in_pages(count * sizeof(Cell)) +
         (count + 1) * kPieceBytes + 2 * count * terms_bytes(terms_max);
}

bool SharedMemory::map() {
  void* at = ::mmap(nullptr, bytes_for(locals_, terms_max_), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_.get(), 0);
  if (at == MAP_FAILED) return false;
  data_ = static_cast<std::byte*>(at);
  std::byte* next = data_;
  const auto take = [&next](size_t bytes) { return std::exchange(next, next + in_pages(bytes)); };
  state_ = reinterpret_cast<State*>(take(sizeof(State)));
  common_ = reinterpret_cast<Common*>(take(sizeof(Common)));
  cells_ = reinterpret_cast<Cell*>(take(static_cast<size_t>(locals_) * sizeof(Cell)));
  pieces_ = take(static_cast<size_t>(locals_ + 1) * kPieceBytes);
  terms_ = next;
  return true;
}

Result<std::shared_ptr<SharedMemory>> SharedMemory::make(int locals, int64_t terms_max) {
  Descriptor descriptor(::memfd_create("keye ranks", MFD_CLOEXEC));
  if (!descriptor) return system_error("be made");
  if (::ftruncate(descriptor.get(), static_cast<off_t>(bytes_for(locals, terms_max))) != 0) {
    return system_error("be made as large");
  }
  std::shared_ptr<SharedMemory> memory(new SharedMemory(std::move(descriptor), locals, terms_max));
  if (!memory->map()) return system_error("be mapped");
  new (memory->state_) State;
  new (memory->common_) Common;
  for (int local = 0; local < locals; ++local) new (&memory->cells_[local]) Cell;
  return memory;
}

Result<std::shared_ptr<SharedMemory>> SharedMemory::open(Descriptor descriptor, int locals, int64_t terms_max) {
  struct stat info = {};
  if (::fstat(descriptor.get(), &info) != 0) return system_error("be looked at");
  const size_t expected = bytes_for(locals, terms_max);
  if (static_cast<size_t>(info.st_size) != expected) {
    return make_error(ErrorCode::invalid_argument, "shared memory", "has {} bytes, expected {}", info.st_size,
                      expected);
  }
  std::shared_ptr<SharedMemory> memory(new SharedMemory(std::move(descriptor), locals, terms_max));
  if (!memory->map()) return system_error("be mapped");
  return memory;
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) ::munmap(data_, bytes_for(locals_, terms_max_));
}

float* SharedMemory::terms(int local, int room) {
  const auto index = static_cast<size_t>(2 * local + room);
  return reinterpret_cast<float*>(terms_ + index * terms_bytes(terms_max_));
}

std::string SharedMemory::loss() const { return is_lost() ? std::string(state_->loss) : std::string(); }

void SharedMemory::lose(const std::string& why) {
  if (state_->is_losing.exchange(1) != 0) return;
  const size_t length = std::min(why.size(), sizeof state_->loss - 1);
  std::memcpy(state_->loss, why.data(), length);
  state_->loss[length] = '\0';
  state_->is_lost.store(1, std::memory_order_seq_cst);
  notify();
}

void SharedMemory::notify() {
  if (state_->sleepers.load() == 0) return;
  state_->wakes.fetch_add(1);
  ::syscall(SYS_futex, &state_->wakes, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void SharedMemory::sleep_on(uint32_t seen, std::chrono::microseconds at_most) {
  timespec time = {};
  time.tv_sec = static_cast<time_t>(at_most.count() / 1'000'000);
  time.tv_nsec = static_cast<long>(at_most.count() % 1'000'000 * 1000);
  ::syscall(SYS_futex, &state_->wakes, FUTEX_WAIT, seen, &time, nullptr, 0);
}

}  // namespace keye::comm
