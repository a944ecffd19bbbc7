// The program of a process that decodes one clip.
#pragma once

namespace keye::media {

/// What main() runs when it was started as VideoWorkerProgram says: talks with the parent over descriptor
/// kWorkerSocket (media/video_protocol.h) until that is closed. Call it before anything else:
/// the process must have one thread.
[[noreturn]] void run_video_worker();

}  // namespace keye::media
