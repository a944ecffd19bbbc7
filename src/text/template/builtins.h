// Filters, tests, methods and functions by name.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/value.h"

namespace keye::text {

class Interpreter;

/// The arguments of one call, as written.
struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// A function of this program that templates can call. `parameters` lists its parameters, separated by commas; a
/// parameter with '?' at its end may be left out, and is then missing. "*" alone means: takes whatever comes, in
/// `arguments`; otherwise `arguments.positional` has exactly one value for each parameter.
struct Builtin {
  std::string_view name;
  std::string_view parameters;
  bool keywords;  // whether arguments may be given by name
  /// `self` is what a filter, test or method is applied to.
  Result<Value> (*run)(Interpreter& interpreter, const Value& self, Arguments& arguments);
};

/// Null if there is none of this name.
const Builtin* find_filter(std::string_view name);
const Builtin* find_test(std::string_view name);
const Builtin* find_function(std::string_view name);
/// Why a filter that Python has is not here; empty for other names.
std::string_view refused_filter(std::string_view name);

/// A method of Python's type of `self`. `unsafe` is set if the sandbox forbids it, and `unsupported` if Python has it
/// but this program does not.
struct MethodLookup {
  const Builtin* method = nullptr;
  bool unsafe = false;
  bool unsupported = false;
};
MethodLookup find_method(const Value& self, std::string_view name);

/// Puts the arguments in the order of the parameters. Errors: invalid_argument, as Python's TypeErrors.
Result<void> bind_arguments(const Builtin& builtin, Arguments& arguments);
Result<Value> call_builtin(Interpreter& interpreter, const Builtin& builtin, const Value& self, Arguments arguments);

}  // namespace keye::text
