// --model and --tokenizer: where `tokenize` and `detokenize` take their tokenizer from.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "text/tokenizer.h"

namespace keye::cli {

struct TokenizerFlags {
  std::string model;      // a folder with a tokenizer.json
  std::string tokenizer;  // or the file itself

  /// Adds both to the command, of which at most one may be given; without either, the model that comes with the
  /// program.
  void add_to(CLI::App& app);
  Result<text::Tokenizer> load() const;
};

}  // namespace keye::cli
