// Any bytes as a safetensors header: parsed or refused, and what is accepted lies inside the data.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tensor/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t data_bytes = static_cast<size_t>(data[0]) | (static_cast<size_t>(data[1]) << 8);
  const std::string_view header(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto entries = keye::parse_safetensors_header(header, data_bytes, "fuzz");
  if (!entries) return 0;
  for (const auto& [name, entry] : *entries) {
    KEYE_CHECK(entry.begin <= entry.end && entry.end <= data_bytes);
    KEYE_CHECK(static_cast<size_t>(entry.shape.elements()) * keye::dtype_bytes(entry.dtype) == entry.end - entry.begin);
  }
  return 0;
}
