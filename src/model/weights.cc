#include "model/weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <set>
#include <utility>

#include "base/json.h"

namespace keye::model {
namespace {

constexpr size_t kNamesShown = 20;

/// Exporters' spellings of the same tensor. The first that fits is applied.
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kPrefixes = {{
    {"model.language_model.model.", "model."},
    {"model.language_model.", "model."},
    {"language_model.model.", "model."},
    {"language_model.lm_head.", "lm_head."},
    {"model.lm_head.", "lm_head."},
    {"model.visual.", "visual."},
    {"model.mlp_AR.", "mlp_AR."},
}};

std::string canonical_name(const std::string& name) {
  for (const auto& [from, to] : kPrefixes) {
    if (name.starts_with(from)) return std::string(to) + name.substr(from.size());
  }
  return name;
}

/// A file name that stays inside the folder.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.find('/') == std::string_view::npos && name != "." && name != "..";
}

Result<std::vector<std::string>> shard_names(const Path& folder) {
  const Path index_path = folder / "model.safetensors.index.json";
  if (!std::filesystem::exists(index_path)) {
    if (std::filesystem::exists(folder / "model.safetensors")) return std::vector<std::string>{"model.safetensors"};
    return make_error(ErrorCode::not_found, folder.string(),
                      "no weights: neither model.safetensors nor model.safetensors.index.json");
  }
  KEYE_TRY(const Json index, read_json(index_path));
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return make_error(ErrorCode::corrupt_data, index_path.string(), "\"weight_map\" should be an object");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string() || !is_plain_file_name(file.get_ref<const std::string&>())) {
      return make_error(ErrorCode::corrupt_data, index_path.string(),
                        "\"{}\" should name a file of this folder, got {}", tensor, file.dump());
    }
    names.insert(file.get<std::string>());
  }
  return std::vector<std::string>(names.begin(), names.end());
}

void append_names(std::string& message, std::string_view title, const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  message += fmt::format("{}{} {}:", message.empty() ? "" : "\n", lines.size(), title);
  for (size_t i = 0; i < std::min(lines.size(), kNamesShown); ++i) message += "\n  " + lines[i];
  if (lines.size() > kNamesShown) message += fmt::format("\n  ... and {} more", lines.size() - kNamesShown);
}

/// A table where the backend's ops can read it: itself, or a copy in `storage`.
ConstView upload_table(const ConstView& table, ops::Backend& backend, std::vector<Tensor>& storage) {
  if (backend.on_host()) return table;
  storage.push_back(backend.tensor(table.dtype, table.shape));
  backend.write(storage.back().view(), table.data);
  return std::as_const(storage.back()).view();
}

}  // namespace

MatrixPart whole_matrix(std::string name, int64_t rows, int64_t cols) {
  return {std::move(name), {rows, cols}, 0, rows, cols, cols, 1};
}

MatrixPart rows_of_matrix(std::string name, int64_t rows, int64_t cols, const Shard::Range& range) {
  return {std::move(name), {rows, cols}, range.begin * cols, range.length(), cols, cols, 1};
}

MatrixPart cols_of_matrix(std::string name, int64_t rows, int64_t cols, const Shard::Range& range) {
  return {std::move(name), {rows, cols}, range.begin, rows, range.length(), cols, 1};
}

void WeightList::matrix(std::vector<MatrixPart> parts, ops::PackedMatrix* to) {
  entries_.push_back({.parts = std::move(parts), .matrix = to});
}

void WeightList::gated_matrix(MatrixPart gate, MatrixPart up, ops::PackedMatrix* to) {
  entries_.push_back({.parts = {std::move(gate), std::move(up)}, .gated = true, .matrix = to});
}

void WeightList::matrix_f32(MatrixPart part, ops::PackedMatrix* to) {
  entries_.push_back({.parts = {std::move(part)}, .always_f32 = true, .matrix = to});
}

void WeightList::vector(std::string name, Shape shape, Tensor* to) {
  entries_.push_back({.parts = {{std::move(name), shape, 0, 1, shape.elements(), shape.elements(), 1}}, .vector = to});
}

void WeightList::table(std::string name, Shape shape, ConstView* to) {
  entries_.push_back({.parts = {{std::move(name), shape, 0, 1, shape.elements(), shape.elements(), 1}}, .table = to});
}

bool WeightList::ignores(std::string_view name) const {
  return std::any_of(ignored_.begin(), ignored_.end(),
                     [&](const std::string& part) { return name.find(part) != std::string_view::npos; });
}

