#include "media/fetch.h"

#include <curl/curl.h>
#include <sys/socket.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <utility>

#include "media/ascii.h"
#include "media/load.h"
#include "media/url.h"

namespace keye::media {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kPollMs = 1000;  // libcurl looks up earlier for its own timeouts, sockets and curl_multi_wakeup

struct EasyCleanup {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct MultiCleanup {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};

template <class T>
void set(CURL* easy, CURLoption option, T value) {
  const CURLcode code = curl_easy_setopt(easy, option, value);
  KEYE_CHECK(code == CURLE_OK, "libcurl option {}: {}", static_cast<int>(option), curl_easy_strerror(code));
}

/// One reference on its way, and what its callbacks leave behind.
struct Transfer {
  size_t index = 0;  // of the reference
  Url url;           // of the present hop
  Clock::time_point deadline;
  milliseconds time{0};  // that the deadline is the end of
  int redirects = 0;
  const FetchPolicy* policy = nullptr;
  size_t bytes_max = 0;
  std::unique_ptr<CURL, EasyCleanup> easy{curl_easy_init()};
  std::string body;
  bool over = false;      // the body outgrew bytes_max
  bool all_over = false;  // all bodies together outgrew the policy's all_bytes_max
  size_t* all_bytes = nullptr;
  bool opened = false;       // a socket was opened in this hop
  std::string_view refused;  // why a socket was not

