// FFmpeg's libraries, loaded when a worker starts: no other process carries them and the hundred libraries that they
// need, and a machine without them still does everything but video.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libavutil/opt.h>
#include <libavutil/pixdesc.h>
#include <libswscale/swscale.h>
}

#include <string>

namespace keye::media {

// Of such lists clang-format makes something else each time.
// clang-format off
#define KEYE_AVUTIL(X) \
  X(av_log_set_level) X(av_malloc) X(av_freep) X(av_dict_set) X(av_dict_set_int) X(av_dict_free) \
  X(av_frame_alloc) X(av_frame_free) X(av_frame_unref) X(av_frame_move_ref) X(av_frame_get_buffer) \
  X(av_frame_get_side_data) X(av_display_rotation_get) X(av_opt_set_int) X(av_pix_fmt_desc_get)
#define KEYE_AVCODEC(X) \
  X(avcodec_find_decoder_by_name) X(avcodec_get_name) X(avcodec_alloc_context3) X(avcodec_free_context) \
  X(avcodec_parameters_to_context) X(avcodec_open2) X(avcodec_send_packet) X(avcodec_receive_frame) \
  X(avcodec_flush_buffers) X(av_packet_alloc) X(av_packet_free) X(av_packet_unref)
#define KEYE_AVFORMAT(X) \
  X(avformat_alloc_context) X(avformat_open_input) X(avformat_close_input) X(avformat_find_stream_info) \
  X(avformat_seek_file) X(avio_alloc_context) X(avio_context_free) X(av_find_input_format) \
  X(av_find_best_stream) X(av_read_frame) X(av_stream_get_side_data)
#define KEYE_SWSCALE(X) \
  X(sws_alloc_context) X(sws_init_context) X(sws_freeContext) X(sws_scale) X(sws_getCoefficients) \
  X(sws_getColorspaceDetails) X(sws_setColorspaceDetails)
// clang-format on

/// The functions in use, under their own names.
struct Ffmpeg {
#define KEYE_DECLARE(name) decltype(&::name) name = nullptr;
  KEYE_AVUTIL(KEYE_DECLARE)
  KEYE_AVCODEC(KEYE_DECLARE)
  KEYE_AVFORMAT(KEYE_DECLARE)
  KEYE_SWSCALE(KEYE_DECLARE)
#undef KEYE_DECLARE
};

/// Of the major versions that this program is compiled for. Returns what is missing, or nothing. Not thread-safe.
std::string load_ffmpeg();

/// After load_ffmpeg() succeeded.
const Ffmpeg& ffmpeg();

}  // namespace keye::media
