// One kernel for every tile: CTAs stay on their multiprocessors and take tiles in turn. One warp loads blocks of 64
// inputs into a ring of stages; two warpgroups multiply them, each with 64 rows of the tile (or all 64 with half its
// columns), and turn their sums into results while the loading warp fills the ring for the next tile.
#include "ops/cuda/gemm_wgmma.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>

#include "ops/cuda/gemm_finish.cuh"
#include "ops/cuda/hopper.cuh"
#include "ops/cuda/simt.h"

namespace keye::ops::cuda {
namespace {

constexpr int kBlock = 64;       // inputs per stage: 128 bytes, the widest swizzle
constexpr int kBoxRows = 64;     // of w's maps, which serve every tile
constexpr int kBandRows = 2048;  // rows that tiles cover before they move to the next columns: x and w stay in the L2
constexpr int kConsumers = 2;    // warpgroups
constexpr int kThreads = 128 * (kConsumers + 1);

struct Problem {
  CUtensorMap x_map;
  const void* w;
  const void* const* table;
  const int32_t* offsets;
  int64_t map_offset;
  int groups;  // 0: dense
  int n;
  int blocks;  // of inputs
  finish::Results results;
};

// Shared memory: the stages, each x [kRows][64] and then w [kColumns][64]; what warps stage; the barriers.
template <int kRows_, int kColumns_, int kStages_>
struct Tiling {
  static constexpr int kRows = kRows_, kColumns = kColumns_, kStages = kStages_;
  static constexpr int kRowParts = kRows / 64, kColumnParts = kConsumers / kRowParts;
  static constexpr int kPartColumns = kColumns / kColumnParts;
  static constexpr int kXBytes = kRows * kBlock * 2;
  static constexpr int kStageBytes = kXBytes + kColumns * kBlock * 2;
  static constexpr int kStagingOffset = kStages * kStageBytes;
  static constexpr int kBarrierOffset = kStagingOffset + kConsumers * 4 * finish::kStagingBytes;
  static constexpr int kSharedBytes = kBarrierOffset + 2 * kStages * 8;
  static constexpr int kLaunchBytes = kSharedBytes + 1024;  // the stages begin at a multiple of 1024
  static_assert(kColumns % kBoxRows == 0 && kPartColumns % 16 == 0 && kLaunchBytes <= 227 * 1024);
};

struct Tile {
  int row, rows_end;  // rows from rows_end on belong to others
  int column;
  int group;
};

// The tiles of one CTA. Each of its warps walks the same list.
template <class T>
class Schedule {
 public:
  __device__ explicit Schedule(const Problem& p)
      : p_(p),
        lane_(static_cast<int>(threadIdx.x % 32)),
        column_tiles_((p.results.outputs + T::kColumns - 1) / T::kColumns) {}

  // By all lanes together, with the same result in each; false when no tile is left.
  __device__ bool next(Tile& tile) {
    const int index = next_;
    next_ += static_cast<int>(gridDim.x);
    if (p_.groups == 0) {
      if (index >= tiles_of(p_.n)) return false;
      tile = place(index, 0, p_.n, 0);
      return true;
    }
    while (index >= before_ + within_) {
      before_ += within_;
      first_group_ += 32;
      if (first_group_ >= p_.groups) return false;
      count_groups();
    }
    // The first lane whose tiles end behind the index.
    const int owner = __ffs(static_cast<int>(__ballot_sync(~0U, index - before_ < tiles_to_here_))) - 1;
    const int begin = __shfl_sync(~0U, begin_, owner);
    const int end = __shfl_sync(~0U, end_, owner);
    const int tiles_before = __shfl_sync(~0U, tiles_to_here_, owner) - tiles_of(end - begin);
    tile = place(index - before_ - tiles_before, begin, end, first_group_ + owner);
    return true;
  }

 private:
  __device__ int tiles_of(int rows) const { return (rows + T::kRows - 1) / T::kRows * column_tiles_; }

