// Decoded pictures to RGB, as the ffmpeg program makes them for `-pix_fmt rgb24`. Runs in the worker only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "media/ffmpeg_library.h"
#include "media/turn.h"

namespace keye::media {

struct FreeFrame {
  void operator()(AVFrame* frame) const { ffmpeg().av_frame_free(&frame); }
};
using FramePtr = std::unique_ptr<AVFrame, FreeFrame>;

/// What the display matrix (9 numbers; null is none) asks for; nothing when it is no quarter turn, and then `degrees`
/// says what it is.
std::optional<Turn> turn_of_matrix(const int32_t* matrix, int64_t& degrees);

class FfmpegRgb {
 public:
  FfmpegRgb() = default;
  FfmpegRgb(const FfmpegRgb&) = delete;
  FfmpegRgb& operator=(const FfmpegRgb&) = delete;
  ~FfmpegRgb() { ffmpeg().sws_freeContext(scaler_); }

  /// Of the pictures that go in, before the turn; those of other sizes are scaled.
  void set_output(int width, int height, Turn turn);
  int width() const { return turn_.swap ? height_ : width_; }
  int height() const { return turn_.swap ? width_ : height_; }

  /// Writes width() x height() x 3 bytes; the buffer has kSlotPadding more. False: no memory, or no such conversion.
  bool convert(const AVFrame& frame, uint8_t* out);

 private:
  struct Key {
    int width = 0, height = 0, format = -1, space = 0, range = 0;
    bool operator==(const Key&) const = default;
  };
  bool prepare(const AVFrame& frame);
  bool set_colours(const Key& key);

  int width_ = 0;
  int height_ = 0;
  Turn turn_;
  Key key_;
  SwsContext* scaler_ = nullptr;
  FramePtr aside_;  // for what cannot be written to its place at once
};

}  // namespace keye::media
