#include "comm/door.h"

#include <poll.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "base/log.h"

namespace keye::comm {
namespace {

using Clock = std::chrono::steady_clock;

/// For the handshake and the first words of one guest.
constexpr std::chrono::seconds kGreetingTime{5};
/// More than that, and the oldest has to go.
constexpr size_t kKnockingMax = 256;
constexpr std::chrono::milliseconds kConnectTime{2000};
constexpr std::chrono::milliseconds kRetryTime{200};
constexpr std::chrono::seconds kSayEvery{10};
constexpr int kPollMs = 100;

int ms_until(Clock::time_point until) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, kPollMs));
}

/// Moves what the link has under way until done(). Errors: unavailable.
template <class Done>
Result<void> wait(Link& link, Clock::time_point until, const Done& done) {
  while (true) {
    KEYE_TRY(const bool moved, link.advance());
    if (done()) return {};
    if (moved) continue;
    if (Clock::now() > until) return make_error(ErrorCode::unavailable, link.peer(), "does not answer in time");
    pollfd one = link.waits_for();
    ::poll(&one, 1, ms_until(until));
  }
}

Result<void> greet(Link& link, Clock::time_point until) {
  while (true) {
    KEYE_TRY(const bool is_done, link.handshake());
    if (is_done) return {};
    if (Clock::now() > until) return make_error(ErrorCode::unavailable, link.peer(), "does not greet in time");
    pollfd one = link.waits_for();
    ::poll(&one, 1, ms_until(until));
  }
}

Result<Link> try_to_knock(const Address& address, const LinkContext& context, Clock::time_point until) {
  KEYE_TRY(Descriptor socket, connect_to(address, kConnectTime));
  Link link(std::move(socket), context, false);
  KEYE_TRY_VOID(greet(link, std::min(until, Clock::now() + kGreetingTime)));
  return link;
}

}  // namespace

Door::Door(Listener listener, const LinkContext& context, FrameKind expected)
    : listener_(std::move(listener)), context_(context), expected_(expected) {}

void Door::accept_all() {
  for (Descriptor socket = listener_.accept(); socket; socket = listener_.accept()) {
    if (knocking_.size() >= kKnockingMax) knocking_.pop_front();
    knocking_.emplace_back(Link(std::move(socket), context_, true)).until = Clock::now() + kGreetingTime;
  }
}

Door::Progress Door::listen_to(Knocking& one) {
  const auto turn_away = [&](const Error& why) {
    log(LogLevel::warning, "somebody was not let in: {}", why.to_string());
    return Progress::is_out;
  };
  if (!one.is_greeted) {
    const auto greeted = one.link.handshake();
    if (!greeted) return turn_away(greeted.error());
    if (!*greeted) return Progress::waits;
    one.is_greeted = true;
    one.link.expect_header();
  }
  while (true) {
    const std::optional<FrameHeader>& header = one.link.header();
    if (header && !one.speaks) {
      if (header->kind != expected_ || header->bytes > kMessageBytesMax) {
        return turn_away(make_error(ErrorCode::unavailable, one.link.peer(), "says what nobody expects"));
      }
      one.speaks = true;
      one.words.resize(header->bytes);
      one.link.expect_payload(one.words);
    }
    if (one.speaks && one.link.has_payload()) return Progress::is_in;
    const auto moved = one.link.advance();
    if (!moved) return turn_away(moved.error());
    if (!*moved) return Progress::waits;
  }
}

std::optional<Door::Guest> Door::next(Clock::time_point until) {
  while (true) {
    accept_all();
    const Clock::time_point now = Clock::now();
    for (auto at = knocking_.begin(); at != knocking_.end();) {
      const Progress progress = now > at->until ? Progress::is_out : listen_to(*at);
      if (progress == Progress::waits) {
        ++at;
        continue;
      }
      Knocking one = std::move(*at);
      at = knocking_.erase(at);
      const FrameHeader header = one.link.header().value_or(FrameHeader());
      if (progress == Progress::is_in) return Guest{std::move(one.link), header, std::move(one.words)};
    }
    if (now >= until) return std::nullopt;
    std::vector<pollfd> waits{{listener_.descriptor(), POLLIN, 0}};
    for (const Knocking& one : knocking_) waits.push_back(one.link.waits_for());
    ::poll(waits.data(), waits.size(), ms_until(until));
  }
}

Result<void> say(Link& link, FrameKind kind, uint64_t rank, std::span<const std::byte> words, Clock::time_point until) {
  link.send({.kind = kind, .rank = rank}, words);
  return wait(link, until, [&] { return link.is_sent(); });
}

Result<Words> listen(Link& link, Clock::time_point until) {
  link.expect_header();
  KEYE_TRY_VOID(wait(link, until, [&] { return link.header().has_value(); }));
  Words words{*link.header(), {}};
  if (words.header.bytes > kMessageBytesMax) {
    return make_error(ErrorCode::unavailable, link.peer(), "says {} bytes at once", words.header.bytes);
  }
  words.bytes.resize(words.header.bytes);
  link.expect_payload(words.bytes);
  KEYE_TRY_VOID(wait(link, until, [&] { return link.has_payload(); }));
  return words;
}

Result<Link> knock(const Address& address, const LinkContext& context, Clock::time_point until) {
  Clock::time_point next_word = Clock::now() + kSayEvery;
  while (true) {
    auto link = try_to_knock(address, context, until);
    // Who closes the connection without a word is a relay, or one that is just ending.
    const bool may_come = !link && (link.error().code == ErrorCode::io);
    if (!may_come || Clock::now() > until) return link;
    if (Clock::now() > next_word) {
      log(LogLevel::info, "waiting for {}", link.error().to_string());
      next_word = Clock::now() + kSayEvery;
    }
    std::this_thread::sleep_for(kRetryTime);
  }
}

}  // namespace keye::comm
