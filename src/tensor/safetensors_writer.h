// A safetensors file written piece by piece: for what is larger than memory should hold.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "base/file.h"
#include "base/result.h"
#include "tensor/tensor.h"

namespace keye {

struct TensorPlace {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

/// The header comes first, then the bytes of the tensors in its order. The file appears when it is whole.
class SafetensorsWriter {
 public:
  /// Errors: io.
  static Result<SafetensorsWriter> create(const Path& path, const std::vector<TensorPlace>& places);
  SafetensorsWriter(SafetensorsWriter&& other) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = delete;
  ~SafetensorsWriter();

  /// The next bytes. Errors: io.
  Result<void> put(std::span<const std::byte> bytes);
  /// All bytes must have been put. Errors: io.
  Result<void> finish();

 private:
  SafetensorsWriter() = default;
  Error failed(const char* action) const;

  Path path_, temporary_;  // the second is empty once it is renamed
  Descriptor file_;
  size_t left_ = 0;
};

}  // namespace keye
