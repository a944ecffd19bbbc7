// BMP by a decoder of our own; PIL has one too, and what is odd about it is kept, as the comments say.
// Source of the format: the BITMAPINFOHEADER family of the Windows GDI reference; OS/2 1.x and 2.x headers.
#include <optional>
#include <vector>

#include "media/codecs.h"
#include "media/pixels.h"

namespace keye::media {
namespace {

enum class Packing : uint8_t { bits1, indices1, indices4, indices8, bgr15, bgr16, bytes };

struct Layout {
  bool top_down = false;
  int bits = 0;
  uint32_t compression = 0;
  Packing packing = Packing::bytes;
  std::array<uint8_t, 3> rgb_at{2, 1, 0};  // Packing::bytes: where red, green and blue stand in a pixel
  uint32_t colors = 0;
  Palette palette{};
  uint64_t data = 0;  // where the pixels begin
};

constexpr uint32_t kRaw = 0;
constexpr uint32_t kRle8 = 1;
constexpr uint32_t kRle4 = 2;
constexpr uint32_t kBitfields = 3;

Error corrupt(std::string_view what) { return make_error(ErrorCode::corrupt_data, "BMP", "{}", what); }

template <class... Args>
Error unsupported(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::unsupported, "BMP", format, std::forward<Args>(args)...);
}

struct Masks {
  int bits;
  uint32_t red, green, blue, alpha;
  Packing packing;
  std::array<uint8_t, 3> rgb_at;
};

/// The channel layouts that are read. Alpha matters only for telling them apart.
constexpr Masks kMasks[] = {
    {32, 0xff0000, 0xff00, 0xff, 0, Packing::bytes, {2, 1, 0}},
    {32, 0xff000000, 0xff0000, 0xff00, 0, Packing::bytes, {3, 2, 1}},
    {32, 0xff000000, 0xff00, 0xff, 0, Packing::bytes, {3, 1, 0}},
    {32, 0xff000000, 0xff0000, 0xff00, 0xff, Packing::bytes, {3, 2, 1}},
    {32, 0xff, 0xff00, 0xff0000, 0xff000000, Packing::bytes, {0, 1, 2}},
    {32, 0xff0000, 0xff00, 0xff, 0xff000000, Packing::bytes, {2, 1, 0}},
    {32, 0xff000000, 0xff00, 0xff, 0xff0000, Packing::bytes, {3, 1, 0}},
    {32, 0, 0, 0, 0, Packing::bytes, {2, 1, 0}},
    {24, 0xff0000, 0xff00, 0xff, 0, Packing::bytes, {2, 1, 0}},
    {16, 0xf800, 0x7e0, 0x1f, 0, Packing::bgr16, {}},
    {16, 0x7c00, 0x3e0, 0x1f, 0, Packing::bgr15, {}},
};

/// The masks stand in headers of 52 bytes and more, or behind the header of 40; alpha's in those of 56 and more.
Result<void> read_masks(const ByteReader& in, uint32_t header_bytes, Layout& layout) {
  const uint32_t red = in.u32le(54);
  const uint32_t green = in.u32le(58);
  const uint32_t blue = in.u32le(62);
  const uint32_t alpha = layout.bits == 32 && header_bytes >= 56 ? in.u32le(66) : 0;
  for (const Masks& masks : kMasks) {
    if (masks.bits == layout.bits && masks.red == red && masks.green == green && masks.blue == blue &&
        masks.alpha == alpha) {
      layout.packing = masks.packing;
      layout.rgb_at = masks.rgb_at;
      return {};
    }
  }
  return unsupported("{}-bit pixels with channel masks {:#x}, {:#x}, {:#x}, {:#x} (red, green, blue, alpha)",
                     layout.bits, red, green, blue, alpha);
}

/// A table that only counts up in grey makes the picture grey, of one bit (two colours) or one byte a pixel whatever
/// `bits` says.
void read_palette(const ByteReader& in, uint64_t at, int entry_bytes, Layout& layout) {
  bool gray = true;
  for (uint32_t i = 0; i < layout.colors; ++i) {
    std::array<uint8_t, 3> color{};  // stored as blue, green, red
    const uint64_t entry = at + uint64_t{i} * static_cast<uint64_t>(entry_bytes);
    for (size_t c = 0; c < 3; ++c) color[c] = in.u8(entry + 2 - c);
    const uint32_t level = layout.colors == 2 ? i * 255 : i;
    gray = gray && in.has(entry, 3) && color[0] == level && color[1] == level && color[2] == level;
    if (i < 256) layout.palette[i] = color;
  }
  if (gray) {
    layout.packing = layout.colors <= 2 ? Packing::bits1 : Packing::indices8;
    for (size_t i = 0; i < 256; ++i) layout.palette[i].fill(static_cast<uint8_t>(i));
  } else {
    layout.packing = layout.bits == 1 ? Packing::indices1 : layout.bits == 4 ? Packing::indices4 : Packing::indices8;
  }
}

Result<Layout> read_layout(const ByteReader& in) {
  Layout layout;
  const uint32_t header_bytes = in.u32le(14);
  const bool core = header_bytes == 12;
  if (!core && header_bytes != 40 && header_bytes != 52 && header_bytes != 56 && header_bytes != 64 &&
      header_bytes != 108 && header_bytes != 124) {
    return unsupported("a header of {} bytes", header_bytes);
  }
  const uint64_t header_end = 14 + uint64_t{header_bytes};
  if (!in.has(0, header_end)) return corrupt("the file ends inside its header");
  if (core) {
    layout.bits = in.u16le(24);
  } else {
    layout.top_down = in.u8(25) == 0xff;
    layout.bits = in.u16le(28);
    layout.compression = in.u32le(30);
    layout.colors = in.u32le(46);
  }
  uint64_t after_header = header_end;
  switch (layout.bits) {
    case 1:
    case 4:
    case 8:
      if (layout.colors == 0) layout.colors = 1U << layout.bits;
      break;
    case 16:
      layout.packing = Packing::bgr15;
      break;
    case 24:
    case 32:
      break;
    default:
      return unsupported("{} bits a pixel", layout.bits);
  }
  if (layout.compression == kBitfields) {
    KEYE_TRY_VOID(read_masks(in, header_bytes, layout));
    if (header_bytes == 40) after_header += 12;
  } else if (layout.compression == kRle8 || layout.compression == kRle4) {
    if (layout.bits > 8) return unsupported("run lengths for {} bits a pixel", layout.bits);
  } else if (layout.compression != kRaw) {
    return unsupported("compression {} (4 is JPEG inside, 5 PNG inside)", layout.compression);
  }

  layout.data = in.u32le(10);
  if (layout.bits <= 8) {
    if (layout.colors > 65536) return corrupt(fmt::format("a palette of {} colours", layout.colors));
    const int entry_bytes = core ? 3 : 4;
    const uint64_t palette_end = after_header + uint64_t{layout.colors} * static_cast<uint64_t>(entry_bytes);
    // An offset that points at the palette is taken to mean the pixels behind it.
    if (layout.data == header_end) layout.data = palette_end;
    read_palette(in, after_header, entry_bytes, layout);
    after_header = palette_end;
  }
  if (layout.data == 0) layout.data = after_header;
  return layout;
}

size_t packed_bits(Packing packing, int bits) {
  switch (packing) {
    case Packing::bits1:
    case Packing::indices1:
      return 1;
    case Packing::indices4:
      return 4;
    case Packing::indices8:
      return 8;
    case Packing::bgr15:
    case Packing::bgr16:
      return 16;
    case Packing::bytes:
      break;
  }
  return static_cast<size_t>(bits);
}

void convert_row(const uint8_t* in, const Layout& layout, uint8_t* out, int width) {
  const auto indexed = [&](int bits) {
    for (int x = 0; x < width; ++x) {
      std::memcpy(out + 3 * x, layout.palette[packed_value(in, x, bits)].data(), 3);
    }
  };
  switch (layout.packing) {
    case Packing::bits1:
      for (int x = 0; x < width; ++x) std::memset(out + 3 * x, packed_value(in, x, 1) * 255, 3);
      return;
    case Packing::indices1:
      return indexed(1);
    case Packing::indices4:
      return indexed(4);
    case Packing::indices8:
      return indexed(8);
    case Packing::bgr15:
    case Packing::bgr16: {
      const int green_bits = layout.packing == Packing::bgr15 ? 5 : 6;
      const int green_max = (1 << green_bits) - 1;
      for (int x = 0; x < width; ++x) {
        const int pixel = in[2 * x] | in[2 * x + 1] << 8;
        out[3 * x] = static_cast<uint8_t>(((pixel >> (5 + green_bits)) & 31) * 255 / 31);
        out[3 * x + 1] = static_cast<uint8_t>(((pixel >> 5) & green_max) * 255 / green_max);
        out[3 * x + 2] = static_cast<uint8_t>((pixel & 31) * 255 / 31);
      }
      return;
    }
    case Packing::bytes: {
      const int pixel_bytes = layout.bits / 8;
      for (int x = 0; x < width; ++x) {
        for (size_t c = 0; c < 3; ++c) out[3 * x + static_cast<int>(c)] = in[x * pixel_bytes + layout.rgb_at[c]];
      }
      return;
    }
  }
}

/// Run lengths to one index a byte, in the order of the file. What the file leaves out at its end is missing: an error.
Result<std::vector<uint8_t>> expand_runs(const ByteReader& in, const Layout& layout, Size size) {
  const size_t width = static_cast<size_t>(size.width);
  const size_t total = width * static_cast<size_t>(size.height);
  const bool rle4 = layout.compression == kRle4;
  std::vector<uint8_t> pixels;
  pixels.reserve(total);
  uint64_t at = layout.data;
  size_t x = 0;
  const auto skip = [&](size_t count) { pixels.resize(std::min(total, pixels.size() + count)); };
  const auto put = [&](uint8_t index) {
    if (pixels.size() < total) pixels.push_back(index);
  };

  while (pixels.size() < total && in.has(at, 2)) {
    const uint8_t count = in.u8(at);
    const uint8_t code = in.u8(at + 1);
    at += 2;
    if (count > 0) {  // a run; what does not fit its row is dropped
      const size_t run = std::min<size_t>(count, x < width ? width - x : 0);
      for (size_t i = 0; i < run; ++i) {
        put(!rle4 ? code : i % 2 == 0 ? static_cast<uint8_t>(code >> 4) : static_cast<uint8_t>(code & 15));
      }
      x += run;
    } else if (code == 0) {  // end of row
      skip((width - pixels.size() % width) % width);
      x = 0;
    } else if (code == 1) {  // end of picture
      break;
    } else if (code == 2) {  // move right and on by rows
      if (!in.has(at, 2)) break;
      skip(in.u8(at) + in.u8(at + 1) * width);
      x = pixels.size() % width;
      at += 2;
    } else {  // as many pixels as they are, padded to two bytes
      const size_t given = std::min<size_t>(total - pixels.size(), code);
      const size_t bytes = rle4 ? (given + 1) / 2 : given;
      for (size_t i = 0; i < given && in.has(at + (rle4 ? i / 2 : i), 1); ++i) {
        put(rle4 ? packed_value(in.data() + at, static_cast<int>(i), 4) : in.u8(at + i));
      }
      if (!in.has(at, bytes)) break;
      at += bytes;
      x += code;
      at += at % 2;
    }
  }
  if (pixels.size() < total) return corrupt("the run lengths end before the picture is full");
  return pixels;
}

}  // namespace

