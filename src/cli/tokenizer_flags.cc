#include "cli/tokenizer_flags.h"

namespace keye::cli {

void TokenizerFlags::add_to(CLI::App& app) {
  CLI::Option_group* const source = app.add_option_group("tokenizer", "Where the tokenizer is (one of these)");
  source->add_option("--model", model, "Folder of a checkpoint: its tokenizer.json")->type_name("DIR");
  source->add_option("--tokenizer", tokenizer, "A tokenizer.json")->type_name("FILE");
  source->require_option(1);
}

Result<text::Tokenizer> TokenizerFlags::load() const {
  return text::Tokenizer::load(tokenizer.empty() ? Path(model) / "tokenizer.json" : Path(tokenizer));
}

}  // namespace keye::cli
