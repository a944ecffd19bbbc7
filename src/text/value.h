// The dynamic values of chat templates: Python's scalars and containers, with strings that know where they came from.
// Values are immutable and cheap to copy; containers are shared.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "text/marked.h"

namespace keye::text {

class Dict;
class Object;
class Value;

enum class Kind : uint8_t {
  missing,    // no value at all: an unset variable, an absent argument; never seen by a template
  undefined,  // jinja's Undefined: prints as nothing, most other uses fail
  none,
  boolean,
  integer,
  big_integer,  // an integer beyond 64 bits: keeps its digits, can be printed and compared, but not calculated with
  real,
  string,
  list,
  tuple,
  dict,
  object,  // what only an interpreter makes: functions, macros, namespaces, iterators, ...
};

using Values = std::vector<Value>;

/// Containers deeper than this are refused, so that no walk over a value can exhaust the stack.
inline constexpr int kValueDepthMax = 200;

struct String {
  Marked bytes;
  int64_t length = 0;   // in code points
  bool markup = false;  // made by the `safe` or `escape` filter: escapes what is added to it
  bool ascii() const { return length == static_cast<int64_t>(bytes.size()); }
};

class Value {
 public:
  Value() = default;  // undefined, without a reason
  explicit Value(bool value) : kind_(Kind::boolean) { scalar_.boolean = value; }
  explicit Value(int64_t value) : kind_(Kind::integer) { scalar_.integer = value; }
  explicit Value(int value) : Value(static_cast<int64_t>(value)) {}
  explicit Value(size_t value) : Value(static_cast<int64_t>(value)) {}
  explicit Value(double value) : kind_(Kind::real) { scalar_.real = value; }
  explicit Value(Marked value, bool markup = false);
  explicit Value(std::string_view value) : Value(Marked(value)) {}
  explicit Value(const char* value) : Value(Marked(value)) {}
  explicit Value(std::string value) : Value(Marked(std::move(value))) {}

  static Value missing() { return Value(Kind::missing); }
  static Value none() { return Value(Kind::none); }
  /// `reason` is what an error says when the value is used, such as "'x' is undefined".
  static Value undefined(std::string reason);
  /// Decimal digits, perhaps after a '-', of a number that int64 cannot hold.
  static Value big_integer(std::string digits);
  static Value list(Values items);
  static Value tuple(Values items);
  /// A (grouper, list) pair of the `groupby` filter: a tuple whose two items have these names.
  static Value group(Value grouper, Value list);
  static Value dict(Dict items);
  /// `depth` counts what has to be walked through to use the object (an iterator over an iterator over ...).
  static Value object(std::shared_ptr<Object> object, int depth = 1);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_string() const { return kind_ == Kind::string; }
  bool is_group() const { return group_; }
  bool is_sequence() const { return kind_ == Kind::list || kind_ == Kind::tuple; }
  /// bool, int or float, as Python's numeric tower has it.
  bool is_number() const { return kind_ == Kind::boolean || kind_ == Kind::integer || kind_ == Kind::real; }
  bool is_integral() const { return kind_ == Kind::boolean || kind_ == Kind::integer; }

  bool boolean() const { return scalar_.boolean; }
  /// Of an integer or a boolean.
  int64_t integer() const { return kind_ == Kind::boolean ? (scalar_.boolean ? 1 : 0) : scalar_.integer; }
  /// Of a real, an integer or a boolean.
  double real() const { return kind_ == Kind::real ? scalar_.real : static_cast<double>(integer()); }
  const String& string() const { return *static_cast<const String*>(shared_.get()); }
  const Marked& marked() const { return string().bytes; }
  const std::string& text() const { return string().bytes.text; }
  /// Of a list or a tuple.
  const Values& items() const { return *static_cast<const Values*>(shared_.get()); }
  const Dict& dict() const { return *static_cast<const Dict*>(shared_.get()); }
  Object& object() const { return *static_cast<Object*>(shared_.get()); }
  /// Of an undefined value: why. Of a big integer: its digits.
  const std::string& note() const;

  /// The object as a T, or null if this is something else.
  template <class T>
  T* as() const {
    return kind_ == Kind::object ? dynamic_cast<T*>(&object()) : nullptr;
  }
  /// How many containers are nested here: 0 for scalars and strings.
  int depth() const;
  /// Whether both are the same shared thing, or equal scalars of the same kind.
  bool identical(const Value& other) const;
  const void* address() const { return shared_.get(); }

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::undefined;
  bool group_ = false;
  union {
    bool boolean;
    int64_t integer = 0;  // of a container: its depth
    double real;
  } scalar_;
  std::shared_ptr<void> shared_;
};

class ReprWriter;  // text/value_text.h

/// What only an interpreter makes. The interpreter's own classes (template/objects.h) say what each can do.
class Object {
 public:
  virtual ~Object() = default;
  /// As Python's type(x).__name__.
  virtual std::string_view type_name() const = 0;
  /// Writes what Python's repr() gives. Errors: unsupported, where that would be an address in memory.
  virtual Result<void> write_repr(ReprWriter& writer) const;
};

/// An insertion-ordered map with constant-time lookup. 1, 1.0 and True are one key, as in Python.
class Dict {
 public:
  struct Item {
    Value key;
    Value value;
  };

  /// Scalars, strings and tuples of these can be keys.
  static bool hashable(const Value& key);
  const Value* find(const Value& key) const;
  const Value* find(std::string_view key) const;
  /// Sets or replaces; a replaced value keeps its place (and its first key). `key` must be hashable.
  void set(Value key, Value value);
  void set(std::string_view key, Value value) { set(Value(key), std::move(value)); }

  const std::vector<Item>& items() const { return items_; }
  size_t size() const { return items_.size(); }
  bool empty() const { return items_.empty(); }

 private:
  static constexpr size_t kIndexFrom = 8;  // smaller dicts are searched in order

  template <class Matches>
  std::optional<size_t> locate(size_t hash, const Matches& matches) const;
  void index_item(size_t item);

  std::vector<Item> items_;
  std::vector<size_t> hashes_;
  std::vector<uint32_t> index_;  // item number + 1 by hash, open addressing; 0 is free
};

/// Python's bool() of everything but objects.
bool truthy_plain(const Value& value);
/// Python's type(x).__name__.
std::string_view type_name(const Value& value);
/// a == b for what can be a dict key; every pair of values of other kinds is unequal.
bool equal_keys(const Value& a, const Value& b);
/// Compares numbers exactly, also integers with floats: -1, 0, 1, or 2 when a NaN is involved.
int compare_numbers(const Value& a, const Value& b);

}  // namespace keye::text
