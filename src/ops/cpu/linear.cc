#include <algorithm>
#include <atomic>
#include <vector>

#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/linear_dispatch.h"
#include "ops/cpu/linear_plan.h"

namespace keye::ops {
namespace {

static_assert(kTileLanes == kPanel);

constexpr int64_t kStreamAhead = 4096;  // bytes that a single tile's product asks for in advance

/// What linear and grouped_linear have in common. Place p of the product, a row of out, multiplies row row_of(p) of x.
struct Product {
  ConstView x;
  std::span<const int32_t> rows;  // empty: place p is row p
  const float* bias = nullptr;
  Activation activation = Activation::none;
  bool accumulate = false;
  View out;

  const std::byte* row(int64_t place) const {
    const int64_t row = rows.empty() ? place : rows[static_cast<size_t>(place)];
    return static_cast<const std::byte*>(x.data) + static_cast<size_t>(row * x.shape[1]) * dtype_bytes(x.dtype);
  }
};

/// Places [begin, begin + rows), all of which multiply one matrix.
struct Segment {
  const PackedMatrix* w = nullptr;
  int64_t begin = 0;
  int64_t rows = 0;
  LinearPlan plan;
  std::byte* packed = nullptr;  // tiles one after another, if not in place

  int64_t tiles() const { return plan.tiles(rows); }
  /// Tiles differ by at most one row.
  int64_t tile_begin(int64_t tile) const { return tile * rows / tiles(); }
  size_t packed_bytes() const { return plan.in_place ? 0 : static_cast<size_t>(rows * plan.steps) * kRowStepBytes; }
  std::byte* packed_tile(int64_t tile) const {
    return packed + static_cast<size_t>(tile_begin(tile) * plan.steps) * kRowStepBytes;
  }
  const std::byte* panel(int64_t index) const {
    return static_cast<const std::byte*>(w->data.data()) + static_cast<size_t>(index * plan.steps) * kStepBytes;
  }
  int64_t units() const { return plan.panels * plan.parts; }
};

/// A rectangle of one segment's panels and tiles.
struct Block {
  const Segment* segment = nullptr;
  int64_t panel = 0;
  int64_t panels = 0;
  int64_t tile = 0;
  int64_t tiles = 0;
};

/// Hands out [0, total): large shares at first, single units at the end, whole panels (`parts` units) as long as
/// possible.
class Shares {
 public:
  Shares(int64_t total, int64_t parts, int threads) : total_(total), parts_(parts), divisor_(2 * threads) {}

  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
  };
  Range take() {
    int64_t begin = next_.load(std::memory_order_relaxed);
    int64_t size = 0;
    do {
      if (begin >= total_) return {};
      size = std::max<int64_t>(1, (total_ - begin) / divisor_);
      if (size > parts_) size -= size % parts_;
    } while (!next_.compare_exchange_weak(begin, begin + size, std::memory_order_relaxed));
    return {begin, begin + size};
  }

 private:
  std::atomic<int64_t> next_{0};
  int64_t total_;
  int64_t parts_;
  int64_t divisor_;
};

/// One thread's way through the shares that it takes, block by block.
class Blocks {
 public:
  Blocks(std::span<const Segment> segments, Shares& shares) : segments_(segments), shares_(shares) {}

  /// The next block; one without panels at the end.
  Block next() {
    if (range_.begin == range_.end) range_ = shares_.take();
    if (range_.begin == range_.end) return {};
    // All segments of a wave have the same number of units.
    const Segment& segment = segments_[static_cast<size_t>(range_.begin / segments_[0].units())];
    const int64_t first = range_.begin % segments_[0].units();
    const int64_t last = std::min(first + range_.end - range_.begin, segment.units());
    const int64_t parts = segment.plan.parts;
    const int64_t tiles = segment.tiles();
    Block block{&segment, first / parts, 1, 0, tiles};
    int64_t units = parts;
    if (first % parts == 0 && last - first >= parts) {
      block.panels = std::min<int64_t>(segment.plan.group, (last - first) / parts);
      units = block.panels * parts;
    } else {
      const int64_t part = first % parts;
      units = std::min(parts - part, last - first);
      block.tile = part * tiles / parts;
      block.tiles = (part + units) * tiles / parts - block.tile;
    }
    range_.begin += units;
    return block;
  }

