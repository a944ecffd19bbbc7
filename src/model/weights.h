// Weights by name: what a model needs is listed once, and the list serves checking, loading, counting and random
// filling.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "model/config.h"
#include "model/shard.h"
#include "ops/backend.h"
#include "tensor/safetensors.h"
#include "tensor/tensor.h"

namespace keye::model {

/// Part of a stored tensor, seen as a matrix [rows, cols]: offset and strides in elements.
struct MatrixPart {
  std::string name;
  Shape stored;  // the whole tensor's expected shape
  int64_t offset = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;
  int64_t col_stride = 1;
};

/// The tensor `name` of shape [rows, cols], whole, or so many of its rows or columns.
MatrixPart whole_matrix(std::string name, int64_t rows, int64_t cols);
MatrixPart rows_of_matrix(std::string name, int64_t rows, int64_t cols, const Shard::Range& range);
MatrixPart cols_of_matrix(std::string name, int64_t rows, int64_t cols, const Shard::Range& range);

/// The weights of a model: names and shapes on one side, where they go on the other. The destinations must outlive the
/// list and not move.
class WeightList {
 public:
  struct Entry {
    std::vector<MatrixPart> parts;
    bool gated = false;
    bool always_f32 = false;
    ops::PackedMatrix* matrix = nullptr;
    Tensor* vector = nullptr;
    ConstView* table = nullptr;
  };

  /// Rows of the parts one after another, packed for the kernels in the model's dtype ...
  void matrix(std::vector<MatrixPart> parts, ops::PackedMatrix* to);
  /// ... two parts interleaved for a gated product ...
  void gated_matrix(MatrixPart gate, MatrixPart up, ops::PackedMatrix* to);
  /// ... or in f32 whatever the model's dtype.
  void matrix_f32(MatrixPart part, ops::PackedMatrix* to);
  /// Converted to f32.
  void vector(std::string name, Shape shape, Tensor* to);
  /// Left where it is in the mapped file (f32, f16 or bf16), for tables of which a step reads a few rows.
  void table(std::string name, Shape shape, ConstView* to);
  /// A matrix that other ranks load: checked like the others.
  void elsewhere(MatrixPart part) { elsewhere_.push_back(std::move(part)); }
  /// The stored matrices may be e4m3 with block scales (`NAME_scale_inv`).
  void allow_blocks(const std::optional<BlockQuantisation>& blocks) { blocks_ = blocks; }
  /// Names that may be present and are not needed: every name with one of these as a part.
  void ignore(std::string part) { ignored_.push_back(std::move(part)); }

  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<MatrixPart>& elsewhere() const { return elsewhere_; }
  const std::optional<BlockQuantisation>& blocks() const { return blocks_; }
  bool ignores(std::string_view name) const;

  /// Elements of all tensors on the list, each once.
  int64_t parameters() const;
  /// What they take in memory where matrices are `dtype`, and those that may be e4m3 with block scales are.
  size_t bytes(DType dtype) const;
  /// Whether this entry may stay in e4m3: matrices of a quantised checkpoint's layers as they are published, whole or
  /// in parts that are made of whole blocks.
  bool may_keep_blocks(const Entry& entry) const;

 private:
  std::vector<Entry> entries_;
  std::vector<MatrixPart> elsewhere_;
  std::vector<std::string> ignored_;
  std::optional<BlockQuantisation> blocks_;
};

/// A rectangle of a stored matrix.
struct Box {
  int64_t row = 0, col = 0, rows = 0, cols = 0;
};
/// out[r, c] = codes[r, c] scales[r / blocks.rows, c / blocks.cols] for the box of them: codes e4m3, scales f32.
void dequantise_blocks(const ConstView& codes, const ConstView& scales, const BlockQuantisation& blocks, const Box& box,
                       float* out);

/// done and total in bytes of stored weights.
using LoadProgress = std::function<void(size_t done, size_t total)>;

/// The safetensors files of a checkpoint folder: model.safetensors, or the shards that model.safetensors.index.json
/// names. Names are made canonical: exporters' extra prefixes (`model.language_model.`, `model.visual.`, ...) are
/// dropped.
class Checkpoint {
 public:
  static Result<Checkpoint> open(const Path& folder);

  bool has(std::string_view name) const { return tensors_.contains(name); }
  struct Stored {
    ConstView view;
    const MappedFile* file;
    std::string original;
  };
  const std::map<std::string, Stored, std::less<>>& tensors() const { return tensors_; }
  size_t bytes() const;

  /// Fills the list's destinations; matrices in `dtype` (bf16 or f32). Tables are left in the mapped file, or copied to
  /// `storage` for a backend that does not share the host's memory. Reports all missing, misshaped and unexpected
  /// tensors together, by name, with expected and found shape. Errors: corrupt_data, unsupported.
  Result<void> load(const WeightList& list, ops::Backend& backend, DType dtype, const LoadProgress& progress,
                    std::vector<Tensor>& storage) const;
  /// The check that `load` begins with, alone.
  Result<void> check(const WeightList& list) const;

 private:
  std::vector<ops::StridedMatrix> matrices_of_codes(const WeightList& list, const WeightList::Entry& entry) const;
  Result<ops::StridedMatrix> stored_matrix(const WeightList& list, const MatrixPart& part,
                                           std::vector<float>& multiplied) const;

  std::vector<std::unique_ptr<TensorFile>> files_;
  std::map<std::string, Stored, std::less<>> tensors_;
};

/// Fills the list with pseudo-random weights of the scale that keeps activations finite: for benchmarks of named
/// shapes. Tables are stored in `storage`, which must outlive their use.
void fill_random(const WeightList& list, ops::Backend& backend, DType dtype, uint64_t seed,
                 std::vector<Tensor>& storage);

}  // namespace keye::model
