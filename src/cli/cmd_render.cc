#include <ctime>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "prompt/chat_template.h"
#include "text/value_text.h"

namespace keye::cli {
namespace {

struct Flags {
  std::string model;
  std::string chat_template;
  std::string messages;
  std::string tools;
  std::string bos_token;
  std::string eos_token;
  std::string now;
  std::vector<std::string> variables;
  bool no_generation_prompt = false;
};

Result<text::RenderTime> render_time(const std::string& written) {
  if (written.empty()) return text::local_time_now();
  text::RenderTime now;
  const char* const end = strptime(written.c_str(), "%Y-%m-%dT%H:%M:%S", &now.time);
  if (end == nullptr || *end != '\0') {
    return make_error(ErrorCode::invalid_argument, "--now", "expected a time like 2025-03-07T14:05:09, found \"{}\"",
                      written);
  }
  now.time.tm_isdst = -1;
  std::mktime(&now.time);  // fills in the day of the week and of the year
  return now;
}

Result<prompt::ChatTemplate> load_template(const Flags& flags) {
  if (flags.chat_template.empty()) return prompt::ChatTemplate::load(flags.model);
  KEYE_TRY(const std::string source, read_file(flags.chat_template, size_t{16} << 20));
  prompt::SpecialTokens tokens;
  if (!flags.model.empty()) {
    KEYE_TRY(tokens, prompt::read_special_tokens(flags.model));
  }
  return prompt::ChatTemplate::from_source(source, flags.chat_template, std::move(tokens));
}

Result<void> render(const Flags& flags) {
  KEYE_TRY(prompt::ChatTemplate chat_template, load_template(flags));
  if (!flags.bos_token.empty()) chat_template.special_tokens()["bos_token"] = flags.bos_token;
  if (!flags.eos_token.empty()) chat_template.special_tokens()["eos_token"] = flags.eos_token;
  KEYE_TRY(prompt::Conversation conversation, read_conversation(flags.messages, flags.tools));
  prompt::RenderOptions& options = conversation.render;
  options.add_generation_prompt = !flags.no_generation_prompt;
  KEYE_TRY(options.now, render_time(flags.now));
  for (const std::string& variable : flags.variables) {
    const size_t equals = variable.find('=');
    if (equals == std::string::npos || equals == 0) {
      return make_error(ErrorCode::invalid_argument, "--var", "expected NAME=JSON, found \"{}\"", variable);
    }
    const std::string name = variable.substr(0, equals);
    KEYE_TRY(text::Value value,
             text::parse_value(std::string_view(variable).substr(equals + 1), text::kOriginUser, "--var " + name));
    options.variables.set(name, std::move(value));
  }
  KEYE_TRY(const text::Rendered rendered, chat_template.render(conversation.messages, options));
  return write_stdout(rendered.text);
}

}  // namespace

int cmd_render(int argc, char** argv) {
  Flags flags;
  CLI::App app(
      "Prints the prompt that a chat template makes of messages: its bytes, and nothing else. The template is the "
      "checkpoint's own (chat_template.jinja, chat_template.json or tokenizer_config.json), or the file given.",
      "render");
  CLI::Option* const model =
      app.add_option("--model", flags.model, "Folder of a checkpoint: its template and special tokens")
          ->type_name("DIR");
  app.add_option("--template", flags.chat_template, "A Jinja file to use instead of the checkpoint's template")
      ->type_name("FILE");
  app.add_option(
         "--messages", flags.messages,
         "JSON: a list of messages as in OpenAI's API, or an object with messages, tools and chat_template_kwargs")
      ->type_name("FILE")
      ->required();
  app.add_option("--tools", flags.tools, "JSON: a list of tool definitions")->type_name("FILE");
  app.add_option("--bos-token", flags.bos_token, "The template's bos_token (default: the checkpoint's)")
      ->type_name("TOKEN");
  app.add_option("--eos-token", flags.eos_token, "The template's eos_token (default: the checkpoint's)")
      ->type_name("TOKEN");
  app.add_flag("--no-generation-prompt", flags.no_generation_prompt,
               "End after the last message, without opening an answer");
  app.add_option("--var", flags.variables,
                 "A variable for the template, such as enable_thinking=false; may be repeated")
      ->type_name("NAME=JSON");
  app.add_option("--now", flags.now, "The time that strftime_now shows (default: the clock's)")
      ->type_name("YYYY-MM-DDTHH:MM:SS");
  if (const std::optional<int> exit_code = parse_flags(app, argc, argv)) return *exit_code;
  if (model->count() == 0 && flags.chat_template.empty())
    return usage_error("render", "--model or --template is needed");
  const Result<void> done = render(flags);
  return done ? kExitOk : report("render", done.error());
}

}  // namespace keye::cli
