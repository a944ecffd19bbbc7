#include "ops/cuda/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "ops/cuda/gemm_few.h"
#include "ops/cuda/gemm_wgmma.h"
#include "ops/cuda/row_kernels.h"

namespace keye::ops::cuda {
namespace {

constexpr size_t kArenaBytes = size_t{64} << 20;
constexpr size_t kAlign = 256;
constexpr size_t kPassageBytes = size_t{32} << 20;
constexpr size_t kPiece = size_t{1} << 20;
constexpr size_t kGraphsMax = 512;
/// Products of at most so many rows for each matrix are limited by the memory, others by the tensor cores.
constexpr int64_t kFewRows = 64;

size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }
int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15ULL;
  return hash ^ (hash >> 32);
}

bool is_f32(DType dtype) {
  KEYE_CHECK(dtype == DType::f32 || dtype == DType::bf16, "{} on CUDA", dtype_name(dtype));
  return dtype == DType::f32;
}

Element element_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return Element::f32;
    case DType::bf16:
      return Element::bf16;
    case DType::i8:
      return Element::i8;
    case DType::f8_e4m3:
      return Element::f8;
    default:
      KEYE_CHECK(false, "{} on CUDA", dtype_name(dtype));
  }
}

DevicePlane plane_of(const KvPlane& plane) {
  KEYE_CHECK(plane.layout == PlaneLayout::rows, "a plane in another layout than rows");
  return {plane.data, element_of(plane.dtype), plane.heads, plane.dim};
}

/// How a packed matrix lies in the device's memory (gemm_kernels.h).
GemmShape shape_of(const PackedMatrix& w) {
  GemmShape shape;
  shape.outputs = w.gated ? 2 * round_up(w.outputs / 2, int64_t{8}) : w.outputs;
  shape.inputs = w.inputs;
  shape.stride = round_up(w.inputs, int64_t{w.dtype == DType::bf16 ? 8 : 4});
  return shape;
}

/// Row r of the packed matrix: which row of which block, or null for padding.
struct SourceRow {
  const StridedMatrix* block = nullptr;
  int64_t row = 0;
};
SourceRow source_row(const PackMatrix& source, int64_t r) {
  if (source.gated) {
    const StridedMatrix& block = source.blocks[static_cast<size_t>(r % 16 / 8)];
    const int64_t row = r / 16 * 8 + r % 8;
    return row < block.rows ? SourceRow{&block, row} : SourceRow{};
  }
  for (const StridedMatrix& block : source.blocks) {
    if (r < block.rows) return {&block, r};
    r -= block.rows;
  }
  return {};
}

template <class T>
void fill_row(const SourceRow& from, T* to) {
  const StridedMatrix& block = *from.block;
  const auto bytes = static_cast<int64_t>(dtype_bytes(block.dtype));
  const std::byte* at = static_cast<const std::byte*>(block.data) + from.row * block.row_stride * bytes;
  const bool same = (block.dtype == DType::bf16) == (sizeof(T) == 2) && block.dtype != DType::f16;
  if (same && block.col_stride == 1) {
    std::memcpy(to, at, static_cast<size_t>(block.cols) * sizeof(T));
    return;
  }
  for (int64_t i = 0; i < block.cols; ++i) {
    float value = 0;
    convert_to_float(block.dtype, at + i * block.col_stride * bytes, &value, 1);
    to[i] = T(value);
  }
}

}  // namespace

void* DeviceMemory::allocate(size_t bytes) {
  void* data = device_allocate(bytes);
  if (data != nullptr) clear_on_device(data, bytes, stream_);
  return data;
}

void DeviceMemory::release(void* data, size_t) {
  synchronize(stream_);
  device_free(data);
}

