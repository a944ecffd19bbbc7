// Clips as descriptors: files, and bytes in sealed memory.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

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
  return Clip(std::move(file), true);
}

Result<Clip> Clip::from_file(const Path& path, int64_t bytes_max) {
  KEYE_TRY(OpenFile file, open_file(path));
  if (file.bytes > bytes_max) return too_large(path.string(), file.bytes, bytes_max);
  return Clip(std::move(file), false);
}

Result<Clip> Clip::from_file_below(const Path& root, const Path& path, int64_t bytes_max) {
  KEYE_TRY(OpenFile file, open_below(root, path));
  if (file.bytes > bytes_max) return too_large(path.string(), file.bytes, bytes_max);
  return Clip(std::move(file), false);
}

Result<Digest> Clip::digest(const std::stop_token& stop) const {
  constexpr int64_t kPieceBytes = int64_t{1} << 20;
  std::vector<std::byte> piece(static_cast<size_t>(std::min(kPieceBytes, bytes())));
  Sha256 hash;
  for (int64_t at = 0; at < bytes();) {
    if (stop.stop_requested()) return Error{ErrorCode::cancelled, "stopped on request", ""};
    const auto wanted = static_cast<size_t>(std::min(kPieceBytes, bytes() - at));
    const ssize_t got = ::pread(descriptor(), piece.data(), wanted, at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error("read a clip");
    if (got == 0) return Error{ErrorCode::io, "the clip became shorter while it was being read", "video"};
    hash.add(std::span(piece).first(static_cast<size_t>(got)));
    at += got;
  }
  struct stat now = {};
  if (!is_sealed_ && ::fstat(descriptor(), &now) != 0) return system_error("look at a clip");
  return hash.add_value(int64_t{now.st_ctim.tv_sec}).add_value(int64_t{now.st_ctim.tv_nsec}).finish();
}

}  // namespace keye::media
