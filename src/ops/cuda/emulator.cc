#include "ops/cuda/emulator.h"

#include <cstdlib>
#include <random>
#include <vector>

#include "base/check.h"
#include "ops/cuda/device.h"
#include "ops/cuda/flash_wgmma.h"
#include "ops/cuda/gemm_few.h"
#include "ops/cuda/gemm_wgmma.h"

// Saves the registers that a call keeps and the stack pointer in *from, and takes them from `to`. A system's own switch
// (swapcontext) asks the kernel for the signal mask each time, and there are millions.
extern "C" void keye_switch_fiber(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.globl keye_switch_fiber
.type keye_switch_fiber, @function
keye_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size keye_switch_fiber, .-keye_switch_fiber
)");
constexpr int kFrameWords = 8;  // six registers, the entry, and a word that keeps the stack aligned as after a call
constexpr int kEntryWord = 6;
#elif defined(__aarch64__)
asm(R"(
.text
.globl keye_switch_fiber
.type keye_switch_fiber, @function
keye_switch_fiber:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size keye_switch_fiber, .-keye_switch_fiber
)");
constexpr int kFrameWords = 20;
constexpr int kEntryWord = 11;  // x30
#else
#error "the CUDA emulator knows how to switch fibers on x86-64 and arm64 only"
#endif

namespace keye::ops::cuda {
namespace emulator {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  bool valid;
};

struct Fiber {
  void* stack_pointer = nullptr;
  std::vector<std::byte> stack;
  Place place;
  int warp = 0;
  bool done = false;
  uint64_t waits = 0;                     // passes through barriers: progress
  std::vector<std::vector<Copy>> groups;  // committed, not yet landed
  std::vector<Copy> open;
};

/// Threads that must meet: the last one to come opens the gate for this generation.
struct Gate {
  int expected = 0;
  int arrived = 0;
  uint64_t generation = 0;
};

struct Warp {
  Gate gate;
  std::byte slots[kWarp][kSlotBytes];
};

void* scheduler_stack_pointer = nullptr;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
Gate block_gate;
std::vector<std::byte> shared;
Fiber* self = nullptr;
const std::function<void()>* work = nullptr;
std::mt19937 order_random{1};
uint64_t progress = 0;

void yield() { keye_switch_fiber(&self->stack_pointer, scheduler_stack_pointer); }

void pass(Gate& gate) {
  ++progress;
  if (++gate.arrived == gate.expected) {
    gate.arrived = 0;
    ++gate.generation;
    return;
  }
  const uint64_t generation = gate.generation;
  while (gate.generation == generation) yield();
}

/// A thread that returns is no longer waited for.
void leave(Gate& gate) {
  --gate.expected;
  if (gate.expected > 0 && gate.arrived == gate.expected) {
    gate.arrived = 0;
    ++gate.generation;
  }
}

void land(std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    if (copy.valid) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      std::memset(copy.to, 0, copy.bytes);
    }
  }
  copies.clear();
}

void fiber_main() {
  (*work)();
  self->done = true;
  ++progress;
  leave(warps[static_cast<size_t>(self->warp)].gate);
  leave(block_gate);
  yield();
}

/// A stack that a switch can go to for the first time: registers of no meaning, then where to go.
void* first_frame(std::vector<std::byte>& stack) {
  auto top = reinterpret_cast<uintptr_t>(stack.data() + stack.size()) & ~uintptr_t{15};
  auto* frame = reinterpret_cast<void**>(top) - kFrameWords;
  std::fill_n(frame, kFrameWords, nullptr);
  frame[kEntryWord] = reinterpret_cast<void*>(&fiber_main);
  return frame;
}

void run_block(Dim3 grid, Dim3 block, Dim3 index) {
  const unsigned threads = block.x * block.y * block.z;
  fibers.resize(std::max<size_t>(fibers.size(), threads));
  warps.resize((threads + kWarp - 1) / kWarp);
  block_gate = {static_cast<int>(threads), 0, 0};
  for (Warp& warp : warps) warp.gate = {};
  std::fill(shared.begin(), shared.end(), std::byte{0xff});  // NaNs, as nothing clears it on a device
  std::vector<Fiber*> order;
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = fibers[t];
    fiber.stack.resize(kStackBytes);
    fiber.done = false;
    fiber.groups.clear();
    fiber.open.clear();
    fiber.warp = static_cast<int>(t / kWarp);
    fiber.place = {
        {t % block.x, t / block.x % block.y, t / block.x / block.y}, index, block, grid, static_cast<int>(t % kWarp)};
    ++warps[t / kWarp].gate.expected;
    fiber.stack_pointer = first_frame(fiber.stack);
    order.push_back(&fiber);
  }
  std::shuffle(order.begin(), order.end(), order_random);
  for (size_t left = threads; left > 0;) {
    const uint64_t before = progress;
    for (Fiber* fiber : order) {
      if (fiber->done) continue;
      self = fiber;
      keye_switch_fiber(&scheduler_stack_pointer, fiber->stack_pointer);
      if (fiber->done) --left;
    }
    KEYE_CHECK(progress != before, "threads wait for each other at different barriers");
  }
}

}  // namespace

