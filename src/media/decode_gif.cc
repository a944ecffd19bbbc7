// GIF, first frame, by a decoder of our own: PIL has one too, and what it makes of odd files is not what giflib makes
// of them. Source of the format: "Graphics Interchange Format, Version 89a", CompuServe, 1990.
#include <optional>
#include <vector>

#include "media/codecs.h"
#include "media/pixels.h"

namespace keye::media {
namespace {

Error corrupt(std::string_view what) { return make_error(ErrorCode::corrupt_data, "GIF", "{}", what); }

struct Frame {
  int left = 0;
  int top = 0;
  int width = 0;
  int height = 0;
  bool interlaced = false;
  Palette palette{};
  std::optional<uint8_t> transparent;
  int code_bits = 0;
  uint64_t data = 0;  // where its data blocks begin
};

Palette gray_ramp() {
  Palette palette;
  for (size_t i = 0; i < palette.size(); ++i) palette[i].fill(static_cast<uint8_t>(i));
  return palette;
}

/// Colours from `at` on; those missing at the file's end are black. A table in which colour i is the grey i for all of
/// its entries is the grey ramp, beyond its own entries too.
Palette read_palette(const ByteReader& in, uint64_t at, int count) {
  Palette palette{};
  const Palette ramp = gray_ramp();
  bool is_ramp = true;
  for (int i = 0; i < count; ++i) {
    auto& color = palette[static_cast<size_t>(i)];
    for (size_t c = 0; c < 3; ++c) color[c] = in.u8(at + static_cast<uint64_t>(i) * 3 + c);
    is_ramp = is_ramp && color == ramp[static_cast<size_t>(i)];
  }
  return is_ramp ? ramp : palette;
}

Result<Frame> read_first_frame(const ByteReader& in) {
  Frame frame;
  frame.palette = gray_ramp();
  uint64_t at = 13;
  if (const uint8_t flags = in.u8(10); flags & 0x80) {
    const int colors = 2 << (flags & 7);
    frame.palette = read_palette(in, at, colors);
    at += static_cast<uint64_t>(colors) * 3;
  }
  while (in.has(at, 1)) {
    const uint8_t kind = in.u8(at++);
    if (kind == ';') break;
    if (kind == '!') {
      const uint8_t label = in.u8(at++);
      if (label == 0xf9 && in.u8(at) >= 4 && (in.u8(at + 1) & 1)) frame.transparent = in.u8(at + 4);
      while (in.has(at, 1) && in.u8(at) != 0) at += uint64_t{in.u8(at)} + 1;
      ++at;
    } else if (kind == ',') {
      if (!in.has(at, 9)) return corrupt("the file is truncated");
      frame.left = in.u16le(at);
      frame.top = in.u16le(at + 2);
      frame.width = in.u16le(at + 4);
      frame.height = in.u16le(at + 6);
      const uint8_t flags = in.u8(at + 8);
      frame.interlaced = (flags & 0x40) != 0;
      at += 9;
      if (flags & 0x80) {
        const int colors = 2 << (flags & 7);
        frame.palette = read_palette(in, at, colors);
        at += static_cast<uint64_t>(colors) * 3;
      }
      if (!in.has(at, 1)) return corrupt("the file is truncated");
      frame.code_bits = in.u8(at);
      frame.data = at + 1;
      return frame;
    }
  }
  return corrupt("it holds no picture");
}

/// Takes the rows of a frame in the order in which they are stored.
class RowOrder {
 public:
  RowOrder(int height, bool interlaced) : height_(height), step_(interlaced ? 8 : 1), pass_(interlaced ? 0 : 3) {}

  int row() const { return row_; }
  /// False after the last row.
  bool advance() {
    constexpr int kStart[] = {4, 2, 1};
    constexpr int kStep[] = {8, 4, 2};
    row_ += step_;
    while (row_ >= height_) {
      if (pass_ == 3) return false;
      row_ = kStart[pass_];
      step_ = kStep[pass_];
      ++pass_;
    }
    return true;
  }

 private:
  int height_;
  int step_;
  int pass_;
  int row_ = 0;
};

/// The LZW codes of a frame: variable width, lowest bits first, in blocks of up to 255 bytes.
class CodeReader {
 public:
  CodeReader(const ByteReader& in, uint64_t at) : in_(in), at_(at) {}

  /// Nothing at the end of the file.
  std::optional<int> next(int width) {
    while (bits_ < width) {
      while (block_left_ == 0) {
        if (!in_.has(at_, 1) || !in_.has(at_ + 1, in_.u8(at_))) return std::nullopt;
        block_left_ = in_.u8(at_++);
      }
      buffer_ |= uint32_t{in_.u8(at_++)} << bits_;
      bits_ += 8;
      --block_left_;
    }
    const int code = static_cast<int>(buffer_ & ((1U << width) - 1));
    buffer_ >>= width;
    bits_ -= width;
    return code;
  }

