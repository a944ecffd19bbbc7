#include "text/value.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>

namespace keye::text {
namespace {

int depth_of(const Values& items) {
  int deepest = 0;
  for (const Value& item : items) deepest = std::max(deepest, item.depth());
  return deepest + 1;
}

size_t mix(size_t hash, size_t next) { return (hash ^ next) * 0x9E3779B97F4A7C15u + (hash >> 29); }

/// Keyed by a number of this process, so that nobody can send a thousand keys that share a slot.
size_t hash_text(std::string_view text) {
  static const uint64_t kSeed = (uint64_t{std::random_device()()} << 32) | std::random_device()();
  const auto fold = [](uint64_t a, uint64_t b) {
    const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
    return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
  };
  uint64_t hash = fold(kSeed ^ text.size(), 0x9E3779B97F4A7C15u);
  for (size_t at = 0; at < text.size(); at += 8) {
    uint64_t chunk = 0;
    std::memcpy(&chunk, text.data() + at, std::min<size_t>(8, text.size() - at));
    hash = fold(hash ^ chunk, kSeed | 1);
  }
  return hash;
}

size_t hash_value(const Value& value) {
  switch (value.kind()) {
    case Kind::boolean:
    case Kind::integer:
      return mix(1, static_cast<size_t>(value.integer()));
    case Kind::real: {
      const double real = value.real();
      if (std::abs(real) < 9e18 && std::trunc(real) == real)
        return mix(1, static_cast<size_t>(static_cast<int64_t>(real)));
      return mix(2, std::hash<double>()(real));
    }
    case Kind::big_integer:
      return mix(3, hash_text(value.note()));
    case Kind::string:
      return hash_text(value.text());
    case Kind::tuple: {
      size_t hash = 4;
      for (const Value& item : value.items()) hash = mix(hash, hash_value(item));
      return hash;
    }
    default:
      return mix(5, static_cast<size_t>(value.kind()));
  }
}

int64_t count_code_points(std::string_view text) {
  int64_t count = 0;
  for (char byte : text) count += (byte & 0xC0) != 0x80;
  return count;
}

}  // namespace

Value::Value(Marked value, bool markup) : kind_(Kind::string) {
  const int64_t length = count_code_points(value.text);
  shared_ = std::make_shared<String>(String{std::move(value), length, markup});
}

Value Value::undefined(std::string reason) {
  Value value(Kind::undefined);
  value.shared_ = std::make_shared<std::string>(std::move(reason));
  return value;
}

Value Value::big_integer(std::string digits) {
  Value value(Kind::big_integer);
  value.shared_ = std::make_shared<std::string>(std::move(digits));
  return value;
}

Value Value::list(Values items) {
  Value value(Kind::list);
  value.scalar_.integer = depth_of(items);
  value.shared_ = std::make_shared<Values>(std::move(items));
  return value;
}

Value Value::tuple(Values items) {
  Value value = list(std::move(items));
  value.kind_ = Kind::tuple;
  return value;
}

Value Value::group(Value grouper, Value list) {
  Value value = tuple({std::move(grouper), std::move(list)});
  value.group_ = true;
  return value;
}

Value Value::dict(Dict items) {
  Value value(Kind::dict);
  int deepest = 0;
  for (const Dict::Item& item : items.items()) deepest = std::max({deepest, item.key.depth(), item.value.depth()});
  value.scalar_.integer = deepest + 1;
  value.shared_ = std::make_shared<Dict>(std::move(items));
  return value;
}

Value Value::object(std::shared_ptr<Object> object, int depth) {
  Value value(Kind::object);
  value.scalar_.integer = depth;
  value.shared_ = std::move(object);
  return value;
}

const std::string& Value::note() const {
  static const std::string kNoReason = "the value is undefined";
  return shared_ ? *static_cast<const std::string*>(shared_.get()) : kNoReason;
}

int Value::depth() const {
  return is_sequence() || is(Kind::dict) || is(Kind::object) ? static_cast<int>(scalar_.integer) : 0;
}

bool Value::identical(const Value& other) const {
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case Kind::boolean:
      return boolean() == other.boolean();
    case Kind::integer:
      return integer() == other.integer();
    case Kind::none:
    case Kind::missing:
      return true;
    case Kind::real:
      return false;
    default:
      return shared_ == other.shared_;
  }
}

bool Dict::hashable(const Value& key) {
  switch (key.kind()) {
    case Kind::missing:
    case Kind::list:
    case Kind::dict:
    case Kind::object:
      return false;
    case Kind::tuple:
      for (const Value& item : key.items()) {
        if (item.is(Kind::tuple) || !hashable(item)) return false;
      }
      return true;
    default:
      return true;
  }
}

