#include "media/ffmpeg_clip.h"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace keye::media {
namespace {

VideoProblem problem(VideoFailure reason) { return {reason, 0, 0, {}}; }

/// VP8 has frames that are decoded and never shown, in packets of their own.
bool is_hidden(VideoCodec codec, const AVPacket& packet) {
  return codec == VideoCodec::vp8 && packet.size > 0 && (packet.data[0] & 0x10) == 0;
}

double seconds(int64_t ticks, AVRational base) { return static_cast<double>(ticks) * base.num / base.den; }

double rate(AVRational value) {
  return value.num > 0 && value.den > 0 ? static_cast<double>(value.num) / value.den : 0;
}

}  // namespace

VideoProblem FfmpegClip::open(const ClipFile& file) {
  file_ = file;
  packet_.reset(ffmpeg().av_packet_alloc());
  if (packet_ == nullptr) return problem(VideoFailure::out_of_memory);
  if (const VideoProblem failed = input_.open(file_)) return failed;
  if (const VideoProblem failed = scan()) return failed;
  if (const VideoProblem failed = restart()) return failed;
  return show_first();
}

VideoProblem FfmpegClip::scan() {
  while (input_.read(*packet_)) {
    if ((packet_->flags & AV_PKT_FLAG_DISCARD) != 0 || is_hidden(input_.codec(), *packet_)) continue;
    if (static_cast<int64_t>(pts_.size() + broken_.size()) >= file_.frames_max) {
      return {VideoFailure::too_many_frames, file_.frames_max, 0, {}};
    }
    count(*packet_);
  }
  if (pts_.empty()) return problem(VideoFailure::no_frames);
  finish_scan();
  return {};
}

void FfmpegClip::count(const AVPacket& packet) {
  const int64_t time = packet.pts != AV_NOPTS_VALUE ? packet.pts : packet.dts;
  if ((packet.flags & AV_PKT_FLAG_CORRUPT) != 0) {
    broken_.push_back(time);
    return;
  }
  pts_.insert(pts_.end(), broken_.begin(), broken_.end());
  broken_.clear();
  pts_.push_back(time);
  timed_ = timed_ && packet.pts != AV_NOPTS_VALUE && (packet.dts == AV_NOPTS_VALUE || packet.dts >= last_dts_);
  if (packet.dts != AV_NOPTS_VALUE) last_dts_ = packet.dts;
  int64_t end = 0;
  if (time != AV_NOPTS_VALUE && !__builtin_add_overflow(time, std::max<int64_t>(packet.duration, 0), &end)) {
    end_pts_ = std::max(end_pts_, end);
  }
  if ((packet.flags & AV_PKT_FLAG_KEY) != 0) {
    // Matroska's demuxer finds packets by when they are shown, the others by when they are decoded.
    const bool by_pts = input_.container() == VideoContainer::matroska || packet.dts == AV_NOPTS_VALUE;
    keyframes_.push_back({time, by_pts ? packet.pts : packet.dts, -1});
  }
}

void FfmpegClip::finish_scan() {
  broken_ = {};
  std::sort(pts_.begin(), pts_.end());
  timed_ = timed_ && std::adjacent_find(pts_.begin(), pts_.end()) == pts_.end();
  const AVRational base = input_.stream().time_base;
  facts_.frames = static_cast<int64_t>(pts_.size());
  facts_.declared_fps = rate(input_.stream().avg_frame_rate);
  int64_t span = 0;
  const auto first = std::find_if(pts_.begin(), pts_.end(), [](int64_t pts) { return pts != AV_NOPTS_VALUE; });
  if (first != pts_.end() && !__builtin_sub_overflow(end_pts_, *first, &span) && span > 0 && base.den > 0) {
    facts_.duration_s = seconds(span, base);
    if (facts_.duration_s > 0) facts_.fps = static_cast<double>(facts_.frames) / facts_.duration_s;
  } else if (facts_.declared_fps > 0) {
    facts_.fps = facts_.declared_fps;
    facts_.duration_s = static_cast<double>(facts_.frames) / facts_.fps;
  }
  if (!timed_) {
    keyframes_ = {};
    return;
  }
  for (Keyframe& key : keyframes_) key.index = index_of(key.pts);
  std::sort(keyframes_.begin(), keyframes_.end(), [](const auto& a, const auto& b) { return a.index < b.index; });
}

