#include "comm/link.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

namespace keye::comm {
namespace {

/// Of one TLS record: a frame's header and the beginning of its bytes go together.
constexpr size_t kFirstBytes = 16384;
constexpr int kBacklog = 128;
/// After which unacknowledged data breaks a connection, if nothing else has before.
constexpr int kUserTimeoutMs = 60000;
constexpr char kIdentity[] = "keye";

Error unavailable(std::string_view where, std::string_view what) {
  return make_error(ErrorCode::unavailable, where, "{}", what);
}

void set_option(int socket, int level, int name, int value) { ::setsockopt(socket, level, name, &value, sizeof value); }

struct Resolved {
  addrinfo* list = nullptr;
  ~Resolved() {
    if (list != nullptr) ::freeaddrinfo(list);
  }
};

Result<void> resolve(const Address& address, bool to_listen, Resolved& to) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | (to_listen ? AI_PASSIVE : 0);
  const int code = ::getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &to.list);
  if (code == 0) return {};
  return make_error(ErrorCode::invalid_argument, address.to_string(), "cannot be resolved: {}", ::gai_strerror(code));
}

std::string host_of(const sockaddr_storage& storage, socklen_t length, uint16_t* port) {
  char host[NI_MAXHOST] = {};
  char service[NI_MAXSERV] = {};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&storage), length, host, sizeof host, service, sizeof service,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return {};
  }
  if (port != nullptr) std::from_chars(service, service + std::strlen(service), *port);
  return host;
}

using NameOf = int (*)(int, sockaddr*, socklen_t*);

std::string end_of(int socket, NameOf name, uint16_t* port) {
  sockaddr_storage storage = {};
  socklen_t length = sizeof storage;
  if (name(socket, reinterpret_cast<sockaddr*>(&storage), &length) != 0 || storage.ss_family == AF_UNIX) return {};
  return host_of(storage, length, port);
}

// -- the key ------------------------------------------------------------------

int key_index() {
  static const int index = ::SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

/// A session that nobody has had: it stands for the key.
SSL_SESSION* session_of(SSL* ssl) {
  const auto* key = static_cast<const Digest*>(::SSL_CTX_get_ex_data(::SSL_get_SSL_CTX(ssl), key_index()));
  const unsigned char kAes128GcmSha256[] = {0x13, 0x01};
  SSL_SESSION* session = ::SSL_SESSION_new();
  const SSL_CIPHER* cipher = ::SSL_CIPHER_find(ssl, kAes128GcmSha256);
  const bool is_good = session != nullptr && cipher != nullptr &&
                       ::SSL_SESSION_set1_master_key(session, key->bytes.data(), key->bytes.size()) == 1 &&
                       ::SSL_SESSION_set_cipher(session, cipher) == 1 &&
                       ::SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1;
  if (is_good) return session;
  ::SSL_SESSION_free(session);
  return nullptr;
}

int use_key(SSL* ssl, const EVP_MD* /*digest*/, const unsigned char** id, size_t* id_length, SSL_SESSION** session) {
  *session = session_of(ssl);
  *id = reinterpret_cast<const unsigned char*>(kIdentity);
  *id_length = sizeof kIdentity - 1;
  return *session != nullptr ? 1 : 0;
}

int find_key(SSL* ssl, const unsigned char* id, size_t id_length, SSL_SESSION** session) {
  *session = nullptr;
  const bool is_ours = id_length == sizeof kIdentity - 1 && std::memcmp(id, kIdentity, id_length) == 0;
  if (!is_ours) return 1;  // no such key: without a certificate that ends the handshake
  *session = session_of(ssl);
  return *session != nullptr ? 1 : 0;
}

}  // namespace

Digest link_key(const std::string& token) {
  Sha256 hash;
  return hash.add_text("keye link 1").add_text(token).finish();
}

Result<Address> Address::parse(std::string_view text) {
  const size_t colon = text.rfind(':');
  Address address;
  const auto wrong = [&] {
    return make_error(ErrorCode::invalid_argument, text, "is no address; expected HOST:PORT or [V6]:PORT");
  };
  if (colon == std::string_view::npos || colon == 0) return wrong();
  std::string_view host = text.substr(0, colon);
  if (host.front() == '[') {
    if (host.back() != ']') return wrong();
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return wrong();
  }
  const std::string_view port = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (error != std::errc() || end != port.data() + port.size() || address.port == 0 || host.empty()) return wrong();
  address.host = host;
  return address;
}

std::string Address::to_string() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

struct LinkContext::State {
  Digest key;
  SSL_CTX* connecting = nullptr;
  SSL_CTX* accepting = nullptr;

  ~State() {
    ::SSL_CTX_free(connecting);
    ::SSL_CTX_free(accepting);
  }
};

