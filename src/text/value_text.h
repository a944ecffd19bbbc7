// Values as text, to the byte as Python writes them: str(), repr() and json.dumps(); and JSON text as values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/value.h"

namespace keye::text {

/// The shortest decimal that reads back as the same number: "1.0", "1e+16", "inf".
std::string float_repr(double value);

/// Appends repr() of values to a text of at most `bytes_max` bytes. Errors: too_large; unsupported (an object whose
/// repr is an address).
class ReprWriter {
 public:
  ReprWriter(Marked& out, size_t bytes_max) : out_(out), bytes_max_(bytes_max) {}

  Result<void> write(const Value& value);
  Result<void> put(std::string_view bytes, char origin = kOriginEngine);
  /// The items of a dict between braces, "{...}" if this very dict is being written.
  Result<void> write_dict(const Dict& dict, const void* identity);
  /// A quoted string; `ascii_only` escapes everything else, as ascii() does.
  Result<void> write_quoted(const Marked& text, bool ascii_only = false);

 private:
  Result<void> write_items(const Values& items);

  Marked& out_;
  size_t bytes_max_;
  std::vector<const void*> open_;
};

/// str(value). Origins follow the strings inside.
Result<Marked> to_str(const Value& value, size_t bytes_max);
Result<Marked> to_repr(const Value& value, size_t bytes_max);

/// The arguments of json.dumps that templates may give.
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<Marked> indent;  // the text of one level; with it, every item has its own line
  std::optional<Marked> item_separator;
  std::optional<Marked> key_separator;
};

/// json.dumps(value). Errors: too_large; invalid_argument (what JSON cannot hold).
Result<Marked> to_json(const Value& value, const JsonStyle& style, size_t bytes_max);

/// For text from strangers.
struct ParseRules {
  bool unique_keys = false;      // a repeated key is an error: others may have read the first value, or the last
  size_t values_max = SIZE_MAX;  // of scalars and containers: a value takes up to 50 times its text's memory
};

/// Strict JSON as a value: objects keep their order, of a repeated key the last value counts, integers of any size keep
/// their digits. All strings and keys get `origin`. `where` names the source in errors. Errors: corrupt_data.
Result<Value> parse_value(std::string_view json, char origin, std::string_view where, const ParseRules& rules = {});

}  // namespace keye::text
