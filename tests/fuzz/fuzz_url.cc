// Any bytes as a URL, alone and as a redirect's Location: refused, or read to a canonical text that reads the same
// again, and the same to libcurl, which connects by it.
#include <curl/curl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "media/address.h"
#include "media/url.h"

namespace {

using keye::media::Url;

struct Cleanup {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};

std::string part(CURLU* url, CURLUPart which) {
  char* text = nullptr;
  if (curl_url_get(url, which, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "";
  std::string out = text;
  curl_free(text);
  return out;
}

void check(const Url& url) {
  const std::string text = url.to_string();
  const auto again = keye::media::parse_url(text);
  KEYE_CHECK(again.has_value() && *again == url, "{}", text);
  KEYE_CHECK(again->to_string() == text);
  const auto host = keye::media::parse_host(url.host.text);
  KEYE_CHECK(host.has_value() && *host == url.host);
  KEYE_CHECK(url.host.is_ip == keye::media::parse_ip(url.host.text).has_value());

  const std::unique_ptr<CURLU, Cleanup> theirs(curl_url());
  KEYE_CHECK(curl_url_set(theirs.get(), CURLUPART_URL, text.c_str(), CURLU_PATH_AS_IS) == CURLUE_OK, "{}", text);
  std::string their_host = part(theirs.get(), CURLUPART_HOST);
  if (their_host.starts_with('[')) their_host = their_host.substr(1, their_host.size() - 2);
  KEYE_CHECK(their_host == url.host.text, "{} is not {}", their_host, url.host.text);
  KEYE_CHECK(part(theirs.get(), CURLUPART_SCHEME) == url.scheme);
  KEYE_CHECK(part(theirs.get(), CURLUPART_PORT) == std::to_string(url.port));
  KEYE_CHECK(part(theirs.get(), CURLUPART_USER).empty() && part(theirs.get(), CURLUPART_ZONEID).empty());
  const std::string query = part(theirs.get(), CURLUPART_QUERY);
  const std::string request = part(theirs.get(), CURLUPART_PATH) + (query.empty() ? "" : "?" + query);
  KEYE_CHECK(request == url.path_and_query || request + "?" == url.path_and_query, "{}", text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  static const Url base = *keye::media::parse_url("https://[2001:db8::1]:8443/a/b;c?d");
  if (const auto url = keye::media::parse_url(text)) check(*url);
  if (const auto url = keye::media::resolve_url(base, text)) check(*url);
  return 0;
}
