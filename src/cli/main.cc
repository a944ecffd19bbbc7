#include <csignal>
#include <cstdio>
#include <string_view>

#include "cli/command.h"
#include "cli/commands.h"
#include "media/video_worker.h"

namespace {

struct Command {
  const char* name;
  const char* summary;
  int (*run)(int argc, char** argv);
};

using namespace keye::cli;

constexpr Command kCommands[] = {
    {"run", "answers a question, about pictures if there are any", cmd_run},
    {"serve", "serves a model to any OpenAI client", cmd_serve},
    {"doctor", "what on this machine or in a checkpoint stands in the way", cmd_doctor},
    {"info", "what a checkpoint is and what it needs", cmd_info},
    {"tokenize", "text to token ids", cmd_tokenize},
    {"detokenize", "token ids to text", cmd_detokenize},
    {"render", "messages to the prompt text of a chat template", cmd_render},
    {"preprocess", "pictures and videos to the vision encoder's input", cmd_preprocess},
    {"video-plan", "what a video will cost: frames, tokens, memory, time", cmd_video_plan},
    {"plan", "what a model needs of other machines: memory, network, bounds on speed", cmd_plan},
    {"logits", "the logits of every token of a prompt", cmd_logits},
    {"bench", "speed beside the machine's limits; 'bench serve': a server under load", cmd_bench},
};

void print_help(std::FILE* out) {
  std::fputs("keye: runs the Keye-VL family of models on this machine\n\nUsage: keye COMMAND [FLAGS]\n\nCommands:\n",
             out);
  for (const Command& command : kCommands) std::fprintf(out, "  %-12s %s\n", command.name, command.summary);
  std::fputs("\n'keye COMMAND --help' lists a command's flags.\n", out);
}

}  // namespace

int main(int argc, char** argv) {
  // This program as its own helper, started by media/video.h; no command of the user's.
  if (argc == 2 && std::string_view(argv[1]) == "video-worker") keye::media::run_video_worker();
  std::signal(SIGPIPE, SIG_IGN);
  if (argc > 1 && std::string_view(argv[1]) == "rank") return cmd_rank(argc - 1, argv + 1);
  if (argc < 2) {
    print_help(stderr);
    return kExitUsage;
  }
  const std::string_view name = argv[1];
  if (name == "--help" || name == "-h" || name == "help") {
    print_help(stdout);
    return kExitOk;
  }
  if (name == "--version") {
    std::puts("keye " KEYE_VERSION);
    return kExitOk;
  }
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run(argc - 1, argv + 1);
  }
  std::fprintf(stderr, "keye: no command \"%s\"; 'keye --help' lists them\n", argv[1]);
  return kExitUsage;
}
