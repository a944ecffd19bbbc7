// What a worker says, before it is believed. It decodes bytes from outside, so it may say anything.
#pragma once

#include <cstdint>

#include "media/frame_source.h"
#include "media/video.h"
#include "media/video_protocol.h"

namespace keye::media {

/// A report of kind `opened`. Errors: corrupt_data (numbers that cannot be), too_large.
Result<VideoInfo> check_opened(const WorkerReport& report, const VideoLimits& limits);

/// A report of kind `failed`.
Error failure_error(const WorkerReport& report, const VideoLimits& limits);

/// What ended a worker that says nothing more: wait status as of waitpid(), and whether its end is known at all.
Error death_error(bool known, int status);

}  // namespace keye::media
