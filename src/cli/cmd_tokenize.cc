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
  std::string text;
  bool jsonl = false;
  bool plain = false;
  bool ids_only = false;
};

Result<std::vector<int32_t>> encode(const text::Tokenizer& tokenizer, std::string_view text, bool plain) {
  if (text.size() > text::kEncodeBytesMax) {
    return make_error(ErrorCode::too_large, "text", "{} bytes, at most {} can be encoded at once", text.size(),
                      text::kEncodeBytesMax);
  }
  return plain ? tokenizer.encode_plain(text) : tokenizer.encode(text);
}

Result<void> tokenize_lines(const text::Tokenizer& tokenizer, bool plain) {
  StdinLines lines;
  std::string line;
  while (true) {
    KEYE_TRY(const bool more, lines.next(line));
    if (!more) return {};
    const std::string where = fmt::format("line {}", lines.number());
    KEYE_TRY(const Json text, parse_json(line, where));
    if (!text.is_string()) {
      return make_error(ErrorCode::invalid_argument, where, "expected a JSON string, found {}", text.type_name());
    }
    KEYE_TRY(const std::vector<int32_t> ids, encode(tokenizer, text.get_ref<const std::string&>(), plain));
    KEYE_TRY_VOID(write_stdout(Json(ids).dump() + "\n"));
  }
}

Result<void> tokenize(const Flags& flags, bool has_text) {
  KEYE_TRY(const text::Tokenizer tokenizer, flags.tokenizer.load());
  if (flags.jsonl) return tokenize_lines(tokenizer, flags.plain);
  std::string text = flags.text;
  if (!has_text) {
    KEYE_TRY(text, read_stdin());
  }
  KEYE_TRY(const std::vector<int32_t> ids, encode(tokenizer, text, flags.plain));
  if (flags.ids_only) return write_stdout(Json(ids).dump() + "\n");
  std::string table;
  for (const int32_t id : ids) table += fmt::format("{}\t{}\n", id, Json(*tokenizer.id_to_token(id)).dump());
  return write_stdout(table);
}

}  // namespace

int cmd_tokenize(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Turns text into token ids. Prints a line for each token: its id, a tab, and the token as a JSON string, named "
      "as in the vocabulary. Special tokens that are written in the text are recognised; none is added.",
      "tokenize");
  flags.tokenizer.add_to(app);
  CLI::Option* const text =
      app.add_option("--text", flags.text, "The text (default: standard input)")->type_name("TEXT");
  CLI::Option* const ids_only = app.add_flag("--ids", flags.ids_only, "Print the ids alone, as a JSON array");
  app.add_flag("--jsonl", flags.jsonl, "Read a JSON string from each line, print a JSON array of ids for each at once")
      ->excludes(text)
      ->excludes(ids_only);
  app.add_flag("--plain", flags.plain, "Special and other added tokens stay plain text, as a user's do in a chat");
  if (const std::optional<int> exit_code = parse_flags(app, argc, argv)) return *exit_code;
  const Result<void> done = tokenize(flags, text->count() > 0);
  return done ? kExitOk : report("tokenize", done.error());
}

}  // namespace keye::cli
