#include "media/ffmpeg_rgb.h"

#include <cmath>
#include <cstring>

namespace keye::media {
namespace {

/// As FFmpeg's scale filter takes them: BT.601 for what names no matrix, or one that it does not know.
const int* matrix_of(int space) {
  const bool known = space >= 1 && space <= 10 && space != AVCOL_SPC_YCGCO;
  return ffmpeg().sws_getCoefficients(known ? space : AVCOL_SPC_BT470BG);
}

}  // namespace

std::optional<Turn> turn_of_matrix(const int32_t* matrix, int64_t& degrees) {
  degrees = 0;
  if (matrix == nullptr) return Turn{};
  double theta = -std::round(ffmpeg().av_display_rotation_get(matrix));
  if (std::isnan(theta)) return Turn{};  // a matrix of zeros, which FFmpeg takes for none
  theta -= 360 * std::floor(theta / 360 + 0.9 / 360);
  degrees = static_cast<int64_t>(std::lround(theta));
  if (std::fabs(theta - 90) < 1) {
    return matrix[3] > 0 ? Turn{.swap = true} : Turn{.swap = true, .reverse_columns = true};
  }
  if (std::fabs(theta - 180) < 1) return Turn{.reverse_rows = matrix[4] < 0, .reverse_columns = matrix[0] < 0};
  if (std::fabs(theta - 270) < 1) {
    return matrix[3] < 0 ? Turn{.swap = true, .reverse_rows = true, .reverse_columns = true}
                         : Turn{.swap = true, .reverse_rows = true};
  }
  if (std::fabs(theta) < 1) return Turn{.reverse_rows = matrix[4] < 0};
  return std::nullopt;
}

void FfmpegRgb::set_output(int width, int height, Turn turn) {
  width_ = width;
  height_ = height;
  turn_ = turn;
  key_ = {};
  aside_.reset();
}

bool FfmpegRgb::set_colours(const Key& key) {
  const Ffmpeg& ff = ffmpeg();
  int* in_table = nullptr;
  int* out_table = nullptr;
  int in_full = 0, out_full = 0, brightness = 0, contrast = 0, saturation = 0;
  if (ff.sws_getColorspaceDetails(scaler_, &in_table, &in_full, &out_table, &out_full, &brightness, &contrast,
                                  &saturation) < 0) {
    return true;  // RGB goes in: nothing to set
  }
  if (key.range != AVCOL_RANGE_UNSPECIFIED) in_full = key.range == AVCOL_RANGE_JPEG;
  ff.sws_setColorspaceDetails(scaler_, matrix_of(key.space), in_full, out_table, out_full, brightness, contrast,
                              saturation);
  return true;
}

bool FfmpegRgb::prepare(const AVFrame& frame) {
  const Key key{frame.width, frame.height, frame.format, frame.colorspace, frame.color_range};
  if (scaler_ != nullptr && key == key_) return true;
  const Ffmpeg& ff = ffmpeg();
  ff.sws_freeContext(scaler_);
  scaler_ = ff.sws_alloc_context();
  if (scaler_ == nullptr) return false;
  const auto set = [&](const char* name, int64_t value) { ff.av_opt_set_int(scaler_, name, value, 0); };
  set("srcw", key.width);
  set("srch", key.height);
  set("src_format", key.format);
  set("dstw", width_);
  set("dsth", height_);
  set("dst_format", AV_PIX_FMT_RGB24);
  set("sws_flags", SWS_BICUBIC);
  // Where the scale filter takes 4:2:0 chroma to lie: between two rows.
  if (key.format == AV_PIX_FMT_YUV420P) set("src_v_chr_pos", 128);
  if (key.range != AVCOL_RANGE_UNSPECIFIED) set("src_range", key.range == AVCOL_RANGE_JPEG);
  if (ff.sws_init_context(scaler_, nullptr, nullptr) < 0) return false;
  key_ = key;
  return set_colours(key);
}

bool FfmpegRgb::convert(const AVFrame& frame, uint8_t* out) {
  if (!prepare(frame)) return false;
  const Ffmpeg& ff = ffmpeg();
  const size_t row_bytes = static_cast<size_t>(width_) * 3;
  if (!turn_ && row_bytes % 32 == 0) {
    uint8_t* const planes[4] = {out, nullptr, nullptr, nullptr};
    const int strides[4] = {static_cast<int>(row_bytes), 0, 0, 0};
    return ff.sws_scale(scaler_, frame.data, frame.linesize, 0, frame.height, planes, strides) == height_;
  }
  if (aside_ == nullptr) {
    FramePtr made(ff.av_frame_alloc());
    if (made == nullptr) return false;
    made->width = width_;
    made->height = height_;
    made->format = AV_PIX_FMT_RGB24;
    if (ff.av_frame_get_buffer(made.get(), 0) < 0) return false;
    aside_ = std::move(made);
  }
  if (ff.sws_scale(scaler_, frame.data, frame.linesize, 0, frame.height, aside_->data, aside_->linesize) != height_) {
    return false;
  }
  turn_rgb(aside_->data[0], static_cast<size_t>(aside_->linesize[0]), width_, height_, turn_, out);
  return true;
}

}  // namespace keye::media
