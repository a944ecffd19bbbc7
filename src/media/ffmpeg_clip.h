// An encoded clip as numbered frames. Runs in the worker only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "media/ffmpeg_input.h"
#include "media/ffmpeg_rgb.h"

namespace keye::media {

/// Where frames go.
class FrameSink {
 public:
  virtual ~FrameSink() = default;
  /// A place of a frame's bytes and kSlotPadding more, as soon as there is one; null: nobody wants frames any more.
  virtual uint8_t* next() = 0;
  /// The frame in that place is complete. False: nobody wants frames any more.
  virtual bool filled(int64_t place) = 0;
};

struct ClipFacts {
  int width = 0;
  int height = 0;
  int64_t frames = 0;
  double fps = 0;
  double declared_fps = 0;
  double duration_s = 0;
};

class FfmpegClip {
 public:
  explicit FfmpegClip(int threads) : threads_(threads) {}

  /// Counts the frames and decodes the first one.
  VideoProblem open(const ClipFile& file);
  const ClipFacts& facts() const { return facts_; }
  const FfmpegInput& input() const { return input_; }

  /// `indices` ascend without repeats, each in [0, facts().frames). `missing` counts those that others stand in for.
  VideoProblem read(std::span<const int64_t> indices, FrameSink& sink, int64_t& missing);

 private:
  struct FreeCodec {
    void operator()(AVCodecContext* context) const { ffmpeg().avcodec_free_context(&context); }
  };
  struct Keyframe {
    int64_t pts;
    int64_t timestamp;  // what the demuxer finds it by
    int64_t index;      // of its frame
  };
  /// A decoded frame and its number.
  struct Decoded {
    FramePtr frame;
    int64_t index = -1;
    bool valid = false;
  };

  VideoProblem scan();
  void count(const AVPacket& packet);
  void finish_scan();
  VideoProblem open_decoder();
  VideoProblem show_first();

  VideoProblem restart();
  VideoProblem start_at(int64_t index);
  bool seek_to(const Keyframe& key);
  /// The place in keyframes_ of the last one at or before `index`, or -1.
  int64_t keyframe_before(int64_t index) const;
  int64_t index_of(int64_t pts) const;

  VideoProblem bring(int64_t index);
  VideoProblem nothing_decoded() const;
  void decode_to(int64_t index);
  bool next_frame(Decoded& out);
  void feed();
  /// False: a frame that does not count, or one that comes late.
  bool number(Decoded& out);

  int threads_;
  ClipFile file_;
  FfmpegInput input_;
  std::unique_ptr<AVCodecContext, FreeCodec> decoder_;
  PacketPtr packet_;
  FfmpegRgb rgb_;
  ClipFacts facts_;

  // What the scan found. Where packets lack times, frames are counted instead, and always from the start.
  bool timed_ = true;
  int64_t last_dts_ = INT64_MIN;
  int64_t end_pts_ = INT64_MIN;
  std::vector<int64_t> pts_;     // ascending
  std::vector<int64_t> broken_;  // of packets cut short, with no whole one behind them
  std::vector<Keyframe> keyframes_;

  // Where decoding is.
  std::span<const int64_t> wanted_;  // during read()
  Decoded last_;                     // the newest at or before what was asked for
  Decoded pending_;                  // one beyond it
  int64_t counted_ = 0;              // frames that came out since the start
  int64_t newest_ = -1;              // the highest index that came out
  int64_t sent_ = -1;                // the highest index that went in
  bool held_ = false;                // packet_ is still to go in
  bool skipped_ = false;             // frames were left out since the start
  bool drained_ = false;
  bool starved_ = false;  // there was no memory for a frame
};

}  // namespace keye::media