 private:
  std::span<const Segment> segments_;
  Shares& shares_;
  Shares::Range range_;
};

/// Where the rows of a tile lie in x, from `bytes` on.
void find_rows(const Product& product, const Segment& segment, int64_t tile, size_t bytes, const void** rows) {
  const int64_t begin = segment.tile_begin(tile);
  const int64_t count = segment.tile_begin(tile + 1) - begin;
  for (int64_t r = 0; r < count; ++r) rows[r] = product.row(segment.begin + begin + r) + bytes;
}

void pack_tile(const LinearKernels& kernels, const Product& product, const Segment& segment, int64_t tile) {
  const int64_t begin = segment.tile_begin(tile);
  TilePack pack;
  pack.rows = static_cast<int>(segment.tile_begin(tile + 1) - begin);
  pack.row_bytes = product.x.shape[1] * static_cast<int64_t>(dtype_bytes(product.x.dtype));
  pack.out = segment.packed_tile(tile);
  const void* rows[kTileRowsMax];
  find_rows(product, segment, tile, 0, rows);
  pack.x_rows = rows;
  kernels.pack(pack);
}

/// Finishes one tile's sums of one panel into out.
void finish(const LinearKernels& kernels, const Product& product, const Segment& segment, int64_t tile, int64_t panel,
            const float* sums) {
  const bool gated = segment.w->gated;
  const int64_t width = gated ? kPanel / 2 : kPanel;
  const int64_t columns = product.out.shape[1];
  const int64_t place = segment.begin + segment.tile_begin(tile);
  TileFinish finish;
  finish.sums = sums;
  finish.rows = static_cast<int>(segment.tile_begin(tile + 1) - segment.tile_begin(tile));
  finish.columns = static_cast<int>(std::min(width, columns - panel * width));
  finish.activation = product.activation;
  if (product.bias != nullptr) {
    finish.bias = product.bias + panel * width;
    finish.bias_up = gated ? product.bias + columns + panel * width : nullptr;
  }
  finish.out_bf16 = product.out.dtype == DType::bf16;
  finish.out = static_cast<std::byte*>(product.out.data) +
               static_cast<size_t>(place * columns + panel * width) * dtype_bytes(product.out.dtype);
  finish.out_stride = columns;
  finish.accumulate = product.accumulate;
  kernels.finish(finish);
}

/// What a tile's product asks the memory for while it computes, and how far to move on after each step.
struct Ahead {
  const std::byte* at = nullptr;
  int64_t stride = 0;
};

Ahead ask_ahead(const Block& block, const Block& after, int64_t pass, int64_t tile, int64_t i) {
  const Segment& segment = *block.segment;
  const LinearPlan& plan = segment.plan;
  const auto step_bytes = static_cast<int64_t>(kStepBytes);
  const int64_t step = pass * plan.pass_steps;
  const int64_t steps = std::min(plan.pass_steps, plan.steps - step);
  const std::byte* weights = segment.panel(block.panel + i) + step * step_bytes;
  // A single tile streams: what lies a little ahead.
  if (block.tiles == 1) return {weights + kStreamAhead, step_bytes};
  // The weights that come next: the following pass, or the block after this one.
  const std::byte* next = nullptr;
  if (pass + 1 < plan.passes()) {
    next = weights + plan.pass_steps * step_bytes;
  } else if (i < after.panels) {
    next = after.segment->panel(after.panel + i);
  }
  const int64_t last = block.tile + block.tiles - 1;
  // Rows that stay in the cache leave it to the weights, of which each tile asks for a share.
  if (plan.group == 1) {
    const int64_t stride = (step_bytes + block.tiles - 1) / block.tiles;
    return next == nullptr ? Ahead{} : Ahead{next + (tile - block.tile) * steps * stride, stride};
  }
  if (tile == last) return next == nullptr ? Ahead{} : Ahead{next, step_bytes};
  // Rows that stream: each panel's product asks for a share of the next tile.
  const int64_t rows = segment.tile_begin(tile + 2) - segment.tile_begin(tile + 1);
  const int64_t stride = (rows * static_cast<int64_t>(kRowStepBytes) + block.panels - 1) / block.panels;
  return {segment.packed_tile(tile + 1) + step * rows * static_cast<int64_t>(kRowStepBytes) + i * steps * stride,
          stride};
}

/// Asks for the part of out that a tile's sums of one panel will be added to, so that it is near when they are done.
void ask_for_out(const Product& product, const Segment& segment, int64_t tile, int64_t panel) {
  const int64_t width = segment.w->gated ? kPanel / 2 : kPanel;
  const auto bytes = static_cast<int64_t>(dtype_bytes(product.out.dtype));
  const int64_t row_bytes = product.out.shape[1] * bytes;
  const int64_t line = 64;
  const auto* out = static_cast<const std::byte*>(product.out.data) + panel * width * bytes;
  for (int64_t row = segment.begin + segment.tile_begin(tile); row < segment.begin + segment.tile_begin(tile + 1);
       ++row) {
    for (int64_t at = 0; at < width * bytes; at += line) __builtin_prefetch(out + row * row_bytes + at, 1);
  }
}

/// Multiplies a block, asking meanwhile for the weights of the block after it. `sums` holds every tile's sums of every
/// panel of the block if there are several passes, else those of one tile and panel.
void multiply_block(const LinearKernels& kernels, const Product& product, const Block& block, const Block& after,
                    float* sums) {
  const Segment& segment = *block.segment;
  const LinearPlan& plan = segment.plan;
  const TileFamily& family = segment.w->dtype == DType::bf16 ? kernels.bf16 : kernels.f32;
  const int64_t passes = plan.passes();
  const void* rows[kTileRowsMax];
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t step = pass * plan.pass_steps;
    TileProduct product_tile;
    product_tile.steps = std::min(plan.pass_steps, plan.steps - step);
    product_tile.resume = pass > 0;
    for (int64_t tile = block.tile; tile < block.tile + block.tiles; ++tile) {
      const int64_t begin = segment.tile_begin(tile);
      const int count = static_cast<int>(segment.tile_begin(tile + 1) - begin);
      if (plan.in_place) {
        find_rows(product, segment, tile, 0, rows);
        product_tile.x_rows = rows;
      } else {
        product_tile.x = segment.packed_tile(tile) + static_cast<size_t>(step * count) * kRowStepBytes;
      }
      const TileFunction multiply = (plan.in_place ? family.in_place : family.packed)[count - 1];
      for (int64_t i = 0; i < block.panels; ++i) {
        const std::byte* weights = segment.panel(block.panel + i) + static_cast<size_t>(step) * kStepBytes;
        product_tile.weights = weights;
        const Ahead ahead = ask_ahead(block, after, pass, tile, i);
        product_tile.prefetch = reinterpret_cast<const char*>(ahead.at != nullptr ? ahead.at : weights);
        product_tile.prefetch_stride = ahead.stride;
        product_tile.sums = sums;
        if (passes > 1) product_tile.sums += ((tile - block.tile) * block.panels + i) * kTileRowsMax * kTileLanes;
        if (product.accumulate && pass + 1 == passes) ask_for_out(product, segment, tile, block.panel + i);
        multiply(product_tile);
        if (pass + 1 == passes) finish(kernels, product, segment, tile, block.panel + i, product_tile.sums);
      }
    }
  }
}

