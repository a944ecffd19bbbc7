// The tables behind builtins.h, one per file that defines them.
#pragma once

#include <span>

#include "text/template/builtins.h"

namespace keye::text {

std::span<const Builtin> text_filters();      // filters_text.cc
std::span<const Builtin> sequence_filters();  // filters_sequence.cc
std::span<const Builtin> value_filters();     // filters_value.cc
std::span<const Builtin> value_tests();       // value_tests.cc
std::span<const Builtin> global_functions();  // functions.cc

/// An optional boolean argument, by Python's truth.
Result<bool> flag(Interpreter& interpreter, const Value& argument, bool otherwise = false);
/// The same where Python insists on an integer.
Result<bool> integer_flag(Interpreter& interpreter, const Value& argument);
/// An optional integer argument; none counts as left out.
Result<int64_t> number(Interpreter& interpreter, const Value& argument, int64_t otherwise);
/// A string argument.
Result<const Marked*> text_argument(const Value& argument, std::string_view what);

}  // namespace keye::text
