// The pictures of a conversation: found in its messages, fetched, decoded and resized.
#pragma once

#include <limits>
#include <stop_token>
#include <string>
#include <vector>

#include "media/fetch_policy.h"
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

/// What may be fetched for a prompt, and what it may cost.
struct MediaAccess {
  media::FetchPolicy policy;
  media::MediaLimits limits;
  int pictures_max = 256;                                    // of one prompt
  int64_t tokens_max = std::numeric_limits<int64_t>::max();  // that they may need together
  std::stop_token stop;
};

/// The pictures of a conversation, in the order of their parts. Errors: invalid_argument, unsupported (videos, audio,
/// options that are not known), `where` naming the part.
Result<std::vector<PictureReference>> find_pictures(const text::Value& messages);

/// All of them, or the first error: what went wrong with which part. The items' places in the prompt are not set.
Result<std::vector<VisionItem>> load_pictures(const std::vector<PictureReference>& pictures,
                                              const ImageProcessor& processor, const MediaAccess& access);

}  // namespace keye::prompt