  // Each lane looks at one group of the next 32.
  __device__ void count_groups() {
    const int group = first_group_ + lane_;
    begin_ = p_.offsets[min(group, p_.groups)];
    end_ = p_.offsets[min(group + 1, p_.groups)];
    tiles_to_here_ = tiles_of(end_ - begin_);
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const int other = __shfl_up_sync(~0U, tiles_to_here_, distance);
      if (lane_ >= distance) tiles_to_here_ += other;
    }
    within_ = __shfl_sync(~0U, tiles_to_here_, 31);
  }

  __device__ Tile place(int index, int begin, int end, int group) const {
    constexpr int kBand = kBandRows / T::kRows;
    const int row_tiles = (end - begin + T::kRows - 1) / T::kRows;
    const int band = index / (kBand * column_tiles_);
    const int height = min(kBand, row_tiles - band * kBand);
    const int inside = index - band * kBand * column_tiles_;
    return {begin + (band * kBand + inside % height) * T::kRows, end, inside / height * T::kColumns, group};
  }

  const Problem& p_;
  const int lane_;
  const int column_tiles_;
  int next_ = static_cast<int>(blockIdx.x);
  // Of 32 groups: their first, all tiles before it, their tiles; of this lane's group: its rows, tiles up to its end.
  int first_group_ = -32, before_ = 0, within_ = 0;
  int begin_ = 0, end_ = 0, tiles_to_here_ = 0;
};

// A place in the ring, which producer and consumers walk in step.
template <int kStages>
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Barriers of stage s: `full` when its bytes are there, `empty` when all consumers' warps have read it.
template <class T>
struct Ring {
  uint32_t memory;  // shared address
  __device__ uint32_t x(int stage) const { return memory + stage * T::kStageBytes; }
  __device__ uint32_t w(int stage) const { return x(stage) + T::kXBytes; }
  __device__ uint32_t full(int stage) const { return memory + T::kBarrierOffset + stage * 8; }
  __device__ uint32_t empty(int stage) const { return full(T::kStages + stage); }
};

// ---- Loading.

template <class T>
__device__ void load_tile(const Problem& p, const Ring<T>& ring, const Tile& tile, const void* w_map,
                          Place<T::kStages>& place) {
  for (int block = 0; block < p.blocks; ++block, place.advance()) {
    const uint32_t full = ring.full(place.stage);
    hopper::wait(ring.empty(place.stage), place.parity ^ 1);
    hopper::arrive_expecting(full, T::kStageBytes);
    hopper::load_box(&p.x_map, full, ring.x(place.stage), block * kBlock, tile.row);
#pragma unroll
    for (int box = 0; box < T::kColumns / kBoxRows; ++box) {
      hopper::load_box(w_map, full, ring.w(place.stage) + box * (kBoxRows * kBlock * 2), block * kBlock,
                       tile.column + box * kBoxRows);
    }
  }
}

template <class T>
__device__ void produce(const Problem& p, const Ring<T>& ring) {
  Schedule<T> schedule(p);
  Place<T::kStages> place;
  Tile tile;
  const void* w_map = nullptr;
  while (schedule.next(tile)) {
    if (threadIdx.x % 32 == 0) {
      const void* w = p.groups == 0 ? p.w : p.table[tile.group];
      const void* map = static_cast<const char*>(w) + p.map_offset;
      if (map != w_map) {
        hopper::acquire_map(map);
        hopper::prefetch_map(map);
        w_map = map;
      }
      load_tile(p, ring, tile, w_map, place);
    }
    __syncwarp();
  }
}

// ---- Multiplying.

template <class T>
__device__ __forceinline__ void multiply_tile(float (&d)[T::kPartColumns / 2], const Problem& p, const Ring<T>& ring,
                                              int row_part, int column_part, Place<T::kStages>& place) {
  // A part's rows are a multiple of 8 apart, so its descriptor is the tile's plus an offset (in units of 16 bytes).
  const uint64_t x_first = hopper::matrix_descriptor(ring.x(0) + row_part * (64 * kBlock * 2));
  const uint64_t w_first = hopper::matrix_descriptor(ring.w(0) + column_part * (T::kPartColumns * kBlock * 2));
  const bool speaker = threadIdx.x % 32 == 0;
  int last_stage = 0;
#pragma unroll
  for (float& sum : d) sum = 0.0F;
  hopper::pin(d);
  for (int block = 0; block < p.blocks; ++block, place.advance()) {
    hopper::wait(ring.full(place.stage), place.parity);
    const uint64_t x = x_first + place.stage * (T::kStageBytes / 16);
    const uint64_t w = w_first + place.stage * (T::kStageBytes / 16);
    hopper::begin_products();
#pragma unroll
    for (int k = 0; k < kBlock / 16; ++k) hopper::multiply(d, x + 2 * k, w + 2 * k);
    hopper::commit_products();
    // The block before this one has been read when only this one's products are under way.
    hopper::wait_products<1>();
    if (speaker && block > 0) hopper::arrive(ring.empty(last_stage));
    last_stage = place.stage;
  }
  hopper::wait_products<0>();
  hopper::pin(d);
  if (speaker) hopper::arrive(ring.empty(last_stage));
}

// For a part without rows or columns of the result.
template <class T>
__device__ void skip_tile(const Problem& p, const Ring<T>& ring, Place<T::kStages>& place) {
  for (int block = 0; block < p.blocks; ++block, place.advance()) {
    hopper::wait(ring.full(place.stage), place.parity);
    // All lanes have seen the phase end before the stage may be filled again.
    __syncwarp();
    if (threadIdx.x % 32 == 0) hopper::arrive(ring.empty(place.stage));
  }
}

/// What the sums will be added to is fetched into L2 while they are made: a warpgroup's 64 rows.
__device__ __forceinline__ void ask_for_old(const finish::Results& results, int row, int column, int columns,
                                            int rows_end) {
  constexpr int kLine = 32;  // floats
  const int lines = columns / kLine;
  for (int i = static_cast<int>(threadIdx.x % 128); i < 64 * lines; i += 128) {
    const int r = row + i / lines;
    const int at = column + i % lines * kLine;
    if (r >= rows_end || at >= results.columns) continue;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const float*>(results.out) +
                                                  static_cast<int64_t>(r) * results.columns + at));
  }
}

