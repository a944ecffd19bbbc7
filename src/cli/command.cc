#include "cli/command.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>

namespace keye::cli {

std::optional<int> parse_flags(CLI::App& app, int argc, char** argv) {
  const std::string name = app.get_name();
  app.name("keye " + name);  // for the usage line
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::CallForHelp&) {
    std::cout << app.help();
    return kExitOk;
  } catch (const CLI::ParseError& error) {
    return usage_error(name, error.what());
  }
}

int report(std::string_view command, const Error& error) {
  const std::string text = error.to_string();
  std::fprintf(stderr, "keye %.*s: %s\n", static_cast<int>(command.size()), command.data(), text.c_str());
  return kExitFailed;
}

int usage_error(std::string_view command, std::string_view message) {
  const int width = static_cast<int>(command.size());
  std::fprintf(stderr, "keye %.*s: %.*s\nTry 'keye %.*s --help'.\n", width, command.data(),
               static_cast<int>(message.size()), message.data(), width, command.data());
  return kExitUsage;
}

Result<std::string> read_stdin(size_t bytes_max) {
  std::string text;
  char block[65536];
  while (true) {
    const ssize_t got = ::read(STDIN_FILENO, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return make_error(ErrorCode::io, "standard input", "cannot read: {}", std::strerror(errno));
    if (got == 0) return text;
    text.append(block, static_cast<size_t>(got));
    if (text.size() > bytes_max) {
      return make_error(ErrorCode::too_large, "standard input", "more than {} bytes", bytes_max);
    }
  }
}

Result<void> write_stdout(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return make_error(ErrorCode::io, "standard output", "cannot write: {}", std::strerror(errno));
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return {};
}

}  // namespace keye::cli
