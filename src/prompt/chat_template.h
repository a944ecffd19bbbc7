// A checkpoint's chat template, and messages in the form that templates expect.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/file.h"
#include "base/result.h"
#include "text/template.h"
#include "text/value.h"

namespace keye::prompt {

struct RenderOptions {
  text::Value tools = text::Value::none();  // a list of tool definitions, or none
  bool add_generation_prompt = true;
  /// Leaves the last message, an answer, open to be continued: the prompt ends with that message's text, as Hugging
  /// Face's apply_chat_template has it. Needs add_generation_prompt = false.
  bool continue_final_message = false;
  text::Dict variables;                 // the template's own switches, such as enable_thinking
  std::optional<text::RenderTime> now;  // that strftime_now shows; nothing: the clock's
  text::TemplateLimits limits;
};

/// bos_token, eos_token, pad_token, unk_token: those that the checkpoint names.
using SpecialTokens = std::map<std::string, std::string, std::less<>>;

class ChatTemplate {
 public:
  /// Looks for chat_template.jinja, then chat_template.json, then tokenizer_config.json's chat_template (one, or a list
  /// of named ones: "default", and "tool_use" when tools are given). Errors: not_found (no template), corrupt_data,
  /// those of text::Template::compile.
  static Result<ChatTemplate> load(const Path& folder);
  /// `where` names the source in errors.
  static Result<ChatTemplate> from_source(std::string_view source, std::string_view where,
                                          SpecialTokens special_tokens);

  /// The rendered prompt; each byte knows whether the template wrote it or who sent it. Messages are brought to the
  /// form of the reference first: null fields dropped, image_url and video_url parts reduced to {"type": "image"} and
  /// {"type": "video"}, tool calls' JSON strings parsed. Errors: invalid_argument (messages of another form; what the
  /// template itself raises; a last message that cannot be continued), unsupported (media for a template that takes
  /// text only), too_large.
  Result<text::Rendered> render(const text::Value& messages, const RenderOptions& options) const;

  SpecialTokens& special_tokens() { return special_tokens_; }

 private:
  const text::Template& choose(const RenderOptions& options) const;

  std::map<std::string, text::Template, std::less<>> templates_;  // by name; "default" unless the file has names
  bool takes_parts_ = true;
  SpecialTokens special_tokens_;
};

/// tokenizer_config.json's special tokens; none if there is no such file. Errors: corrupt_data.
Result<SpecialTokens> read_special_tokens(const Path& folder);

}  // namespace keye::prompt