CudaBackend::CudaBackend(DeviceInfo info, const CudaOptions& options)
    : info_(std::move(info)),
      graph_rows_max_(options.graph_rows_max),
      stream_(make_stream()),
      memory_(stream_),
      pool_(options.threads == 0 ? ThreadPool::processors() : options.threads),
      name_(fmt::format("cuda/{} sm_{}{}", info_.name, info_.major, info_.minor)) {
  for (Staging& staging : staging_) {
    staging.data = static_cast<std::byte*>(pinned_allocate(kArenaBytes));
    KEYE_CHECK(staging.data != nullptr, "no page-locked memory of {} bytes", kArenaBytes);
    staging.sent = make_event();
  }
  if (info_.major == 9) check_cuda(wgmma_prepare(), "wgmma_prepare");
  arena_ = static_cast<std::byte*>(device_allocate(kArenaBytes));
  KEYE_CHECK(arena_ != nullptr, "no device memory of {} bytes", kArenaBytes);
}

CudaBackend::~CudaBackend() {
  synchronize(stream_);
  graphs_.clear();
  tables_.clear();
  workspace_ = Buffer();
  for (Staging& staging : staging_) pinned_free(staging.data);
  for (Staging& passage : passage_) {
    if (passage.data != nullptr) pinned_free(passage.data);
  }
  device_free(arena_);
  free_stream(stream_);
}

// -- memory ------------------------------------------------------------------

void CudaBackend::write(const View& to, const void* from) {
  const size_t bytes = to.bytes();
  if (bytes <= kPiece) {
    copy_to_device(to.data, from, bytes, stream_);
    return synchronize(stream_);
  }
  // Page-locked memory is read at the bus's speed; two passages take turns.
  size_t turn = 0;
  for (size_t done = 0; done < bytes; done += kPassageBytes, ++turn) {
    Staging& passage = passage_[turn % 2];
    if (passage.data == nullptr) {
      passage.data = static_cast<std::byte*>(pinned_allocate(kPassageBytes));
      KEYE_CHECK(passage.data != nullptr, "no page-locked memory of {} bytes", kPassageBytes);
      passage.sent = make_event();
    }
    passage.sent->wait();
    const size_t size = std::min(kPassageBytes, bytes - done);
    const auto* source = static_cast<const std::byte*>(from) + done;
    pool_.for_each(static_cast<int64_t>((size + kPiece - 1) / kPiece), [&](int64_t piece, int) {
      const size_t at = static_cast<size_t>(piece) * kPiece;
      std::memcpy(passage.data + at, source + at, std::min(kPiece, size - at));
    });
    copy_to_device(static_cast<std::byte*>(to.data) + done, passage.data, size, stream_);
    passage.sent->record(stream_);
  }
  synchronize(stream_);
}

void CudaBackend::read(const ConstView& from, void* to) {
  copy_to_host(to, from.data, from.bytes(), stream_);
  synchronize(stream_);
}

void CudaBackend::copy(void* to, const void* from, size_t bytes) { copy_on_device(to, from, bytes, stream_); }

void* CudaBackend::workspace(size_t bytes) {
  if (workspace_.size() < bytes) {
    synchronize(stream_);
    graphs_.clear();  // they hold the old address
    workspace_ = Buffer();
    workspace_ = Buffer(round_up(bytes + bytes / 4, kAlign), memory_);
  }
  return workspace_.data();
}

// -- steps -------------------------------------------------------------------

void CudaBackend::begin_step() {
  send();
  filling_ ^= 1U;
  staging_[filling_].sent->wait();
  used_ = 0;
  sent_ = 0;
  layout_ = 0;
  step_rows_ = 0;
  sequences_.clear();
}

size_t CudaBackend::reserve(size_t bytes) {
  if (used_ + bytes > kArenaBytes) {
    KEYE_CHECK(bytes <= kArenaBytes && layout_ == 0, "{} bytes of a step's numbers", used_ + bytes);
    synchronize(stream_);  // single ops, without steps: begin again
    used_ = 0;
    sent_ = 0;
    sequences_.clear();
  }
  const size_t at = used_;
  used_ = round_up(used_ + bytes, kAlign);
  return at;
}

void CudaBackend::send() {
  if (sent_ == used_) return;
  copy_to_device(arena_ + sent_, staging_[filling_].data + sent_, used_ - sent_, stream_);
  staging_[filling_].sent->record(stream_);
  sent_ = used_;
}

