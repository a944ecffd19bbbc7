#include "tensor/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/json.h"

namespace keye {
namespace {

constexpr size_t kHeaderBytesMax = size_t{100} << 20;  // the format's own limit
constexpr size_t kPrefix = 8;

Result<TensorEntry> parse_entry(const Json& value, const std::string& where) {
  auto bad = [&](std::string_view what) { return make_error(ErrorCode::corrupt_data, where, "{}", what); };
  if (!value.is_object()) return bad("not an object");
  const auto dtype = value.find("dtype");
  const auto shape = value.find("shape");
  const auto offsets = value.find("data_offsets");
  if (dtype == value.end() || !dtype->is_string()) return bad("no \"dtype\" string");
  if (shape == value.end() || !shape->is_array()) return bad("no \"shape\" array");
  if (offsets == value.end() || !offsets->is_array() || offsets->size() != 2) return bad("no \"data_offsets\" pair");
  const auto name = dtype->get_ref<const std::string&>();
  const auto known = dtype_from_safetensors(name);
  if (!known) return make_error(ErrorCode::unsupported, where, "dtype \"{}\" is not supported", name);
  if (shape->size() > kRankMax) {
    return make_error(ErrorCode::unsupported, where, "{} dimensions, the limit is {}", shape->size(), kRankMax);
  }
  std::vector<int64_t> sizes;
  size_t bytes = dtype_bytes(*known);
  for (const Json& size : *shape) {
    if (!size.is_number_unsigned()) return bad("a size in \"shape\" is not a whole number");
    const uint64_t value_of = size.get<uint64_t>();
    if (value_of > std::numeric_limits<uint32_t>::max() ||
        (value_of != 0 && bytes > std::numeric_limits<size_t>::max() / 2 / value_of)) {
      return bad("\"shape\" is larger than any memory");
    }
    bytes *= value_of;
    sizes.push_back(static_cast<int64_t>(value_of));
  }
  if (!(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned())
    return bad("\"data_offsets\" are not whole numbers");
  TensorEntry entry{*known, Shape(sizes), (*offsets)[0].get<size_t>(), (*offsets)[1].get<size_t>()};
  if (entry.begin > entry.end || entry.end - entry.begin != bytes) {
    return make_error(ErrorCode::corrupt_data, where, "data_offsets [{}, {}] do not hold {} of {} ({} bytes)",
                      entry.begin, entry.end, name, entry.shape.to_string(), bytes);
  }
  return entry;
}

}  // namespace

Result<std::map<std::string, TensorEntry, std::less<>>> parse_safetensors_header(std::string_view header,
                                                                                 size_t data_bytes,
                                                                                 std::string_view where) {
  KEYE_TRY(const Json json, parse_json(header, where));
  if (!json.is_object()) return make_error(ErrorCode::corrupt_data, where, "the header is not a JSON object");
  std::map<std::string, TensorEntry, std::less<>> entries;
  std::vector<std::pair<const TensorEntry*, const std::string*>> order;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") continue;
    KEYE_TRY(TensorEntry entry, parse_entry(value, fmt::format("{}: tensor \"{}\"", where, name)));
    if (entry.end > data_bytes) {
      return make_error(ErrorCode::corrupt_data, where,
                        "tensor \"{}\" ends at byte {} of the data, but the file has {}: it is truncated or damaged",
                        name, entry.end, data_bytes);
    }
    const auto [at, inserted] = entries.emplace(name, entry);
    KEYE_CHECK(inserted);
    if (entry.begin != entry.end) order.emplace_back(&at->second, &at->first);
  }
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first->begin < b.first->begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i].first->begin < order[i - 1].first->end) {
      return make_error(ErrorCode::corrupt_data, where, "tensors \"{}\" and \"{}\" overlap", *order[i - 1].second,
                        *order[i].second);
    }
  }
  return entries;
}

Result<TensorFile> TensorFile::open(const Path& path) {
  TensorFile result;
  KEYE_TRY(result.file_, MappedFile::open(path));
  const auto bytes = result.file_.bytes();
  const std::string where = path.string();
  if (bytes.size() < kPrefix) {
    return make_error(ErrorCode::corrupt_data, where, "{} bytes are too few for a safetensors file", bytes.size());
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kPrefix; ++i) header_bytes |= static_cast<uint64_t>(bytes[i]) << (8 * i);
  if (header_bytes > kHeaderBytesMax || header_bytes > bytes.size() - kPrefix) {
    return make_error(ErrorCode::corrupt_data, where, "claims a header of {} bytes in a file of {}", header_bytes,
                      bytes.size());
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kPrefix, header_bytes);
  const auto data = bytes.subspan(kPrefix + header_bytes);
  KEYE_TRY(const auto entries, parse_safetensors_header(header, data.size(), where));
  for (const auto& [name, entry] : entries) {
    result.tensors_.emplace(name, ConstView{data.data() + entry.begin, entry.dtype, entry.shape});
  }
  return result;
}

Result<void> write_safetensors(const Path& path, const std::vector<NamedTensor>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  size_t offset = 0;
  for (const NamedTensor& tensor : tensors) {
    nlohmann::ordered_json shape = nlohmann::ordered_json::array();
    for (int i = 0; i < tensor.view.shape.rank(); ++i) shape.push_back(tensor.view.shape[i]);
    header[tensor.name] = {{"dtype", std::string(dtype_to_safetensors(tensor.view.dtype))},
                           {"shape", std::move(shape)},
                           {"data_offsets", {offset, offset + tensor.view.bytes()}}};
    offset += tensor.view.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // keeps the data aligned
  std::string bytes;
  bytes.reserve(kPrefix + text.size() + offset);
  for (size_t i = 0; i < kPrefix; ++i) bytes.push_back(static_cast<char>((text.size() >> (8 * i)) & 0xff));
  bytes += text;
  for (const NamedTensor& tensor : tensors) {
    if (tensor.view.bytes() != 0) bytes.append(static_cast<const char*>(tensor.view.data), tensor.view.bytes());
  }
  return write_file(path, bytes);
}

}  // namespace keye
