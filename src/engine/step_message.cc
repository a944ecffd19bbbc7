#include "engine/step_message.h"

#include <cstring>
#include <numeric>

namespace keye::engine {
namespace {

/// The beginning of every message; counts that a kind does not use are 0.
struct Header {
  int32_t kind = 0;
  int32_t tokens = 0;
  int32_t sequences = 0;
  int32_t pages = 0;  // of all sequences
  int32_t logits_rows = 0;
  int32_t feature_rows = 0;
  int32_t cache_pages = 0;
  int32_t grids = 0;
  int64_t patches = 0;
  int64_t patch_values = 0;
};
constexpr int kSequenceNumbers = 4;  // first row, rows, context, pages

void append(Message& to, std::span<const std::byte> bytes) {
  const size_t before = to.size();
  to.resize(before + bytes.size());
  if (!bytes.empty()) std::memcpy(to.data() + before, bytes.data(), bytes.size());
}
template <class T>
void append_numbers(Message& to, std::span<const T> numbers) {
  append(to, std::as_bytes(numbers));
}
template <class T>
void append_number(Message& to, const T& number) {
  append(to, std::as_bytes(std::span(&number, 1)));
}

Error malformed(std::string_view what) { return make_error(ErrorCode::corrupt_data, "message of rank 0", "{}", what); }

Result<Header> read_header(std::span<const std::byte> message) {
  Header header;
  if (message.size() < sizeof header) return malformed("is too short");
  std::memcpy(&header, message.data(), sizeof header);
  for (const int32_t count : {header.tokens, header.sequences, header.pages, header.logits_rows, header.feature_rows,
                              header.cache_pages, header.grids}) {
    if (count < 0) return malformed("has a negative count");
  }
  if (header.patches < 0 || header.patch_values < 0) return malformed("has a negative count");
  return header;
}

}  // namespace

void write_step(const model::StepInput& input, int cache_pages, Message& to) {
  Header header{.kind = static_cast<int32_t>(MessageKind::step),
                .tokens = static_cast<int32_t>(input.tokens.size()),
                .sequences = static_cast<int32_t>(input.sequences.size()),
                .logits_rows = static_cast<int32_t>(input.logits_rows.size()),
                .cache_pages = cache_pages};
  for (const ops::SequenceRows& rows : input.sequences) header.pages += static_cast<int32_t>(rows.pages.size());
  for (const model::VisionRows& vision : input.vision) header.feature_rows += static_cast<int32_t>(vision.rows.size());
  to.clear();
  append_number(to, header);
  append_numbers(to, input.tokens);
  for (const auto& axis : input.positions) append_numbers(to, axis);
  append_numbers(to, input.slots);
  append_numbers(to, input.logits_rows);
  for (const ops::SequenceRows& rows : input.sequences) {
    for (const int32_t number : {rows.first_row, rows.rows, rows.context, static_cast<int32_t>(rows.pages.size())}) {
      append_number(to, number);
    }
  }
  for (const ops::SequenceRows& rows : input.sequences) append_numbers(to, rows.pages);
  for (const model::VisionRows& vision : input.vision) append_numbers(to, vision.rows);
  for (const model::VisionRows& vision : input.vision) {
    const int64_t hidden = vision.features.shape[1];
    for (const int32_t row : vision.from) {
      append_numbers(to, std::span(vision.features.as<float>() + row * hidden, static_cast<size_t>(hidden)));
    }
  }
}

void write_vision(ConstView pixels, std::span<const model::VisionGrid> grids, Message& to) {
  const int64_t patches = pixels.shape[0];
  to.clear();
  append_number(to, Header{.kind = static_cast<int32_t>(MessageKind::begin_vision),
                           .grids = static_cast<int32_t>(grids.size()),
                           .patches = patches,
                           .patch_values = patches == 0 ? 0 : pixels.elements() / patches});
  for (const model::VisionGrid& grid : grids) {
    append_number(to, static_cast<int32_t>(grid.rows));
    append_number(to, static_cast<int32_t>(grid.cols));
  }
  append(to, {static_cast<const std::byte*>(pixels.data), pixels.bytes()});
}

void write_plain(MessageKind kind, Message& to) {
  to.clear();
  append_number(to, Header{.kind = static_cast<int32_t>(kind)});
}

Result<MessageKind> message_kind(std::span<const std::byte> message) {
  KEYE_TRY(const Header header, read_header(message));
  if (header.kind < static_cast<int32_t>(MessageKind::step) || header.kind > static_cast<int32_t>(MessageKind::end)) {
    return malformed("is of an unknown kind");
  }
  return static_cast<MessageKind>(header.kind);
}

Result<void> ReceivedStep::read(std::span<const std::byte> message, int64_t hidden) {
  KEYE_TRY(const Header header, read_header(message));
  message = message.subspan(sizeof header);
  const auto n = static_cast<size_t>(header.tokens);
  const auto s = static_cast<size_t>(header.logits_rows);
  const auto sequences = static_cast<size_t>(header.sequences);
  const auto pages = static_cast<size_t>(header.pages);
  const auto from_vision = static_cast<size_t>(header.feature_rows);
  const size_t numbers = 5 * n + s + kSequenceNumbers * sequences + pages + from_vision;
  const size_t features = from_vision * static_cast<size_t>(hidden);
  if (message.size() != numbers * sizeof(int32_t) + features * sizeof(float)) return malformed("has another length");
  numbers_.resize(numbers);
  features_.resize(features);
  std::memcpy(numbers_.data(), message.data(), numbers * sizeof(int32_t));
  std::memcpy(features_.data(), message.data() + numbers * sizeof(int32_t), features * sizeof(float));

  std::span<const int32_t> rest = numbers_;
  const auto take = [&rest](size_t count) {
    const auto first = rest.first(count);
    rest = rest.subspan(count);
    return first;
  };
  input_ = {};
  input_.tokens = take(n);
  for (auto& axis : input_.positions) axis = take(n);
  input_.slots = take(n);
  input_.logits_rows = take(s);
  const auto rows = take(kSequenceNumbers * sequences);
  std::span<const int32_t> page_numbers = take(pages);
  sequences_.clear();
  for (size_t i = 0; i < sequences; ++i) {
    const int32_t* one = &rows[kSequenceNumbers * i];
    if (one[3] < 0 || static_cast<size_t>(one[3]) > page_numbers.size()) return malformed("has other pages");
    sequences_.push_back({one[0], one[1], one[2], page_numbers.first(static_cast<size_t>(one[3]))});
    page_numbers = page_numbers.subspan(static_cast<size_t>(one[3]));
  }
  if (!page_numbers.empty()) return malformed("has other pages");
  input_.sequences = sequences_;
  vision_.clear();
  if (from_vision > 0) {
    feature_order_.resize(from_vision);
    std::iota(feature_order_.begin(), feature_order_.end(), 0);
    vision_.push_back(
        {{features_.data(), DType::f32, {header.feature_rows, hidden}}, feature_order_, take(from_vision)});
  }
  input_.vision = vision_;
  cache_pages_ = header.cache_pages;
  return {};
}

Result<ReceivedVision> read_vision(std::span<const std::byte> message) {
  KEYE_TRY(const Header header, read_header(message));
  message = message.subspan(sizeof header);
  const size_t grid_bytes = static_cast<size_t>(header.grids) * 2 * sizeof(int32_t);
  if (message.size() < grid_bytes) return malformed("has another length");
  ReceivedVision vision{.grids = {}, .pixels = message.subspan(grid_bytes), .patch_values = header.patch_values};
  int64_t patches = 0;
  for (int32_t i = 0; i < header.grids; ++i) {
    std::array<int32_t, 2> grid{};
    std::memcpy(grid.data(), message.data() + static_cast<size_t>(i) * sizeof grid, sizeof grid);
    if (grid[0] < 1 || grid[1] < 1) return malformed("has an empty picture");
    vision.grids.push_back({grid[0], grid[1]});
    patches += int64_t{grid[0]} * grid[1];
  }
  const auto values = static_cast<double>(patches) * static_cast<double>(header.patch_values);
  if (patches != header.patches || static_cast<double>(vision.pixels.size()) != values * sizeof(float)) {
    return malformed("has other pixels");
  }
  return vision;
}

}  // namespace keye::engine
