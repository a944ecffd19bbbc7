#include "media/url.h"

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "media/address.h"
#include "media/ascii.h"

namespace keye::media {
namespace {

constexpr std::string_view kIpv4Form = "an IPv4 address is four decimal numbers without leading zeros, like 192.0.2.1";

template <class... Args>
Error refuse(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::invalid_argument, "", format, std::forward<Args>(args)...);
}

/// What no part of a URL may hold, checked first so that no later step sees it.
Result<void> check_bytes(std::string_view text) {
  if (text.size() > kUrlBytesMax) {
    return make_error(ErrorCode::too_large, "", "a URL of {} bytes, over the limit of {}", text.size(), kUrlBytesMax);
  }
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '\\') return refuse("a URL may not contain a backslash");
    if (c == ' ') return refuse("a URL may not contain a space; in a path it is written %20");
    if (byte < 0x20 || byte == 0x7f) return refuse("a URL may not contain the control character {:#04x}", byte);
    if (byte >= 0x80) {
      return refuse(
          "a URL may not contain non-ASCII bytes; the host is written in punycode (xn--...), the rest as %XX");
    }
  }
  return {};
}

/// RFC 3986: pchar, "/", and after the path "?".
Result<void> check_escapes(std::string_view text, std::string_view part, bool path) {
  constexpr std::string_view kMarks = "-._~!$&'()*+,;=:@/";
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (is_alpha(c) || is_digit(c) || kMarks.find(c) != std::string_view::npos || (c == '?' && !path)) continue;
    if (c != '%') return refuse("the {} contains \"{}\", which is written %{:02X}", part, c, static_cast<uint8_t>(c));
    if (i + 2 >= text.size() || hex_digit(text[i + 1]) < 0 || hex_digit(text[i + 2]) < 0) {
      return refuse("the {} contains a % without two hexadecimal digits", part);
    }
  }
  return {};
}

/// RFC 3986, 5.2.4. `path` starts with "/".
std::string remove_dot_segments(std::string_view path) {
  std::vector<std::string_view> kept;
  for (bool last = false; !last;) {
    path.remove_prefix(1);
    const size_t end = path.find('/');
    last = end == std::string_view::npos;
    const std::string_view segment = path.substr(0, end);
    if (segment == ".." && !kept.empty()) kept.pop_back();
    if (segment != "." && segment != "..") {
      kept.push_back(segment);
    } else if (last) {
      kept.emplace_back();
    }
    if (!last) path.remove_prefix(end);
  }
  std::string out;
  for (const std::string_view segment : kept) out.append("/").append(segment);
  return out.empty() ? "/" : out;
}

/// Some resolvers read such a name as an IPv4 address: 2130706433, 0177.0.0.1, 127.1, 0x7f.1.
bool ends_in_number(std::string_view name) {
  const std::string_view label = name.substr(name.rfind('.') + 1);
  if (label.starts_with("0x")) return std::ranges::all_of(label.substr(2), [](char c) { return hex_digit(c) >= 0; });
  return std::ranges::all_of(label, is_digit);
}

Result<Host> parse_name(std::string_view text) {
  std::string name = lower(text);
  if (name.empty()) return refuse("the host is empty");
  if (name.size() > 253) return refuse("the host has {} characters, over the limit of 253", name.size());
  size_t label = 0;
  for (const char c : name) {
    if (c == '%') return refuse("the host may not contain percent escapes");
    if (!is_alpha(c) && !is_digit(c) && c != '-' && c != '_' && c != '.') return refuse("the host contains \"{}\"", c);
    if (c == '.' && label == 0) return refuse("the host has an empty label: two dots, or one at the start");
    label = c == '.' ? 0 : label + 1;
    if (label > 63) return refuse("a label of the host has more than 63 characters");
  }
  if (label == 0) return refuse("the host ends with a dot; leave it out");
  if (ends_in_number(name)) {
    if (!parse_ip(name)) return refuse("the host is a number; {}", kIpv4Form);
    return Host{std::move(name), true};
  }
  return Host{std::move(name), false};
}

Result<Host> parse_ipv6(std::string_view text) {
  if (text.find('%') != std::string_view::npos) return refuse("IPv6 zones are not for URLs");
  const auto address = text.find(':') == std::string_view::npos ? std::nullopt : parse_ip(text);
  if (!address) return refuse("what stands in brackets is not an IPv6 address");
  return Host{to_string(*address), true};
}

uint16_t standard_port(std::string_view scheme) { return scheme == "https" ? 443 : 80; }

