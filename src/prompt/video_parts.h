// A video as a message names it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "prompt/video_sampler.h"
#include "text/value.h"

namespace keye::prompt {

struct VideoReference {
  std::vector<std::string> sources;  // one clip, or the frames: paths, http(s)://, file:// or data: URIs
  bool is_list = false;              // of frames
  VideoKwargs kwargs;
  std::string where;  // "messages[1].content[0]"
};

/// The names that preprocess_kwargs of a video may have.
const std::vector<std::string_view>& video_kwarg_names();

/// {"type": "video_url", "video_url": {"url": ...}}, or keye-vl-utils' {"type": "video", "video": a reference or a list
/// of pictures}. Options may stand in the part, in its preprocess_kwargs, in video_url, or in that one's
/// preprocess_kwargs: the later ones of these win. "data:video/jpeg;base64,A,B" is the list of pictures A and B.
/// Errors: invalid_argument, unsupported, `where` naming the field.
Result<VideoReference> read_video(const text::Value& part, const std::string& where);

}  // namespace keye::prompt
