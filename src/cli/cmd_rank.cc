#include <pthread.h>
#include <signal.h>

#include <charconv>
#include <string_view>

#include "cli/command.h"
#include "cli/commands.h"

namespace keye::cli {

int cmd_rank(int argc, char** argv) {
  int channel = -1;
  if (argc >= 4 && std::string_view(argv[argc - 2]) == "--channel") {
    const std::string_view number = argv[argc - 1];
    std::from_chars(number.data(), number.data() + number.size(), channel);
  }
  if (channel < 0) return usage_error("rank", "is started by other commands with --tp-size, not by hand");
  // Signals go to all of a terminal's processes; this one ends when its run does.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const std::string_view command = argv[1];
  if (command == "serve") return cmd_serve_rank(argc - 3, argv + 1, channel);
  if (command == "bench") return cmd_bench_rank(argc - 3, argv + 1, channel);
  return usage_error("rank", "of an unknown command");
}

}  // namespace keye::cli
