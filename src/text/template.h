// Chat templates: the Jinja that published checkpoints use, rendered to the byte as Python's jinja2 3.1 does with the
// settings of Hugging Face tokenizers (immutable sandbox, trim_blocks, lstrip_blocks, loop controls, {% generation %},
// their tojson, raise_exception and strftime_now).
//
// Differences, all of them refusals instead of output: integers beyond 64 bits cannot be calculated with; objects whose
// text would be a memory address cannot be printed; include, import, extends, block, autoescape and `self`, the filters
// random, pprint, urlize and striptags, and the function lipsum are not there; bounds (TemplateLimits) hold.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"
#include "text/value.h"

namespace keye::text {

struct TemplateLimits {
  int64_t steps_max = 20'000'000;              // evaluated nodes, plus one for every 64 bytes or 4 items made
  int depth_max = 1200;                        // nested evaluation: statements, expressions and macro calls together
  size_t string_bytes_max = size_t{64} << 20;  // of any one string, the output included
  size_t items_max = 1'000'000;                // of any one list, tuple or dict
};

/// The local time that strftime_now shows.
struct RenderTime {
  std::tm time = {};
  int microsecond = 0;
};
/// The clock's.
RenderTime local_time_now();

/// A rendered text; its origins say which bytes the template wrote, and which came from messages.
using Rendered = Marked;

struct Program;  // template/ast.h

/// A compiled template. Rendering does not change it: it may be shared by threads.
class Template {
 public:
  /// `where` names the template in errors. Errors: invalid_argument (syntax, with line and column), unsupported.
  static Result<Template> compile(std::string_view source, std::string_view where);

  /// `variables` is a dict. Errors: invalid_argument (what Python would raise, raise_exception too), unsupported,
  /// too_large (a limit, by name); `where` is template:line:column.
  Result<Rendered> render(const Value& variables, const TemplateLimits& limits = {}, const RenderTime& now = {}) const;

  /// Whether some loop runs over the `content` of `message`, `msg` or `m`: such templates take content as parts.
  bool loops_over_content() const;

 private:
  explicit Template(std::shared_ptr<const Program> program) : program_(std::move(program)) {}

  std::shared_ptr<const Program> program_;
};

}  // namespace keye::text
