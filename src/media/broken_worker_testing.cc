#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <string_view>

#include "media/video_channel.h"
#include "media/video_protocol.h"
#include "media/video_testing.h"

namespace keye::media::testing {
namespace {

/// A clip of 8 frames of 16 x 16 pixels.
WorkerReport opened() {
  WorkerReport report;
  report.kind = WorkerReport::Kind::opened;
  report.width = 16;
  report.height = 16;
  report.frames = 8;
  report.fps = 2;
  report.declared_fps = 2;
  report.duration_s = 4;
  return report;
}

/// What it says instead of opening the clip; false: nothing that is special.
bool lie_when_opening(std::string_view fault, const Channel& channel) {
  WorkerReport report = opened();
  if (fault == "width") report.width = 1 << 24;
  if (fault == "negative") report.height = -16;
  if (fault == "frames") report.frames = int64_t{1} << 60;
  if (fault == "rate") report.fps = std::numeric_limits<double>::quiet_NaN();
  if (fault == "codec") report.codec = static_cast<VideoCodec>(77);
  if (fault == "kind") report.kind = static_cast<WorkerReport::Kind>(77);
  if (fault == "name") {
    report.kind = WorkerReport::Kind::failed;
    report.failure = VideoFailure::other_codec;
    std::memset(report.name, '\x1b', sizeof(report.name));
  }
  if (fault == "failure") {
    report.kind = WorkerReport::Kind::failed;
    report.failure = static_cast<VideoFailure>(1234);
  }
  if (fault == "short") return channel.send(int64_t{1}).has_value();
  return channel.send(report).has_value();
}

void lie_when_reading(std::string_view fault, const Channel& channel, const Descriptor& ring) {
  WorkerReport report;
  report.kind = WorkerReport::Kind::frame;
  if (fault == "place") report.place = int64_t{1} << 40;
  if (fault == "twice") [[maybe_unused]]
    const auto sent = channel.send(report);
  if (fault == "shrink" && ::ftruncate(ring.get(), 0) == 0) report.place = -1;  // sealed: must not succeed
  if (fault == "done") report.kind = WorkerReport::Kind::done;
  [[maybe_unused]] const auto sent = channel.send(report);
  if (fault != "shrink") return;
  report.kind = WorkerReport::Kind::done;
  [[maybe_unused]] const auto last = channel.send(report);
}

}  // namespace

int run_broken_worker(std::string_view fault) {
  const Channel channel{Descriptor(kWorkerSocket)};
  WorkerRequest request;
  std::array<Descriptor, kDescriptorsMax> sent;
  while (channel.receive(request, sent)) {
    WorkerReport ready;
    ready.kind = WorkerReport::Kind::ready;
    ready.sandboxed = fault != "open_sandbox";
    const bool reading = request.kind == WorkerRequest::Kind::read;
    if (fault == "dies_at_start" || (reading && fault == "dies")) return 1;
    if (reading && fault == "segfault") ::raise(SIGSEGV);
    if (reading && fault == "sandbox") ::raise(SIGSYS);
    if (reading && fault == "hangs") ::pause();
    if (reading && fault == "floods") {
      while (channel.send(ready)) {
      }
    }
    if (request.kind == WorkerRequest::Kind::setup && !channel.send(ready)) return 1;
    if (request.kind == WorkerRequest::Kind::open && !lie_when_opening(fault, channel)) return 1;
    if (reading) lie_when_reading(fault, channel, sent[0]);
  }
  return 0;
}

}  // namespace keye::media::testing
