// What every command of the program shares: how its flags are read, how it ends.
// Exit codes: 0 done, 1 failed (a file, a model, a request), 2 wrong usage.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

#include "base/result.h"

namespace keye::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;

/// Parses argv (argv[0] is the command's name). Returns an exit code if the program should end now: after --help, or
/// after a usage error has been printed; nothing if the command should go on.
std::optional<int> parse_flags(CLI::App& app, int argc, char** argv);

/// Prints "keye COMMAND: where: message" to standard error and gives the exit code for it.
int report(std::string_view command, const Error& error);
/// Prints a usage error and points to --help.
int usage_error(std::string_view command, std::string_view message);

/// All bytes of standard input. Errors: io, too_large.
Result<std::string> read_stdin(size_t bytes_max = size_t{1} << 30);

/// Writes to standard output, unbuffered by us. Errors: io (a closed pipe).
Result<void> write_stdout(std::string_view bytes);

}  // namespace keye::cli