Result<uint16_t> parse_port(std::string_view text, uint16_t standard) {
  if (text.empty()) return standard;
  text.remove_prefix(1);
  unsigned port = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (text.empty() || text.size() > 5 || failure != std::errc() || end != text.data() + text.size() || port == 0 ||
      port > 65535) {
    return refuse("the port must be a number from 1 to 65535");
  }
  return static_cast<uint16_t>(port);
}

Result<void> parse_authority(std::string_view text, Url& url) {
  if (text.find('@') != std::string_view::npos) return refuse("user names and passwords in a URL are not accepted");
  const bool brackets = text.starts_with('[');
  const size_t end = brackets ? text.find(']') : std::min(text.find(':'), text.size());
  if (end == std::string_view::npos) return refuse("a bracket of the host is not closed");
  const std::string_view rest = text.substr(brackets ? end + 1 : end);
  if (!rest.empty() && rest.front() != ':') return refuse("after an IPv6 address only a port may follow");
  if (rest.rfind(':') != 0 && !rest.empty()) return refuse("two ports; an IPv6 address is written in brackets");
  if (brackets) {
    KEYE_TRY(url.host, parse_ipv6(text.substr(1, end - 1)));
  } else {
    KEYE_TRY(url.host, parse_name(text.substr(0, end)));
  }
  KEYE_TRY(url.port, parse_port(rest, standard_port(url.scheme)));
  return {};
}

std::string origin_of(const Url& url) {
  const bool brackets = url.host.text.find(':') != std::string::npos;
  std::string out = fmt::format("{}://{}{}{}", url.scheme, brackets ? "[" : "", url.host.text, brackets ? "]" : "");
  if (url.port != standard_port(url.scheme)) out += fmt::format(":{}", url.port);
  return out;
}

}  // namespace

std::string Url::to_string() const { return origin_of(*this) + path_and_query; }

Result<Url> parse_url(std::string_view text) {
  KEYE_TRY_VOID(check_bytes(text));
  const size_t colon = text.find(':');
  Url url;
  if (colon != std::string_view::npos) url.scheme = lower(text.substr(0, colon));
  if (url.scheme != "http" && url.scheme != "https") {
    const bool other = colon != std::string_view::npos && text.substr(colon).starts_with("://");
    return make_error(other ? ErrorCode::unsupported : ErrorCode::invalid_argument, "",
                      "the URL must start with http:// or https://");
  }
  std::string_view rest = text.substr(colon + 1);
  if (!rest.starts_with("//")) return refuse("after \"{}:\" must follow //", url.scheme);
  rest.remove_prefix(2);
  const std::string_view authority = rest.substr(0, rest.find_first_of("/?#"));
  KEYE_TRY_VOID(parse_authority(authority, url));
  rest.remove_prefix(authority.size());

  const std::string_view fragment = rest.substr(std::min(rest.find('#'), rest.size()));
  rest.remove_suffix(fragment.size());
  const std::string_view query = rest.substr(std::min(rest.find('?'), rest.size()));
  rest.remove_suffix(query.size());
  KEYE_TRY_VOID(check_escapes(rest, "path", true));
  KEYE_TRY_VOID(check_escapes(query, "query", false));
  KEYE_TRY_VOID(check_escapes(fragment.substr(fragment.empty() ? 0 : 1), "fragment", false));
  url.path_and_query = (rest.empty() ? "/" : remove_dot_segments(rest)) + std::string(query);
  return url;
}

Result<Url> resolve_url(const Url& base, std::string_view reference) {
  const size_t first = reference.find_first_of(":/?#");
  if (first != std::string_view::npos && reference[first] == ':') return parse_url(reference);
  if (reference.starts_with("//")) return parse_url(base.scheme + ":" + std::string(reference));
  const std::string_view whole = base.path_and_query;
  const std::string_view path = whole.substr(0, whole.find('?'));
  std::string_view kept;
  if (reference.empty() || reference.front() == '#') {
    kept = whole;
  } else if (reference.front() == '?') {
    kept = path;
  } else if (reference.front() != '/') {
    kept = path.substr(0, path.rfind('/') + 1);
  }
  return parse_url(origin_of(base) + std::string(kept) + std::string(reference));
}

Result<Host> parse_host(std::string_view text) {
  KEYE_TRY_VOID(check_bytes(text));
  if (text.size() > 2 && text.front() == '[' && text.back() == ']') return parse_ipv6(text.substr(1, text.size() - 2));
  return text.find(':') == std::string_view::npos ? parse_name(text) : parse_ipv6(text);
}

}  // namespace keye::media
