#include "media/load.h"

#include <algorithm>
#include <array>

#include "base/file.h"

namespace keye::media {
namespace {

constexpr uint8_t kSkip = 64;
constexpr uint8_t kBad = 65;

constexpr std::array<uint8_t, 256> kBase64 = [] {
  std::array<uint8_t, 256> table{};
  table.fill(kBad);
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < kAlphabet.size(); ++i) table[static_cast<uint8_t>(kAlphabet[i])] = static_cast<uint8_t>(i);
  table['-'] = 62;
  table['_'] = 63;
  for (const char c : {' ', '\t', '\r', '\n'}) table[static_cast<uint8_t>(c)] = kSkip;
  return table;
}();

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

Error too_large(std::string_view where, size_t bytes, const MediaLimits& limits) {
  return make_error(ErrorCode::too_large, where, "{} bytes, over the limit of {}", bytes, limits.bytes_max);
}

Result<std::string> load_data_uri(std::string_view uri, const MediaLimits& limits) {
  constexpr std::string_view kWhere = "data URI";
  const size_t comma = uri.find(',');
  if (comma == std::string_view::npos) {
    return make_error(ErrorCode::invalid_argument, kWhere, "no comma before the data: {}", shown_reference(uri));
  }
  const std::string header = lower(uri.substr(0, comma));
  std::string_view payload = uri.substr(comma + 1);
  if (!header.ends_with(";base64")) {
    if (payload.size() / 3 > limits.bytes_max) return too_large(kWhere, payload.size() / 3, limits);
    KEYE_TRY(std::string bytes, decode_percent(payload));
    if (bytes.size() > limits.bytes_max) return too_large(kWhere, bytes.size(), limits);
    return bytes;
  }
  if (payload.size() / 4 * 3 > limits.bytes_max + limits.bytes_max / 16 + 64) {  // a sixteenth for line breaks
    return too_large(kWhere, payload.size() / 4 * 3, limits);
  }
  std::string unescaped;
  if (payload.find('%') != std::string_view::npos) {  // "+" and "/" may come as %2B and %2F
    KEYE_TRY(unescaped, decode_percent(payload));
    payload = unescaped;
  }
  KEYE_TRY(std::string bytes, decode_base64(payload));
  if (bytes.size() > limits.bytes_max) return too_large(kWhere, bytes.size(), limits);
  return bytes;
}

Result<std::string> load_file_uri(std::string_view uri, const MediaLimits& limits) {
  std::string_view rest = uri.substr(std::string_view("file:").size());
  if (rest.starts_with("//")) {
    rest.remove_prefix(2);
    const std::string_view host = rest.substr(0, rest.find('/'));
    if (!host.empty() && lower(host) != "localhost") {
      return make_error(ErrorCode::invalid_argument, shown_reference(uri), "the host must be empty or localhost, not {}",
                        host);
    }
    rest.remove_prefix(host.size());
  }
  KEYE_TRY(const std::string path, decode_percent(rest));
  if (path.empty() || path.front() != '/' || path.find('\0') != std::string::npos) {
    return make_error(ErrorCode::invalid_argument, shown_reference(uri), "a file URI names an absolute path: file:///path");
  }
  return read_file(Path(path), limits.bytes_max);
}

}  // namespace

std::string shown_reference(std::string_view reference) {
  const size_t shown = lower(reference.substr(0, 5)) == "data:" ? 60 : 4096;
  if (reference.size() <= shown) return std::string(reference);
  return fmt::format("{}... ({} characters)", reference.substr(0, shown), reference.size());
}

Result<std::string> decode_base64(std::string_view text) {
  const auto refuse = [](std::string_view what) {
    return make_error(ErrorCode::invalid_argument, "base64", "{}", what);
  };
  std::string out;
  out.reserve(text.size() / 4 * 3 + 3);
  uint32_t buffer = 0;
  int bits = 0;
  size_t i = 0;
  for (; i < text.size() && text[i] != '='; ++i) {
    const uint8_t value = kBase64[static_cast<uint8_t>(text[i])];
    if (value == kSkip) continue;
    if (value == kBad)
      return refuse(fmt::format("the byte {:#04x} at {} is not of its alphabet", static_cast<uint8_t>(text[i]), i));
    buffer = buffer << 6 | value;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out.push_back(static_cast<char>(buffer >> bits & 0xff));
    }
  }
  if (bits == 6) return refuse("the text ends with a single digit of a group of four");
  int padding = 0;
  for (; i < text.size(); ++i) {
    if (text[i] == '=') {
      ++padding;
    } else if (kBase64[static_cast<uint8_t>(text[i])] != kSkip) {
      return refuse(fmt::format("data follow the padding at {}", i));
    }
  }
  if (padding > 0 && padding != bits / 2)
    return refuse(fmt::format("{} padding characters, expected {}", padding, bits / 2));
  return out;
}

Result<std::string> decode_percent(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    const int high = i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    if (high < 0 || low < 0) {
      return make_error(ErrorCode::invalid_argument, "URI", "a % at {} without two hexadecimal digits", i);
    }
    out.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return out;
}

Result<std::string> load_media_bytes(std::string_view reference, const MediaLimits& limits) {
  const std::string scheme = lower(reference.substr(0, std::min<size_t>(reference.size(), 8)));
  if (scheme.starts_with("data:")) return load_data_uri(reference, limits);
  if (scheme.starts_with("file:")) return load_file_uri(reference, limits);
  if (reference.find("://") != std::string_view::npos) {
    return make_error(ErrorCode::unsupported, shown_reference(reference),
                      "pictures are read from paths, file:// URIs and data: URIs; download this one first");
  }
  if (reference.empty() || reference.find('\0') != std::string_view::npos) {
    return make_error(ErrorCode::invalid_argument, "picture", "an empty path, or one with a zero byte");
  }
  return read_file(Path(reference), limits.bytes_max);
}

}  // namespace keye::media
