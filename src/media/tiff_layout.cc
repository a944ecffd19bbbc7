#include "media/tiff_layout.h"

#include <fmt/ranges.h>

#include <cmath>

namespace keye::media {
namespace {

constexpr int kJpeg = 7;
constexpr int kNone = 1;

Error unsupported(const TiffTags& tags) {
  return make_error(ErrorCode::unsupported, "TIFF",
                    "pixels of photometric interpretation {}, {} samples of {} bits (sample format {}, extra samples "
                    "[{}]), fill order {}, {}-endian",
                    tags.photometric, tags.samples, tags.bits, tags.sample_format, fmt::join(tags.extra, ", "),
                    tags.fill_order, tags.big_endian ? "big" : "little");
}

bool one_of(int value, std::initializer_list<int> values) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

/// Samples beyond the first `colors`: none, or up to three of which only the first may be alpha.
bool plain_extra(const std::vector<int>& extra, std::initializer_list<int> first) {
  if (extra.empty()) return true;
  return one_of(extra[0], first) && std::all_of(extra.begin() + 1, extra.end(), [](int e) { return e == 0; });
}

bool readable_gray(const TiffTags& t) {
  const bool unsigned_bits = t.sample_format == 1;
  if (!t.extra.empty()) {
    return t.photometric == 1 && t.samples == 2 && t.bits == 8 && unsigned_bits && t.fill_order == 1 &&
           t.extra.size() == 1 && one_of(t.extra[0], {0, 2});
  }
  if (t.samples != 1) return false;
  const bool min_is_black = t.photometric == 1;
  const bool first_order = t.fill_order == 1;
  switch (t.bits) {
    case 1:
    case 2:
    case 4:
      return unsigned_bits;
    case 8:
      return unsigned_bits || (t.sample_format == 2 && min_is_black && first_order);
    case 12:
      return unsigned_bits && min_is_black && first_order && !t.big_endian;
    case 16:
      if (t.sample_format == 2) return min_is_black && first_order;
      if (!unsigned_bits) return false;
      return t.big_endian ? min_is_black && first_order : min_is_black || first_order;
    case 32:
      if (!first_order) return false;
      if (t.sample_format == 3) return true;
      return min_is_black && (t.sample_format == 2 || (unsigned_bits && !t.big_endian));
    default:
      return false;
  }
}

bool readable_rgb(const TiffTags& t) {
  const int extra = t.samples - 3;
  if (t.sample_format != 1 || extra < 0 || extra > 3) return false;
  const bool unnamed_alpha = t.extra.empty() && extra == 1;
  if (!unnamed_alpha && static_cast<int>(t.extra.size()) != extra) return false;
  if (t.bits == 8) {
    if (t.fill_order != 1) return extra == 0;
    return plain_extra(t.extra, {0, 1, 2}) || (extra == 1 && t.extra[0] == 999);
  }
  return t.bits == 16 && extra <= 1 && t.fill_order == 1 && plain_extra(t.extra, {0, 1, 2});
}

bool readable_palette(const TiffTags& t) {
  if (t.sample_format != 1) return false;
  if (t.extra.empty()) return t.samples == 1 && one_of(t.bits, {1, 2, 4, 8});
  return t.samples == 2 && t.bits == 8 && t.fill_order == 1 && t.extra.size() == 1 && one_of(t.extra[0], {0, 2});
}

bool readable_cmyk(const TiffTags& t) {
  const int extra = t.samples - 4;
  if (t.sample_format != 1 || t.fill_order != 1 || extra < 0 || extra > 2) return false;
  if (static_cast<int>(t.extra.size()) != extra || !plain_extra(t.extra, {0})) return false;
  return t.bits == 8 || (t.bits == 16 && extra == 0);
}

void ycbcr_to_rgb(const uint8_t* in, uint8_t* out, int width) {
  // Contributions of the colour differences, with 6 fractional bits, rounded upwards by a half and cut towards zero.
  static const auto kTables = [] {
    std::array<std::array<int, 256>, 4> tables{};
    constexpr double kFactors[] = {1.402, -0.34414, -0.71414, 1.772};
    for (size_t f = 0; f < 4; ++f) {
      for (int i = 0; i < 256; ++i) {
        const double exact = (i - 128) * kFactors[f] * 64;
        tables[f][static_cast<size_t>(i)] = static_cast<int>(std::trunc(exact + 0.5));
      }
    }
    return tables;
  }();
  const auto clip = [](int value) { return static_cast<uint8_t>(std::clamp(value, 0, 255)); };
  for (int x = 0; x < width; ++x, in += 3, out += 3) {
    const int y = in[0];
    const size_t cb = in[1];
    const size_t cr = in[2];
    out[0] = clip(y + (kTables[0][cr] >> 6));
    out[1] = clip(y + ((kTables[1][cb] + kTables[2][cr]) >> 6));
    out[2] = clip(y + (kTables[3][cb] >> 6));
  }
}

template <class T>
T load(const uint8_t* in) {
  T value;
  std::memcpy(&value, in, sizeof value);
  return value;
}

uint8_t saturate(int64_t value) { return static_cast<uint8_t>(std::clamp<int64_t>(value, 0, 255)); }

/// 12 bits are packed big-endian: two pixels in three bytes.
uint8_t wide_gray(const TiffLayout& layout, const uint8_t* in, int x) {
  const bool is_signed = layout.sample_format == 2;
  if (layout.bits == 12) {
    const uint8_t* pair = in + x / 2 * 3;
    return saturate(x % 2 == 0 ? pair[0] << 4 | pair[1] >> 4 : (pair[1] & 15) << 8 | pair[2]);
  }
  if (layout.bits == 16) {
    const auto value = load<uint16_t>(in + 2 * static_cast<size_t>(x));
    return saturate(is_signed ? static_cast<int16_t>(value) : static_cast<int>(value));
  }
  const auto word = load<uint32_t>(in + 4 * static_cast<size_t>(x));
  if (layout.sample_format != 3) return saturate(static_cast<int32_t>(word));  // unsigned ones wrap, as in PIL
  float value;
  std::memcpy(&value, &word, sizeof value);
  return !(value > 0) ? uint8_t{0} : value >= 255 ? uint8_t{255} : static_cast<uint8_t>(value);
}

}  // namespace

Result<TiffLayout> tiff_layout(const TiffTags& given) {
  TiffTags tags = given;
  const bool nothing_extra = std::all_of(tags.extra.begin(), tags.extra.end(), [](int e) { return e == 0; });
  if (tags.planar == 2 && nothing_extra && static_cast<int>(tags.extra.size()) < tags.samples) {
    tags.samples -= static_cast<int>(tags.extra.size());  // planes of no known meaning are not read
    tags.extra.clear();
  }
  TiffLayout layout;
  layout.bits = tags.bits;
  layout.samples = tags.samples;
  layout.sample_format = tags.sample_format;
  bool readable = false;
  int colors = 1;
  switch (tags.photometric) {
    case 0:
    case 1:
      readable = readable_gray(tags);
      layout.color = tags.bits <= 8 ? TiffColor::gray : TiffColor::wide_gray;
      layout.inverted = tags.photometric == 0 && tags.bits <= 8;
      break;
    case 2:
      readable = readable_rgb(tags);
      layout.color = !tags.extra.empty() && tags.extra[0] == 1 ? TiffColor::premultiplied : TiffColor::rgb;
      colors = layout.color == TiffColor::premultiplied ? 4 : 3;
      break;
    case 3:
      readable = readable_palette(tags);
      layout.color = TiffColor::palette;
      break;
    case 5:
      readable = readable_cmyk(tags);
      layout.color = TiffColor::cmyk;
      colors = 4;
      break;
    case 6:
      readable =
          tags.bits == 8 && tags.sample_format == 1 && tags.extra.empty() && tags.fill_order == 1 && tags.samples == 3;
      layout.color = tags.compression == kJpeg && tags.planar == 1 ? TiffColor::jpeg_rgb
                     : tags.compression == kNone                   ? TiffColor::ycbcr
                                                                   : TiffColor::as_rgba;
      colors = 3;
      break;
    case 8:
    case 9:
    case 10:
      return make_error(ErrorCode::unsupported, "TIFF",
                        "the L*a*b* colour space; save the picture as RGB, grey, palette or CMYK");
    default:
      break;
  }
  if (!readable) return unsupported(given);
  if (tags.planar == 2 && tags.samples > 1 && layout.color != TiffColor::as_rgba) {
    if (tags.bits != 8 && tags.bits != 16) return unsupported(given);
    layout.planes = colors;
    layout.samples = 1;
  }
  return layout;
}

void tiff_row_to_rgb(const TiffLayout& layout, const Palette& palette, const uint8_t* in, uint8_t* out, int width) {
  const int stride = layout.samples * layout.bits / 8;
  const int high = layout.bits == 16 ? 1 : 0;  // the high byte of a little-endian sample
  const int next = layout.bits / 8;
  switch (layout.color) {
    case TiffColor::gray: {
      const int scale = layout.bits == 8 ? 1 : 255 / ((1 << layout.bits) - 1);
      const int flip = layout.inverted ? 255 : 0;
      for (int x = 0; x < width; ++x) {
        const int value = layout.bits == 8 ? in[x * stride] : packed_value(in, x, layout.bits) * scale;
        std::memset(out + 3 * x, value ^ flip, 3);
      }
      return;
    }
    case TiffColor::wide_gray:
      for (int x = 0; x < width; ++x) std::memset(out + 3 * x, wide_gray(layout, in, x), 3);
      return;
    case TiffColor::palette:
      for (int x = 0; x < width; ++x) {
        const uint8_t index = layout.bits == 8 ? in[x * stride] : packed_value(in, x, layout.bits);
        std::memcpy(out + 3 * x, palette[index].data(), 3);
      }
      return;
    case TiffColor::rgb:
    case TiffColor::jpeg_rgb:
    case TiffColor::as_rgba:
      for (int x = 0; x < width; ++x, in += stride, out += 3) {
        for (int c = 0; c < 3; ++c) out[c] = in[c * next + high];
      }
      return;
    case TiffColor::premultiplied:
      for (int x = 0; x < width; ++x, in += stride, out += 3) {
        for (int c = 0; c < 3; ++c) out[c] = unpremultiply(in[c * next + high], in[3 * next + high]);
      }
      return;
    case TiffColor::cmyk:
      for (int x = 0; x < width; ++x, in += stride, out += 3) {
        cmyk_to_rgb(in[high], in[next + high], in[2 * next + high], in[3 * next + high], out);
      }
      return;
    case TiffColor::ycbcr:
      return ycbcr_to_rgb(in, out, width);
  }
}

}  // namespace keye::media
