#include "base/json.h"

#include <string>
#include <utility>
#include <vector>

namespace keye {
namespace {

/// Builds the value bottom-up, so that depth and duplicate keys are checked as they appear.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(std::string_view where) : where_(where) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return fail("binary values are not JSON"); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    if (open_.back()->contains(value)) return fail(fmt::format("key \"{}\" appears twice", value));
    key_ = std::move(value);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    return fail(fmt::format("not valid JSON at byte {}: {}", position, error.what()));
  }

  Result<Json> finish() && {
    if (!message_.empty()) return Error{ErrorCode::corrupt_data, std::move(message_), std::string(where_)};
    return std::move(root_);
  }

 private:
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    Json& slot = (*open_.back())[key_];
    slot = std::move(value);
    return &slot;
  }
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (open_.size() >= kJsonDepthMax) return fail(fmt::format("nested deeper than {} levels", kJsonDepthMax));
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  bool fail(std::string message) {
    if (message_.empty()) message_ = std::move(message);
    return false;
  }

  std::string_view where_;
  Json root_;
  std::vector<Json*> open_;
  std::string key_;
  std::string message_;
};

}  // namespace

Result<Json> parse_json(std::string_view text, std::string_view where) {
  Builder builder(where);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder).finish();
}

Result<Json> read_json(const Path& path, size_t bytes_max) {
  KEYE_TRY(const std::string text, read_file(path, bytes_max));
  return parse_json(text, path.string());
}

}  // namespace keye
