// For tests: makes encoded clips with FFmpeg's encoders, whose frames say which they are.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "media/image.h"

namespace keye::media::testing {

struct ClipRecipe {
  std::string format = "mp4";  // FFmpeg's name of the muxer
  std::string codec = "libx264";
  int width = 128;
  int height = 96;
  int frames = 30;
  int fps = 25;
  int gop = 12;
  int b_frames = 2;
  std::string pixels = "yuv420p";
  int colour_space = 2;                        // AVColorSpace; 2: not named
  int colour_range = 0;                        // AVColorRange; 0: not named
  int rotation = 0;                            // degrees, counter-clockwise
  bool mirrored = false;                       // left to right, after that
  std::vector<int64_t> times;                  // of the frames, in ticks of 1 / (fps * 100) s; empty: evenly
  bool sound_only = false;                     // a second of silence instead of pictures
  int plain = -1;                              // 0xYYUUVV: frames of that colour, without a number
  std::map<std::string, std::string> options;  // the encoder's
  std::map<std::string, std::string> muxing;   // the muxer's
};

/// The clip's bytes: the same for the same recipe and libraries. Ends the test program when it cannot be made.
std::string make_clip(const ClipRecipe& recipe);

/// The number that a frame of such a clip bears, if nothing turns it; -1: unreadable.
int frame_number(const Image& frame);

}  // namespace keye::media::testing
