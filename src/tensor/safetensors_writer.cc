#include "tensor/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/json.h"

namespace keye {
namespace {

constexpr size_t kPrefix = 8;

}  // namespace

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, Path())),
      file_(std::move(other.file_)),
      left_(other.left_) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Error SafetensorsWriter::failed(const char* action) const {
  return make_error(ErrorCode::io, path_.string(), "cannot {}: {}", action, std::strerror(errno));
}

Result<SafetensorsWriter> SafetensorsWriter::create(const Path& path, const std::vector<TensorPlace>& places) {
  OrderedJson header = OrderedJson::object();
  size_t offset = 0;
  for (const TensorPlace& place : places) {
    OrderedJson shape = OrderedJson::array();
    for (int i = 0; i < place.shape.rank(); ++i) shape.push_back(place.shape[i]);
    const size_t bytes = ConstView{nullptr, place.dtype, place.shape}.bytes();
    header[place.name] = {{"dtype", std::string(dtype_to_safetensors(place.dtype))},
                          {"shape", std::move(shape)},
                          {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // keeps the data aligned
  std::string begin;
  for (size_t i = 0; i < kPrefix; ++i) begin.push_back(static_cast<char>((text.size() >> (8 * i)) & 0xff));
  begin += text;
  SafetensorsWriter writer;
  writer.path_ = path;
  Path temporary = path;
  temporary += fmt::format(".tmp{}", ::getpid());
  writer.file_ = Descriptor(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!writer.file_) return writer.failed("create");
  writer.temporary_ = temporary;
  writer.left_ = begin.size() + offset;
  KEYE_TRY_VOID(writer.put(std::as_bytes(std::span(begin))));
  return writer;
}

Result<void> SafetensorsWriter::put(std::span<const std::byte> bytes) {
  KEYE_CHECK(bytes.size() <= left_, "{} bytes for {} that are left", bytes.size(), left_);
  left_ -= bytes.size();
  while (!bytes.empty()) {
    const ssize_t put = ::write(file_.get(), bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return failed("write");
    bytes = bytes.subspan(static_cast<size_t>(put));
  }
  return {};
}

Result<void> SafetensorsWriter::finish() {
  KEYE_CHECK(left_ == 0, "{} bytes are missing", left_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return failed("rename");
  temporary_.clear();
  return {};
}

}  // namespace keye
