// Clips as descriptors: files, and bytes in sealed memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "media/load.h"
#include "media/video.h"

namespace keye::media {
namespace {

Error too_large(std::string_view where, int64_t bytes, int64_t bytes_max) {
  return make_error(ErrorCode::too_large, where, "{} bytes, over the limit of {}", bytes, bytes_max);
}

Error system_error(const char* what) {
  return make_error(ErrorCode::io, "video", "cannot {}: {}", what, std::strerror(errno));
}

}  // namespace

Result<Clip> Clip::from_bytes(std::string_view bytes, int64_t bytes_max) {
  const auto size = static_cast<int64_t>(bytes.size());
  if (size > bytes_max) return too_large("video", size, bytes_max);
  OpenFile file{Descriptor(::memfd_create("keye-clip", MFD_CLOEXEC | MFD_ALLOW_SEALING)), size};
  if (!file.descriptor) return system_error("make room for a clip");
  while (!bytes.empty()) {
    const ssize_t put = ::write(file.descriptor.get(), bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return system_error("keep a clip in memory");
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  // The worker reads it and nobody writes to it any more.
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if (::fcntl(file.descriptor.get(), F_ADD_SEALS, kSeals) != 0) return system_error("seal a clip");
  return Clip(std::move(file));
}

Result<Clip> Clip::from_file(const Path& path, int64_t bytes_max) {
  KEYE_TRY(OpenFile file, open_file(path));
  if (file.bytes > bytes_max) return too_large(path.string(), file.bytes, bytes_max);
  return Clip(std::move(file));
}

Result<Clip> Clip::from_file_below(const Path& root, const Path& path, int64_t bytes_max) {
  KEYE_TRY(OpenFile file, open_below(root, path));
  if (file.bytes > bytes_max) return too_large(path.string(), file.bytes, bytes_max);
  return Clip(std::move(file));
}

}  // namespace keye::media