Indices CudaBackend::upload(std::span<const int32_t> numbers) {
  const size_t at = reserve(numbers.size_bytes());
  if (!numbers.empty()) std::memcpy(staging_[filling_].data + at, numbers.data(), numbers.size_bytes());
  layout_ = mix(layout_, numbers.size() + 1);
  return Indices(numbers, reinterpret_cast<const int32_t*>(arena_ + at));
}

Sequences CudaBackend::upload(std::span<const SequenceRows> sequences) {
  DeviceSequences table{.count = static_cast<int>(sequences.size())};
  for (const SequenceRows& s : sequences) {
    table.rows_max = std::max(table.rows_max, s.rows);
    table.length_max = std::max(table.length_max, s.context + s.rows);
    step_rows_ += s.rows;
  }
  // Grids are sized by the length: rounded up, so that a recorded step fits the next ones, too.
  table.length_max = static_cast<int>(std::bit_ceil(static_cast<unsigned>(std::max(table.length_max, 256))));
  const int64_t pages_each = pages_for(table.length_max);
  const size_t head_at = reserve(sequences.size() * sizeof(DeviceSequence));
  const size_t pages_at = reserve(sequences.size() * static_cast<size_t>(pages_each) * sizeof(int32_t));
  auto* heads = reinterpret_cast<DeviceSequence*>(staging_[filling_].data + head_at);
  auto* pages = reinterpret_cast<int32_t*>(staging_[filling_].data + pages_at);
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceRows& s = sequences[i];
    const auto first_page = static_cast<int32_t>(static_cast<int64_t>(i) * pages_each);
    heads[i] = {s.first_row, s.rows, s.context, first_page};
    const auto count = std::min(s.pages.size(), static_cast<size_t>(pages_each));
    if (count > 0) std::memcpy(pages + first_page, s.pages.data(), count * sizeof(int32_t));
  }
  table.sequences = reinterpret_cast<const DeviceSequence*>(arena_ + head_at);
  table.pages = reinterpret_cast<const int32_t*>(arena_ + pages_at);
  layout_ = mix(mix(mix(layout_, sequences.size()), static_cast<uint64_t>(table.length_max)),
                static_cast<uint64_t>(table.rows_max) + 1);
  sequences_.push_back(table);
  return Sequences(sequences, &sequences_.back());
}

const int32_t* CudaBackend::on_device(const Indices& indices) {
  const int32_t* device = indices.device();
  if (device == nullptr) {
    const uint64_t layout = std::exchange(layout_, 0);
    device = upload(std::span<const int32_t>(indices)).device();
    layout_ = layout;
  }
  send();
  return device;
}

const DeviceSequences& CudaBackend::on_device(const Sequences& sequences) {
  const void* device = sequences.device();
  if (device == nullptr) {
    const uint64_t layout = std::exchange(layout_, 0);
    device = upload(std::span<const SequenceRows>(sequences)).device();
    layout_ = layout;
  }
  send();
  return *static_cast<const DeviceSequences*>(device);
}

void CudaBackend::run_step(uint64_t key, const std::function<void()>& body) {
  send();
  if (key == 0 || step_rows_ > graph_rows_max_) return body();
  if (graphs_.size() >= kGraphsMax) {
    synchronize(stream_);
    graphs_.clear();
  }
  const uint64_t signature = mix(key, layout_);
  if (!graphs_[signature].seen) {
    body();  // as it is: tables, scratch and the kernels' attributes are made on the way
    graphs_[signature].seen = true;
    return;
  }
  Recorded& recorded = graphs_[signature];
  if (!recorded.graph) recorded.graph = record_graph(stream_, body);
  if (recorded.graph) {
    recorded.graph->launch(stream_);
  } else {
    body();
  }
}

// -- matrices ----------------------------------------------------------------

