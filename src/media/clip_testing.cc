#include "media/clip_testing.h"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/check.h"

/// libx265 forgets some of its memory when an encoder ends.
extern "C" const char* __lsan_default_suppressions();  // NOLINT(bugprone-reserved-identifier): the sanitizer's name
extern "C" const char* __lsan_default_suppressions() { return "leak:libx265"; }

namespace keye::media::testing {
namespace {

constexpr int kTicks = 100;  // of a frame at the recipe's rate
constexpr int kBits = 8;

/// What the muxer writes, with seeking back.
struct Output {
  std::string bytes;
  size_t at = 0;

  static int write(void* self, uint8_t* data, int count) {
    auto& out = *static_cast<Output*>(self);
    const auto size = static_cast<size_t>(count);
    if (out.bytes.size() < out.at + size) out.bytes.resize(out.at + size);
    std::memcpy(out.bytes.data() + out.at, data, size);
    out.at += size;
    return count;
  }
  static int64_t seek(void* self, int64_t offset, int whence) {
    auto& out = *static_cast<Output*>(self);
    if (whence == AVSEEK_SIZE) return static_cast<int64_t>(out.bytes.size());
    if (whence == SEEK_CUR) offset += static_cast<int64_t>(out.at);
    if (whence == SEEK_END) offset += static_cast<int64_t>(out.bytes.size());
    out.at = static_cast<size_t>(offset);
    return offset;
  }
};

void ok(int code, const char* what) { KEYE_CHECK(code >= 0, "{}: {}", what, code); }

/// A grey picture with a slope that moves; its number in bits along the top, each a block as wide as an eighth.
void draw(AVFrame& frame, const ClipRecipe& recipe, int number) {
  for (int y = 0; y < frame.height; ++y) {
    for (int x = 0; x < frame.width; ++x) {
      uint8_t value = static_cast<uint8_t>(60 + (x * 2 + y + number * 3) % 120);
      if (y < frame.height / 4) value = (number >> std::min(x * kBits / frame.width, kBits - 1) & 1) != 0 ? 230 : 20;
      if (recipe.plain >= 0) value = static_cast<uint8_t>(recipe.plain >> 16);
      frame.data[0][y * frame.linesize[0] + x] = value;
    }
  }
  for (int plane = 1; plane < 3; ++plane) {
    const int value = recipe.plain >= 0 ? recipe.plain >> (plane == 1 ? 8 : 0) & 255 : 110 + plane * 10;
    for (int y = 0; y < (frame.height + 1) / 2; ++y) {
      std::memset(frame.data[plane] + y * frame.linesize[plane], value, static_cast<size_t>((frame.width + 1) / 2));
    }
  }
}

class Maker {
 public:
  explicit Maker(const ClipRecipe& recipe) : recipe_(recipe) {}

  std::string make() {
    open_output();
    open_encoder();
    open_stream();
    AVDictionary* options = nullptr;
    for (const auto& [name, value] : recipe_.muxing) av_dict_set(&options, name.c_str(), value.c_str(), 0);
    ok(avformat_write_header(format_, &options), "header");
    av_dict_free(&options);
    recipe_.sound_only ? encode_silence() : encode_pictures();
    ok(av_write_trailer(format_), "trailer");
    avio_flush(format_->pb);
    close();
    return std::move(output_.bytes);
  }

 private:
  void open_output() {
    av_log_set_level(AV_LOG_ERROR);
    ok(avformat_alloc_output_context2(&format_, nullptr, recipe_.format.c_str(), nullptr), "muxer");
    auto* buffer = static_cast<unsigned char*>(av_malloc(1 << 16));
    format_->pb = avio_alloc_context(buffer, 1 << 16, 1, &output_, nullptr, Output::write, Output::seek);
    format_->flags |= AVFMT_FLAG_CUSTOM_IO | AVFMT_FLAG_BITEXACT;
  }

  void open_encoder() {
    const AVCodec* codec = avcodec_find_encoder_by_name(recipe_.sound_only ? "aac" : recipe_.codec.c_str());
    KEYE_CHECK(codec != nullptr, "no encoder {}", recipe_.codec);
    encoder_ = avcodec_alloc_context3(codec);
    encoder_->flags |= AV_CODEC_FLAG_BITEXACT;
    encoder_->thread_count = 1;
    if ((format_->oformat->flags & AVFMT_GLOBALHEADER) != 0) encoder_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (recipe_.sound_only) {
      encoder_->sample_fmt = AV_SAMPLE_FMT_FLTP;
      encoder_->sample_rate = 48000;
      encoder_->time_base = {1, 48000};
      av_channel_layout_default(&encoder_->ch_layout, 1);
    } else {
      set_pictures();
    }
    AVDictionary* options = nullptr;
    for (const auto& [name, value] : recipe_.options) av_dict_set(&options, name.c_str(), value.c_str(), 0);
    ok(avcodec_open2(encoder_, codec, &options), "encoder");
    KEYE_CHECK(av_dict_count(options) == 0, "the encoder {} does not know all options", recipe_.codec);
  }

