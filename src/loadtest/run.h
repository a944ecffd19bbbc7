// A whole load test, from a configuration to a report.
#pragma once

#include <stop_token>

#include "base/result.h"
#include "loadtest/client.h"

namespace keye::loadtest {

/// Names the model, finds the prompts' length, warms up, measures; all on the calling thread. Raises the process's soft
/// limit of open files. Requests that fail are counted in the report; a stop drops what is under way and reports the
/// rest. Errors: those of validate(), picture_uri() and Client::make(); too_large (more connections than files may be
/// open), cancelled (stopped before anything was measured).
Result<Report> run(const Config& config, const std::stop_token& stop, const Progress& progress);

}  // namespace keye::loadtest
