// Lets other ranks in: many may knock, those that show the token and say who they are come through.
#pragma once

#include <chrono>
#include <list>
#include <optional>

#include "comm/link.h"
#include "comm/messages.h"

namespace keye::comm {

class Door {
 public:
  /// `expected`: what a guest says first. The context must outlive the links.
  Door(Listener listener, const LinkContext& context, FrameKind expected);

  struct Guest {
    Link link;
    FrameHeader header;
    Bytes words;
  };
  /// The next, or nothing by then. Who does not come in is logged.
  std::optional<Guest> next(std::chrono::steady_clock::time_point until);

 private:
  struct Knocking {
    explicit Knocking(Link of) : link(std::move(of)) {}

    Link link;
    std::chrono::steady_clock::time_point until;
    Bytes words;
    bool is_greeted = false;
    bool speaks = false;
  };
  enum class Progress : uint8_t { waits, is_in, is_out };

  void accept_all();
  Progress listen_to(Knocking& one);

  Listener listener_;
  const LinkContext& context_;
  FrameKind expected_;
  std::list<Knocking> knocking_;  // the oldest first; in place, as a link reads into itself
};

/// Sends a frame and waits for that. Errors: unavailable (also when it takes until then).
Result<void> say(Link& link, FrameKind kind, uint64_t rank, std::span<const std::byte> words,
                 std::chrono::steady_clock::time_point until);
/// The next frame. Errors: as of say().
struct Words {
  FrameHeader header;
  Bytes bytes;
};
Result<Words> listen(Link& link, std::chrono::steady_clock::time_point until);
/// Connects to a rank that may not be there yet, and shows the token. Errors: io (not there by then), unavailable
/// (one that does not have the token), invalid_argument.
Result<Link> knock(const Address& address, const LinkContext& context, std::chrono::steady_clock::time_point until);

}  // namespace keye::comm