template <class Matches>
std::optional<size_t> Dict::locate(size_t hash, const Matches& matches) const {
  if (index_.empty()) {
    for (size_t i = 0; i < items_.size(); ++i) {
      if (hashes_[i] == hash && matches(items_[i].key)) return i;
    }
    return std::nullopt;
  }
  const size_t mask = index_.size() - 1;
  for (size_t slot = hash & mask; index_[slot] != 0; slot = (slot + 1) & mask) {
    const size_t item = index_[slot] - 1;
    if (hashes_[item] == hash && matches(items_[item].key)) return item;
  }
  return std::nullopt;
}

const Value* Dict::find(const Value& key) const {
  const auto item = locate(hash_value(key), [&](const Value& other) { return equal_keys(key, other); });
  return item ? &items_[*item].value : nullptr;
}

const Value* Dict::find(std::string_view key) const {
  const auto item =
      locate(hash_text(key), [&](const Value& other) { return other.is_string() && other.text() == key; });
  return item ? &items_[*item].value : nullptr;
}

void Dict::set(Value key, Value value) {
  KEYE_CHECK(hashable(key), "a dict key must be hashable");
  const size_t hash = hash_value(key);
  if (const auto item = locate(hash, [&](const Value& other) { return equal_keys(key, other); })) {
    items_[*item].value = std::move(value);
    return;
  }
  items_.push_back({std::move(key), std::move(value)});
  hashes_.push_back(hash);
  if (items_.size() <= kIndexFrom) return;
  if (items_.size() * 2 > index_.size()) {
    index_.assign(items_.size() <= 2 * kIndexFrom ? 64 : index_.size() * 2, 0);
    for (size_t i = 0; i < items_.size(); ++i) index_item(i);
  } else {
    index_item(items_.size() - 1);
  }
}

void Dict::index_item(size_t item) {
  const size_t mask = index_.size() - 1;
  size_t slot = hashes_[item] & mask;
  while (index_[slot] != 0) slot = (slot + 1) & mask;
  index_[slot] = static_cast<uint32_t>(item + 1);
}

bool truthy_plain(const Value& value) {
  switch (value.kind()) {
    case Kind::missing:
    case Kind::undefined:
    case Kind::none:
      return false;
    case Kind::boolean:
      return value.boolean();
    case Kind::integer:
      return value.integer() != 0;
    case Kind::real:
      return value.real() != 0;
    case Kind::string:
      return !value.text().empty();
    case Kind::list:
    case Kind::tuple:
      return !value.items().empty();
    case Kind::dict:
      return !value.dict().empty();
    case Kind::big_integer:
    case Kind::object:
      return true;
  }
  return true;
}

std::string_view type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::missing:
    case Kind::undefined:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
    case Kind::big_integer:
      return "int";
    case Kind::real:
      return "float";
    case Kind::string:
      return value.string().markup ? "Markup" : "str";
    case Kind::list:
      return "list";
    case Kind::tuple:
      return "tuple";
    case Kind::dict:
      return "dict";
    case Kind::object:
      return value.object().type_name();
  }
  return "object";
}

int compare_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return a.integer() < b.integer() ? -1 : a.integer() > b.integer() ? 1 : 0;
  }
  if (a.is(Kind::real) && b.is(Kind::real)) {
    const double x = a.real();
    const double y = b.real();
    return std::isnan(x) || std::isnan(y) ? 2 : x < y ? -1 : x > y ? 1 : 0;
  }
  if (a.is(Kind::real)) {
    const int reversed = compare_numbers(b, a);
    return reversed == 2 ? 2 : -reversed;
  }
  // An integer and a float: rounding the integer first would call neighbours equal.
  const double y = b.real();
  if (std::isnan(y)) return 2;
  if (y >= 9223372036854775808.0) return -1;
  if (y < -9223372036854775808.0) return 1;
  const double whole = std::floor(y);
  const int64_t floor = static_cast<int64_t>(whole);
  if (a.integer() != floor) return a.integer() < floor ? -1 : 1;
  return y > whole ? -1 : 0;
}

bool equal_keys(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::big_integer:
      return a.note() == b.note();
    case Kind::string:
      return a.text() == b.text();
    case Kind::tuple: {
      if (a.items().size() != b.items().size()) return false;
      for (size_t i = 0; i < a.items().size(); ++i) {
        if (!equal_keys(a.items()[i], b.items()[i])) return false;
      }
      return true;
    }
    default:
      return false;
  }
}

}  // namespace keye::text
