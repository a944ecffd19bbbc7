#include "cli/tokenizer_flags.h"

#include "cli/model_flags.h"

namespace keye::cli {

void TokenizerFlags::add_to(CLI::App& app) {
  CLI::Option_group* const source = app.add_option_group(
      "tokenizer", "Where the tokenizer is: one of these (default: the model that comes with the program)");
  source->add_option("--model", model, "Folder of a checkpoint: its tokenizer.json")->type_name("DIR");
  source->add_option("--tokenizer", tokenizer, "A tokenizer.json")->type_name("FILE");
  source->require_option(0, 1);
}

Result<text::Tokenizer> TokenizerFlags::load() const {
  if (!tokenizer.empty()) return text::Tokenizer::load(tokenizer);
  KEYE_TRY(const Path folder, model_folder(model));
  return text::Tokenizer::load(folder / "tokenizer.json");
}

}  // namespace keye::cli
