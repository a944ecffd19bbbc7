#include "media/load.h"

#include <algorithm>
#include <array>
#include <optional>
#include <system_error>

#include "media/ascii.h"

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

Error too_large(std::string_view where, size_t bytes, const MediaLimits& limits) {
  return make_error(ErrorCode::too_large, where, "{} bytes, over the limit of {}", bytes, limits.bytes_max);
}

/// What follows "root/" in `path`.
std::optional<Path> inside(const Path& root, const Path& path) {
  if (root.empty()) return std::nullopt;
  std::string prefix = root.string();
  if (!prefix.ends_with('/')) prefix += '/';
  const std::string& text = path.native();
  if (!text.starts_with(prefix)) return std::nullopt;
  return Path(text.substr(std::min(text.find_first_not_of('/', prefix.size()), text.size())));
}

/// `path` from `root` on; `given` becomes the root's absolute path.
Result<Path> path_inside(const Path& root, const Path& path, Path& given) {
  std::error_code failure;
  given = std::filesystem::absolute(root, failure).lexically_normal();
  std::optional<Path> relative = inside(given, path);
  if (!relative) relative = inside(std::filesystem::canonical(root, failure), path);
  if (relative) return *std::move(relative);
  return make_error(ErrorCode::invalid_argument, path.string(), "outside the folder that files are read from");
}

}  // namespace

std::string shown_reference(std::string_view reference) {
  const size_t shown = lower(reference.substr(0, 5)) == "data:" ? 60 : 4096;
  std::string out;
  for (const char c : reference.substr(0, shown)) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  return reference.size() <= shown ? out : fmt::format("{}... ({} characters)", out, reference.size());
}

Result<std::string> decode_base64(std::string_view text) {
  const auto refuse = [](std::string_view what) {
    return make_error(ErrorCode::invalid_argument, "data URI", "base64: {}", what);
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

Result<std::string> load_data_uri(std::string_view uri, const MediaLimits& limits) {
  constexpr std::string_view kWhere = "data URI";
  const size_t comma = uri.find(',');
  if (comma == std::string_view::npos) {
    return make_error(ErrorCode::invalid_argument, kWhere, "no comma before the data");
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

Result<Path> file_uri_path(std::string_view uri) {
  std::string_view rest = uri.substr(std::string_view("file:").size());
  if (rest.starts_with("//")) {
    rest.remove_prefix(2);
    const std::string_view host = rest.substr(0, rest.find('/'));
    if (!host.empty() && lower(host) != "localhost") {
      return make_error(ErrorCode::invalid_argument, "file URI", "the host must be empty or localhost, not {}",
                        shown_reference(host));
    }
    rest.remove_prefix(host.size());
  }
  KEYE_TRY(std::string path, decode_percent(rest));
  if (path.empty() || path.front() != '/' || path.find('\0') != std::string::npos) {
    return make_error(ErrorCode::invalid_argument, "file URI", "it must name an absolute path: file:///path");
  }
  return Path(std::move(path));
}

Result<std::string> load_below(const Path& root, const Path& path, const MediaLimits& limits) {
  Path folder;
  KEYE_TRY(const Path relative, path_inside(root, path, folder));
  return read_file_below(folder, relative, limits.bytes_max);
}

Result<OpenFile> open_below(const Path& root, const Path& path) {
  Path folder;
  KEYE_TRY(const Path relative, path_inside(root, path, folder));
  return open_file_below(folder, relative);
}

}  // namespace keye::media
