// One end of a socket pair: messages of fixed size, with descriptors beside them.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <stop_token>
#include <type_traits>
#include <utility>

#include "base/descriptor.h"
#include "base/result.h"

namespace keye::media {

/// Becomes readable when a stop is requested, for poll().
class StopSignal {
 public:
  static Result<StopSignal> make();
  int descriptor() const { return event_.get(); }
  void raise() const;

 private:
  Descriptor event_;
};

/// How long and for what to wait. `seconds` shrinks by what was waited.
struct Patience {
  int stop = -1;  // a StopSignal's descriptor
  double seconds = 0;
};

inline constexpr size_t kDescriptorsMax = 2;

struct Received {
  size_t bytes = 0;  // 0: the other end is closed
  std::array<Descriptor, kDescriptorsMax> descriptors;
};

class Channel {
 public:
  Channel() = default;
  explicit Channel(Descriptor socket) : socket_(std::move(socket)) {}

  int descriptor() const { return socket_.get(); }

  /// Errors: unavailable (the other end is closed, or does not read).
  template <class Message>
  Result<void> send(const Message& message, std::span<const int> descriptors = {}) const {
    static_assert(std::is_trivially_copyable_v<Message>);
    return send_bytes(std::as_bytes(std::span(&message, 1)), descriptors);
  }

  /// Blocks until there is a message. False: the other end is closed, or sent something of another size.
  template <class Message>
  bool receive(Message& message, std::array<Descriptor, kDescriptorsMax>& descriptors) const {
    static_assert(std::is_trivially_copyable_v<Message>);
    Received received = receive_bytes(std::as_writable_bytes(std::span(&message, 1)), true);
    descriptors = std::move(received.descriptors);
    return received.bytes == sizeof(Message);
  }

  /// The same without descriptors, and with an end to waiting. Errors: cancelled, deadline, unavailable.
  template <class Message>
  Result<Message> receive(Patience& patience) const {
    static_assert(std::is_trivially_copyable_v<Message>);
    KEYE_TRY_VOID(await(patience));
    Message message;
    if (receive_bytes(std::as_writable_bytes(std::span(&message, 1)), false).bytes != sizeof(Message)) {
      return Error{ErrorCode::unavailable, "the other end is closed", ""};
    }
    return message;
  }

 private:
  Result<void> send_bytes(std::span<const std::byte> bytes, std::span<const int> descriptors) const;
  Received receive_bytes(std::span<std::byte> bytes, bool with_descriptors) const;
  Result<void> await(Patience& patience) const;

  Descriptor socket_;
};

}  // namespace keye::media
