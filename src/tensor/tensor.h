// Memory that owns its bytes.
#pragma once

#include <cstddef>

#include "tensor/view.h"

namespace keye {

/// Where buffers' bytes come from and go back to.
class Memory {
 public:
  virtual ~Memory() = default;
  /// Zeros, aligned to 256 bytes at least; null where no room is left.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* data, size_t bytes) = 0;
};

/// Page-aligned anonymous memory of the host, resident only where touched, huge pages for large ones: what buffers use
/// that do not name another.
Memory& host_memory();
/// What is allocated of it now.
size_t host_memory_bytes();

/// Bytes, zero at first. Move-only. Throws std::bad_alloc where the memory has no room left.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, Memory& memory = host_memory());
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  Memory* memory_ = nullptr;
  void* data_ = nullptr;
  size_t size_ = 0;
};

/// A contiguous tensor with its own Buffer, zero at first. Move-only.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape, Memory& memory = host_memory());

  View view() { return {buffer_.data(), dtype_, shape_}; }
  ConstView view() const { return {buffer_.data(), dtype_, shape_}; }
  template <class T>
  T* as() {
    return static_cast<T*>(buffer_.data());
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(buffer_.data());
  }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  bool empty() const { return buffer_.data() == nullptr; }

 private:
  Buffer buffer_;
  DType dtype_ = DType::f32;
  Shape shape_;
};

}  // namespace keye