/// What a matrix of e4m3 codes is multiplied with: the kernels for it, and the dtype of x.
struct Codes {
  const CodeKernels* kernels = nullptr;  // null: the weights are what the tiles read
  DType x = DType::bf16;

  /// Inputs of a step, and of a block of w.
  int64_t step_inputs() const { return x == DType::bf16 ? 2 : 1; }
  /// Bytes of scratch for one block of inputs of a panel, brought into the form that the tiles read.
  size_t panel_bytes(const PackedMatrix& w) const {
    return static_cast<size_t>((w.block_inputs + 1) / step_inputs()) * kStepBytes;
  }
};

/// total = (first ? 0 : total) + sums times a factor for each half of a row's lanes.
void add_scaled(const float* sums, const float* scales, int rows, bool first, float* total) {
  constexpr int kHalf = kTileLanes / 2;
  for (int half = 0; half < 2 * rows; ++half, sums += kHalf, total += kHalf) {
    const float scale = scales[half % 2];
    if (first) {
      for (int i = 0; i < kHalf; ++i) total[i] = sums[i] * scale;
    } else {
      for (int i = 0; i < kHalf; ++i) total[i] += sums[i] * scale;
    }
  }
}

/// A block of a matrix of codes: each panel's codes are expanded, one block of inputs at a time, and meet all tiles.
/// `memory`: the expanded codes, then every tile's sums of one panel.
void multiply_codes(const LinearKernels& kernels, const Codes& codes, const Product& product, const Block& block,
                    std::byte* memory) {
  const Segment& segment = *block.segment;
  const PackedMatrix& w = *segment.w;
  const LinearPlan& plan = segment.plan;
  const bool bf16 = codes.x == DType::bf16;
  const TileFamily& family = bf16 ? kernels.bf16 : kernels.f32;
  auto* totals = reinterpret_cast<float*>(memory + codes.panel_bytes(w));
  alignas(64) float sums[kTileRowsMax * kTileLanes];
  const void* rows[kTileRowsMax];
  const bool few = bf16 && plan.in_place && segment.tiles() == 1 && segment.rows <= kCodeRows;
  const CodeTileFunction directly = few ? codes.kernels->in_place[segment.rows - 1] : nullptr;
  for (int64_t panel = block.panel; panel < block.panel + block.panels; ++panel) {
    const auto* panel_codes = static_cast<const uint8_t*>(w.data.data()) + static_cast<size_t>(panel) * w.panel_bytes();
    const auto* scales = static_cast<const float*>(w.scales.data()) + panel * w.scale_blocks() * 2;
    for (int64_t input = 0; input < w.inputs; input += w.block_inputs, scales += 2) {
      const int64_t inputs = std::min(w.block_inputs, w.inputs - input);
      const int64_t step = input / codes.step_inputs();
      const uint8_t* from = panel_codes + input * kPanel;
      TileProduct tile_product;
      tile_product.steps = (inputs + codes.step_inputs() - 1) / codes.step_inputs();
      if (directly != nullptr) {
        find_rows(product, segment, block.tile, static_cast<size_t>(step) * kRowStepBytes, rows);
        directly({.codes = from, .x_rows = rows, .steps = tile_product.steps, .sums = sums});
        add_scaled(sums, scales, static_cast<int>(segment.rows), input == 0, totals);
        continue;
      }
      if (bf16) {
        codes.kernels->expand_bf16(from, tile_product.steps, memory);
      } else {
        codes.kernels->expand_f32(from, inputs, memory);
      }
      tile_product.weights = memory;
      tile_product.sums = sums;
      tile_product.prefetch = reinterpret_cast<const char*>(from + inputs * kPanel);  // the codes of the next block
      tile_product.prefetch_stride = inputs * kPanel / tile_product.steps;
      for (int64_t tile = block.tile; tile < block.tile + block.tiles; ++tile) {
        const int64_t begin = segment.tile_begin(tile);
        const int count = static_cast<int>(segment.tile_begin(tile + 1) - begin);
        if (plan.in_place) {
          find_rows(product, segment, tile, static_cast<size_t>(step) * kRowStepBytes, rows);
          tile_product.x_rows = rows;
        } else {
          tile_product.x = segment.packed_tile(tile) + static_cast<size_t>(step * count) * kRowStepBytes;
        }
        (plan.in_place ? family.in_place : family.packed)[count - 1](tile_product);
        float* total = totals + (tile - block.tile) * kTileRowsMax * kTileLanes;
        add_scaled(sums, scales, count, input == 0, total);
      }
    }
    for (int64_t tile = block.tile; tile < block.tile + block.tiles; ++tile) {
      finish(kernels, product, segment, tile, panel, totals + (tile - block.tile) * kTileRowsMax * kTileLanes);
    }
  }
}

