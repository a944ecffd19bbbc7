// Conversations as the commands take them: a JSON file, or a prompt with pictures.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "prompt/prompt_builder.h"

namespace keye::cli {

/// `messages_file`: a list of messages, or an object with "messages" and perhaps "tools". `tools_file`, if given, wins.
Result<prompt::Conversation> read_conversation(const std::string& messages_file, const std::string& tools_file);

/// A user's message: the pictures, the videos (as parts), then the text.
text::Value user_message(const std::vector<std::string>& pictures, const text::Values& videos, const std::string& text);
text::Value plain_message(std::string_view role, const std::string& text);

}  // namespace keye::cli