PackedMatrix CudaBackend::allocate(int64_t outputs, int64_t inputs, bool gated, DType dtype) {
  PackedMatrix packed{.data = {}, .dtype = dtype, .outputs = outputs, .inputs = inputs, .gated = gated};
  const GemmShape shape = shape_of(packed);
  const size_t bytes = static_cast<size_t>(shape.outputs * shape.stride) * dtype_bytes(dtype);
  if (dtype != DType::bf16) {
    packed.data = Buffer(bytes, memory_);
    return packed;
  }
  const size_t map_at = weight_map_offset(shape.outputs, shape.stride);
  packed.data = Buffer(map_at + kWeightMapBytes, memory_);
  if (info_.major == 9) {
    std::byte map[kWeightMapBytes];
    check_cuda(encode_weight_map(map, packed.data.data(), shape.outputs, shape.stride), "a tensor map");
    write({static_cast<std::byte*>(packed.data.data()) + map_at, DType::u8, {int64_t{kWeightMapBytes}}}, map);
  }
  return packed;
}

PackedMatrix CudaBackend::do_pack(const PackMatrix& source) {
  int64_t outputs = 0;
  for (const StridedMatrix& block : source.blocks) outputs += block.rows;
  PackedMatrix packed = allocate(outputs, source.blocks.front().cols, source.gated, source.dtype);
  const GemmShape shape = shape_of(packed);
  const size_t row_bytes = static_cast<size_t>(shape.stride) * dtype_bytes(source.dtype);
  Buffer host(static_cast<size_t>(shape.outputs) * row_bytes);
  pool_.for_each(shape.outputs, [&](int64_t r, int) {
    const SourceRow from = source_row(source, r);
    if (from.block == nullptr) return;
    std::byte* to = static_cast<std::byte*>(host.data()) + static_cast<size_t>(r) * row_bytes;
    if (source.dtype == DType::bf16) {
      fill_row(from, reinterpret_cast<BFloat16*>(to));
    } else {
      fill_row(from, reinterpret_cast<float*>(to));
    }
  });
  write({packed.data.data(), DType::u8, {static_cast<int64_t>(host.size())}}, host.data());
  return packed;
}

PackedMatrix CudaBackend::random_matrix(const RandomMatrix& matrix) {
  PackedMatrix packed = allocate(matrix.outputs, matrix.inputs, matrix.gated, matrix.dtype);
  const GemmShape shape = shape_of(packed);
  cuda::fill_random(stream_, packed.data.data(), is_f32(matrix.dtype), shape.outputs * shape.stride, matrix.scale,
                    matrix.seed);
  synchronize(stream_);  // kernels ask for weights before what ran before them is done
  return packed;
}

const void* const* CudaBackend::table_of(std::span<const PackedMatrix> groups) {
  Table& table = tables_[groups.data()];
  const auto same = [](const PackedMatrix& w, const void* pointer) { return w.data.data() == pointer; };
  if (!std::equal(groups.begin(), groups.end(), table.pointers.begin(), table.pointers.end(), same)) {
    table.pointers.clear();
    for (const PackedMatrix& w : groups) table.pointers.push_back(w.data.data());
    const size_t bytes = table.pointers.size() * sizeof(const void*);
    table.on_device = Buffer(bytes, memory_);
    write({table.on_device.data(), DType::u8, {static_cast<int64_t>(bytes)}}, table.pointers.data());
  }
  return static_cast<const void* const*>(table.on_device.data());
}

void CudaBackend::multiply(const GemmArguments& a) {
  if (a.f32) return gemm_f32(stream_, a);
  const WgmmaGemm wgmma{.x = a.x,
                        .n = a.n,
                        .inputs = a.shape.stride,
                        .outputs = a.shape.outputs,
                        .w = a.w,
                        .device_table = a.table,
                        .offsets = a.offsets,
                        .groups = a.groups,
                        .bias = a.bias,
                        .activation = a.activation,
                        .accumulate = a.accumulate,
                        .out = a.out,
                        .out_f32 = a.out_f32};
  const bool padded = a.activation == Activation::silu_mul && a.columns != a.shape.outputs / 2;
  const bool few = a.n <= kFewRows * std::max(a.groups, 1);
  if (info_.major == 9 && few) return gemm_few(stream_, a);
  if (few || padded || a.rows != nullptr || info_.major != 9 || !wgmma_supports(wgmma)) {
    return gemm_bf16(stream_, a, info_.processors);
  }
  check_cuda(wgmma_gemm(wgmma, stream_, info_.processors), "wgmma_gemm");
}

