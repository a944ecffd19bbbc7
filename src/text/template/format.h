// Python's two ways of formatting: "%s" % values and "{}".format(values).
#pragma once

#include "text/template/interpreter.h"

namespace keye::text {

/// format % values.
Result<Value> format_percent(Interpreter& interpreter, const Value& format, const Value& values);
/// format.format(*positional, **named); fields are looked up as templates look up attributes and items.
Result<Value> format_braces(Interpreter& interpreter, const Value& format, const Arguments& arguments);
/// format(value, spec).
Result<Marked> format_value(Interpreter& interpreter, const Value& value, const Marked& spec);

/// A float with `precision` digits after the point (types e, f) or in all (g), as Python writes it: no padding, a '-'
/// if negative.
std::string format_real(double value, char type, int precision, bool alternate);

}  // namespace keye::text