int64_t WeightList::parameters() const {
  int64_t sum = 0;
  std::set<std::pair<std::string_view, int64_t>> seen;  // a tied table serves twice and counts once
  for (const Entry& entry : entries_) {
    for (const MatrixPart& part : entry.parts) {
      if (seen.emplace(part.name, part.offset).second) sum += part.rows * part.cols;
    }
  }
  return sum;
}

void dequantise_blocks(const ConstView& codes, const ConstView& scales, const BlockQuantisation& blocks, const Box& box,
                       float* out) {
  for (int64_t r = box.row; r < box.row + box.rows; ++r, out += box.cols) {
    convert_to_float(codes.dtype, codes.as<uint8_t>() + r * codes.shape[1] + box.col, out,
                     static_cast<size_t>(box.cols));
    const float* scale = scales.as<float>() + r / blocks.rows * scales.shape[1];
    for (int64_t c = 0; c < box.cols; ++c) out[c] *= scale[(box.col + c) / blocks.cols];
  }
}

namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";

Shape scale_shape(const Shape& matrix, const BlockQuantisation& blocks) {
  return {(matrix[0] + blocks.rows - 1) / blocks.rows, (matrix[1] + blocks.cols - 1) / blocks.cols};
}

/// Where a part of a stored matrix lies in it, as it stands or transposed.
Box box_of(const MatrixPart& part) {
  const int64_t width = part.stored[1];
  const bool stands = part.col_stride == 1 && part.row_stride == width;
  KEYE_CHECK(stands || (part.row_stride == 1 && part.col_stride == width), "{} is neither rows nor columns", part.name);
  const int64_t row = part.offset / width;
  const int64_t col = part.offset % width;
  return stands ? Box{row, col, part.rows, part.cols} : Box{row, col, part.cols, part.rows};
}

/// Whether the part stands in its matrix as it is, and is made of whole blocks.
bool is_of_blocks(const MatrixPart& part, const BlockQuantisation& blocks) {
  if (part.stored.rank() != 2 || part.col_stride != 1 || part.row_stride != part.stored[1]) return false;
  const Box box = box_of(part);
  const auto is_border = [](int64_t at, int64_t end, int64_t block) { return at % block == 0 || at == end; };
  return is_border(box.row, -1, blocks.rows) && is_border(box.row + box.rows, part.stored[0], blocks.rows) &&
         is_border(box.col, -1, blocks.cols) && is_border(box.col + box.cols, part.stored[1], blocks.cols);
}

bool holds_nan(const ConstView& codes, const Box& box) {
  for (int64_t r = box.row; r < box.row + box.rows; ++r) {
    const auto* row = codes.as<uint8_t>() + r * codes.shape[1] + box.col;
    if (std::any_of(row, row + box.cols, [](uint8_t code) { return (code & 0x7f) == 0x7f; })) return true;
  }
  return false;
}

}  // namespace

bool WeightList::may_keep_blocks(const Entry& entry) const {
  return blocks_ && entry.matrix != nullptr && !entry.always_f32 &&
         std::all_of(entry.parts.begin(), entry.parts.end(), [this](const MatrixPart& part) {
           return is_of_blocks(part, *blocks_) && part.name.starts_with("model.layers.");
         });
}

size_t WeightList::bytes(DType dtype) const {
  size_t sum = 0;
  std::set<std::pair<std::string_view, int64_t>> seen;
  for (const Entry& entry : entries_) {
    for (const MatrixPart& part : entry.parts) {
      if (!seen.emplace(part.name, part.offset).second) continue;
      const size_t element = may_keep_blocks(entry) ? 1 : dtype_bytes(entry.matrix != nullptr ? dtype : DType::f32);
      sum += static_cast<size_t>(part.rows * part.cols) * (entry.table != nullptr ? dtype_bytes(dtype) : element);
    }
  }
  return sum;
}

Result<Checkpoint> Checkpoint::open(const Path& folder) {
  Checkpoint checkpoint;
  KEYE_TRY(const auto names, shard_names(folder));
  for (const std::string& name : names) {
    KEYE_TRY(TensorFile file, TensorFile::open(folder / name));
    checkpoint.files_.push_back(std::make_unique<TensorFile>(std::move(file)));
    const TensorFile& kept = *checkpoint.files_.back();
    for (const auto& [original, view] : kept.tensors()) {
      const auto [at, inserted] =
          checkpoint.tensors_.emplace(canonical_name(original), Stored{view, &kept.file(), original});
      if (!inserted) {
        return make_error(ErrorCode::corrupt_data, kept.file().path().string(),
                          "tensor \"{}\" appears twice (also as \"{}\" in {})", original, at->second.original,
                          at->second.file->path().string());
      }
    }
  }
  return checkpoint;
}

size_t Checkpoint::bytes() const {
  size_t sum = 0;
  for (const auto& [name, stored] : tensors_) sum += stored.view.bytes();
  return sum;
}