/// Packs the segments' rows where their plans say so, then multiplies, over all threads. The segments have equally many
/// units; `scratch(worker, bytes)` is memory of one thread's own.
template <class Scratch>
void multiply_segments(ThreadPool& pool, const LinearKernels& kernels, const Codes& codes, const Product& product,
                       std::span<const Segment> segments, Scratch&& scratch) {
  for (const Segment& segment : segments) {
    if (segment.plan.in_place) continue;
    pool.for_each(segment.tiles(), [&](int64_t tile, int) { pack_tile(kernels, product, segment, tile); });
  }
  const int64_t units = segments[0].units();
  Shares shares(units * static_cast<int64_t>(segments.size()), segments[0].plan.parts, pool.size());
  pool.for_each(pool.size(), [&](int64_t, int worker) {
    alignas(64) float tile_sums[kTileRowsMax * kTileLanes];
    Blocks blocks(segments, shares);
    for (Block block = blocks.next(); block.panels > 0 && !pool.is_interrupted();) {
      const Block after = blocks.next();
      if (block.segment->w->dtype == DType::f8_e4m3) {
        const size_t bytes = codes.panel_bytes(*block.segment->w) + static_cast<size_t>(block.tiles) * sizeof tile_sums;
        multiply_codes(kernels, codes, product, block, static_cast<std::byte*>(scratch(worker, bytes)));
        block = after;
        continue;
      }
      float* sums = tile_sums;
      if (block.segment->plan.passes() > 1) {
        const int64_t tiles = block.tiles * block.panels;
        sums = static_cast<float*>(scratch(worker, static_cast<size_t>(tiles) * sizeof tile_sums));
      }
      multiply_block(kernels, product, block, after, sums);
      block = after;
    }
  });
}

