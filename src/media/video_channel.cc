#include "media/video_channel.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>

namespace keye::media {
namespace {

/// Room for the descriptors that a message brings along.
union Control {
  cmsghdr align;
  char bytes[CMSG_SPACE(sizeof(int) * kDescriptorsMax)];
};

void keep_descriptors(msghdr& header, std::array<Descriptor, kDescriptorsMax>& out) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < std::min(count, kDescriptorsMax); ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      out[i] = Descriptor(fd);
    }
  }
}

}  // namespace

Result<StopSignal> StopSignal::make() {
  StopSignal signal;
  signal.event_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signal.event_) return make_error(ErrorCode::io, "", "cannot make an event: {}", std::strerror(errno));
  return signal;
}

void StopSignal::raise() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(event_.get(), &one, sizeof(one));  // full is raised, too
}

Result<void> Channel::send_bytes(std::span<const std::byte> bytes, std::span<const int> descriptors) const {
  KEYE_CHECK(descriptors.size() <= kDescriptorsMax, "{} descriptors", descriptors.size());
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Control control{};
  const int flags = MSG_NOSIGNAL | MSG_DONTWAIT;
  if (!descriptors.empty()) {
    header.msg_control = control.bytes;
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* first = CMSG_FIRSTHDR(&header);
    first->cmsg_level = SOL_SOCKET;
    first->cmsg_type = SCM_RIGHTS;
    first->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(first), descriptors.data(), descriptors.size_bytes());
  }
  while (true) {
    // A worker has no descriptors to send, and may not call what could.
    const ssize_t put = descriptors.empty() ? ::send(socket_.get(), bytes.data(), bytes.size(), flags)
                                            : ::sendmsg(socket_.get(), &header, flags);
    if (put == static_cast<ssize_t>(bytes.size())) return {};
    if (put < 0 && errno == EINTR) continue;
    return make_error(ErrorCode::unavailable, "", "cannot send: {}", std::strerror(errno));
  }
}

Received Channel::receive_bytes(std::span<std::byte> bytes, bool with_descriptors) const {
  iovec part{bytes.data(), bytes.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Control control{};
  if (with_descriptors) {
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof(control.bytes);
  }
  Received received;
  ssize_t got = -1;
  do {
    got = ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got > 0) keep_descriptors(header, received.descriptors);
  if (got > 0 && (header.msg_flags & MSG_TRUNC) == 0) received.bytes = static_cast<size_t>(got);
  return received;
}

Result<void> Channel::await(Patience& patience) const {
  pollfd watched[2] = {{socket_.get(), POLLIN, 0}, {patience.stop, POLLIN, 0}};
  while (true) {
    if (patience.seconds <= 0) return Error{ErrorCode::deadline, "out of time", ""};
    const auto begin = std::chrono::steady_clock::now();
    const int ready = ::poll(watched, 2, static_cast<int>(std::ceil(std::min(patience.seconds, 3600.0) * 1e3)));
    patience.seconds -= std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    if (ready < 0 && errno != EINTR) return make_error(ErrorCode::io, "", "cannot wait: {}", std::strerror(errno));
    if (ready <= 0) continue;
    if (watched[1].revents != 0) return Error{ErrorCode::cancelled, "cancelled", ""};
    if (watched[0].revents != 0) return {};
  }
}

}  // namespace keye::media