Result<void> Checkpoint::check(const WeightList& list) const {
  std::vector<std::string> missing;
  std::vector<std::string> misshaped;
  std::vector<std::string> unexpected;
  std::set<std::string, std::less<>> wanted;
  const auto check_scales = [&](const MatrixPart& part) {
    const std::string name = part.name + std::string(kScaleSuffix);
    const Shape shape = scale_shape(part.stored, *list.blocks());
    wanted.insert(name);
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      missing.push_back(fmt::format("{} {}", name, shape.to_string()));
    } else if (const ConstView& view = found->second.view; !(view.shape == shape) || view.dtype != DType::f32) {
      misshaped.push_back(fmt::format("{}: expected f32 {}, found {} {}", name, shape.to_string(),
                                      dtype_name(view.dtype), view.shape.to_string()));
    }
  };
  const auto check_part = [&](const MatrixPart& part, bool may_be_coded) {
    if (!wanted.insert(part.name).second) return;
    const auto found = tensors_.find(part.name);
    if (found == tensors_.end()) {
      missing.push_back(fmt::format("{} {}", part.name, part.stored.to_string()));
    } else if (!(found->second.view.shape == part.stored)) {
      misshaped.push_back(fmt::format("{}: expected {}, found {}", part.name, part.stored.to_string(),
                                      found->second.view.shape.to_string()));
    } else if (const DType dtype = found->second.view.dtype;
               dtype == DType::f8_e4m3 && list.blocks() && may_be_coded && part.stored.rank() == 2) {
      check_scales(part);
    } else if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16) {
      misshaped.push_back(fmt::format("{}: expected bf16, f16 or f32, found {}", part.name, dtype_name(dtype)));
    }
  };
  for (const WeightList::Entry& entry : list.entries()) {
    for (const MatrixPart& part : entry.parts) check_part(part, entry.matrix != nullptr);
  }
  for (const MatrixPart& part : list.elsewhere()) check_part(part, true);
  for (const auto& [name, stored] : tensors_) {
    if (!wanted.contains(name) && !list.ignores(name)) {
      unexpected.push_back(fmt::format("{} {}", stored.original, stored.view.shape.to_string()));
    }
  }
  std::string message;
  append_names(message, "tensors are missing", missing);
  append_names(message, "tensors have another shape or type", misshaped);
  append_names(message, "tensors are not expected", unexpected);
  if (message.empty()) return {};
  return Error{ErrorCode::corrupt_data, "the weights do not fit config.json\n" + message, {}};
}

/// The entry's matrices, if they are of e4m3 with block scales, made of whole blocks, and need not become f32; else
/// none.
std::vector<ops::StridedMatrix> Checkpoint::matrices_of_codes(const WeightList& list,
                                                              const WeightList::Entry& entry) const {
  std::vector<ops::StridedMatrix> matrices;
  for (const MatrixPart& part : entry.parts) {
    const ConstView& stored = tensors_.find(part.name)->second.view;
    if (entry.always_f32 || stored.dtype != DType::f8_e4m3 || !is_of_blocks(part, *list.blocks())) return {};
    const ConstView& scales = tensors_.find(part.name + std::string(kScaleSuffix))->second.view;
    const Box box = box_of(part);
    const BlockQuantisation& blocks = *list.blocks();
    const int64_t first = box.row / blocks.rows * scales.shape[1] + box.col / blocks.cols;
    matrices.push_back({stored.as<uint8_t>() + part.offset, stored.dtype, part.rows, part.cols, part.row_stride,
                        part.col_stride, scales.as<float>() + first, blocks.rows, blocks.cols, scales.shape[1]});
  }
  return matrices;
}

/// The part where it lies, or, of e4m3, `multiplied`: its box, each block by its scale. Errors: corrupt_data.
Result<ops::StridedMatrix> Checkpoint::stored_matrix(const WeightList& list, const MatrixPart& part,
                                                     std::vector<float>& multiplied) const {
  const ConstView& stored = tensors_.find(part.name)->second.view;
  if (stored.dtype != DType::f8_e4m3) {
    const auto* start =
        static_cast<const std::byte*>(stored.data) + static_cast<size_t>(part.offset) * dtype_bytes(stored.dtype);
    return ops::StridedMatrix{start, stored.dtype, part.rows, part.cols, part.row_stride, part.col_stride};
  }
  const Box box = box_of(part);
  multiplied.resize(static_cast<size_t>(box.rows * box.cols));
  const ConstView& scales = tensors_.find(part.name + std::string(kScaleSuffix))->second.view;
  dequantise_blocks(stored, scales, *list.blocks(), box, multiplied.data());
  const bool stands = part.col_stride == 1;
  return ops::StridedMatrix{multiplied.data(),     DType::f32,           part.rows, part.cols,
                            stands ? box.cols : 1, stands ? 1 : box.cols};
}

