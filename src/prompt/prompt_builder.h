// From chat messages to what the engine starts from.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "prompt/chat_template.h"
#include "prompt/image_processor.h"
#include "prompt/pictures.h"
#include "prompt/prompt.h"
#include "text/tokenizer.h"

namespace keye::prompt {

/// What a prompt builder must know of a model.
struct PromptSpec {
  bool has_vision = false;
  bool three_axes = false;  // mRoPE: otherwise positions are 0, 1, 2, ...
  int32_t image_token = -1;
  int merge = 2;
};

/// A conversation: messages in OpenAI's form, and the template's own variables.
struct Conversation {
  text::Value messages;  // a list of {role, content, ...}
  RenderOptions render;
};

/// A prompt that is not a conversation.
struct PlainPrompt {
  std::string text;
  bool parse_special =
      false;  // what looks like a special token becomes one: for those who write the template themselves
};

class PromptBuilder {
 public:
  /// Reads tokenizer.json, the chat template, and (with vision) preprocessor_config.json of a checkpoint folder.
  static Result<PromptBuilder> load(const Path& folder, const PromptSpec& spec);

  /// Loads and prepares the pictures, renders the template, repeats each picture's placeholder once for every merged
  /// token, and encodes. Text that came with the messages never becomes a special token. Errors: those of the parts;
  /// unsupported (video parts, pictures for a text model), cancelled.
  Result<Prompt> build(const Conversation& conversation, const MediaAccess& access) const;
  /// Text as it is, without a template. Errors: too_large.
  Result<Prompt> build(const PlainPrompt& plain) const;
  /// Token ids as they are, without pictures.
  Prompt from_tokens(std::vector<int32_t> tokens) const;

  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  const ImageProcessor* image_processor() const { return images_ ? &*images_ : nullptr; }

 private:
  Result<text::Rendered> expand(const text::Rendered& rendered, std::vector<VisionItem>& items) const;

  PromptSpec spec_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<const ChatTemplate> template_;
  std::optional<ImageProcessor> images_;
  std::string placeholder_;
};

}  // namespace keye::prompt