const Place& place() { return self->place; }
std::byte* shared_memory() {
  const auto address = reinterpret_cast<uintptr_t>(shared.data());
  return shared.data() + ((1024 - address % 1024) % 1024);
}
void block_barrier() { pass(block_gate); }
void warp_barrier() { pass(warps[static_cast<size_t>(self->warp)].gate); }
std::byte* slot(int lane) { return warps[static_cast<size_t>(self->warp)].slots[lane]; }

void queue_copy(void* to, const void* from, size_t bytes, bool valid) {
  self->open.push_back({to, from, bytes, valid});
}
void commit_copies() {
  self->groups.push_back(std::move(self->open));
  self->open.clear();
}
void wait_copies(int groups_left) {
  while (self->groups.size() > static_cast<size_t>(groups_left)) {
    land(self->groups.front());
    self->groups.erase(self->groups.begin());
  }
}

void run(Dim3 grid, Dim3 block, size_t shared_bytes, const std::function<void()>& body) {
  KEYE_CHECK(grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.y < 65536 && grid.z < 65536, "grid {} x {} x {}", grid.x,
             grid.y, grid.z);
  KEYE_CHECK(block.x * block.y * block.z <= 1024 && shared_bytes <= 227 * 1024, "{} threads, {} shared bytes",
             block.x * block.y * block.z, shared_bytes);
  shared.resize(shared_bytes + 1024);
  work = &body;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) run_block(grid, block, {x, y, z});
    }
  }
}

void set_order_seed(uint32_t seed) { order_random.seed(seed); }

}  // namespace emulator

Result<DeviceInfo> open_device(int number) {
  if (number != 0) return make_error(ErrorCode::unsupported, "CUDA", "the emulator has one device");
  return DeviceInfo{"emulator", 8, 0, 4, size_t{8} << 30, size_t{8} << 30, size_t{1} << 20};
}

Stream make_stream() { return nullptr; }
void free_stream(Stream) {}
void synchronize(Stream) {}
void* device_allocate(size_t bytes) {
  void* data = std::aligned_alloc(1024, (bytes + 1023) / 1024 * 1024);
  if (data != nullptr) std::memset(data, 0xff, bytes);
  return data;
}
void device_free(void* data) { std::free(data); }
size_t device_free_bytes() { return size_t{8} << 30; }
void* pinned_allocate(size_t bytes) { return device_allocate(bytes); }
void pinned_free(void* data) { std::free(data); }
void copy_to_device(void* to, const void* from, size_t bytes, Stream) { std::memcpy(to, from, bytes); }
void copy_to_host(void* to, const void* from, size_t bytes, Stream) { std::memcpy(to, from, bytes); }
void copy_on_device(void* to, const void* from, size_t bytes, Stream) { std::memmove(to, from, bytes); }
void copy_2d_on_device(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t row_bytes, size_t rows,
                       Stream) {
  for (size_t row = 0; row < rows; ++row) {
    std::memcpy(static_cast<std::byte*>(to) + row * to_pitch, static_cast<const std::byte*>(from) + row * from_pitch,
                row_bytes);
  }
}
std::unique_ptr<Event> make_event() {
  class Passed final : public Event {
    void record(Stream) override {}
    void wait() override {}
  };
  return std::make_unique<Passed>();
}
void clear_on_device(void* data, size_t bytes, Stream) { std::memset(data, 0, bytes); }
std::unique_ptr<Graph> record_graph(Stream, const std::function<void()>&) { return nullptr; }
// A device of compute capability 8.0: Hopper's own instructions are not emulated.
int encode_weight_map(void*, const void*, int64_t, int64_t) { return 0; }
bool wgmma_supports(const WgmmaGemm&) { return false; }
int wgmma_prepare() { return 0; }
int wgmma_gemm(const WgmmaGemm&, void*, int) { return 1; }
void gemm_few(Stream, const GemmArguments&) {}
int flash_paged(Stream, const PagedAttentionArguments&, int) { return 1; }
int flash_segments(Stream, const VisionAttentionArguments&) { return 1; }

void check_cuda(int, const char*) {}
void allow_shared_bytes(const void*, size_t) {}

}  // namespace keye::ops::cuda
