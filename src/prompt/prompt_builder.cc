#include "prompt/prompt_builder.h"

#include <algorithm>
#include <array>
#include <utility>

#include "prompt/fields.h"

namespace keye::prompt {
namespace {

/// Of a rendered prompt, for what the reply begins inside: the longest tag and the white space behind it.
constexpr size_t kEndingBytes = 64;

/// What stands around a frame's placeholders. Source: the processor of the published Keye-VL-1.5 code.
constexpr std::string_view kFrame = "<|frame|>";
constexpr std::string_view kFastStart = "<|fast_start|>";
constexpr std::string_view kFastEnd = "<|fast_end|>";

constexpr std::array<const char*, 2> kMediaNames = {"picture", "video"};

Result<void> check_length(size_t bytes) {
  if (bytes <= text::kEncodeBytesMax) return {};
  return refuse("messages", fmt::format("{} bytes of prompt, the limit is {}", bytes, text::kEncodeBytesMax),
                ErrorCode::too_large);
}

/// The text that a continued reply goes on from: the last message's, or its last part's.
std::string final_text(const text::Value& messages) {
  const text::Value* content = field(messages.items().back(), "content");
  if (content != nullptr && content->is_sequence() && !content->items().empty())
    content = field(content->items().back(), "text");
  return content != nullptr && content->is_string() ? content->text() : std::string();
}

/// Where the engine itself wrote `needle`: text of a message that looks like it does not count.
std::vector<size_t> find_own(const text::Marked& text, const std::string& needle) {
  std::vector<size_t> places;
  for (size_t at = text.text.find(needle); at != std::string::npos; at = text.text.find(needle, at)) {
    bool own = true;
    for (size_t i = 0; i < needle.size(); ++i) own = own && text.origin_at(at + i) == text::kOriginEngine;
    if (own) places.push_back(at);
    at += own ? needle.size() : 1;
  }
  return places;
}

}  // namespace

Result<PromptBuilder> PromptBuilder::load(const Path& folder, const PromptSpec& spec) {
  PromptBuilder builder;
  builder.spec_ = spec;
  KEYE_TRY(auto tokenizer, text::Tokenizer::load(folder / "tokenizer.json"));
  builder.tokenizer_ = std::make_shared<const text::Tokenizer>(std::move(tokenizer));
  auto chat_template = ChatTemplate::load(folder);
  if (chat_template) {
    builder.template_ = std::make_shared<const ChatTemplate>(std::move(chat_template).value());
  } else if (chat_template.error().code != ErrorCode::not_found) {
    return chat_template.error();
  }
  if (spec.has_vision) KEYE_TRY_VOID(builder.load_vision(folder));
  if (builder.images_ != nullptr && spec.video) KEYE_TRY_VOID(builder.load_video());
  return builder;
}

Result<void> PromptBuilder::load_vision(const Path& folder) {
  KEYE_TRY(ImageProcessor images, ImageProcessor::load(folder));
  images_ = std::make_unique<const ImageProcessor>(std::move(images));
  const std::string where = (folder / "tokenizer.json").string();
  picture_placeholder_ = tokenizer_->id_to_token(spec_.image_token).value_or("");
  if (picture_placeholder_.empty()) {
    return refuse(where, fmt::format("has no token {}, which config.json names as image_token_id", spec_.image_token),
                  ErrorCode::corrupt_data);
  }
  if (images_->config().merge_size != spec_.merge) {
    return refuse((folder / "preprocessor_config.json").string(),
                  fmt::format("merge_size {} differs from the model's spatial_merge_size {}",
                              images_->config().merge_size, spec_.merge),
                  ErrorCode::corrupt_data);
  }
  return {};
}

/// A checkpoint whose tokenizer lacks what stands around frames takes no videos.
Result<void> PromptBuilder::load_video() {
  video_placeholder_ = tokenizer_->id_to_token(spec_.video_token).value_or("");
  bool has_all = !video_placeholder_.empty() && tokenizer_->token_to_id(kFrame).has_value();
  if (spec_.video == VideoPolicy::slow_fast) {
    has_all =
        has_all && tokenizer_->token_to_id(kFastStart).has_value() && tokenizer_->token_to_id(kFastEnd).has_value();
  }
  if (has_all) videos_.emplace(*images_, VideoProcessor::rules_of(*spec_.video, images_->config()));
  return {};
}

Result<Prompt> PromptBuilder::build(const Conversation& conversation, const MediaAccess& access) const {
  if (template_ == nullptr) {
    return refuse(
        "chat_template",
        "the checkpoint has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)",
        ErrorCode::not_found);
  }
  KEYE_TRY(std::vector<MediaBlock> blocks, load(conversation, access));
  KEYE_TRY(const text::Rendered rendered, template_->render(conversation.messages, conversation.render));
  Prompt prompt;
  KEYE_TRY(const text::Rendered expanded, expand(rendered, blocks, prompt.vision));
  KEYE_TRY_VOID(check_length(expanded.size()));
  prompt.is_chat = true;
  const size_t ending = std::min(expanded.size(), kEndingBytes);
  prompt.ending = expanded.slice(expanded.size() - ending, ending);
  if (conversation.render.continue_final_message) prompt.continued = final_text(conversation.messages);
  prompt.text = expanded.text;
  prompt.tokens = tokenizer_->encode(expanded.text, expanded.origin);

  place(prompt);
  return prompt;
}

Result<std::vector<MediaBlock>> PromptBuilder::load(const Conversation& conversation, const MediaAccess& access) const {
  KEYE_TRY(const std::vector<MediaReference> references, find_media(conversation.messages));
  if (references.empty()) return std::vector<MediaBlock>();
  if (images_ == nullptr) {
    const std::string& where =
        std::visit([](const auto& one) -> const std::string& { return one.where; }, references[0]);
    return refuse(where, "this model reads text only; remove the pictures and videos", ErrorCode::unsupported);
  }
  return load_media(references, {.images = *images_, .videos = video_processor()}, access);
}

/// Where each item's tokens stand, and all tokens' positions.
void PromptBuilder::place(Prompt& prompt) const {
  const MediaTokens media{.image = spec_.image_token, .video = spec_.video_token};
  std::vector<TokenGrid> grids;
  grids.reserve(prompt.vision.size());
  auto cursor = prompt.tokens.begin();
  for (VisionItem& item : prompt.vision) {
    cursor = std::find_if(cursor, prompt.tokens.end(), [&](int32_t token) { return media.contains(token); });
    KEYE_CHECK(prompt.tokens.end() - cursor >= item.tokens, "placeholders and pictures do not match");
    item.first_token = static_cast<int32_t>(cursor - prompt.tokens.begin());
    cursor += item.tokens;
    grids.push_back({item.grid.rows / spec_.merge, item.grid.cols / spec_.merge});
  }
  Positions positions = spec_.three_axes ? media_positions(prompt.tokens, grids, media)
                                         : text_positions(static_cast<int64_t>(prompt.tokens.size()));
  prompt.positions = std::move(positions.axes);
  prompt.position_delta = positions.delta;
}

Result<Prompt> PromptBuilder::build(const PlainPrompt& plain) const {
  KEYE_TRY_VOID(check_length(plain.text.size()));
  Prompt prompt =
      from_tokens(plain.parse_special ? tokenizer_->encode(plain.text) : tokenizer_->encode_plain(plain.text));
  prompt.text = plain.text;
  return prompt;
}

Result<text::Rendered> PromptBuilder::expand(const text::Rendered& rendered, std::vector<MediaBlock>& blocks,
                                             std::vector<VisionItem>& items) const {
  if (images_ == nullptr) return rendered;
  // The n-th placeholder of a kind stands for the n-th of that kind.
  const std::array<std::vector<size_t>, 2> places = {
      find_own(rendered, picture_placeholder_),
      videos_ ? find_own(rendered, video_placeholder_) : std::vector<size_t>()};
  std::array<size_t, 2> used{};
  std::vector<std::pair<size_t, MediaBlock*>> ordered;
  for (MediaBlock& block : blocks) {
    const size_t kind = block.is_video ? 1 : 0;
    if (used[kind] < places[kind].size()) ordered.emplace_back(places[kind][used[kind]], &block);
    ++used[kind];
  }
  for (const size_t kind : {0, 1}) {
    if (used[kind] == places[kind].size()) continue;
    return refuse("messages", fmt::format("the chat template wrote {} {} placeholders for {} {}s", places[kind].size(),
                                          kMediaNames[kind], used[kind], kMediaNames[kind]));
  }
  std::sort(ordered.begin(), ordered.end());
  text::Rendered expanded;
  size_t done = 0;
  for (const auto& [at, block] : ordered) {
    expanded.append(rendered, done, at - done);
    append(expanded, *block);
    done = at + (block->is_video ? video_placeholder_ : picture_placeholder_).size();
    for (VisionItem& item : block->items) items.push_back(std::move(item));
  }
  expanded.append(rendered, done, rendered.size() - done);
  return expanded;
}

/// The placeholders of a picture, or of all frames with their marks.
void PromptBuilder::append(text::Rendered& out, const MediaBlock& block) const {
  const std::string_view placeholder = block.is_video ? video_placeholder_ : picture_placeholder_;
  for (size_t i = 0; i < block.items.size(); ++i) {
    const bool is_fast = block.is_video && block.marks[i].is_fast;
    if (block.is_video) {
      out.append(kFrame);
      out.append(std::string_view(block.marks[i].timestamp));
    }
    if (is_fast) out.append(kFastStart);
    for (int32_t t = 0; t < block.items[i].tokens; ++t) out.append(placeholder);
    if (is_fast) out.append(kFastEnd);
  }
}

Prompt PromptBuilder::from_tokens(std::vector<int32_t> tokens) const {
  Prompt prompt;
  prompt.tokens = std::move(tokens);
  prompt.text = tokenizer_->decode(prompt.tokens, false);
  prompt.positions = text_positions(static_cast<int64_t>(prompt.tokens.size())).axes;
  return prompt;
}

}  // namespace keye::prompt