VideoProblem FfmpegClip::open_decoder() {
  const Ffmpeg& ff = ffmpeg();
  const AVCodec* codec = ff.avcodec_find_decoder_by_name(ffmpeg_decoder_name(input_.codec()));
  if (codec == nullptr) return {VideoFailure::no_library, 0, 0, video_codec_name(input_.codec())};
  decoder_.reset(ff.avcodec_alloc_context3(codec));
  if (decoder_ == nullptr || ff.avcodec_parameters_to_context(decoder_.get(), input_.stream().codecpar) < 0) {
    return problem(VideoFailure::out_of_memory);
  }
  decoder_->pkt_timebase = input_.stream().time_base;
  decoder_->thread_count = threads_;
  decoder_->thread_type = FF_THREAD_FRAME | FF_THREAD_SLICE;
  decoder_->max_pixels = file_.pixels_max;
  const int code = ff.avcodec_open2(decoder_.get(), codec, nullptr);
  if (code >= 0) return {};
  const bool starved = code == AVERROR(ENOMEM) || code == AVERROR(EAGAIN);  // EAGAIN: no room for threads
  return problem(starved ? VideoFailure::out_of_memory : VideoFailure::broken_codec);
}

VideoProblem FfmpegClip::show_first() {
  decode_to(0);
  const Decoded& first = last_.valid ? last_ : pending_;
  if (!first.valid) return nothing_decoded();
  const AVFrame& frame = *first.frame;
  if (frame.width < 1 || frame.height < 1) return problem(VideoFailure::no_frames);
  if (int64_t{frame.width} * frame.height > file_.pixels_max) {
    return {VideoFailure::frame_too_large, frame.width, frame.height, {}};
  }
  const auto* matrix = reinterpret_cast<const int32_t*>(
      ffmpeg().av_stream_get_side_data(&input_.stream(), AV_PKT_DATA_DISPLAYMATRIX, nullptr));
  const AVFrameSideData* own = ffmpeg().av_frame_get_side_data(&frame, AV_FRAME_DATA_DISPLAYMATRIX);
  if (own != nullptr) matrix = reinterpret_cast<const int32_t*>(own->data);
  int64_t degrees = 0;
  const std::optional<Turn> turn = turn_of_matrix(matrix, degrees);
  if (!turn) return {VideoFailure::odd_rotation, degrees, 0, {}};
  rgb_.set_output(frame.width, frame.height, *turn);
  facts_.width = rgb_.width();
  facts_.height = rgb_.height();
  return {};
}

VideoProblem FfmpegClip::restart() {
  last_ = {};
  pending_ = {};
  counted_ = 0;
  newest_ = sent_ = -1;
  held_ = skipped_ = drained_ = false;
  if (const VideoProblem failed = input_.open(file_)) return failed;
  return open_decoder();
}

int64_t FfmpegClip::keyframe_before(int64_t index) const {
  const auto after = std::upper_bound(keyframes_.begin(), keyframes_.end(), index,
                                      [](int64_t value, const Keyframe& key) { return value < key.index; });
  return after - keyframes_.begin() - 1;
}

int64_t FfmpegClip::index_of(int64_t pts) const {
  return std::upper_bound(pts_.begin(), pts_.end(), pts) - pts_.begin() - 1;
}

/// Some demuxers land a little behind what they were asked for; then an earlier keyframe is tried, and in the end all
/// is decoded from the start.
VideoProblem FfmpegClip::start_at(int64_t index) {
  const int64_t key = keyframe_before(index);
  for (const int64_t back : {0, 1, 4}) {
    if (key - back < 0 || keyframes_[static_cast<size_t>(key - back)].index <= 0) break;
    if (seek_to(keyframes_[static_cast<size_t>(key - back)])) return {};
  }
  return restart();
}

bool FfmpegClip::seek_to(const Keyframe& key) {
  last_ = {};
  pending_ = {};
  newest_ = sent_ = -1;
  held_ = skipped_ = drained_ = false;
  ffmpeg().avcodec_flush_buffers(decoder_.get());
  if (!input_.seek(key.timestamp)) return false;
  while (input_.read(*packet_)) {
    if ((packet_->flags & AV_PKT_FLAG_KEY) == 0 || packet_->pts == AV_NOPTS_VALUE) continue;
    held_ = index_of(packet_->pts) <= key.index;
    return held_;
  }
  return false;
}

