#include "prompt/prompt_builder.h"

#include <algorithm>

#include "prompt/fields.h"

namespace keye::prompt {
namespace {

/// Of a rendered prompt, for what the reply begins inside: the longest tag and the white space behind it.
constexpr size_t kEndingBytes = 64;

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
  if (!spec.has_vision) return builder;
  KEYE_TRY(builder.images_, ImageProcessor::load(folder));
  const std::string where = (folder / "tokenizer.json").string();
  builder.placeholder_ = builder.tokenizer_->id_to_token(spec.image_token).value_or("");
  if (builder.placeholder_.empty()) {
    return refuse(where, fmt::format("has no token {}, which config.json names as image_token_id", spec.image_token),
                  ErrorCode::corrupt_data);
  }
  if (builder.images_->config().merge_size != spec.merge) {
    return refuse((folder / "preprocessor_config.json").string(),
                  fmt::format("merge_size {} differs from the model's spatial_merge_size {}",
                              builder.images_->config().merge_size, spec.merge),
                  ErrorCode::corrupt_data);
  }
  return builder;
}

Result<Prompt> PromptBuilder::build(const Conversation& conversation, const MediaAccess& access) const {
  if (template_ == nullptr) {
    return refuse(
        "chat_template",
        "the checkpoint has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)",
        ErrorCode::not_found);
  }
  KEYE_TRY(const std::vector<PictureReference> pictures, find_pictures(conversation.messages));
  Prompt prompt;
  if (!pictures.empty()) {
    if (!images_)
      return refuse(pictures[0].where, "this model reads text only; remove the pictures", ErrorCode::unsupported);
    KEYE_TRY(prompt.vision, load_pictures(pictures, *images_, access));
  }
  KEYE_TRY(const text::Rendered rendered, template_->render(conversation.messages, conversation.render));
  KEYE_TRY(const text::Rendered expanded, expand(rendered, prompt.vision));
  KEYE_TRY_VOID(check_length(expanded.size()));
  prompt.is_chat = true;
  const size_t ending = std::min(expanded.size(), kEndingBytes);
  prompt.ending = expanded.slice(expanded.size() - ending, ending);
  if (conversation.render.continue_final_message) prompt.continued = final_text(conversation.messages);
  prompt.text = expanded.text;
  prompt.tokens = tokenizer_->encode(expanded.text, expanded.origin);

  std::vector<TokenGrid> grids;
  auto cursor = prompt.tokens.begin();
  for (VisionItem& item : prompt.vision) {
    cursor = std::find(cursor, prompt.tokens.end(), spec_.image_token);
    KEYE_CHECK(prompt.tokens.end() - cursor >= item.tokens, "placeholders and pictures do not match");
    item.first_token = static_cast<int32_t>(cursor - prompt.tokens.begin());
    cursor += item.tokens;
    grids.push_back({item.grid.rows / spec_.merge, item.grid.cols / spec_.merge});
  }
  Positions positions = spec_.three_axes ? media_positions(prompt.tokens, grids, spec_.image_token)
                                         : text_positions(static_cast<int64_t>(prompt.tokens.size()));
  prompt.positions = std::move(positions.axes);
  prompt.position_delta = positions.delta;
  return prompt;
}

Result<Prompt> PromptBuilder::build(const PlainPrompt& plain) const {
  KEYE_TRY_VOID(check_length(plain.text.size()));
  Prompt prompt =
      from_tokens(plain.parse_special ? tokenizer_->encode(plain.text) : tokenizer_->encode_plain(plain.text));
  prompt.text = plain.text;
  return prompt;
}

Result<text::Rendered> PromptBuilder::expand(const text::Rendered& rendered, std::vector<VisionItem>& items) const {
  if (placeholder_.empty()) return rendered;
  const std::vector<size_t> places = find_own(rendered, placeholder_);
  if (places.size() != items.size()) {
    return refuse("messages", fmt::format("the chat template wrote {} picture placeholders for {} pictures",
                                          places.size(), items.size()));
  }
  text::Rendered expanded;
  size_t done = 0;
  for (size_t i = 0; i < places.size(); ++i) {
    expanded.append(rendered, done, places[i] - done);
    for (int32_t t = 0; t < items[i].tokens; ++t) expanded.append(std::string_view(placeholder_));
    done = places[i] + placeholder_.size();
  }
  expanded.append(rendered, done, rendered.size() - done);
  return expanded;
}

Prompt PromptBuilder::from_tokens(std::vector<int32_t> tokens) const {
  Prompt prompt;
  prompt.tokens = std::move(tokens);
  prompt.text = tokenizer_->decode(prompt.tokens, false);
  prompt.positions = text_positions(static_cast<int64_t>(prompt.tokens.size())).axes;
  return prompt;
}

}  // namespace keye::prompt
