#include <sys/resource.h>

#include <cstdio>

#include "base/json.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/model_flags.h"
#include "engine/load.h"
#include "ops/cpu/isa.h"

namespace keye::cli {
namespace {

enum class Verdict : uint8_t { good, warning, bad };

struct Finding {
  Verdict verdict = Verdict::good;
  std::string what;
  std::string found;
  std::string advice;  // empty where there is nothing to do
};
using Findings = std::vector<Finding>;

std::string gigabytes(double bytes) { return fmt::format("{:.2f} GB", bytes / 1e9); }

/// A number in a file of /proc or /sys, or the word in brackets of "always [madvise] never".
std::string system_value(const Path& path) {
  const auto text = read_file(path, 4096);
  if (!text) return {};
  const size_t open = text->find('[');
  if (open != std::string::npos) return text->substr(open + 1, text->find(']') - open - 1);
  return text->substr(0, text->find_last_not_of(" \n") + 1);
}

void look_at_processor(Findings& findings, int threads) {
  const auto isa = ops::isa_from_name("");
  const std::string kernels(isa ? ops::isa_name(*isa) : "none");
  const int processors = ThreadPool::processors();
  findings.push_back({Verdict::good, "processor",
                      fmt::format("{}, {} processors, kernels {}", processor_name(), processors, kernels), ""});
  if (kernels == "scalar") {
    findings.push_back({Verdict::warning, "kernels", "the processor has neither AVX-512 nor AVX2",
                        "replies are right, and slow: use a machine with AVX2 at least"});
  }
  if (threads > processors) {
    findings.push_back({Verdict::warning, "threads", fmt::format("{} on {} processors", threads, processors),
                        "leave --threads out: more threads than processors wait for each other"});
  }
}

void look_at_memory(Findings& findings) {
  const auto limit = static_cast<double>(memory_limit_bytes());
  const auto available = static_cast<double>(memory_available_bytes());
  findings.push_back({available > 0.2 * limit ? Verdict::good : Verdict::warning, "memory",
                      fmt::format("{} for this process, {} of it unused", gigabytes(limit), gigabytes(available)),
                      available > 0.2 * limit ? "" : "stop what uses the rest, or lower --mem-fraction-static"});
  if (system_value("/proc/sys/vm/overcommit_memory") == "2") {
    findings.push_back(
        {Verdict::warning, "overcommit", "vm.overcommit_memory is 2: memory counts when it is asked for",
         "the KV cache is asked for as a whole: say --max-total-tokens, or sysctl vm.overcommit_memory=0"});
  }
  const std::string pages = system_value("/sys/kernel/mm/transparent_hugepage/enabled");
  if (pages == "never") {
    findings.push_back({Verdict::warning, "huge pages", "transparent huge pages are off",
                        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: weights are read faster"});
  } else if (!pages.empty()) {
    findings.push_back({Verdict::good, "huge pages", pages, ""});
  }
}

void look_at_limits(Findings& findings) {
  rlimit files = {};
  ::getrlimit(RLIMIT_NOFILE, &files);
  const bool enough = files.rlim_max >= 8192;
  findings.push_back(
      {enough ? Verdict::good : Verdict::warning, "open files",
       fmt::format("{}, at most {}", files.rlim_cur, files.rlim_max),
       enough ? "" : "each connection is one: raise the limit (ulimit -Hn, LimitNOFILE) for more than a few thousand"});
  rlimit space = {};
  ::getrlimit(RLIMIT_AS, &space);
  if (space.rlim_cur != RLIM_INFINITY) {
    findings.push_back({Verdict::warning, "address space",
                        fmt::format("limited to {}", gigabytes(static_cast<double>(space.rlim_cur))),
                        "checkpoints are mapped, not read: ulimit -v unlimited"});
  }
}

void add_error(Findings& findings, const char* what, const Error& error) {
  findings.push_back({Verdict::bad, what, error.to_string(), ""});
}

void look_at_memory_for(Findings& findings, const model::ModelConfig& config) {
  const auto weights = static_cast<double>(model::weight_bytes(config, DType::bf16));
  const auto limit = static_cast<double>(memory_limit_bytes());
  const auto per_token = static_cast<double>(model::kv_spec_of(config, {}).bytes_per_token());
  const double room = 0.7 * limit - weights;
  const std::string found = fmt::format("weights {}, KV cache {:.1f} KB a token", gigabytes(weights), per_token / 1e3);
  if (room <= 64 * per_token) {
    findings.push_back(
        {Verdict::bad, "fits", found, fmt::format("the machine has {}: this model needs more", gigabytes(limit))});
    return;
  }
  const double tokens = room / per_token;
  const bool whole = tokens >= config.text.positions_max;
  findings.push_back(
      {whole ? Verdict::good : Verdict::warning, "fits",
       fmt::format("{}: room for {:.0f} tokens of the model's {}", found, tokens, config.text.positions_max),
       whole ? "" : "longer requests are refused"});
}

void look_at_template(Findings& findings, const Path& folder, const engine::FolderConfig& config) {
  const auto prompts = prompt::PromptBuilder::load(folder, engine::prompt_spec(config.model));
  if (!prompts) return add_error(findings, "tokenizer", prompts.error());
  findings.push_back(
      {Verdict::good, "tokenizer", fmt::format("{} tokens", prompts->tokenizer().vocabulary_size()), ""});
  prompt::Conversation conversation;
  conversation.messages = text::Value::list({plain_message("user", "Hello")});
  const auto prompt = prompts->build(conversation, {});
  if (!prompt) return add_error(findings, "chat template", prompt.error());
  findings.push_back(
      {Verdict::good, "chat template", fmt::format("\"Hello\" becomes {} tokens", prompt->tokens.size()), ""});
  if (config.generation.eos_ids.empty()) {
    findings.push_back({Verdict::warning, "end of sequence", "no eos_token_id in generation_config.json or config.json",
                        "replies end only by length and stop strings"});
  }
}

void look_at_checkpoint(Findings& findings, const Path& folder) {
  const auto config = engine::read_folder_config(folder);
  if (!config) return add_error(findings, "config", config.error());
  findings.push_back({Verdict::good, "config", fmt::format("{}: {}", folder.string(), config->model.architecture), ""});
  const auto checkpoint = model::Checkpoint::open(folder);
  if (!checkpoint) return add_error(findings, "weights", checkpoint.error());
  const auto fits = model::check_weights(config->model, *checkpoint);
  if (!fits) return add_error(findings, "weights", fits.error());
  findings.push_back(
      {Verdict::good, "weights",
       fmt::format("{} tensors, {}", checkpoint->tensors().size(), gigabytes(static_cast<double>(checkpoint->bytes()))),
       ""});
  look_at_memory_for(findings, config->model);
  look_at_template(findings, folder, *config);
}

OrderedJson to_json(const Findings& findings) {
  static constexpr const char* kNames[] = {"ok", "warning", "failed"};
  OrderedJson list = OrderedJson::array();
  for (const Finding& f : findings) {
    list.push_back({{"check", f.what},
                    {"verdict", kNames[static_cast<int>(f.verdict)]},
                    {"found", f.found},
                    {"advice", f.advice}});
  }
  return list;
}

void print(const Findings& findings) {
  static constexpr const char* kMarks[] = {"ok   ", "warn ", "FAIL "};
  for (const Finding& f : findings) {
    std::printf("%s %-16s %s\n", kMarks[static_cast<int>(f.verdict)], f.what.c_str(), f.found.c_str());
    if (!f.advice.empty()) std::printf("%23s%s\n", "", f.advice.c_str());
  }
}

}  // namespace

int cmd_doctor(int argc, char** argv) {
  CLI::App app("Looks at the machine, its limits and a checkpoint, and says what stands in the way", "doctor");
  std::string folder;
  int threads = 0;
  bool as_json = false;
  app.add_option("--model,--model-path", folder, "checkpoint folder (default: the model that comes with the program)");
  app.add_option("--threads", threads, "as it would be served")->check(CLI::Range(0, 1024));
  app.add_flag("--json", as_json, "print a JSON list");
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  Findings findings;
  look_at_processor(findings, threads);
  look_at_memory(findings);
  look_at_limits(findings);
  if (const auto path = model_folder(folder)) {
    look_at_checkpoint(findings, *path);
  } else {
    add_error(findings, "checkpoint", path.error());
  }
  if (as_json) {
    std::puts(to_json(findings).dump(2, ' ', false, OrderedJson::error_handler_t::replace).c_str());
  } else {
    print(findings);
  }
  for (const Finding& f : findings) {
    if (f.verdict == Verdict::bad) return kExitFailed;
  }
  return kExitOk;
}

}  // namespace keye::cli