template <class T>
__device__ void consume(const Problem& p, const Ring<T>& ring, unsigned char* shared) {
  // From lane 0, so that the compiler knows them to be the same in the whole warp.
  const int warp = __shfl_sync(~0U, static_cast<int>(threadIdx.x / 32), 0);
  const int row_part = warp / 4 % T::kRowParts;
  const int column_part = warp / 4 / T::kRowParts;
  unsigned char* const staging = shared + T::kStagingOffset + warp * finish::kStagingBytes;
  Schedule<T> schedule(p);
  Place<T::kStages> place;
  Tile tile;
  while (schedule.next(tile)) {
    const int row = tile.row + row_part * 64;
    const int column = tile.column + column_part * T::kPartColumns;
    if (row >= tile.rows_end || column >= p.results.outputs) {
      skip_tile(p, ring, place);
      continue;
    }
    if (p.results.accumulate) ask_for_old(p.results, row, column, T::kPartColumns, tile.rows_end);
    float d[T::kPartColumns / 2];
    multiply_tile(d, p, ring, row_part, column_part, place);
    finish::finish_rows(d, p.results, row + warp % 4 * 16, column, tile.rows_end, staging);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 1) gemm_kernel(const __grid_constant__ Problem p) {
  begin_kernel();
  extern __shared__ unsigned char dynamic[];
  unsigned char* const shared = dynamic + (-hopper::shared_address(dynamic) & 1023U);
  const Ring<T> ring{hopper::shared_address(shared)};
  if (threadIdx.x == 0) {
    hopper::prefetch_map(&p.x_map);
    for (int stage = 0; stage < T::kStages; ++stage) {
      hopper::init_barrier(ring.full(stage), 1);
      hopper::init_barrier(ring.empty(stage), kConsumers * 4);
    }
    hopper::publish_barriers();
  }
  __syncthreads();
  // 168 registers a thread are given at the start; the consumers' sums need more, the producer hardly any.
  if (threadIdx.x >= 128 * kConsumers) {
    hopper::set_registers_down<40>();
    if (threadIdx.x < 128 * kConsumers + 32) produce(p, ring);
  } else {
    hopper::set_registers_up<232>();
    consume(p, ring, shared);
  }
}

// ---- The host's side.

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                 CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// From the driver that the runtime has loaded; null without one.
EncodeTiled encode_tiled() {
  static const EncodeTiled function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
    const bool usable = status == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return reinterpret_cast<EncodeTiled>(usable ? found : nullptr);
  }();
  return function;
}

