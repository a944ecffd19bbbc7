// Files: whole reads with a limit, read-only mappings, writes that appear whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace keye {

using Path = std::filesystem::path;

/// The whole file as bytes. Errors: not_found, io, too_large (over bytes_max).
Result<std::string> read_file(const Path& path, size_t bytes_max = size_t{1} << 30);

/// The whole regular file at `relative` inside `folder`, found and opened in one step of the kernel (openat2): neither
/// "..", nor an absolute path, nor a symbolic link, nor a file swapped meanwhile leads out of the folder. Files that
/// the kernel makes up (/proc, /sys) are refused too. Messages do not name the folder. Errors: invalid_argument (leads
/// out, whatever is there), not_found, io, too_large, unsupported (Linux before 5.6).
Result<std::string> read_file_below(const Path& folder, const Path& relative, size_t bytes_max);

/// Writes to a temporary beside `path` and renames it over. Errors: io.
Result<void> write_file(const Path& path, std::string_view bytes);

/// A read-only, private mapping of a whole file; unmapped on destruction. An empty file maps to an empty span.
class MappedFile {
 public:
  static Result<MappedFile> open(const Path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept { swap(other); }
  MappedFile& operator=(MappedFile&& other) noexcept {
    MappedFile moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const Path& path() const { return path_; }

  /// Tells the system that this range will not be read soon, so its pages stop counting as resident.
  void drop(std::span<const std::byte> range) const;
  /// Tells the system that this range will be read soon, from start to end.
  void prefetch(std::span<const std::byte> range) const;

 private:
  void swap(MappedFile& other) noexcept;

  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  Path path_;
};

}  // namespace keye
