// Shapes and non-owning views of tensors.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "base/check.h"
#include "tensor/dtype.h"

namespace keye {

inline constexpr int kRankMax = 5;

/// The sizes of up to kRankMax dimensions, outermost first. Rank 0 holds one element.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : Shape(std::span<const int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const int64_t> sizes) : rank_(static_cast<int>(sizes.size())) {
    KEYE_CHECK(rank_ <= kRankMax, "rank {}", rank_);
    for (int i = 0; i < rank_; ++i) sizes_[static_cast<size_t>(i)] = sizes[static_cast<size_t>(i)];
  }

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return sizes_[static_cast<size_t>(i < 0 ? i + rank_ : i)]; }
  int64_t elements() const {
    int64_t product = 1;
    for (int i = 0; i < rank_; ++i) product *= sizes_[static_cast<size_t>(i)];
    return product;
  }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i) {
      if ((*this)[i] != other[i]) return false;
    }
    return true;
  }
  /// "[2, 3]"
  std::string to_string() const;

 private:
  std::array<int64_t, kRankMax> sizes_{};
  int rank_ = 0;
};

/// A contiguous, row-major, read-only view. Valid as long as what owns the data.
struct ConstView {
  const void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  bool empty() const { return data == nullptr; }
  int64_t elements() const { return shape.elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * dtype_bytes(dtype); }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  std::span<const std::byte> raw() const { return {static_cast<const std::byte*>(data), bytes()}; }
};

/// The same, writable.
struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  operator ConstView() const { return {data, dtype, shape}; }  // NOLINT: implicit by design
  bool empty() const { return data == nullptr; }
  int64_t elements() const { return shape.elements(); }
  size_t bytes() const { return static_cast<size_t>(elements()) * dtype_bytes(dtype); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

/// Rows [begin, end) of the outermost dimension.
ConstView rows(const ConstView& view, int64_t begin, int64_t end);
View rows(const View& view, int64_t begin, int64_t end);
/// The same elements under another shape.
ConstView reshape(const ConstView& view, Shape shape);
View reshape(const View& view, Shape shape);

}  // namespace keye