// A row-major bf16 matrix, read in boxes of 64 columns.
cudaError_t encode_map(CUtensorMap& map, const void* data, int64_t rows, int64_t columns, int box_rows) {
  if (encode_tiled() == nullptr) return cudaErrorNotSupported;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t box[2] = {kBlock, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult status = encode_tiled()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes,
                                         strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                         CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

bool aligned(const void* data, size_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; }

using Tiling128x256 = Tiling<128, 256, 4>;
using Tiling128x192 = Tiling<128, 192, 5>;
using Tiling128x128 = Tiling<128, 128, 6>;
using Tiling64x256 = Tiling<64, 256, 5>;
using Tiling64x128 = Tiling<64, 128, 8>;
using Tiling64x64 = Tiling<64, 64, 12>;

template <class T>
cudaError_t allow_shared() {
  static const cudaError_t status =
      cudaFuncSetAttribute(gemm_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kLaunchBytes);
  return status;
}

template <class T>
cudaError_t launch(const WgmmaGemm& op, Problem& problem, cudaStream_t stream, int sm_count) {
  if (allow_shared<T>() != cudaSuccess) return allow_shared<T>();
  const cudaError_t encoded = encode_map(problem.x_map, op.x, op.n, op.inputs, T::kRows);
  if (encoded != cudaSuccess) return encoded;
  // At most: each group adds a tile that is not full.
  const int64_t row_tiles = (op.n + T::kRows - 1) / T::kRows + problem.groups;
  const int64_t tiles = row_tiles * ((op.outputs + T::kColumns - 1) / T::kColumns);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(std::min<int64_t>(tiles, sm_count)));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = T::kLaunchBytes;
  config.stream = stream;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, gemm_kernel<T>, problem);
}

// The time of all tiles in cycles: waves of tiles, each the larger of its products and its loads, and a fixed cost.
double cost(const WgmmaGemm& op, int rows, int columns, int sm_count) {
  const auto n = static_cast<double>(op.n);
  const double groups = op.device_table == nullptr ? 0.0 : std::min(n, static_cast<double>(op.groups));
  // A group ends in the middle of a tile; its empty half is skipped.
  const double row_tiles =
      groups == 0.0 ? static_cast<double>((op.n + rows - 1) / rows) : std::max(groups, n / rows + groups / 2);
  const auto column_tiles = static_cast<double>((op.outputs + columns - 1) / columns);
  const double products = rows * columns / 32.0;
  const double loads = (rows + columns) * 128 / 40.0;
  const auto blocks = static_cast<double>((op.inputs + kBlock - 1) / kBlock);
  const double per_tile = blocks * std::max(products, loads) + rows * columns / 24.0 + 800;
  const double waves = row_tiles * column_tiles / sm_count;
  const auto whole = static_cast<double>(static_cast<int64_t>(waves));
  return per_tile * (groups > 0.0 ? std::max(waves, 1.0) : whole + (waves > whole ? 1.0 : 0.0));
}

WgmmaTile choose(const WgmmaGemm& op, int sm_count) {
  struct Candidate {
    WgmmaTile tile;
    int rows, columns;
  };
  constexpr Candidate kCandidates[] = {
      {WgmmaTile::t128x256, 128, 256}, {WgmmaTile::t128x192, 128, 192}, {WgmmaTile::t128x128, 128, 128},
      {WgmmaTile::t64x256, 64, 256},   {WgmmaTile::t64x128, 64, 128},   {WgmmaTile::t64x64, 64, 64},
  };
  const Candidate* best = kCandidates;
  for (const Candidate& candidate : kCandidates) {
    const double now = cost(op, candidate.rows, candidate.columns, sm_count);
    if (now < cost(op, best->rows, best->columns, sm_count)) best = &candidate;
  }
  return best->tile;
}

}  // namespace

