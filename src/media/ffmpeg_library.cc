#include "media/ffmpeg_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

namespace keye::media {
namespace {

Ffmpeg functions;

struct Loading {
  void* library = nullptr;
  std::string missing;

  void open(const char* name, int major) {
    if (!missing.empty()) return;
    const std::string file = fmt::format("lib{}.so.{}", name, major);
    library = ::dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (library == nullptr) missing = file;
  }
  template <class Function>
  void find(Function& function, const char* name) {
    if (!missing.empty()) return;
    function = reinterpret_cast<Function>(::dlsym(library, name));
    if (function == nullptr) missing = name;
  }
};

}  // namespace

std::string load_ffmpeg() {
  Loading loading;
#define KEYE_FIND(name) loading.find(functions.name, #name);
  loading.open("avutil", LIBAVUTIL_VERSION_MAJOR);
  KEYE_AVUTIL(KEYE_FIND)
  loading.open("avcodec", LIBAVCODEC_VERSION_MAJOR);
  KEYE_AVCODEC(KEYE_FIND)
  loading.open("avformat", LIBAVFORMAT_VERSION_MAJOR);
  KEYE_AVFORMAT(KEYE_FIND)
  loading.open("swscale", LIBSWSCALE_VERSION_MAJOR);
  KEYE_SWSCALE(KEYE_FIND)
#undef KEYE_FIND
  if (loading.missing.empty()) functions.av_log_set_level(AV_LOG_QUIET);
  return loading.missing;
}

const Ffmpeg& ffmpeg() { return functions; }

}  // namespace keye::media
