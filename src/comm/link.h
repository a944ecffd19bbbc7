// A connection to another rank. Over TCP it is TLS 1.3 with a key made of the shared token on both sides and no
// certificates: who has not the token is not let in, and what is said is neither read nor changed on the way.
#pragma once

#include <poll.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/descriptor.h"
#include "base/hash.h"
#include "base/result.h"
#include "comm/frame.h"

namespace keye::comm {

/// Key of links, from the token.
Digest link_key(const std::string& token);

/// An address to listen at or to connect to.
struct Address {
  std::string host;  // without brackets
  uint16_t port = 0;

  /// "HOST:PORT" or "[V6]:PORT". Errors: invalid_argument.
  static Result<Address> parse(std::string_view text);
  std::string to_string() const;
};

/// TLS contexts for one key.
class LinkContext {
 public:
  explicit LinkContext(const Digest& key);
  ~LinkContext();
  LinkContext(const LinkContext&) = delete;
  LinkContext& operator=(const LinkContext&) = delete;

  struct State;
  State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

/// One end. It never waits: advance() does what can be done now. Used by one thread at a time; contexts must outlive
/// it.
class Link {
 public:
  /// Both ends of a pair of processes on one machine: not encrypted, as nobody else has the descriptor.
  explicit Link(Descriptor socket);
  /// Over TCP. The socket is made non-blocking.
  Link(Descriptor socket, const LinkContext& context, bool accepts);
  ~Link();
  Link(Link&&) noexcept;
  Link& operator=(Link&&) noexcept;

  /// True once the other side has shown that it has the key (at once without TLS). Errors: unavailable (it has not), io
  /// (it is gone, without a word).
  Result<bool> handshake();

  /// Begins to send a frame; the one before must be sent. `payload` must live until then.
  void send(const FrameHeader& header, std::span<const std::byte> payload = {});
  bool is_sent() const { return unsent_.empty() && payload_.empty(); }
  /// Begins to wait for a frame's header, then for its bytes.
  void expect_header();
  const std::optional<FrameHeader>& header() const { return header_; }
  void expect_payload(std::span<std::byte> to);
  bool has_payload() const { return !reads_header_ && unread_.empty(); }

  /// Moves what can be moved now: whether anything was. Errors, only where nothing was: unavailable (closed, broken,
  /// not one of us).
  Result<bool> advance();
  /// What to wait for until advance() can do more.
  pollfd waits_for() const;

  /// Where the other end is, and this end; empty for pairs.
  std::string peer() const;
  std::string own_host() const;
  std::string peer_host() const;

 private:
  struct Tls;
  /// Bytes moved; 0: not now.
  Result<size_t> write_some(std::span<const std::byte> bytes);
  Result<size_t> read_some(std::span<std::byte> to);
  Error tls_error(int result);

  Descriptor socket_;
  std::unique_ptr<Tls> tls_;
  std::vector<std::byte> first_;        // header and beginning of what is being sent
  std::span<const std::byte> unsent_;   // of it
  std::span<const std::byte> payload_;  // the rest
  bool reads_header_ = false;
  std::array<std::byte, sizeof(FrameHeader)> header_bytes_{};
  std::optional<FrameHeader> header_;
  std::span<std::byte> unread_;
  bool wants_write_ = false;
};

/// Listens for links.
class Listener {
 public:
  /// Errors: invalid_argument (no such host), io (in use, not permitted).
  static Result<Listener> open(const Address& address);
  /// A connection that waits, or none.
  Descriptor accept();
  int descriptor() const { return socket_.get(); }
  uint16_t port() const;

 private:
  Descriptor socket_;
};

/// Connects, for so long at most. Errors: io, invalid_argument (no such host).
Result<Descriptor> connect_to(const Address& address, std::chrono::milliseconds timeout);

}  // namespace keye::comm