Result<void> Checkpoint::load(const WeightList& list, ops::Backend& backend, DType dtype, const LoadProgress& progress,
                              std::vector<Tensor>& storage) const {
  KEYE_TRY_VOID(check(list));
  size_t total = 0;
  size_t done = 0;
  std::map<std::string_view, int64_t> unread;  // elements of each tensor that are still to be packed
  for (const WeightList::Entry& entry : list.entries()) {
    for (const MatrixPart& part : entry.parts) {
      const ConstView& stored = tensors_.find(part.name)->second.view;
      unread[part.name] += part.rows * part.cols;
      total += static_cast<size_t>(part.rows * part.cols) * dtype_bytes(stored.dtype);
    }
  }
  for (const WeightList::Entry& entry : list.entries()) {
    if (entry.table != nullptr) {
      *entry.table = upload_table(tensors_.find(entry.parts[0].name)->second.view, backend, storage);
      continue;
    }
    if (entry.vector != nullptr) {
      const ConstView& stored = tensors_.find(entry.parts[0].name)->second.view;
      std::vector<float> values(static_cast<size_t>(stored.elements()));
      convert_to_float(stored.dtype, stored.data, values.data(), values.size());
      *entry.vector = backend.tensor(DType::f32, entry.parts[0].stored);
      backend.write(entry.vector->view(), values.data());
      done += stored.bytes();
      continue;
    }
    std::vector<ops::StridedMatrix> blocks = matrices_of_codes(list, entry);
    const bool keeps = backend.keeps_blocks() && !blocks.empty() && ops::can_keep_blocks(blocks, entry.gated);
    if (!keeps) blocks.clear();
    std::vector<std::vector<float>> multiplied(entry.parts.size());
    for (size_t i = 0; i < entry.parts.size(); ++i) {
      const MatrixPart& part = entry.parts[i];
      const ConstView& stored = tensors_.find(part.name)->second.view;
      if (stored.dtype == DType::f8_e4m3 && holds_nan(stored, box_of(part))) {
        return make_error(ErrorCode::corrupt_data, part.name, "holds a weight that is not a number");
      }
      if (keeps) continue;
      KEYE_TRY(const ops::StridedMatrix matrix, stored_matrix(list, part, multiplied[i]));
      blocks.push_back(matrix);
    }
    const DType packed_dtype = keeps ? DType::f8_e4m3 : entry.always_f32 ? DType::f32 : dtype;
    *entry.matrix = ops::pack(backend, {.blocks = blocks, .gated = entry.gated, .dtype = packed_dtype});
    // The packed copy is what the kernels read from now on: the file's pages need not stay resident.
    for (const MatrixPart& part : entry.parts) {
      const Stored& stored = tensors_.find(part.name)->second;
      done += static_cast<size_t>(part.rows * part.cols) * dtype_bytes(stored.view.dtype);
      int64_t& left = unread[part.name];
      left -= part.rows * part.cols;
      if (left == 0) stored.file->drop(stored.view.raw());
    }
    if (progress) progress(done, total);
  }
  return {};
}

void fill_random(const WeightList& list, ops::Backend& backend, DType dtype, uint64_t seed,
                 std::vector<Tensor>& storage) {
  for (const WeightList::Entry& entry : list.entries()) {
    const MatrixPart& first = entry.parts[0];
    ++seed;
    if (entry.vector != nullptr) {
      const std::vector<float> ones(static_cast<size_t>(first.stored.elements()), 1.0F);
      *entry.vector = backend.tensor(DType::f32, first.stored);
      backend.write(entry.vector->view(), ones.data());
    } else if (entry.table != nullptr) {
      storage.emplace_back(dtype, first.stored);
      ops::fill_random(dtype, storage.back().view().data, first.stored.elements(), 0.05F, seed);
      *entry.table = upload_table(std::as_const(storage.back()).view(), backend, storage);
    } else {
      int64_t outputs = 0;
      for (const MatrixPart& part : entry.parts) outputs += part.rows;
      const bool keeps = backend.keeps_blocks() && list.may_keep_blocks(entry);
      *entry.matrix = backend.random_matrix({.outputs = outputs,
                                             .inputs = first.cols,
                                             .gated = entry.gated,
                                             .dtype = keeps              ? DType::f8_e4m3
                                                      : entry.always_f32 ? DType::f32
                                                                         : dtype,
                                             .scale = 1.7F / std::sqrt(static_cast<float>(first.cols)),
                                             .seed = seed});
    }
  }
}

}  // namespace keye::model
