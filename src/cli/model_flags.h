// Flags and habits that the commands which load a model share.
#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <functional>
#include <stop_token>
#include <string>

#include "base/file.h"
#include "engine/device.h"
#include "engine/request.h"
#include "model/weights.h"
#include "tensor/dtype.h"

namespace keye::cli {

struct ModelFlags {
  std::string dtype_text = "bf16";
  engine::DeviceOptions device;

  void add(CLI::App& app);
  DType dtype() const { return dtype_text == "f32" ? DType::f32 : DType::bf16; }
};

/// --device, --threads, --isa.
void add_device_flags(CLI::App& app, engine::DeviceOptions& device);

/// The folder to use: `given`, or the model that comes with the program. Errors: not_found.
Result<Path> model_folder(const std::string& given);

/// Flags are in seconds.
std::chrono::milliseconds to_ms(double seconds);

/// Progress lines on standard error, if that is a terminal; otherwise empty functions.
model::LoadProgress load_progress();
engine::Progress generate_progress();
std::function<void(std::string_view)> bench_progress();
/// Takes a progress line away again.
void clear_progress();

/// Stopped by the first and by the second Ctrl-C or SIGTERM. Call it before any thread starts.
struct StopTokens {
  std::stop_token first, second;
};
StopTokens stop_tokens();
/// A token that Ctrl-C (or SIGTERM) stops; a second one ends the program at once.
std::stop_token interrupt_token();
/// Sleeps until it is stopped.
void wait_for(const std::stop_token& token);

}  // namespace keye::cli