VideoProblem FfmpegClip::read(std::span<const int64_t> indices, FrameSink& sink, int64_t& missing) {
  missing = 0;
  if (indices.empty()) return {};
  wanted_ = indices;
  if (skipped_ || !last_.valid || last_.index > indices[0]) {
    if (const VideoProblem failed = start_at(indices[0])) return failed;
  }
  for (size_t place = 0; place < indices.size(); ++place) {
    if (const VideoProblem failed = bring(indices[place])) return failed;
    if (!last_.valid || last_.index != indices[place]) ++missing;
    if (starved_) return problem(VideoFailure::out_of_memory);
    uint8_t* out = sink.next();
    if (out == nullptr) return {};
    if (!rgb_.convert(*(last_.valid ? last_ : pending_).frame, out)) return problem(VideoFailure::out_of_memory);
    if (!sink.filled(static_cast<int64_t>(place))) return {};
  }
  return {};
}

/// Afterwards last_ is the frame, or stands in for it; pending_ does so where nothing before it can be decoded.
VideoProblem FfmpegClip::bring(int64_t index) {
  const int64_t key = keyframe_before(index);
  // Nothing of it went in yet, and there are frames to be spared on the way to it.
  if (key >= 0 && keyframes_[static_cast<size_t>(key)].index > sent_ + 2) {
    if (const VideoProblem failed = start_at(index)) return failed;
  }
  decode_to(index);
  if (last_.valid) return {};
  // After a seek: the keyframe was not enough of a beginning (an open group of pictures, a gradual refresh).
  if (key >= 0 && keyframes_[static_cast<size_t>(key)].index > 0) {
    if (const VideoProblem failed = restart()) return failed;
    decode_to(index);
  }
  return last_.valid || pending_.valid ? VideoProblem{} : nothing_decoded();
}

VideoProblem FfmpegClip::nothing_decoded() const {
  return problem(starved_ ? VideoFailure::out_of_memory : VideoFailure::no_frames);
}

void FfmpegClip::decode_to(int64_t index) {
  while (!(last_.valid && last_.index >= index)) {
    if (!pending_.valid && !next_frame(pending_)) return;
    if (pending_.index > index) return;
    last_ = std::move(pending_);
    pending_ = {};
  }
}

bool FfmpegClip::number(Decoded& out) {
  const AVFrame& frame = *out.frame;
  if (timed_) {
    const int64_t pts = frame.pts != AV_NOPTS_VALUE ? frame.pts : frame.best_effort_timestamp;
    out.index = pts == AV_NOPTS_VALUE ? -1 : index_of(pts);
  } else {
    out.index = std::min(counted_++, facts_.frames - 1);
  }
  if (out.index <= newest_ || frame.width < 1 || frame.height < 1) return false;
  newest_ = out.index;
  return out.valid = true;
}

bool FfmpegClip::next_frame(Decoded& out) {
  const Ffmpeg& ff = ffmpeg();
  out = {};
  out.frame.reset(ff.av_frame_alloc());
  if (out.frame == nullptr) return false;
  constexpr int kErrorsMax = 1000;  // in a row, none of which takes a packet
  for (int errors = 0; errors < kErrorsMax;) {
    const int code = ff.avcodec_receive_frame(decoder_.get(), out.frame.get());
    if (code == AVERROR_EOF) return false;
    if (code == 0 && number(out)) return true;
    if (code == AVERROR(EAGAIN)) {
      if (drained_) return false;
      feed();
      errors = 0;
    } else if (code < 0) {
      starved_ = starved_ || code == AVERROR(ENOMEM);
      ++errors;
    }
  }
  return false;
}

void FfmpegClip::feed() {
  const Ffmpeg& ff = ffmpeg();
  if (!std::exchange(held_, false) && !input_.read(*packet_)) {
    ff.avcodec_send_packet(decoder_.get(), nullptr);
    drained_ = true;
    return;
  }
  bool skip = false;
  if (timed_) {
    const int64_t index = packet_->pts != AV_NOPTS_VALUE ? index_of(packet_->pts) : -1;
    sent_ = std::max(sent_, index);
    // A frame that nobody asked for and that no other one needs.
    skip = !wanted_.empty() && !std::binary_search(wanted_.begin(), wanted_.end(), index);
  }
  skipped_ = skipped_ || skip;
  decoder_->skip_frame = skip ? AVDISCARD_NONREF : AVDISCARD_DEFAULT;
  const int code = ff.avcodec_send_packet(decoder_.get(), packet_.get());
  starved_ = starved_ || code == AVERROR(ENOMEM);  // what else it says of a packet changes nothing
}

}  // namespace keye::media
