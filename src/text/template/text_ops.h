// Operations on texts, counted in characters as Python counts them; every byte keeps its origin.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "text/template/interpreter.h"
#include "text/value.h"

namespace keye::text {

/// HTML-escapes & < > ' ".
Marked escape_html(const Marked& text);
/// The text of a string, escaped unless it is markup already.
Marked escaped(const Value& string);
/// markupsafe.escape of any value.
Result<Marked> escape_value(Interpreter& interpreter, const Value& value);

Result<Value> repeat_text(Interpreter& interpreter, const Value& string, int64_t times);
Result<Value> repeat_items(Interpreter& interpreter, const Value& sequence, int64_t times);

/// The byte at which character `index` starts (0 <= index <= length).
size_t byte_offset(const String& string, int64_t index);
/// Characters start, start + step, ... (`count` of them, all inside).
Marked pick_characters(const String& string, int64_t start, int64_t step, int64_t count);

/// Which characters to strip: those of a set, or white space if there is none.
Marked strip(const Marked& text, const std::string* characters, bool left, bool right);

/// str.split / str.rsplit at white space or at a separator; `most` < 0 splits everywhere.
std::vector<Marked> split_space(const Marked& text, int64_t most, bool from_right);
std::vector<Marked> split_at(const Marked& text, std::string_view separator, int64_t most, bool from_right);
std::vector<Marked> split_lines(const Marked& text, bool keep_ends);
/// Errors: too_large.
Result<Marked> replace_text(const Interpreter& interpreter, const Marked& text, const Marked& from, const Marked& to,
                            int64_t most);

/// `fill` on both sides as asked. Errors: too_large.
enum class Align : uint8_t { left, right, center };
Result<Marked> pad(const Interpreter& interpreter, const Marked& text, int64_t length, int64_t width,
                   const Marked& fill, Align align);

int64_t count_characters(std::string_view text);

}  // namespace keye::text