int encode_weight_map(void* host_128_bytes, const void* device_weights, int64_t outputs, int64_t inputs) {
  static_assert(sizeof(CUtensorMap) == kWeightMapBytes);
  CUtensorMap map;
  const cudaError_t status = encode_map(map, device_weights, outputs, inputs, kBoxRows);
  if (status == cudaSuccess) std::memcpy(host_128_bytes, &map, sizeof(map));
  return status;
}

bool wgmma_supports(const WgmmaGemm& op) {
  // Numbers of rows, columns and tiles are int in the kernel, also beyond a tile's end.
  constexpr int64_t kMost = int64_t{1} << 30;
  const bool grouped = op.device_table != nullptr;
  if (op.n < 0 || op.n > kMost || op.outputs <= 0 || op.outputs > kMost) return false;
  if (op.inputs <= 0 || op.inputs > kMost || op.inputs % 8 != 0) return false;
  if ((op.n / 64 + 1 + op.groups) * (op.outputs / 64 + 1) > kMost) return false;
  if (!aligned(op.x, 16) || (grouped ? op.offsets == nullptr || op.groups <= 0 : !aligned(op.w, 128))) return false;
  if (op.accumulate && !op.out_f32) return false;
  // Gated results have a whole number of 16-byte chunks, which only the vector stores write.
  return op.activation != Activation::silu_mul || (op.outputs % 16 == 0 && aligned(op.out, 16));
}

int wgmma_prepare() {
  if (encode_tiled() == nullptr) return cudaErrorNotSupported;
  for (const cudaError_t status :
       {allow_shared<Tiling128x256>(), allow_shared<Tiling128x192>(), allow_shared<Tiling128x128>(),
        allow_shared<Tiling64x256>(), allow_shared<Tiling64x128>(), allow_shared<Tiling64x64>()}) {
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

int wgmma_gemm(const WgmmaGemm& op, void* stream, int sm_count) {
  if (!wgmma_supports(op)) return cudaErrorInvalidValue;
  if (op.n == 0) return cudaSuccess;
  Problem problem{};
  problem.w = op.w;
  problem.table = op.device_table;
  problem.offsets = op.offsets;
  problem.map_offset = static_cast<int64_t>(weight_map_offset(op.outputs, op.inputs));
  problem.groups = op.device_table == nullptr ? 0 : op.groups;
  problem.n = static_cast<int>(op.n);
  problem.blocks = static_cast<int>((op.inputs + kBlock - 1) / kBlock);
  finish::Results& results = problem.results;
  results.bias = op.bias;
  results.out = op.out;
  results.outputs = static_cast<int>(op.outputs);
  results.columns = results.outputs / (op.activation == Activation::silu_mul ? 2 : 1);
  results.activation = op.activation;
  results.accumulate = op.accumulate;
  results.out_f32 = op.out_f32;
  results.vectors = aligned(op.out, 16) && results.columns % (results.out_f32 ? 2 : 8) == 0;

  auto* const native = static_cast<cudaStream_t>(stream);
  switch (op.tile == WgmmaTile::automatic ? choose(op, sm_count) : op.tile) {
    case WgmmaTile::automatic:
    case WgmmaTile::t128x256:
      return launch<Tiling128x256>(op, problem, native, sm_count);
    case WgmmaTile::t128x192:
      return launch<Tiling128x192>(op, problem, native, sm_count);
    case WgmmaTile::t128x128:
      return launch<Tiling128x128>(op, problem, native, sm_count);
    case WgmmaTile::t64x256:
      return launch<Tiling64x256>(op, problem, native, sm_count);
    case WgmmaTile::t64x128:
      return launch<Tiling64x128>(op, problem, native, sm_count);
    case WgmmaTile::t64x64:
      return launch<Tiling64x64>(op, problem, native, sm_count);
  }
  return cudaErrorInvalidValue;
}

}  // namespace keye::ops::cuda
