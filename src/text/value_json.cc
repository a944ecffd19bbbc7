// JSON text to values, through the events of nlohmann's parser, which keep the order of keys.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "text/value_text.h"

namespace keye::text {
namespace {

constexpr size_t kShownBytes = 100;
constexpr size_t kDigitsMax = 4300;  // Python's own limit on reading an integer

/// What the parser says of text that it refuses, without its own names, and cut: it repeats the text.
std::string parse_problem(std::string_view what) {
  constexpr size_t kBytesMax = 300;
  if (what.starts_with('[')) what.remove_prefix(std::min(what.size(), what.find(' ') + 1));
  return what.size() <= kBytesMax ? std::string(what) : fmt::format("{} ...", what.substr(0, kBytesMax));
}

class ValueBuilder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  ValueBuilder(char origin, const ParseRules& rules) : origin_(origin), rules_(rules) {}

  bool null() override { return put(Value::none()); }
  bool boolean(bool value) override { return put(Value(value)); }
  bool number_integer(number_integer_t value) override { return put(Value(int64_t{value})); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX)) return put(Value::big_integer(std::to_string(value)));
    return put(Value(static_cast<int64_t>(value)));
  }
  bool number_float(number_float_t value, const string_t& written) override {
    if (written.find_first_of(".eE") != std::string::npos) return put(Value(double{value}));
    if (written.size() > kDigitsMax) return fail(fmt::format("an integer has more than {} digits", kDigitsMax));
    return put(Value::big_integer(written));
  }
  bool string(string_t& value) override { return put(Value(Marked(std::move(value), origin_))); }
  bool binary(binary_t&) override { return fail("binary values are not JSON"); }
  bool start_object(std::size_t) override { return open(true); }
  bool start_array(std::size_t) override { return open(false); }
  bool key(string_t& value) override {
    if (rules_.unique_keys && open_.back().dict.find(value) != nullptr) {
      return fail(fmt::format("the key \"{}\" appears twice", value.substr(0, kShownBytes)));
    }
    open_.back().key = Value(Marked(std::move(value), origin_));
    return true;
  }
  bool end_object() override {
    Value value = Value::dict(std::move(open_.back().dict));
    open_.pop_back();
    return put(std::move(value));
  }
  bool end_array() override {
    Value value = Value::list(std::move(open_.back().items));
    open_.pop_back();
    return put(std::move(value));
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    return fail(fmt::format("not valid JSON at byte {}: {}", position, parse_problem(error.what())));
  }

  const std::string& message() const { return message_; }
  Value take() { return std::move(root_); }

 private:
  struct Open {
    bool object = false;
    Dict dict;
    Values items;
    Value key;
  };

  bool put(Value value) {
    if (++values_ > rules_.values_max) return fail(fmt::format("has more than {} values", rules_.values_max));
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().object) {
      open_.back().dict.set(std::move(open_.back().key), std::move(value));
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }
  bool open(bool object) {
    if (open_.size() >= static_cast<size_t>(kJsonDepthMax)) {
      return fail(fmt::format("nested deeper than {} levels", kJsonDepthMax));
    }
    open_.push_back({object, {}, {}, {}});
    return true;
  }
  bool fail(std::string message) {
    message_ = std::move(message);
    return false;
  }

  char origin_;
  const ParseRules& rules_;
  size_t values_ = 0;
  Value root_;
  std::vector<Open> open_;
  std::string message_;
};

}  // namespace

Result<Value> parse_value(std::string_view json, char origin, std::string_view where, const ParseRules& rules) {
  ValueBuilder builder(origin, rules);
  if (!nlohmann::json::sax_parse(json, &builder)) {
    return Error{ErrorCode::corrupt_data, builder.message(), std::string(where)};
  }
  return builder.take();
}

}  // namespace keye::text