LinkContext::LinkContext(const Digest& key) : state_(std::make_unique<State>()) {
  state_->key = key;
  for (SSL_CTX** context : {&state_->connecting, &state_->accepting}) {
    *context = ::SSL_CTX_new(::TLS_method());
    KEYE_CHECK(*context != nullptr, "no TLS context");
    ::SSL_CTX_set_ex_data(*context, key_index(), &state_->key);
    ::SSL_CTX_set_min_proto_version(*context, TLS1_3_VERSION);
    ::SSL_CTX_set_ciphersuites(*context, "TLS_AES_128_GCM_SHA256");
    ::SSL_CTX_set_num_tickets(*context, 0);
    ::SSL_CTX_set_session_cache_mode(*context, SSL_SESS_CACHE_OFF);
    ::SSL_CTX_set_mode(*context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  }
  // Nobody is trusted by certificate, and this program has none: a handshake without the key fails on either side.
  ::SSL_CTX_set_verify(state_->connecting, SSL_VERIFY_PEER, nullptr);
  ::SSL_CTX_set_psk_use_session_callback(state_->connecting, use_key);
  ::SSL_CTX_set_psk_find_session_callback(state_->accepting, find_key);
}
LinkContext::~LinkContext() = default;

struct Link::Tls {
  SSL* ssl = nullptr;
  bool is_greeted = false;
  bool wants_write = false;  // before anything else can be done
  bool wants_read = false;

  ~Tls() { ::SSL_free(ssl); }
};

Link::Link(Descriptor socket) : socket_(std::move(socket)) {
  ::fcntl(socket_.get(), F_SETFL, ::fcntl(socket_.get(), F_GETFL) | O_NONBLOCK);
}

Link::Link(Descriptor socket, const LinkContext& context, bool accepts) : Link(std::move(socket)) {
  set_option(socket_.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(socket_.get(), SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(socket_.get(), IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMs);
  tls_ = std::make_unique<Tls>();
  tls_->ssl = ::SSL_new(accepts ? context.state().accepting : context.state().connecting);
  KEYE_CHECK(tls_->ssl != nullptr && ::SSL_set_fd(tls_->ssl, socket_.get()) == 1, "no TLS connection");
  accepts ? ::SSL_set_accept_state(tls_->ssl) : ::SSL_set_connect_state(tls_->ssl);
}

Link::~Link() = default;
Link::Link(Link&&) noexcept = default;
Link& Link::operator=(Link&&) noexcept = default;

Result<bool> Link::handshake() {
  if (!tls_ || tls_->is_greeted) return true;
  ::ERR_clear_error();
  const int result = ::SSL_do_handshake(tls_->ssl);
  if (result == 1) {
    if (::SSL_session_reused(tls_->ssl) != 1) return unavailable(peer(), "does not know the token");
    tls_->is_greeted = true;
    return true;
  }
  const int error = ::SSL_get_error(tls_->ssl, result);
  wants_write_ = error == SSL_ERROR_WANT_WRITE;
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return false;
  const unsigned long code = ::ERR_peek_error();
  if (code == 0 || ERR_GET_REASON(code) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    return make_error(ErrorCode::io, peer(), "has closed the connection");
  }
  const char* reason = ::ERR_reason_error_string(code);
  return unavailable(peer(), fmt::format("does not greet as one with the same token ({})",
                                         reason != nullptr ? reason : "for no reason that is known"));
}

Error Link::tls_error(int result) {
  const int error = ::SSL_get_error(tls_->ssl, result);
  if (error == SSL_ERROR_ZERO_RETURN) return unavailable(peer(), "has closed the link");
  const char* reason = ::ERR_reason_error_string(::ERR_peek_error());
  if (reason != nullptr) return unavailable(peer(), fmt::format("broke the link ({})", reason));
  return unavailable(peer(), fmt::format("broke the link ({})", errno != 0 ? std::strerror(errno) : "closed"));
}

Result<size_t> Link::write_some(std::span<const std::byte> bytes) {
  if (tls_) {
    ::ERR_clear_error();
    size_t written = 0;
    const int result = ::SSL_write_ex(tls_->ssl, bytes.data(), bytes.size(), &written);
    if (result == 1) return written;
    const int error = ::SSL_get_error(tls_->ssl, result);
    tls_->wants_read = error == SSL_ERROR_WANT_READ;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return size_t{0};
    return tls_error(result);
  }
  const ssize_t sent = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent >= 0) return static_cast<size_t>(sent);
  if (errno == EAGAIN || errno == EINTR) return size_t{0};
  return unavailable(peer(), fmt::format("broke the link ({})", std::strerror(errno)));
}

Result<size_t> Link::read_some(std::span<std::byte> to) {
  if (tls_) {
    ::ERR_clear_error();
    size_t got = 0;
    const int result = ::SSL_read_ex(tls_->ssl, to.data(), to.size(), &got);
    if (result == 1) return got;
    const int error = ::SSL_get_error(tls_->ssl, result);
    tls_->wants_write = error == SSL_ERROR_WANT_WRITE;
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) return size_t{0};
    return tls_error(result);
  }
  const ssize_t got = ::recv(socket_.get(), to.data(), to.size(), MSG_DONTWAIT);
  if (got > 0) return static_cast<size_t>(got);
  if (got == 0) return unavailable(peer(), "has closed the link");
  if (errno == EAGAIN || errno == EINTR) return size_t{0};
  return unavailable(peer(), fmt::format("broke the link ({})", std::strerror(errno)));
}

void Link::send(const FrameHeader& header, std::span<const std::byte> payload) {
  KEYE_CHECK(is_sent(), "a frame before the last one is sent");
  FrameHeader whole = header;
  whole.bytes = payload.size();
  const size_t with_it = std::min(payload.size(), kFirstBytes - sizeof whole);
  first_.resize(sizeof whole + with_it);
  std::memcpy(first_.data(), &whole, sizeof whole);
  if (with_it > 0) std::memcpy(first_.data() + sizeof whole, payload.data(), with_it);
  unsent_ = first_;
  payload_ = payload.subspan(with_it);
}

void Link::expect_header() {
  header_.reset();
  reads_header_ = true;
  unread_ = header_bytes_;
}

void Link::expect_payload(std::span<std::byte> to) {
  reads_header_ = false;
  unread_ = to;
}

Result<bool> Link::advance() {
  // What the other end said last is worth more than that it does not listen any more: first read.
  bool moved = false;
  while (!unread_.empty()) {
    const auto got = read_some(unread_);
    if (!got && !moved) return got.error();
    if (!got || *got == 0) break;
    unread_ = unread_.subspan(*got);
    moved = true;
    if (!unread_.empty() || !reads_header_) continue;
    header_ = read_frame_header(header_bytes_);
    reads_header_ = false;
    if (!header_) return unavailable(peer(), "says what is no frame");
  }
  while (!is_sent()) {
    std::span<const std::byte>& part = unsent_.empty() ? payload_ : unsent_;
    const auto sent = write_some(part);
    if (!sent && !moved) return sent.error();
    if (!sent || *sent == 0) break;
    part = part.subspan(*sent);
    moved = true;
  }
  return moved;
}

pollfd Link::waits_for() const {
  short events = 0;
  if (tls_ && !tls_->is_greeted) return {socket_.get(), static_cast<short>(wants_write_ ? POLLOUT : POLLIN), 0};
  if (!unread_.empty() || (tls_ && tls_->wants_read)) events |= POLLIN;
  if (!is_sent() || (tls_ && tls_->wants_write)) events |= POLLOUT;
  return {socket_.get(), events, 0};
}

std::string Link::peer() const {
  uint16_t port = 0;
  const std::string host = end_of(socket_.get(), ::getpeername, &port);
  return host.empty() ? "the other end" : Address{host, port}.to_string();
}
std::string Link::own_host() const { return end_of(socket_.get(), ::getsockname, nullptr); }
std::string Link::peer_host() const { return end_of(socket_.get(), ::getpeername, nullptr); }

Result<Listener> Listener::open(const Address& address) {
  Resolved resolved;
  KEYE_TRY_VOID(resolve(address, true, resolved));
  std::string reason = "no address";
  for (const addrinfo* at = resolved.list; at != nullptr; at = at->ai_next) {
    Descriptor socket(::socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at->ai_protocol));
    if (!socket) continue;
    set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (::bind(socket.get(), at->ai_addr, at->ai_addrlen) == 0 && ::listen(socket.get(), kBacklog) == 0) {
      Listener listener;
      listener.socket_ = std::move(socket);
      return listener;
    }
    reason = std::strerror(errno);
  }
  return make_error(ErrorCode::io, address.to_string(), "cannot be listened at: {}", reason);
}

Descriptor Listener::accept() { return Descriptor(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }

uint16_t Listener::port() const {
  uint16_t port = 0;
  end_of(socket_.get(), ::getsockname, &port);
  return port;
}

Result<Descriptor> connect_to(const Address& address, std::chrono::milliseconds timeout) {
  Resolved resolved;
  KEYE_TRY_VOID(resolve(address, false, resolved));
  std::string reason = "no address";
  for (const addrinfo* at = resolved.list; at != nullptr; at = at->ai_next) {
    Descriptor socket(::socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, at->ai_protocol));
    if (!socket) continue;
    if (::connect(socket.get(), at->ai_addr, at->ai_addrlen) == 0) return socket;
    int failure = errno;
    if (failure == EINPROGRESS) {
      pollfd ready{socket.get(), POLLOUT, 0};
      const int count = ::poll(&ready, 1, static_cast<int>(timeout.count()));
      socklen_t length = sizeof failure;
      failure = ETIMEDOUT;
      if (count > 0) ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &failure, &length);
      if (failure == 0) return socket;
    }
    reason = std::strerror(failure);
  }
  return make_error(ErrorCode::io, address.to_string(), "cannot be reached: {}", reason);
}

}  // namespace keye::comm
