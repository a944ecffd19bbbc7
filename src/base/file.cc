#include "base/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/descriptor.h"

namespace keye {
namespace {

Error system_error(const Path& path, const char* action) {
  const int code = errno;
  return make_error(code == ENOENT ? ErrorCode::not_found : ErrorCode::io, path.string(), "cannot {}: {}", action,
                    std::strerror(code));
}

/// Opens a regular file and finds its size.
Result<size_t> open_regular(const Path& path, Descriptor& out) {
  out = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!out) return system_error(path, "open");
  struct stat status {};
  if (::fstat(out.get(), &status) != 0) return system_error(path, "stat");
  if (!S_ISREG(status.st_mode)) return make_error(ErrorCode::io, path.string(), "not a regular file");
  return static_cast<size_t>(status.st_size);
}

size_t page_bytes() {
  static const size_t size = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return size;
}

/// The whole pages inside `range`, as madvise wants them.
std::span<const std::byte> whole_pages(std::span<const std::byte> range) {
  const auto mask = ~(page_bytes() - 1);
  const auto begin = (reinterpret_cast<uintptr_t>(range.data()) + page_bytes() - 1) & mask;
  const auto end = reinterpret_cast<uintptr_t>(range.data() + range.size()) & mask;
  if (end <= begin) return {};
  return {reinterpret_cast<const std::byte*>(begin), end - begin};
}

/// Until the end of the file, as far as the limit goes. A pipe or terminal has no size to know beforehand: it comes
/// with a `size` of 0.
Result<std::string> read_all(const Descriptor& file, size_t size, const Path& path, size_t bytes_max) {
  std::string text;
  size_t done = 0;
  size_t capacity = std::max(size, size_t{65535}) + 1;
  while (true) {
    text.resize(std::min(capacity, bytes_max + 1));
    const ssize_t got = ::read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(path, "read");
    if (got == 0) break;
    done += static_cast<size_t>(got);
    if (done > bytes_max) {
      return make_error(ErrorCode::too_large, path.string(), "more than {} bytes, which is the limit", bytes_max);
    }
    if (done == capacity) capacity *= 2;
  }
  text.resize(done);
  return text;
}

/// O_NONBLOCK: opening a pipe without a writer would wait for one.
Result<void> open_below(const Descriptor& root, const Path& relative, Descriptor& out) {
  struct open_how how {};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  for (int tries = 0; tries < 100 && !out; ++tries) {
    out = Descriptor(static_cast<int>(::syscall(SYS_openat2, root.get(), relative.c_str(), &how, sizeof(how))));
    // Whenever something in the folder is renamed meanwhile, the kernel cannot be sure and says EAGAIN.
    if (!out && errno != EAGAIN && errno != EINTR) break;
  }
  if (out) return {};
  if (errno == EXDEV) return make_error(ErrorCode::invalid_argument, relative.string(), "leads out of the folder");
  if (errno == ENOSYS) {
    return make_error(ErrorCode::unsupported, relative.string(),
                      "this system cannot keep a path inside a folder: it has no openat2 (Linux 5.6)");
  }
  return system_error(relative, "open");
}

}  // namespace

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

Result<std::string> read_file(const Path& path, size_t bytes_max) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return system_error(path, "open");
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return system_error(path, "stat");
  if (S_ISDIR(status.st_mode)) return make_error(ErrorCode::io, path.string(), "is a folder; expected a file");
  return read_all(file, S_ISREG(status.st_mode) ? static_cast<size_t>(status.st_size) : 0, path, bytes_max);
}

Result<OpenFile> open_file(const Path& path) {
  OpenFile file;
  KEYE_TRY(const size_t bytes, open_regular(path, file.descriptor));
  file.bytes = static_cast<int64_t>(bytes);
  return file;
}

Result<OpenFile> open_file_below(const Path& folder, const Path& relative) {
  const Descriptor root(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!root) return system_error(relative, "open the folder of");
  OpenFile file;
  KEYE_TRY_VOID(open_below(root, relative, file.descriptor));
  struct stat status {};
  if (::fstat(file.descriptor.get(), &status) != 0) return system_error(relative, "stat");
  struct statfs filesystem {};
  if (::fstatfs(file.descriptor.get(), &filesystem) != 0) return system_error(relative, "stat");
  const bool made_up = filesystem.f_type == PROC_SUPER_MAGIC || filesystem.f_type == SYSFS_MAGIC;
  if (!S_ISREG(status.st_mode) || made_up) {
    return make_error(ErrorCode::io, relative.string(), "not a regular file");
  }
  file.bytes = status.st_size;
  return file;
}

Result<std::string> read_file_below(const Path& folder, const Path& relative, size_t bytes_max) {
  KEYE_TRY(const OpenFile file, open_file_below(folder, relative));
  return read_all(file.descriptor, static_cast<size_t>(file.bytes), relative, bytes_max);
}

Result<void> write_file(const Path& path, std::string_view bytes) {
  Path temporary = path;
  temporary += fmt::format(".tmp{}", ::getpid());
  {
    Descriptor file;
    file = Descriptor(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file) return system_error(path, "create");
    while (!bytes.empty()) {
      const ssize_t put = ::write(file.get(), bytes.data(), bytes.size());
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) {
        const Error error = system_error(path, "write");
        ::unlink(temporary.c_str());
        return error;
      }
      bytes.remove_prefix(static_cast<size_t>(put));
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    const Error error = system_error(path, "rename");
    ::unlink(temporary.c_str());
    return error;
  }
  return {};
}

Result<MappedFile> MappedFile::open(const Path& path) {
  Descriptor file;
  KEYE_TRY(const size_t size, open_regular(path, file));
  MappedFile mapped;
  mapped.path_ = path;
  if (size == 0) return mapped;
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) return system_error(path, "map");
  mapped.data_ = static_cast<const std::byte*>(address);
  mapped.size_ = size;
  return mapped;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::swap(MappedFile& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
}

void MappedFile::drop(std::span<const std::byte> range) const {
  const auto pages = whole_pages(range);
  if (!pages.empty()) ::madvise(const_cast<std::byte*>(pages.data()), pages.size(), MADV_DONTNEED);
}

void MappedFile::prefetch(std::span<const std::byte> range) const {
  const auto pages = whole_pages(range);
  if (!pages.empty()) ::madvise(const_cast<std::byte*>(pages.data()), pages.size(), MADV_WILLNEED);
}

}  // namespace keye