/// Kernels load 16 bytes at a time: rows whose length is no multiple of that are copied to where they are.
const void* CudaBackend::padded_rows(const ConstView& x, int64_t stride) {
  if (x.shape[1] == stride) return x.data;
  const size_t element = dtype_bytes(x.dtype);
  const auto rows = static_cast<size_t>(x.shape[0]);
  const size_t from_pitch = static_cast<size_t>(x.shape[1]) * element;
  const size_t to_pitch = static_cast<size_t>(stride) * element;
  void* padded = workspace(rows * to_pitch);
  clear_on_device(padded, rows * to_pitch, stream_);
  copy_2d_on_device(padded, to_pitch, x.data, from_pitch, from_pitch, rows, stream_);
  return padded;
}

void CudaBackend::do_linear(const Linear& op) {
  KEYE_CHECK(op.bias.empty() || !op.w.gated, "a gated product with a bias");
  const GemmShape shape = shape_of(op.w);
  multiply({.x = padded_rows(op.x, shape.stride),
            .n = op.x.shape[0],
            .w = op.w.data.data(),
            .f32 = is_f32(op.x.dtype),
            .shape = shape,
            .columns = op.out.shape[1],
            .bias = op.bias.empty() ? nullptr : op.bias.as<float>(),
            .activation = op.activation,
            .accumulate = op.accumulate,
            .out = op.out.data,
            .out_f32 = is_f32(op.out.dtype),
            .table = nullptr,
            .offsets = nullptr,
            .rows = nullptr,
            .groups = 0});
}

void CudaBackend::do_grouped_linear(const GroupedLinear& op) {
  const GemmShape shape = shape_of(op.w[0]);
  GemmArguments a{.x = padded_rows(op.x, shape.stride),
                  .n = op.out.shape[0],
                  .w = nullptr,
                  .f32 = is_f32(op.x.dtype),
                  .shape = shape,
                  .columns = op.out.shape[1],
                  .bias = nullptr,
                  .activation = op.activation,
                  .accumulate = false,
                  .out = op.out.data,
                  .out_f32 = is_f32(op.out.dtype),
                  .table = table_of(op.w),
                  .offsets = op.offsets.as<int32_t>(),
                  .rows = op.rows.empty() ? nullptr : op.rows.as<int32_t>(),
                  .groups = static_cast<int>(op.w.size())};
  if (a.rows != nullptr && !a.f32 && info_.major == 9 && a.n > kFewRows * a.groups && a.x == op.x.data) {
    // Hopper's kernel wants the rows of a group one after another.
    void* gathered = workspace(static_cast<size_t>(a.n * shape.stride) * sizeof(BFloat16));
    cuda::copy_rows(stream_, a.x, false, a.rows, nullptr, a.n, shape.stride, gathered, false);
    a.x = gathered;
    a.rows = nullptr;
  }
  multiply(a);
}

// -- rows --------------------------------------------------------------------

void CudaBackend::do_embed(const Embed& op) {
  const TableElement element = op.table.dtype == DType::f32   ? TableElement::f32
                               : op.table.dtype == DType::f16 ? TableElement::f16
                                                              : TableElement::bf16;
  cuda::embed(stream_, op.table.data, element, on_device(op.tokens), static_cast<int64_t>(op.tokens.size()),
              op.table.shape[1], op.out.as<float>());
}

void CudaBackend::do_copy_rows(const CopyRows& op) {
  const int32_t* from = on_device(op.from);
  const int32_t* to = on_device(op.to);
  cuda::copy_rows(stream_, op.x.data, is_f32(op.x.dtype), from, to, static_cast<int64_t>(op.from.size()), op.x.shape[1],
                  op.out.data, is_f32(op.out.dtype));
}

void CudaBackend::do_convert(const Convert& op) {
  cuda::convert(stream_, op.x.data, is_f32(op.x.dtype), op.x.elements(), op.out.data, is_f32(op.out.dtype));
}

void CudaBackend::do_rms_norm(const RmsNorm& op) {
  cuda::rms_norm(stream_, op.x.as<float>(), op.weight.as<float>(), op.eps, op.x.shape[0], op.x.shape[1], op.out.data,
                 is_f32(op.out.dtype), op.exact.as<float>());
}

