// Text of which every byte still knows who wrote it: what keeps a user's "<|im_end|>" from becoming a special token.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace keye::text {

/// Who wrote a byte. Only bytes of the engine (the template, this program) may ever form a special token.
inline constexpr char kOriginEngine = 0;
inline constexpr char kOriginUser = 1;       // user, system and tool messages, tool definitions
inline constexpr char kOriginAssistant = 2;  // earlier answers of the model

/// UTF-8 text with an origin for every byte. `origin` is as long as `text`, or empty when the engine wrote all of it.
struct Marked {
  std::string text;
  std::string origin;

  Marked() = default;
  Marked(std::string bytes) : text(std::move(bytes)) {}  // NOLINT: the engine's own text needs no ceremony
  Marked(std::string_view bytes) : text(bytes) {}        // NOLINT
  Marked(const char* bytes) : text(bytes) {}             // NOLINT
  Marked(std::string bytes, char from) : text(std::move(bytes)) {
    if (from != kOriginEngine) origin.assign(text.size(), from);
  }

  size_t size() const { return text.size(); }
  bool empty() const { return text.empty(); }
  char origin_at(size_t byte) const { return origin.empty() ? kOriginEngine : origin[byte]; }

  void append(std::string_view bytes, char from = kOriginEngine) {
    if (bytes.empty()) return;
    if (from != kOriginEngine || !origin.empty()) {
      origin.resize(text.size(), kOriginEngine);
      origin.append(bytes.size(), from);
    }
    text.append(bytes);
  }
  void append(const char* bytes, char from = kOriginEngine) { append(std::string_view(bytes), from); }
  void append(const std::string& bytes, char from = kOriginEngine) { append(std::string_view(bytes), from); }
  void append(const Marked& other) { append(other, 0, other.size()); }
  /// Bytes [begin, begin + count) of another text.
  void append(const Marked& other, size_t begin, size_t count) {
    if (count == 0) return;
    if (!other.origin.empty() || !origin.empty()) {
      origin.resize(text.size(), kOriginEngine);
      if (other.origin.empty()) {
        origin.append(count, kOriginEngine);
      } else {
        origin.append(other.origin, begin, count);
      }
    }
    text.append(other.text, begin, count);
  }
  Marked slice(size_t begin, size_t count) const {
    Marked part;
    part.append(*this, begin, count);
    return part;
  }
  void clear() {
    text.clear();
    origin.clear();
  }
};

}  // namespace keye::text
