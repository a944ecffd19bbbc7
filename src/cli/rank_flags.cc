#include "cli/rank_flags.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#include "base/log.h"
#include "cli/command.h"
#include "cli/model_flags.h"

namespace keye::cli {
void RankFlags::add_of_one_node(CLI::App& app) {
  app.add_option("--tp-size,--tensor-parallel-size,--tp", tp_size,
                 "processes (ranks) that each have a part of the weights; all of one machine's processors are used by "
                 "one, so that this is for several NUMA nodes or machines")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--ep-size,--expert-parallel-size,--ep", ep_size,
                 "groups of ranks that have whole experts each, instead of a part of every expert")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

void RankFlags::add(CLI::App& app) {
  add_of_one_node(app);
  app.add_option("--nnodes", nodes, "machines, each with as many ranks; the same command is given on each")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--node-rank", node_rank, "of this machine; 0 serves, the others answer /health")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--dist-init-addr,--nccl-init-addr", init_address,
                 "HOST:PORT of node 0, where the nodes meet; the ports after it are its ranks'");
  app.add_option("--dist-timeout", timeout_s, "seconds after which a silent rank is lost, and all end")
      ->check(CLI::Range(1.0, 86400.0))
      ->capture_default_str();
  app.add_option("--dist-token-file", token_file,
                 "a secret that all nodes share, at least 16 bytes (or KEYE_DIST_TOKEN in the environment)")
      ->check(CLI::ExistingFile);
}

Result<void> RankFlags::check_split() const {
  if (tp_size % nodes != 0) {
    return make_error(ErrorCode::invalid_argument, "--tp-size", "{} ranks cannot be spread evenly over --nnodes {}",
                      tp_size, nodes);
  }
  if (tp_size % ep_size != 0) {
    return make_error(ErrorCode::invalid_argument, "--ep-size", "should divide --tp-size {}, got {}", tp_size, ep_size);
  }
  return {};
}

Result<void> RankFlags::check() const {
  KEYE_TRY_VOID(check_split());
  if (node_rank >= nodes) {
    return make_error(ErrorCode::invalid_argument, "--node-rank", "should be below --nnodes {}, got {}", nodes,
                      node_rank);
  }
  if (nodes > 1 && init_address.empty()) {
    return make_error(ErrorCode::invalid_argument, "--dist-init-addr", "--nnodes {} needs it: HOST:PORT of node 0",
                      nodes);
  }
  return {};
}

Result<std::string> RankFlags::secret() const {
  if (nodes == 1) return std::string();
  std::string secret;
  if (!token_file.empty()) {
    KEYE_TRY(secret, read_file(token_file, size_t{1} << 16));
  } else if (const char* given = std::getenv("KEYE_DIST_TOKEN"); given != nullptr) {
    secret = given;
  }
  while (!secret.empty() && std::isspace(static_cast<unsigned char>(secret.back())) != 0) secret.pop_back();
  if (secret.size() < comm::kTokenBytesMin) {
    return make_error(
        ErrorCode::invalid_argument, token_file.empty() ? "KEYE_DIST_TOKEN" : token_file,
        "nodes know each other by a secret of at least {} bytes, got {}; make one with 'openssl rand -hex "
        "32 > FILE', give all nodes the same file, and name it with --dist-token-file",
        comm::kTokenBytesMin, secret.size());
  }
  return secret;
}

RankProcess::RankProcess(std::unique_ptr<comm::Ranks> ranks, std::chrono::milliseconds timeout,
                         std::function<void()> lost)
    : ranks_(std::move(ranks)) {
  const bool leads = place().rank == 0;
  ranks_->on_end([leads, timeout, lost = std::move(lost)](const std::string& loss) {
    if (loss.empty()) {
      if (!leads) std::_Exit(kExitOk);
      return;
    }
    log(LogLevel::error, "{}", loss);
    if (lost) lost();
    // Whatever this process is in the middle of, it does not outlive the run for long.
    using std::chrono::milliseconds;
    const auto grace = std::clamp<milliseconds>(timeout / 4, milliseconds(200), milliseconds(5000));
    std::thread([grace] {
      std::this_thread::sleep_for(grace);
      std::_Exit(kExitFailed);
    }).detach();
  });
}

Result<std::unique_ptr<RankProcess>> start_node(const RankFlags& flags, const model::ModelConfig& config,
                                                int64_t step_tokens, Agreed agreed, std::vector<std::string> command,
                                                std::function<void()> lost) {
  comm::RanksOptions options;
  options.place = flags.first_place();
  options.init_address = flags.init_address;
  KEYE_TRY(options.token, flags.secret());
  options.timeout = to_ms(flags.timeout_s);
  options.meet_timeout = std::max(10 * options.timeout, options.meet_timeout);
  options.agreed = std::move(agreed);
  options.agreed.emplace_back("--ep-size", std::to_string(flags.ep_size));
  options.terms_max = step_tokens * config.text.hidden;
  options.rank_arguments = std::move(command);
  options.rank_arguments.insert(options.rank_arguments.begin(), "rank");
  KEYE_TRY(auto ranks, comm::start_ranks(options));
  return std::make_unique<RankProcess>(std::move(ranks), options.timeout, std::move(lost));
}

Result<std::unique_ptr<RankProcess>> join_node(const RankFlags& flags, int channel) {
  KEYE_TRY(auto ranks, comm::join_ranks(channel));
  return std::make_unique<RankProcess>(std::move(ranks), to_ms(flags.timeout_s), nullptr);
}

}  // namespace keye::cli
