// The safetensors file format: an 8-byte little-endian header length, a JSON header, then the tensors' bytes.
// Source: the format description of the huggingface/safetensors project.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "tensor/view.h"

namespace keye {

/// One mapped safetensors file, its header checked: lengths, dtypes, shapes, ranges, overlaps, duplicate names.
class TensorFile {
 public:
  static Result<TensorFile> open(const Path& path);

  const std::map<std::string, ConstView, std::less<>>& tensors() const { return tensors_; }
  const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  std::map<std::string, ConstView, std::less<>> tensors_;
};

struct TensorEntry {
  DType dtype;
  Shape shape;
  size_t begin = 0;  // of its bytes, from the start of the data section
  size_t end = 0;
};

/// The header alone, as `open` checks it, for a data section of `data_bytes` bytes. Errors: corrupt_data, unsupported.
Result<std::map<std::string, TensorEntry, std::less<>>> parse_safetensors_header(std::string_view header,
                                                                                 size_t data_bytes,
                                                                                 std::string_view where);

struct NamedTensor {
  std::string name;
  ConstView view;
};

/// Writes the tensors in the given order. Errors: io.
Result<void> write_safetensors(const Path& path, const std::vector<NamedTensor>& tensors);

}  // namespace keye
