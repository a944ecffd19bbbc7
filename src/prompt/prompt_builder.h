// From chat messages to what the engine starts from.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/result.h"
#include "prompt/chat_template.h"
#include "prompt/image_processor.h"
#include "prompt/media_loader.h"
#include "prompt/prompt.h"
#include "text/tokenizer.h"

namespace keye::prompt {

/// What a prompt builder must know of a model.
struct PromptSpec {
  bool has_vision = false;
  bool three_axes = false;  // mRoPE: otherwise positions are 0, 1, 2, ...
  int32_t image_token = -1;
  int32_t video_token = -1;
  std::optional<VideoPolicy> video{};  // how it takes videos; nothing: not at all
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

  /// Loads and prepares the pictures and videos, renders the template, repeats each picture's placeholder once for
  /// every merged token (and each video's for every frame, with its timestamp), and encodes. Text that came with the
  /// messages never becomes a special token. Errors: those of the parts; unsupported (media that the model does not
  /// take), cancelled.
  Result<Prompt> build(const Conversation& conversation, const MediaAccess& access) const;
  /// Text as it is, without a template. Errors: too_large.
  Result<Prompt> build(const PlainPrompt& plain) const;
  /// Token ids as they are, without pictures.
  Prompt from_tokens(std::vector<int32_t> tokens) const;

  const text::Tokenizer& tokenizer() const { return *tokenizer_; }
  const ImageProcessor* image_processor() const { return images_.get(); }
  /// Null for a model that takes no videos.
  const VideoProcessor* video_processor() const { return videos_ ? &*videos_ : nullptr; }

 private:
  Result<void> load_vision(const Path& folder);
  Result<void> load_video();
  Result<std::vector<MediaBlock>> load(const Conversation& conversation, const MediaAccess& access) const;
  /// With placeholders repeated; `items` are those of the blocks, in the order of their places.
  Result<text::Rendered> expand(const text::Rendered& rendered, std::vector<MediaBlock>& blocks,
                                std::vector<VisionItem>& items) const;
  void append(text::Rendered& out, const MediaBlock& block) const;
  void place(Prompt& prompt) const;

  PromptSpec spec_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<const ChatTemplate> template_;
  std::unique_ptr<const ImageProcessor> images_;
  std::optional<VideoProcessor> videos_;  // points to images_
  std::string picture_placeholder_, video_placeholder_;
};

}  // namespace keye::prompt