LinearShape shape_of(const PackedMatrix& w, DType x, int64_t rows) { return {rows, w.inputs, w.outputs, w.gated, x}; }

}  // namespace

void CpuBackend::do_linear(const Linear& op) {
  if (isa_ == Isa::scalar) return RefBackend::do_linear(op);
  const Product product{op.x,          {},    op.bias.empty() ? nullptr : op.bias.as<float>(), op.activation,
                        op.accumulate, op.out};
  const int64_t rows = op.x.shape[0];
  const LinearPlan plan = plan_linear(shape_of(op.w, op.x.dtype, rows), cpu_info(isa_, pool_.size()));
  for (int64_t begin = 0; begin < rows; begin += plan.block_rows) {
    Segment segment{&op.w, begin, std::min(plan.block_rows, rows - begin), plan};
    segment.packed = static_cast<std::byte*>(shared_scratch(segment.packed_bytes()));
    multiply_segments(pool_, *linear_kernels(isa_), {code_kernels(isa_), op.x.dtype}, product, std::span(&segment, 1),
                      [this](int worker, size_t bytes) { return scratch(worker, bytes); });
  }
}

void CpuBackend::do_grouped_linear(const GroupedLinear& op) {
  if (isa_ == Isa::scalar) return RefBackend::do_grouped_linear(op);
  std::span<const int32_t> rows;
  if (!op.rows.empty()) rows = {op.rows.as<int32_t>(), static_cast<size_t>(op.rows.elements())};
  const auto* offsets = op.offsets.as<int32_t>();
  const Product product{op.x, rows, nullptr, op.activation, false, op.out};
  const CpuInfo cpu = cpu_info(isa_, pool_.size());
  const size_t packed_max = static_cast<size_t>(cpu.l3_bytes / 4);
  std::vector<Segment> segments;
  size_t packed = 0;
  const auto flush = [&] {
    if (segments.empty()) return;
    auto* start = static_cast<std::byte*>(shared_scratch(packed));
    for (Segment& segment : segments) {
      segment.packed = start;
      start += segment.packed_bytes();
    }
    multiply_segments(pool_, *linear_kernels(isa_), {code_kernels(isa_), op.x.dtype}, product, segments,
                      [this](int worker, size_t bytes) { return scratch(worker, bytes); });
    segments.clear();
    packed = 0;
  };
  for (size_t e = 0; e < op.w.size(); ++e) {
    const int64_t end = offsets[e + 1];
    for (int64_t begin = offsets[e]; begin < end;) {
      Segment segment{&op.w[e], begin, end - begin, plan_linear(shape_of(op.w[e], op.x.dtype, end - begin), cpu)};
      segment.plan.parts = 1;
      segment.rows = std::min(segment.rows, segment.plan.block_rows);
      if (packed + segment.packed_bytes() > packed_max) flush();
      packed += segment.packed_bytes();
      segments.push_back(segment);
      begin += segment.rows;
    }
  }
  flush();
}

}  // namespace keye::ops
