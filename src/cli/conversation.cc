#include "cli/conversation.h"

#include <algorithm>

#include "text/value_text.h"

namespace keye::cli {

text::Value plain_message(std::string_view role, const std::string& text) {
  text::Dict message;
  message.set("role", text::Value(role));
  message.set("content", text::Value(std::string_view(text)));
  return text::Value::dict(std::move(message));
}

text::Value user_message(const std::vector<std::string>& pictures, const text::Values& videos,
                         const std::string& text) {
  if (pictures.empty() && videos.empty()) return plain_message("user", text);
  text::Values parts;
  for (const std::string& picture : pictures) {
    text::Dict url;
    url.set("url", text::Value(std::string_view(picture)));
    text::Dict part;
    part.set("type", text::Value("image_url"));
    part.set("image_url", text::Value::dict(std::move(url)));
    parts.push_back(text::Value::dict(std::move(part)));
  }
  parts.insert(parts.end(), videos.begin(), videos.end());
  text::Dict words;
  words.set("type", text::Value("text"));
  words.set("text", text::Value(std::string_view(text)));
  parts.push_back(text::Value::dict(std::move(words)));
  text::Dict message;
  message.set("role", text::Value("user"));
  message.set("content", text::Value::list(std::move(parts)));
  return text::Value::dict(std::move(message));
}

Result<prompt::Conversation> read_conversation(const std::string& messages_file, const std::string& tools_file) {
  KEYE_TRY(const std::string json, read_file(messages_file, size_t{256} << 20));
  KEYE_TRY(const text::Value whole, text::parse_value(json, text::kOriginUser, messages_file));
  prompt::Conversation conversation;
  conversation.messages = whole;
  if (whole.is(text::Kind::dict)) {
    const text::Value* messages = whole.dict().find("messages");
    if (messages == nullptr)
      return make_error(ErrorCode::invalid_argument, messages_file,
                        "should be a list of messages, or an object with \"messages\"");
    conversation.messages = *messages;
    if (const text::Value* tools = whole.dict().find("tools")) conversation.render.tools = *tools;
    if (const text::Value* kwargs = whole.dict().find("chat_template_kwargs");
        kwargs != nullptr && kwargs->is(text::Kind::dict)) {
      conversation.render.variables = kwargs->dict();
    }
  }
  const text::Value& messages = conversation.messages;
  const bool is_list_of_objects =
      messages.is_sequence() && std::all_of(messages.items().begin(), messages.items().end(),
                                            [](const text::Value& message) { return message.is(text::Kind::dict); });
  if (!is_list_of_objects) {
    return make_error(ErrorCode::invalid_argument, messages_file, "the messages should be a list of objects");
  }
  if (!tools_file.empty()) {
    KEYE_TRY(const std::string tools, read_file(tools_file, size_t{64} << 20));
    KEYE_TRY(conversation.render.tools, text::parse_value(tools, text::kOriginUser, tools_file));
  }
  return conversation;
}

}  // namespace keye::cli
