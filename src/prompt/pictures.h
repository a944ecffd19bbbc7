// A picture as a message names it, and as the vision encoder takes it.
#pragma once

#include <string>

#include "media/image.h"
#include "prompt/image_processor.h"
#include "prompt/prompt.h"
#include "text/value.h"

namespace keye::prompt {

/// A picture as a message names it.
struct PictureReference {
  std::string source;  // a path, an http(s)://, file:// or data: URI
  ImageOptions options;
  std::string where;  // "messages[1].content[0]"
};

/// {"type": "image_url", "image_url": {"url": ..., "preprocess_kwargs": {...}}}, or its short form {"type": "image",
/// "image": ...}. Options inside image_url win over those beside it. Errors: invalid_argument, unsupported (options
/// that are not known), `where` naming the field.
Result<PictureReference> read_picture(const text::Value& part, const std::string& where);

/// Decodes and resizes. The item's place in the prompt is not set.
Result<VisionItem> prepare_picture(const std::string& encoded, const ImageOptions& options,
                                   const ImageProcessor& processor, const media::MediaLimits& limits);

/// A picture or a frame that has its size already. Where its tokens stand is not set.
VisionItem vision_item(media::Image resized, const ImageProcessor& processor);

}  // namespace keye::prompt
