#include "tensor/tensor.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <atomic>
#include <new>
#include <utility>

namespace keye {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;

class HostMemory final : public Memory {
 public:
  void* allocate(size_t bytes) override {
    void* address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (address == MAP_FAILED) return nullptr;
    if (bytes >= 2 * kHugePage) ::madvise(address, bytes, MADV_HUGEPAGE);
    held_ += bytes;
    return address;
  }
  void release(void* data, size_t bytes) override {
    ::munmap(data, bytes);
    held_ -= bytes;
  }
  size_t held() const { return held_; }

 private:
  std::atomic<size_t> held_{0};
};

HostMemory& the_host_memory() {
  static HostMemory memory;
  return memory;
}

}  // namespace

std::string Shape::to_string() const {
  std::string text = "[";
  for (int i = 0; i < rank_; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", (*this)[i]);
  return text + "]";
}

ConstView rows(const ConstView& view, int64_t begin, int64_t end) {
  KEYE_CHECK(view.shape.rank() >= 1 && 0 <= begin && begin <= end && end <= view.shape[0], "rows [{}, {}) of {}", begin,
             end, view.shape.to_string());
  std::array<int64_t, kRankMax> sizes{};
  int64_t stride = 1;
  for (int i = 0; i < view.shape.rank(); ++i) {
    sizes[static_cast<size_t>(i)] = view.shape[i];
    if (i > 0) stride *= view.shape[i];
  }
  sizes[0] = end - begin;
  const auto* start =
      static_cast<const std::byte*>(view.data) + static_cast<size_t>(begin * stride) * dtype_bytes(view.dtype);
  return {start, view.dtype, Shape(std::span<const int64_t>(sizes.data(), static_cast<size_t>(view.shape.rank())))};
}

View rows(const View& view, int64_t begin, int64_t end) {
  const ConstView part = rows(ConstView(view), begin, end);
  return {const_cast<void*>(part.data), part.dtype, part.shape};
}

ConstView reshape(const ConstView& view, Shape shape) {
  KEYE_CHECK(view.elements() == shape.elements(), "{} as {}", view.shape.to_string(), shape.to_string());
  return {view.data, view.dtype, shape};
}

View reshape(const View& view, Shape shape) {
  KEYE_CHECK(view.elements() == shape.elements(), "{} as {}", view.shape.to_string(), shape.to_string());
  return {view.data, view.dtype, shape};
}

Memory& host_memory() { return the_host_memory(); }
size_t host_memory_bytes() { return the_host_memory().held(); }

Buffer::Buffer(size_t bytes, Memory& memory) : memory_(&memory), size_(bytes) {
  if (bytes == 0) return;
  data_ = memory.allocate(bytes);
  if (data_ == nullptr) throw std::bad_alloc();
}

Buffer::Buffer(Buffer&& other) noexcept
    : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  Buffer moved(std::move(other));
  std::swap(memory_, moved.memory_);
  std::swap(data_, moved.data_);
  std::swap(size_, moved.size_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) memory_->release(data_, size_);
}

Tensor::Tensor(DType dtype, Shape shape, Memory& memory)
    : buffer_(static_cast<size_t>(shape.elements()) * dtype_bytes(dtype), memory), dtype_(dtype), shape_(shape) {}

}  // namespace keye
