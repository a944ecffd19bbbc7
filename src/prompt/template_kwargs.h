// The switches of chat templates that a request may set ("chat_template_kwargs").
#pragma once

#include "base/result.h"
#include "text/value.h"

namespace keye::prompt {

/// Longest string that a switch may have.
inline constexpr size_t kTemplateKwargBytesMax = 256;

/// A request's chat_template_kwargs as variables for RenderOptions, their strings marked as the user's. `kwargs` is a
/// dict, or none for no switches. Known names are
///   enable_thinking, thinking           whether to think: Qwen3 and most others; DeepSeek
///   reasoning_effort, thinking_budget   how long
///   preserve_thinking, clear_thinking   whether earlier reasoning stays in the prompt: Qwen3.6 and later; GLM
///   add_vision_id                       whether pictures are numbered: Keye, Qwen-VL
///   date_string, tools_in_user_message  today's date, the place of tool definitions: Llama 3
/// All other names are refused: they could replace what the server itself gives a template (messages, tools, special
/// tokens, functions), and elsewhere such fields have reached the function that renders it (CVE-2025-62426). A template
/// without a switch takes no notice of it. Errors: unsupported (a name), invalid_argument (not a dict; a value that is
/// no boolean, number or string), too_large (a string over kTemplateKwargBytesMax).
Result<text::Dict> check_template_kwargs(const text::Value& kwargs);

}  // namespace keye::prompt
