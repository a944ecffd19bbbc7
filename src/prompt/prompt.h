// What the engine starts from: token ids, their positions, and the pictures that stand behind some of them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "prompt/image_processor.h"
#include "text/marked.h"

namespace keye::prompt {

/// A picture, or a frame of a video, in a prompt: its pixels, and where its merged tokens stand.
struct VisionItem {
  std::shared_ptr<const media::Image> image;  // resized: its sides are whole merged patches
  PatchGrid grid;
  Digest content;  // of the pixels and of what they are normalised to: equal digests, equal features
  int32_t first_token = 0;
  int32_t tokens = 0;
};

struct Prompt {
  std::string text;                               // the rendered prompt with its placeholders repeated, for display
  std::vector<int32_t> tokens;                    // [n]
  std::array<std::vector<int32_t>, 3> positions;  // [n] each: time, height, width
  int32_t position_delta = 0;                     // the token at index i >= n has position i + delta on all axes
  std::vector<VisionItem> vision;
  // Of a conversation, for whoever reads the reply:
  bool is_chat = false;
  text::Marked ending;    // its last bytes: a reply may begin inside a tag that they opened
  std::string continued;  // text of the last message that the reply goes on from
};

/// The merged grid of one picture: as many tokens as rows * cols.
struct TokenGrid {
  int rows = 0;
  int cols = 0;
};

/// The tokens that stand for pictures and for frames of videos; -1: the model has none.
struct MediaTokens {
  int32_t image = -1;
  int32_t video = -1;
  bool contains(int32_t token) const { return token >= 0 && (token == image || token == video); }
};

struct Positions {
  std::array<std::vector<int32_t>, 3> axes;
  int32_t delta = 0;
};

/// Three-axis positions: text advances all axes together; a picture's tokens form a (1, rows, cols) box that starts one
/// past the highest position so far, and the text after it starts one past the box. Runs of media tokens take the grids
/// in order; a frame of a video is a picture like others. The number of such tokens must be what the grids say (a
/// CHECK: the engine itself put them there). Source: the position function of the published serving code, one box per
/// frame.
Positions media_positions(std::span<const int32_t> tokens, std::span<const TokenGrid> grids, const MediaTokens& media);

/// 0, 1, 2, ... on all axes.
Positions text_positions(int64_t count);

}  // namespace keye::prompt