Result<Image> decode_bmp(Bytes bytes, Size size) {
  const ByteReader in(bytes);
  KEYE_TRY(Layout layout, read_layout(in));
  std::vector<uint8_t> expanded;
  const uint8_t* pixels = nullptr;
  size_t stride = 0;
  if (layout.compression == kRle8 || layout.compression == kRle4) {
    KEYE_TRY(expanded, expand_runs(in, layout, size));
    if (layout.packing == Packing::bits1) {  // black and white: all but 0 is white
      for (size_t i = 1; i < 256; ++i) layout.palette[i].fill(255);
    }
    layout.packing = Packing::indices8;
    pixels = expanded.data();
    stride = static_cast<size_t>(size.width);
  } else {
    const size_t width = static_cast<size_t>(size.width);
    stride = (width * static_cast<size_t>(layout.bits) + 31) / 32 * 4;
    const size_t row_bytes = (width * packed_bits(layout.packing, layout.bits) + 7) / 8;
    if (row_bytes > stride) return corrupt("a grey palette of more levels than its pixels have bits for");
    const size_t needed = stride * (static_cast<size_t>(size.height) - 1) + row_bytes;
    if (!in.has(layout.data, needed)) return corrupt("the file is truncated");
    pixels = in.data() + layout.data;
  }
  Image image(size.height, size.width);
  for (int y = 0; y < size.height; ++y) {
    const int target = layout.top_down ? y : size.height - 1 - y;
    convert_row(pixels + static_cast<size_t>(y) * stride, layout, image.row(target), size.width);
  }
  return image;
}

}  // namespace keye::media
