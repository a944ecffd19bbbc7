#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/stdin_lines.h"
#include "cli/tokenizer_flags.h"

namespace keye::cli {
namespace {

struct Flags {
  TokenizerFlags tokenizer;
  std::string ids;
  bool jsonl = false;
  bool skip_special_tokens = false;
};

Result<std::string> decode(const text::Tokenizer& tokenizer, std::string_view json, std::string_view where,
                           bool skip_special_tokens) {
  KEYE_TRY(const Json array, parse_json(json, where));
  if (!array.is_array()) {
    return make_error(ErrorCode::invalid_argument, where, "expected a JSON array of ids, found {}", array.type_name());
  }
  std::vector<int32_t> ids;
  for (const Json& id : array) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
      return make_error(ErrorCode::invalid_argument, where, "[{}]: expected a token id, found {}", ids.size(),
                        id.dump());
    }
    ids.push_back(id.get<int32_t>());
  }
  return tokenizer.decode(ids, skip_special_tokens);
}

Result<void> detokenize(const Flags& flags, bool has_ids) {
  KEYE_TRY(const text::Tokenizer tokenizer, flags.tokenizer.load());
  if (!flags.jsonl) {
    std::string ids = flags.ids;
    if (!has_ids) {
      KEYE_TRY(ids, read_stdin());
    }
    KEYE_TRY(const std::string text,
             decode(tokenizer, ids, has_ids ? "--ids" : "standard input", flags.skip_special_tokens));
    return write_stdout(text);
  }
  StdinLines lines;
  std::string line;
  while (true) {
    KEYE_TRY(const bool more, lines.next(line));
    if (!more) return {};
    KEYE_TRY(const std::string text,
             decode(tokenizer, line, fmt::format("line {}", lines.number()), flags.skip_special_tokens));
    KEYE_TRY_VOID(write_stdout(Json(text).dump() + "\n"));
  }
}

}  // namespace

int cmd_detokenize(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Turns token ids into text, and prints its bytes with nothing added. Ids without a token are left out; bytes "
      "that are no UTF-8 in the end become U+FFFD.",
      "detokenize");
  flags.tokenizer.add_to(app);
  CLI::Option* const ids =
      app.add_option("--ids", flags.ids, "The ids as a JSON array (default: standard input)")->type_name("JSON");
  app.add_flag("--jsonl", flags.jsonl, "Read a JSON array from each line, print a JSON string for each at once")
      ->excludes(ids);
  app.add_flag("--skip-special-tokens", flags.skip_special_tokens, "Leave out the tokens that are marked special");
  if (const std::optional<int> exit_code = parse_flags(app, argc, argv)) return *exit_code;
  const Result<void> done = detokenize(flags, ids->count() > 0);
  return done ? kExitOk : report("detokenize", done.error());
}

}  // namespace keye::cli
