// JSON: parse with limits. The only place that touches the parser of the library behind it.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/file.h"
#include "base/result.h"

namespace keye {

/// Objects are sorted by key: for configurations and large tables. (Order-preserving values, as templates need them,
/// are text/value.h's.)
using Json = nlohmann::json;
/// Objects keep the order in which their keys were set: for what people read.
using OrderedJson = nlohmann::ordered_json;

inline constexpr int kJsonDepthMax = 128;

/// Parses strict JSON text (RFC 8259). Duplicate keys of one object, nesting over kJsonDepthMax and trailing bytes are
/// refused. `where` names the source in errors. Errors: corrupt_data.
Result<Json> parse_json(std::string_view text, std::string_view where);

/// read_file + parse_json.
Result<Json> read_json(const Path& path, size_t bytes_max = size_t{256} << 20);

}  // namespace keye