  long status() const {
    long status = 0;
    curl_easy_getinfo(easy.get(), CURLINFO_RESPONSE_CODE, &status);
    return status;
  }
};

/// Here, with the very address that the socket will be connected to, and nowhere else is it judged: what a name
/// resolved to earlier or elsewhere proves nothing.
curl_socket_t open_socket(void* user, curlsocktype, curl_sockaddr* address) {
  auto& transfer = *static_cast<Transfer*>(user);
  const std::string_view refused = refused_address(address->addr, *transfer.policy);
  if (!refused.empty()) {
    transfer.refused = refused;
    return CURL_SOCKET_BAD;
  }
  const int fd = ::socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
  transfer.opened = transfer.opened || fd >= 0;
  return fd;
}

size_t write_body(char* data, size_t, size_t bytes, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  if (transfer.status() != 200) return CURL_WRITEFUNC_ERROR;  // an error's page or a redirect's is of no use
  if (bytes > transfer.bytes_max - transfer.body.size()) {
    transfer.over = true;
    return CURL_WRITEFUNC_ERROR;
  }
  if (*transfer.all_bytes + bytes > transfer.policy->all_bytes_max) {
    transfer.all_over = true;
    return CURL_WRITEFUNC_ERROR;
  }
  *transfer.all_bytes += bytes;
  transfer.body.append(data, bytes);
  return bytes;
}

/// What holds for every hop. Whatever libcurl could take from the environment or do on its own is turned off.
void set_up(Transfer& transfer) {
  CURL* easy = transfer.easy.get();
  KEYE_CHECK(easy != nullptr, "libcurl gives no handle");
  set(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  set(easy, CURLOPT_PROXY, "");
  set(easy, CURLOPT_NOPROXY, "*");
  set(easy, CURLOPT_NETRC, long{CURL_NETRC_IGNORED});
  set(easy, CURLOPT_FOLLOWLOCATION, 0L);
  set(easy, CURLOPT_PATH_AS_IS, 1L);
  set(easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
  set(easy, CURLOPT_SSL_VERIFYPEER, 1L);
  set(easy, CURLOPT_SSL_VERIFYHOST, 2L);
  set(easy, CURLOPT_HTTP_VERSION, long{CURL_HTTP_VERSION_1_1});  // every server has it; the least code to trust
  set(easy, CURLOPT_USERAGENT, "keye/" KEYE_VERSION);
  set(easy, CURLOPT_NOSIGNAL, 1L);
  set(easy, CURLOPT_QUICK_EXIT, 1L);  // otherwise ending a transfer waits for its name to be resolved
  set(easy, CURLOPT_MAXFILESIZE_LARGE, static_cast<curl_off_t>(transfer.bytes_max));
  set(easy, CURLOPT_OPENSOCKETFUNCTION, &open_socket);
  set(easy, CURLOPT_OPENSOCKETDATA, &transfer);
  set(easy, CURLOPT_WRITEFUNCTION, &write_body);
  set(easy, CURLOPT_WRITEDATA, &transfer);
  set(easy, CURLOPT_PRIVATE, &transfer);
}

Error too_many_bytes(const FetchPolicy& policy) {
  return make_error(ErrorCode::too_large, "", "with the pictures before it more than {} bytes", policy.all_bytes_max);
}

Error status_error(long status) {
  ErrorCode code = ErrorCode::invalid_argument;
  if (status == 404 || status == 410) code = ErrorCode::not_found;
  if (status == 408 || status == 429 || status >= 500) code = ErrorCode::unavailable;
  return make_error(code, "", "the server answered with status {}, expected 200", status);
}

/// libcurl's own words name addresses and ports that a name resolved to; these do not.
Error transfer_error(const Transfer& transfer, CURLcode code) {
  const auto fail = [](ErrorCode kind, std::string_view what) { return make_error(kind, "", "{}", what); };
  switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
      return make_error(ErrorCode::deadline, "", "not done after {} ms", transfer.time.count());
    case CURLE_COULDNT_RESOLVE_HOST:
      return fail(ErrorCode::unavailable, "the host name does not resolve");
    case CURLE_COULDNT_CONNECT:
      if (transfer.opened || transfer.refused.empty()) return fail(ErrorCode::unavailable, "no connection to the host");
      return make_error(ErrorCode::invalid_argument, "",
                        "the host {} has no public address ({}) and is not among the allowed media domains",
                        transfer.url.host.text, transfer.refused);
    case CURLE_FILESIZE_EXCEEDED:
      return make_error(ErrorCode::too_large, "", "more than {} bytes, which is the limit", transfer.bytes_max);
    case CURLE_PEER_FAILED_VERIFICATION:
      return fail(ErrorCode::unavailable, "the server's certificate is not trusted, or is another host's");
    default:
      return fail(ErrorCode::unavailable, curl_easy_strerror(code));
  }
}

Result<std::string> outcome(Transfer& transfer, CURLcode code) {
  const long status = transfer.status();
  if (code == CURLE_OPERATION_TIMEDOUT || status == 0) return transfer_error(transfer, code);
  if (status != 200) return status_error(status);
  if (transfer.over) return transfer_error(transfer, CURLE_FILESIZE_EXCEEDED);
  if (transfer.all_over) return too_many_bytes(*transfer.policy);
  if (code != CURLE_OK) return transfer_error(transfer, code);
  return std::move(transfer.body);
}

bool is_redirect(long status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/// The next hop, read by our own reader from the header's bytes: libcurl's idea of it is not asked for.
Result<Url> next_hop(const Transfer& transfer) {
  if (transfer.redirects >= transfer.policy->redirects_max) {
    return make_error(ErrorCode::invalid_argument, "", "more than {} redirects", transfer.policy->redirects_max);
  }
  curl_header* location = nullptr;
  const CURLHcode found = curl_easy_header(transfer.easy.get(), "Location", 0, CURLH_HEADER, -1, &location);
  if (found != CURLHE_OK || location->amount != 1) {
    return make_error(ErrorCode::invalid_argument, "", "a redirect (status {}) without one Location",
                      transfer.status());
  }
  auto url = resolve_url(transfer.url, location->value);
  if (!url) return make_error(url.error().code, "", "a redirect to a URL that is refused: {}", url.error().message);
  KEYE_TRY_VOID(check_redirect(transfer.url, *url, *transfer.policy));
  return url;
}

/// Fetches over one multi handle, which lives for one call: nothing is shared with other calls, whose policy may
/// differ.
class Downloads {
 public:
  Downloads(const FetchPolicy& policy, const MediaLimits& limits, std::vector<Result<std::string>>& results)
      : policy_(policy), limits_(limits), results_(results) {}
  ~Downloads() {
    for (const auto& transfer : active_) curl_multi_remove_handle(multi_.get(), transfer->easy.get());
  }
  Downloads(const Downloads&) = delete;
  Downloads& operator=(const Downloads&) = delete;

  void add(size_t index, Url url) { waiting_.emplace_back(index, std::move(url)); }
  /// Bytes that came without the network. False: they are too many.
  bool count(size_t bytes) {
    bytes_ += bytes;
    return bytes_ <= policy_.all_bytes_max;
  }
  /// Until all are done or `stop` is requested; what is not done then keeps the result that it had.
  void run(const std::stop_token& stop);

 private:
  CURLMcode step();
  void begin(size_t index, Url url);
  void start(Transfer& transfer);
  bool finish_done();
  void finish(Transfer& transfer, CURLcode code);
  void store(Transfer& transfer, Result<std::string> result);
  void fail(size_t index, ErrorCode code, std::string message);

  const FetchPolicy& policy_;
  const MediaLimits& limits_;
  std::vector<Result<std::string>>& results_;
  const Clock::time_point deadline_ = Clock::now() + policy_.all_timeout;
  size_t bytes_ = 0;  // that came, of all references
  std::deque<std::pair<size_t, Url>> waiting_;
  std::unique_ptr<CURLM, MultiCleanup> multi_;
  std::vector<std::unique_ptr<Transfer>> active_;
};

void Downloads::begin(size_t index, Url url) {
  auto transfer = std::make_unique<Transfer>();
  transfer->index = index;
  transfer->url = std::move(url);
  transfer->deadline = std::min(Clock::now() + policy_.timeout, deadline_);
  transfer->time = transfer->deadline == deadline_ ? policy_.all_timeout : policy_.timeout;
  transfer->policy = &policy_;
  transfer->bytes_max = limits_.bytes_max;
  transfer->all_bytes = &bytes_;
  set_up(*transfer);
  start(*transfer);
  active_.push_back(std::move(transfer));
}

/// One hop, with what is left of the reference's time; libcurl reads a timeout of 0 as none.
void Downloads::start(Transfer& transfer) {
  const auto left = std::chrono::ceil<milliseconds>(transfer.deadline - Clock::now());
  set(transfer.easy.get(), CURLOPT_TIMEOUT_MS, static_cast<long>(std::max<int64_t>(left.count(), 1)));
  set(transfer.easy.get(), CURLOPT_URL, transfer.url.to_string().c_str());
  transfer.body.clear();
  transfer.over = transfer.all_over = transfer.opened = false;
  transfer.refused = {};
  const CURLMcode code = curl_multi_add_handle(multi_.get(), transfer.easy.get());
  KEYE_CHECK(code == CURLM_OK, "libcurl: {}", curl_multi_strerror(code));
}

void Downloads::finish(Transfer& transfer, CURLcode code) {
  curl_multi_remove_handle(multi_.get(), transfer.easy.get());
  if (code == CURLE_OPERATION_TIMEDOUT || !is_redirect(transfer.status())) {
    return store(transfer, outcome(transfer, code));
  }
  auto url = next_hop(transfer);
  if (!url) return store(transfer, url.error());
  transfer.url = std::move(url).value();
  ++transfer.redirects;
  start(transfer);
}

void Downloads::store(Transfer& transfer, Result<std::string> result) {
  if (result) {
    results_[transfer.index] = std::move(result);
  } else if (transfer.redirects == 0) {
    fail(transfer.index, result.error().code, result.error().message);
  } else {
    fail(transfer.index, result.error().code,
         fmt::format("after {} redirect{}: {}", transfer.redirects, transfer.redirects == 1 ? "" : "s",
                     result.error().message));
  }
  std::erase_if(active_, [&](const auto& other) { return other.get() == &transfer; });
}

void Downloads::fail(size_t index, ErrorCode code, std::string message) {
  results_[index] = Error{code, std::move(message), results_[index].error().where};
}

bool Downloads::finish_done() {
  bool any = false;
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    Transfer* transfer = nullptr;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
    finish(*transfer, message->data.result);
    any = true;
  }
  return any;
}

/// Starts what may start and lets it go on for a while; libcurl's word when the system fails it.
CURLMcode Downloads::step() {
  const size_t parallel = static_cast<size_t>(std::max(policy_.parallel_max, 1));
  while (active_.size() < parallel && !waiting_.empty()) {
    auto [index, url] = std::move(waiting_.front());
    waiting_.pop_front();
    begin(index, std::move(url));
  }
  int running = 0;
  const CURLMcode code = curl_multi_perform(multi_.get(), &running);
  if (finish_done() || code != CURLM_OK) return code;
  return curl_multi_poll(multi_.get(), nullptr, 0, kPollMs, nullptr);
}

void Downloads::run(const std::stop_token& stop) {
  if (waiting_.empty()) return;
  static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
  KEYE_CHECK(ready == CURLE_OK, "libcurl does not start: {}", curl_easy_strerror(ready));
  multi_.reset(curl_multi_init());
  CURLMcode code = multi_ != nullptr ? CURLM_OK : CURLM_OUT_OF_MEMORY;
  const std::stop_callback wake(stop, [this] { curl_multi_wakeup(multi_.get()); });
  while (code == CURLM_OK && !stop.stop_requested() && !(active_.empty() && waiting_.empty())) code = step();
  if (code == CURLM_OK) return;
  for (const auto& transfer : active_) fail(transfer->index, ErrorCode::io, curl_multi_strerror(code));
  for (const auto& [index, url] : waiting_) fail(index, ErrorCode::io, curl_multi_strerror(code));
}

bool has_scheme(const std::string& reference, std::string_view scheme) {
  return lower(reference.substr(0, scheme.size())) == scheme;
}

/// References that need no network.
Result<std::string> load_here(const std::string& reference, const FetchPolicy& policy, const MediaLimits& limits) {
  if (has_scheme(reference, "data:")) return load_data_uri(reference, limits);
  if (has_scheme(reference, "file:")) {
    KEYE_TRY(const Path path, file_uri_path(reference));
    if (policy.any_path) return read_file(path, limits.bytes_max);
    if (policy.local_root) return load_below(*policy.local_root, path, limits);
    return make_error(ErrorCode::unsupported, "", "files are not read here; send a data: URI");
  }
  if (reference.find("://") != std::string::npos) {
    return make_error(ErrorCode::unsupported, "", "known are http://, https://, file:// and data:");
  }
  if (!policy.any_path) {
    return make_error(ErrorCode::unsupported, "", "paths are not read here; expected an http(s) URL or a data: URI");
  }
  if (reference.empty() || reference.find('\0') != std::string::npos) {
    return make_error(ErrorCode::invalid_argument, "", "an empty path, or one with a zero byte");
  }
  return read_file(Path(reference), limits.bytes_max);
}

Result<Url> admit(const std::string& reference, const FetchPolicy& policy) {
  KEYE_TRY(Url url, parse_url(reference));
  KEYE_TRY_VOID(check_url(url, policy));
  return url;
}

}  // namespace

std::vector<Result<std::string>> fetch_media(std::span<const std::string> references, const FetchPolicy& policy,
                                             const MediaLimits& limits, const std::stop_token& stop) {
  std::vector<Result<std::string>> results;
  for (const std::string& reference : references) {
    results.emplace_back(Error{ErrorCode::cancelled, "stopped on request", shown_reference(reference)});
  }
  Downloads downloads(policy, limits, results);
  for (size_t i = 0; i < references.size() && !stop.stop_requested(); ++i) {
    const std::string& reference = references[i];
    const auto about = [&](const Error& error) { return Error{error.code, error.message, shown_reference(reference)}; };
    if (has_scheme(reference, "http:") || has_scheme(reference, "https:")) {
      auto url = admit(reference, policy);
      if (url) {
        downloads.add(i, std::move(url).value());
      } else {
        results[i] = about(url.error());
      }
    } else {
      auto bytes = load_here(reference, policy, limits);
      if (bytes && !downloads.count(bytes->size())) bytes = too_many_bytes(policy);
      results[i] = bytes ? std::move(bytes) : about(bytes.error());
    }
  }
  downloads.run(stop);
  return results;
}

Result<Clip> fetch_clip(const std::string& reference, const FetchPolicy& policy, int64_t bytes_max,
                        const std::stop_token& stop) {
  const auto open_file = [&]() -> Result<Clip> {
    const bool is_uri = has_scheme(reference, "file:");
    KEYE_TRY(const Path path, is_uri ? file_uri_path(reference) : Result<Path>(Path(reference)));
    if (policy.any_path) return Clip::from_file(path, bytes_max);
    return Clip::from_file_below(*policy.local_root, path, bytes_max);
  };
  const bool is_path = reference.find("://") == std::string::npos && !has_scheme(reference, "data:") &&
                       !has_scheme(reference, "file:") && !reference.empty() &&
                       reference.find('\0') == std::string::npos;
  if ((is_path && policy.any_path) || (has_scheme(reference, "file:") && (policy.any_path || policy.local_root))) {
    auto clip = open_file();
    if (!clip) return Error{clip.error().code, clip.error().message, shown_reference(reference)};
    return clip;
  }
  FetchPolicy one = policy;
  one.all_bytes_max = std::max(one.all_bytes_max, static_cast<size_t>(bytes_max));
  KEYE_TRY(const std::string bytes, fetch_media(reference, one, {.bytes_max = static_cast<size_t>(bytes_max)}, stop));
  return Clip::from_bytes(bytes, bytes_max);
}

Result<std::string> fetch_media(const std::string& reference, const FetchPolicy& policy, const MediaLimits& limits,
                                const std::stop_token& stop) {
  return std::move(fetch_media(std::span(&reference, 1), policy, limits, stop).front());
}

}  // namespace keye::media