void CudaBackend::do_layer_norm(const LayerNorm& op) {
  cuda::layer_norm(stream_, op.x.as<float>(), op.weight.as<float>(), op.bias.as<float>(), op.eps, op.x.shape[0],
                   op.x.shape[1], op.out.data, is_f32(op.out.dtype));
}

void CudaBackend::do_rope_table(const RopeTable& op) {
  const int32_t* positions[3];
  for (size_t axis = 0; axis < 3; ++axis) positions[axis] = on_device(op.positions[axis]);
  cuda::rope_table(stream_, positions, op.inv_freq.as<float>(), static_cast<int>(op.inv_freq.elements()),
                   op.sections.data(), static_cast<int64_t>(op.positions[0].size()), op.cos.as<float>(),
                   op.sin.as<float>());
}

void CudaBackend::do_moe_route(const MoeRoute& op) {
  cuda::moe_route(stream_, op.logits.as<float>(), op.logits.shape[0], static_cast<int>(op.logits.shape[1]),
                  static_cast<int>(op.experts.shape[1]), op.normalise, op.experts.as<int32_t>(),
                  op.weights.as<float>());
}

void CudaBackend::do_moe_group(const MoeGroup& op) {
  const int64_t n = op.experts.shape[0];
  const auto k = static_cast<int>(op.experts.shape[1]);
  const auto experts = static_cast<int>(op.offsets.shape[0] - 1);
  auto* scratch =
      static_cast<int32_t*>(workspace(static_cast<size_t>(moe_group_workspace(n, experts, k)) * sizeof(int32_t)));
  cuda::moe_group(stream_, op.experts.as<int32_t>(), n, experts, k, op.rows.as<int32_t>(), op.offsets.as<int32_t>(),
                  op.places.as<int32_t>(), scratch);
}

void CudaBackend::do_moe_combine(const MoeCombine& op) {
  cuda::moe_combine(stream_, op.y.data, is_f32(op.y.dtype), op.places.as<int32_t>(), op.weights.as<float>(),
                    op.places.shape[0], static_cast<int>(op.places.shape[1]), op.y.shape[1], op.out.as<float>());
}

void CudaBackend::do_add_position_grid(const AddPositionGrid& op) {
  int side = 1;
  while (int64_t{side} * side < op.table.shape[0]) ++side;
  cuda::add_position_grid(stream_, op.table.as<float>(), side, op.rows, op.cols, op.table.shape[1], op.x.as<float>());
}

void CudaBackend::do_merge_patches(const MergePatches& op) {
  cuda::merge_patches(stream_, op.x.as<float>(), op.rows, op.cols, op.merge, op.x.shape[1], op.out.as<float>());
}

// -- attention ---------------------------------------------------------------

void CudaBackend::do_attention_input(const AttentionInput& op) {
  cuda::attention_input(stream_, {.qkv = op.qkv.as<float>(),
                                  .q_norm = op.q_norm.as<float>(),
                                  .k_norm = op.k_norm.as<float>(),
                                  .eps = op.eps,
                                  .cos = op.cos.as<float>(),
                                  .sin = op.sin.as<float>(),
                                  .slots = on_device(op.slots),
                                  .q = op.q.data,
                                  .q_element = element_of(op.q.dtype),
                                  .k = plane_of(op.k),
                                  .v = plane_of(op.v),
                                  .n = static_cast<int>(op.q.shape[0]),
                                  .heads = static_cast<int>(op.q.shape[1])});
}

void CudaBackend::do_paged_attention(const PagedAttention& op) {
  if (op.sequences.empty()) return;
  PagedAttentionArguments a{.q = op.q.data,
                            .element = element_of(op.q.dtype),
                            .k = plane_of(op.k),
                            .v = plane_of(op.v),
                            .sequences = on_device(op.sequences),
                            .scale = op.scale,
                            .chosen = op.chosen.empty() ? nullptr : op.chosen.as<int32_t>(),
                            .chosen_max = op.chosen.empty() ? 0 : static_cast<int>(op.chosen.shape[1]),
                            .out = op.out.data,
                            .n = static_cast<int>(op.q.shape[0]),
                            .heads = static_cast<int>(op.q.shape[1]),
                            .workspace = nullptr,
                            .hopper = info_.major == 9};
  const int64_t floats = paged_attention_workspace(a, info_.processors);
  a.workspace = static_cast<float*>(workspace(static_cast<size_t>(floats) * sizeof(float)));
  cuda::paged_attention(stream_, a, info_.processors);
}