 private:
  const ByteReader& in_;
  uint64_t at_;
  uint32_t buffer_ = 0;
  int bits_ = 0;
  int block_left_ = 0;
};

/// Where decoded pixels go: into the frame's rectangle of a canvas of indices.
class FrameWriter {
 public:
  FrameWriter(const Frame& frame, std::vector<uint8_t>& canvas, int canvas_width)
      : frame_(frame), canvas_(canvas), canvas_width_(canvas_width), order_(frame.height, frame.interlaced) {}

  /// False once the frame is full.
  bool put(uint8_t index) {
    const size_t y = static_cast<size_t>(frame_.top) + static_cast<size_t>(order_.row());
    canvas_[y * static_cast<size_t>(canvas_width_) + static_cast<size_t>(frame_.left + x_)] = index;
    if (++x_ < frame_.width) return true;
    x_ = 0;
    return order_.advance();
  }

 private:
  const Frame& frame_;
  std::vector<uint8_t>& canvas_;
  int canvas_width_;
  RowOrder order_;
  int x_ = 0;
};

constexpr int kCodesMax = 4096;

/// Decodes until the frame is full. A string is its last pixel and the code of the string before it.
Result<void> decode_lzw(const ByteReader& in, const Frame& frame, FrameWriter& writer) {
  const int clear = 1 << frame.code_bits;
  const int end = clear + 1;
  std::vector<uint8_t> last_pixel(kCodesMax);
  std::vector<int16_t> prefix(kCodesMax);
  std::vector<uint8_t> string;
  CodeReader codes(in, frame.data);
  int width = frame.code_bits + 1;
  int next = clear + 2;
  int previous = -1;
  uint8_t first_pixel = 0;  // of the previous string

  for (;;) {
    const std::optional<int> code = codes.next(width);
    if (!code || *code == end) return corrupt("the file is truncated");
    if (*code == clear) {
      width = frame.code_bits + 1;
      next = clear + 2;
      previous = -1;
      continue;
    }
    if (previous < 0) {
      if (*code > clear) return corrupt("a code stands before it is defined");
      first_pixel = static_cast<uint8_t>(*code);
      previous = *code;
      if (!writer.put(first_pixel)) return {};
      continue;
    }
    if (*code > next || (*code == next && next >= kCodesMax)) return corrupt("a code stands before it is defined");
    string.clear();
    int walk = *code;
    if (walk == next) {  // the string that this very code defines
      string.push_back(first_pixel);
      walk = previous;
    }
    while (walk >= clear) {
      string.push_back(last_pixel[static_cast<size_t>(walk)]);
      walk = prefix[static_cast<size_t>(walk)];
    }
    first_pixel = static_cast<uint8_t>(walk);
    string.push_back(first_pixel);
    if (next < kCodesMax) {
      last_pixel[static_cast<size_t>(next)] = first_pixel;
      prefix[static_cast<size_t>(next)] = static_cast<int16_t>(previous);
      if (next == (1 << width) - 1 && width < 12) ++width;
      ++next;
    }
    previous = *code;
    for (size_t i = string.size(); i-- > 0;) {
      if (!writer.put(string[i])) return {};
    }
  }
}

}  // namespace

Result<Image> decode_gif(Bytes bytes, Size size) {
  const ByteReader in(bytes);
  KEYE_TRY(const Frame frame, read_first_frame(in));
  if (frame.width == 0 || frame.height == 0) return corrupt("the first frame has no pixels");
  if (frame.left + frame.width > size.width || frame.top + frame.height > size.height) {
    return corrupt("the first frame lies outside its canvas");
  }
  if (frame.code_bits > 8) return corrupt("its codes are wider than a pixel");

  // Outside its first frame the canvas has the transparent colour, if there is one, else the colour 0.
  std::vector<uint8_t> canvas(static_cast<size_t>(size.width) * static_cast<size_t>(size.height),
                              frame.transparent.value_or(0));
  FrameWriter writer(frame, canvas, size.width);
  KEYE_TRY_VOID(decode_lzw(in, frame, writer));
  Image image(size.height, size.width);
  for (int y = 0; y < size.height; ++y) {
    palette_to_rgb(canvas.data() + static_cast<size_t>(y) * static_cast<size_t>(size.width), frame.palette,
                   image.row(y), size.width);
  }
  return image;
}

}  // namespace keye::media
