// What the commands that take videos share: their flags, and who decodes.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "prompt/media_loader.h"
#include "text/value.h"

namespace keye::cli {

struct VideoFlags {
  std::vector<std::string> clips;   // each a video
  std::vector<std::string> frames;  // together one more
  prompt::VideoKwargs kwargs;
  bool adaptive = false;

  void add(CLI::App& app);
  bool any() const { return !clips.empty() || !frames.empty(); }
  /// The videos as parts of a message.
  text::Values parts() const;
  std::vector<prompt::VideoReference> references() const;
};

/// How the model in `folder` takes videos. Errors: unsupported (it takes none).
Result<prompt::VideoPolicy> video_policy(const Path& folder, const model::ModelConfig& config);

/// What went wrong with `reference`, named by it.
Error about(const std::string& reference, const Error& error);

/// For a command of the user's: any file may be read, clips are decoded by `decoder`.
prompt::MediaAccess command_access(media::VideoDecoder& decoder, const VideoFlags& flags, std::stop_token stop);

}  // namespace keye::cli
