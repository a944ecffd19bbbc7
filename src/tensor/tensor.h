// Memory that owns its bytes.
#pragma once

#include <cstddef>

#include "tensor/view.h"

namespace keye {

/// Page-aligned anonymous memory, zero at first, resident only where touched; large ones ask for huge pages. Move-only.
/// Throws std::bad_alloc where the system has no address space left.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

/// A contiguous tensor with its own Buffer, zero at first. Move-only.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, Shape shape);

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