  void set_pictures() {
    encoder_->width = recipe_.width;
    encoder_->height = recipe_.height;
    encoder_->pix_fmt = av_get_pix_fmt(recipe_.pixels.c_str());
    encoder_->gop_size = recipe_.gop;
    encoder_->max_b_frames = recipe_.b_frames;
    encoder_->colorspace = static_cast<AVColorSpace>(recipe_.colour_space);
    encoder_->color_range = static_cast<AVColorRange>(recipe_.colour_range);
    // MPEG-4 keeps times in 16 bits; where all frames come evenly, no finer clock is needed.
    const int ticks = recipe_.times.empty() ? 1 : kTicks;
    encoder_->time_base = {1, recipe_.fps * ticks};
    encoder_->framerate = {recipe_.fps, 1};
  }

  void open_stream() {
    stream_ = avformat_new_stream(format_, nullptr);
    ok(avcodec_parameters_from_context(stream_->codecpar, encoder_), "parameters");
    stream_->time_base = encoder_->time_base;
    if (!recipe_.sound_only && recipe_.times.empty()) stream_->avg_frame_rate = encoder_->framerate;
    if (recipe_.rotation == 0 && !recipe_.mirrored) return;
    auto* matrix =
        reinterpret_cast<int32_t*>(av_stream_new_side_data(stream_, AV_PKT_DATA_DISPLAYMATRIX, sizeof(int32_t) * 9));
    av_display_rotation_set(matrix, -recipe_.rotation);
    if (recipe_.mirrored) av_display_matrix_flip(matrix, 1, 0);
  }

  void encode(AVFrame* frame) {
    ok(avcodec_send_frame(encoder_, frame), "frame");
    AVPacket* packet = av_packet_alloc();
    while (avcodec_receive_packet(encoder_, packet) >= 0) {
      if (packet->duration == 0 && !recipe_.sound_only) packet->duration = recipe_.times.empty() ? 1 : kTicks;
      av_packet_rescale_ts(packet, encoder_->time_base, stream_->time_base);
      packet->stream_index = stream_->index;
      ok(av_interleaved_write_frame(format_, packet), "packet");
    }
    av_packet_free(&packet);
  }

  void encode_pictures() {
    AVFrame* frame = av_frame_alloc();
    frame->width = recipe_.width;
    frame->height = recipe_.height;
    frame->format = AV_PIX_FMT_YUV420P;
    ok(av_frame_get_buffer(frame, 0), "buffer");
    AVFrame* converted = encoder_->pix_fmt == AV_PIX_FMT_YUV420P ? nullptr : av_frame_alloc();
    for (int i = 0; i < recipe_.frames; ++i) {
      ok(av_frame_make_writable(frame), "frame");
      draw(*frame, recipe_, i);
      AVFrame* sent = converted == nullptr ? frame : convert(*frame, *converted);
      sent->colorspace = encoder_->colorspace;
      sent->color_range = encoder_->color_range;
      sent->pts = recipe_.times.empty() ? i : recipe_.times[static_cast<size_t>(i)];
      encode(sent);
    }
    encode(nullptr);
    av_frame_free(&frame);
    av_frame_free(&converted);
  }

  AVFrame* convert(const AVFrame& from, AVFrame& to) const {
    av_frame_unref(&to);
    to.width = from.width;
    to.height = from.height;
    to.format = encoder_->pix_fmt;
    ok(av_frame_get_buffer(&to, 0), "buffer");
    SwsContext* scaler = sws_getContext(from.width, from.height, AV_PIX_FMT_YUV420P, to.width, to.height,
                                        encoder_->pix_fmt, SWS_BICUBIC, nullptr, nullptr, nullptr);
    sws_scale(scaler, from.data, from.linesize, 0, from.height, to.data, to.linesize);
    sws_freeContext(scaler);
    return &to;
  }

  void encode_silence() {
    AVFrame* frame = av_frame_alloc();
    frame->format = encoder_->sample_fmt;
    frame->nb_samples = encoder_->frame_size;
    frame->sample_rate = encoder_->sample_rate;
    av_channel_layout_copy(&frame->ch_layout, &encoder_->ch_layout);
    ok(av_frame_get_buffer(frame, 0), "buffer");
    std::memset(frame->data[0], 0, static_cast<size_t>(frame->linesize[0]));
    for (frame->pts = 0; frame->pts < 48000; frame->pts += frame->nb_samples) encode(frame);
    encode(nullptr);
    av_frame_free(&frame);
  }

  void close() {
    avcodec_free_context(&encoder_);
    av_freep(&format_->pb->buffer);
    avio_context_free(&format_->pb);
    avformat_free_context(format_);
  }

  const ClipRecipe& recipe_;
  Output output_;
  AVFormatContext* format_ = nullptr;
  AVCodecContext* encoder_ = nullptr;
  AVStream* stream_ = nullptr;
};

}  // namespace

std::string make_clip(const ClipRecipe& recipe) { return Maker(recipe).make(); }

int frame_number(const Image& frame) {
  int number = 0;
  for (int bit = 0; bit < kBits; ++bit) {
    const int x = (2 * bit + 1) * frame.width / (2 * kBits);
    const int green = frame.row(frame.height / 8)[x * 3 + 1];
    if (green > 100 && green < 160) return -1;
    if (green >= 160) number |= 1 << bit;
  }
  return number;
}

}  // namespace keye::media::testing
