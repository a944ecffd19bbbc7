// Flags of attention and its cache, for every command that runs a model.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "model/model.h"

namespace keye::cli {

struct AttentionFlags {
  std::string sparse = "auto", indexer = "auto", kv_cache = "auto";
  int topk = 0;

  void add(CLI::App& app);
  /// "": a form that --kv-cache-dtype takes; else what is wrong with it.
  static std::string check_cache_dtype(const std::string& text);
  /// For a model in `dtype`. The flags' own forms were checked when they were parsed.
  model::AttentionOptions options(DType dtype) const;
};

}  // namespace keye::cli