void CudaBackend::do_vision_attention(const VisionAttention& op) {
  VisionAttentionArguments a{.qkv = op.qkv.data,
                             .element = element_of(op.qkv.dtype),
                             .cos = op.cos.as<float>(),
                             .sin = op.sin.as<float>(),
                             .segments = on_device(op.segments),
                             .segment_count = static_cast<int>(op.segments.size()) - 1,
                             .segment_max = 0,
                             .scale = op.scale,
                             .out = op.out.data,
                             .out_element = element_of(op.out.dtype),
                             .p = static_cast<int>(op.qkv.shape[0]),
                             .heads = op.heads,
                             .dim = static_cast<int>(op.qkv.shape[3]),
                             .workspace = nullptr,
                             .hopper = info_.major == 9};
  for (size_t i = 1; i < op.segments.size(); ++i) {
    a.segment_max = std::max(a.segment_max, op.segments[i] - op.segments[i - 1]);
  }
  a.workspace = workspace(static_cast<size_t>(vision_attention_workspace(a)));
  cuda::vision_attention(stream_, a);
}

void CudaBackend::do_indexer_input(const IndexerInput& op) {
  cuda::indexer_input(stream_, {.q_gate = op.q_gate.as<float>(),
                                .k_in = op.k_in.as<float>(),
                                .q_norm = op.q_norm.as<float>(),
                                .k_norm = op.k_norm.as<float>(),
                                .k_bias = op.k_bias.as<float>(),
                                .eps = op.eps,
                                .cos = op.cos.as<float>(),
                                .sin = op.sin.as<float>(),
                                .slots = on_device(op.slots),
                                .q = op.q.data,
                                .element = element_of(op.q.dtype),
                                .gate = op.gate.as<float>(),
                                .keys = plane_of(op.keys),
                                .n = static_cast<int>(op.q.shape[0]),
                                .heads = static_cast<int>(op.q.shape[1]),
                                .dim = static_cast<int>(op.q.shape[2])});
}

void CudaBackend::do_sparse_select(const SparseSelect& op) {
  if (op.sequences.empty()) return;
  SparseSelectArguments a{.q = op.q.data,
                          .element = element_of(op.q.dtype),
                          .gate = op.gate.as<float>(),
                          .keys = plane_of(op.keys),
                          .sequences = on_device(op.sequences),
                          .chosen = op.chosen.as<int32_t>(),
                          .topk = static_cast<int>(op.chosen.shape[1]),
                          .scores = op.scores.empty() ? nullptr : op.scores.as<float>(),
                          .scores_stride = op.scores.empty() ? 0 : static_cast<int>(op.scores.shape[1]),
                          .n = static_cast<int>(op.q.shape[0]),
                          .heads = static_cast<int>(op.q.shape[1]),
                          .dim = static_cast<int>(op.q.shape[2]),
                          .workspace = nullptr};
  a.workspace = static_cast<float*>(workspace(static_cast<size_t>(sparse_select_workspace(a)) * sizeof(float)));
  cuda::sparse_select(stream_, a);
}

}  // namespace keye::ops::cuda

namespace keye::ops {

#ifdef KEYE_CUDA_EMULATOR
std::unique_ptr<Backend> make_emulated_cuda_backend(const CudaOptions& options) {
  return std::make_unique<cuda::CudaBackend>(cuda::open_device(0).value(), options);
}
#else
Result<std::unique_ptr<Backend> > make_cuda_backend(const CudaOptions& options) {
  KEYE_TRY(cuda::DeviceInfo info, cuda::open_device(options.device));
  return std::unique_ptr<Backend>(std::make_unique<cuda::CudaBackend>(std::move(info), options));
}
#endif

}  // namespace keye::ops
