#include <sys/time.h>

#include <ctime>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/model_flags.h"
#include "prompt/chat_template.h"
#include "text/value_text.h"

namespace keye::cli {
namespace {

struct Flags {
  std::string folder, messages, source, tools;
  std::optional<std::string> bos, eos;
  std::vector<std::string> variables;
  bool no_generation_prompt = false;
};

text::RenderTime local_time() {
  timeval now{};
  ::gettimeofday(&now, nullptr);
  text::RenderTime result;
  ::localtime_r(&now.tv_sec, &result.time);
  result.microsecond = static_cast<int>(now.tv_usec);
  return result;
}

Result<prompt::ChatTemplate> load_template(const Flags& flags) {
  if (flags.source.empty()) {
    KEYE_TRY(const Path folder, model_folder(flags.folder));
    return prompt::ChatTemplate::load(folder);
  }
  prompt::SpecialTokens tokens;
  if (!flags.folder.empty()) {
    KEYE_TRY(tokens, prompt::read_special_tokens(flags.folder));
  }
  KEYE_TRY(const std::string source, read_file(flags.source, size_t{16} << 20));
  return prompt::ChatTemplate::from_source(source, flags.source, std::move(tokens));
}

Result<void> set_variables(const std::vector<std::string>& items, text::Dict& variables) {
  for (const std::string& item : items) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) {
      return make_error(ErrorCode::invalid_argument, "--var", "expected NAME=JSON, got \"{}\"", item);
    }
    KEYE_TRY(auto value, text::parse_value(item.substr(equals + 1), text::kOriginEngine, "--var " + item.substr(0, equals)));
    variables.set(item.substr(0, equals), std::move(value));
  }
  return {};
}

Result<void> run(const Flags& flags) {
  KEYE_TRY(auto chat_template, load_template(flags));
  if (flags.bos) chat_template.special_tokens()["bos_token"] = *flags.bos;
  if (flags.eos) chat_template.special_tokens()["eos_token"] = *flags.eos;
  KEYE_TRY(auto conversation, read_conversation(flags.messages, flags.tools));
  conversation.render.add_generation_prompt = !flags.no_generation_prompt;
  conversation.render.now = local_time();
  KEYE_TRY_VOID(set_variables(flags.variables, conversation.render.variables));
  KEYE_TRY(const text::Rendered rendered, chat_template.render(conversation.messages, conversation.render));
  return write_stdout(rendered.text);
}

}  // namespace

int cmd_render(int argc, char** argv) {
  CLI::App app("Prints the prompt that a chat template makes of messages: its bytes, nothing added", "render");
  Flags flags;
  app.add_option("--model", flags.folder, "checkpoint folder (default: the model that comes with the program)");
  app.add_option("--messages", flags.messages, "JSON file: a list of chat messages, or an object with messages and tools")->required();
  app.add_option("--template", flags.source, "template file, in place of the checkpoint's own");
  app.add_option("--tools", flags.tools, "JSON file: a list of tool definitions");
  app.add_option("--bos-token", flags.bos, "in place of the checkpoint's own");
  app.add_option("--eos-token", flags.eos, "in place of the checkpoint's own");
  app.add_option("--var", flags.variables, "NAME=JSON: a variable of the template, such as enable_thinking=false; may be repeated");
  app.add_flag("--no-generation-prompt", flags.no_generation_prompt, "do not open the assistant's turn");
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  const auto done = run(flags);
  return done ? kExitOk : report("render", done.error());
}

}  // namespace keye::cli
