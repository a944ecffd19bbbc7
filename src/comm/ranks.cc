#include "comm/ranks.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>

#include "base/log.h"
#include "comm/door.h"
#include "comm/messages.h"
#include "comm/processors.h"
#include "comm/rank_group.h"
#include "comm/watch.h"

namespace keye::comm {
namespace {

using Clock = std::chrono::steady_clock;

/// Descriptors of a rank that was started by another.
constexpr int kChannel = 3;
constexpr int kMemory = 4;
constexpr std::chrono::milliseconds kWordsTime{2000};

/// Port p: the rendezvous; p + 1 + r: rank r, at its node's address.
uint16_t data_port(uint16_t rendezvous, int rank) { return static_cast<uint16_t>(rendezvous + 1 + rank); }

class RanksOfNode final : public Ranks {
 public:
  RanksOfNode(std::unique_ptr<RankGroup> group, std::unique_ptr<Watch> watch, std::shared_ptr<SharedMemory> memory)
      : memory_(std::move(memory)), group_(std::move(group)), watch_(std::move(watch)) {}

  Group& group() override { return *group_; }
  std::string loss() const override { return memory_->loss(); }
  void on_end(std::function<void(const std::string&)> call) override { watch_->on_end(std::move(call)); }
  void give_up(const std::string& why) override {
    watch_->report(fmt::format("{} gave up: {}", name_of(group_->place(), group_->place().rank), why));
  }

 private:
  std::shared_ptr<SharedMemory> memory_;
  std::unique_ptr<RankGroup> group_;  // keeps what the watch's links use, too
  std::unique_ptr<Watch> watch_;      // ends first
};

// -- nodes --------------------------------------------------------------------

/// Links between the first ranks of nodes: rank 0 has one to each, the others have one to it.
struct Met {
  std::vector<Link> links;
  std::vector<std::string> hosts;
};

Hello hello_of(const RanksOptions& options) {
  return {.protocol = kProtocol,
          .node = options.place.node(),
          .nodes = options.place.nodes,
          .size = options.place.size,
          .terms_max = options.terms_max,
          .agreed = options.agreed};
}

bool is_still_there(Link& link) {
  link.expect_header();
  const auto moved = link.advance();
  return moved.has_value() && !*moved;
}

std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

Result<Met> meet_as_first(const RanksOptions& options, const Address& address, const LinkContext& context) {
  const int nodes = options.place.nodes;
  const Hello own = hello_of(options);
  KEYE_TRY(Listener listener, Listener::open(address));
  Door door(std::move(listener), context, FrameKind::hello);
  std::vector<std::optional<Link>> here(static_cast<size_t>(nodes));
  const Clock::time_point until = Clock::now() + options.meet_timeout;
  const auto missing = [&] {
    std::string list;
    for (int node = 1; node < nodes; ++node) {
      if (!here[static_cast<size_t>(node)]) list += fmt::format("{}{}", list.empty() ? "" : ", ", node);
    }
    return list;
  };
  log(LogLevel::info, "waiting at {} for nodes {}", address.to_string(), missing());
  while (!missing().empty()) {
    auto guest = door.next(until);
    if (!guest) {
      return make_error(ErrorCode::unavailable, address.to_string(), "of {} nodes these did not come in {} s: {}",
                        nodes, options.meet_timeout.count() / 1000, missing());
    }
    const auto hello = read_hello(guest->words);
    std::optional<std::string> wrong = hello ? difference(*hello, own) : hello.error().to_string();
    if (!wrong) {
      std::optional<Link>& place = here[static_cast<size_t>(hello->node)];
      if (place && is_still_there(*place)) {
        wrong = fmt::format("node rank {} is already taken by {}", hello->node, place->peer());
      } else {
        place = std::move(guest->link);
        log(LogLevel::info, "node {} is here, from {}", hello->node, place->peer());
        continue;
      }
    }
    log(LogLevel::warning, "a node at {} was refused: {}", guest->link.peer(), *wrong);
    // That it hears why is its own matter.
    static_cast<void>(say(guest->link, FrameKind::refused, 0, as_bytes(*wrong), Clock::now() + kWordsTime));
  }
  Met met;
  met.hosts.push_back(address.host);
  for (size_t node = 1; node < here.size(); ++node) {
    met.hosts.push_back(here[node]->peer_host());
    met.links.push_back(std::move(*here[node]));
  }
  const Bytes welcome = write_welcome({met.hosts});
  for (Link& link : met.links) {
    KEYE_TRY_VOID(say(link, FrameKind::welcome, 0, welcome, Clock::now() + options.timeout));
  }
  return met;
}

Result<Met> meet_as_other(const RanksOptions& options, const Address& address, const LinkContext& context) {
  const Clock::time_point until = Clock::now() + options.meet_timeout;
  KEYE_TRY(Link link, knock(address, context, until));
  const auto rank = static_cast<uint64_t>(options.place.rank);
  KEYE_TRY_VOID(say(link, FrameKind::hello, rank, write_hello(hello_of(options)), Clock::now() + options.timeout));
  KEYE_TRY(const Words answer, listen(link, until));
  if (answer.header.kind == FrameKind::refused) {
    const std::string why(reinterpret_cast<const char*>(answer.bytes.data()), answer.bytes.size());
    return make_error(ErrorCode::unavailable, address.to_string(), "node 0 refused this node: {}", why);
  }
  if (answer.header.kind != FrameKind::welcome) {
    return make_error(ErrorCode::unavailable, address.to_string(), "says what nobody expects");
  }
  KEYE_TRY(Welcome welcome, read_welcome(answer.bytes));
  if (static_cast<int>(welcome.hosts.size()) != options.place.nodes) {
    return make_error(ErrorCode::unavailable, address.to_string(), "names {} nodes of {}", welcome.hosts.size(),
                      options.place.nodes);
  }
  // Others reach this node where node 0 has: at the address that it sees.
  welcome.hosts[static_cast<size_t>(options.place.node())] = link.own_host();
  Met met;
  met.hosts = std::move(welcome.hosts);
  met.links.push_back(std::move(link));
  return met;
}

/// A link to the rank with the same place in each other node, in their order. It knocks at those before, and lets in
/// those after.
Result<std::vector<Link>> join_nodes(const Join& join, const LinkContext& context) {
  const Place& place = join.place;
  const int nodes = place.nodes;
  const Clock::time_point until = Clock::now() + std::chrono::milliseconds(join.meet_timeout_ms);
  std::vector<std::optional<Link>> links(static_cast<size_t>(nodes));
  std::optional<Door> door;
  if (place.node() + 1 < nodes) {
    const std::string& host = join.hosts[static_cast<size_t>(place.node())];
    KEYE_TRY(Listener listener, Listener::open({host, data_port(join.port, place.rank)}));
    door.emplace(std::move(listener), context, FrameKind::greet);
  }
  for (int node = 0; node < place.node(); ++node) {
    const int rank = node * place.locals() + place.local();
    KEYE_TRY(Link link, knock({join.hosts[static_cast<size_t>(node)], data_port(join.port, rank)}, context, until));
    KEYE_TRY_VOID(say(link, FrameKind::greet, static_cast<uint64_t>(place.rank), {}, until));
    links[static_cast<size_t>(node)] = std::move(link);
  }
  for (int left = nodes - place.node() - 1; left > 0;) {
    auto guest = door->next(until);
    if (!guest) {
      return make_error(ErrorCode::unavailable, name_of(place, place.rank), "{} ranks of other nodes did not come",
                        left);
    }
    const int rank = static_cast<int>(std::min<uint64_t>(guest->header.rank, 1 << 20));
    const Place there{.rank = rank, .size = place.size, .nodes = nodes};
    if (rank >= place.size || there.local() != place.local() || there.node() <= place.node() ||
        links[static_cast<size_t>(there.node())]) {
      log(LogLevel::warning, "{} was not let in: it says that it is rank {}", guest->link.peer(), rank);
      continue;
    }
    links[static_cast<size_t>(there.node())] = std::move(guest->link);
    --left;
  }
  std::vector<Link> in_order;
  for (std::optional<Link>& link : links) {
    if (link) in_order.push_back(std::move(*link));
  }
  return in_order;
}

// -- processes ----------------------------------------------------------------

Error system_error(const char* what, int code) {
  return make_error(ErrorCode::io, "a rank's process", "cannot {}: {}", what, std::strerror(code));
}

Result<pid_t> spawn(std::vector<std::string> words, int channel, int memory) {
  words.insert(words.begin(), "keye");
  words.insert(words.end(), {"--channel", std::to_string(kChannel)});
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  // Duplicates above both numbers first: one of the two may be the other's.
  const Descriptor channel_copy(::fcntl(channel, F_DUPFD_CLOEXEC, 10));
  const Descriptor memory_copy(::fcntl(memory, F_DUPFD_CLOEXEC, 10));
  ::posix_spawn_file_actions_adddup2(&actions, channel_copy.get(), kChannel);
  ::posix_spawn_file_actions_adddup2(&actions, memory_copy.get(), kMemory);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addclosefrom_np(&actions, kMemory + 1);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t child = 0;
  const int code = ::posix_spawn(&child, "/proc/self/exe", &actions, &attributes, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (code != 0) return system_error("be started", code);
  return child;
}

/// The further ranks of this node, until the watch has them.
class Children {
 public:
  Children() = default;
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;
  ~Children() {
    for (const Watch::Neighbour& child : list_) {
      ::kill(child.child, SIGKILL);
      ::waitpid(child.child, nullptr, 0);
    }
  }

  Result<void> start(const RanksOptions& options, Join join, int memory) {
    const std::vector<Processor> usable = usable_processors();
    const int locals = options.place.locals();
    for (int local = 1; local < locals; ++local) {
      int pair[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return system_error("have a channel", errno);
      const Descriptor theirs(pair[1]);
      Link link{Descriptor(pair[0])};
      stay_on(share_of_processors(usable, local, locals));  // inherited
      KEYE_TRY(const pid_t child, spawn(options.rank_arguments, theirs.get(), memory));
      join.place.rank = options.place.rank + local;
      list_.push_back({std::move(link), join.place.rank, child});
      KEYE_TRY_VOID(say(list_.back().link, FrameKind::welcome, static_cast<uint64_t>(join.place.rank), write_join(join),
                        Clock::now() + options.timeout));
    }
    if (locals > 1) stay_on(share_of_processors(usable, 0, locals));
    return {};
  }

  /// Until all have their links.
  Result<void> wait(const Place& place, std::chrono::milliseconds timeout) {
    const Clock::time_point until = Clock::now() + timeout;
    for (Watch::Neighbour& child : list_) {
      const auto words = listen(child.link, until);
      const std::string name = name_of(place, child.rank);
      if (!words) return make_error(ErrorCode::unavailable, name, "did not join: {}", words.error().message);
      if (words->header.kind == FrameKind::ranks_joined) continue;
      return make_error(ErrorCode::unavailable, name, "{}",
                        std::string(reinterpret_cast<const char*>(words->bytes.data()), words->bytes.size()));
    }
    return {};
  }

  std::vector<Watch::Neighbour> take() { return std::exchange(list_, {}); }

 private:
  std::vector<Watch::Neighbour> list_;
};

Result<void> check(const RanksOptions& options) {
  const Place& place = options.place;
  if (place.nodes < 1 || place.size < 1 || place.size % place.nodes != 0 || place.rank < 0 ||
      place.rank >= place.size) {
    return make_error(ErrorCode::invalid_argument, "ranks", "rank {} of {} on {} nodes is no place", place.rank,
                      place.size, place.nodes);
  }
  KEYE_CHECK(place.local() == 0, "rank {} starts others", place.rank);
  if (place.nodes > 1 && options.token.size() < kTokenBytesMin) {
    return make_error(ErrorCode::invalid_argument, "token", "should have at least {} bytes, got {}", kTokenBytesMin,
                      options.token.size());
  }
  return {};
}

/// The run begins when all have come to this.
Result<std::unique_ptr<Ranks>> begin(const Join& join, std::shared_ptr<const LinkContext> context,
                                     std::shared_ptr<SharedMemory> memory, std::vector<Link> links,
                                     std::vector<Watch::Neighbour> neighbours) {
  const std::chrono::milliseconds timeout(join.timeout_ms);
  auto watch = std::make_unique<Watch>(join.place, timeout, memory, std::move(neighbours));
  auto group = std::make_unique<RankGroup>(
      RankGroup::Options{.place = join.place,
                         .timeout = timeout,
                         .memory = memory,
                         .context = std::move(context),
                         .links = std::move(links),
                         .on_loss = [watch = watch.get()](const std::string& loss) { watch->report(loss); }});
  RankGroup& joined = *group;
  auto ranks = std::make_unique<RanksOfNode>(std::move(group), std::move(watch), std::move(memory));
  try {
    joined.meet();
  } catch (const PeerLost& lost) {
    return make_error(ErrorCode::unavailable, "", "{}", lost.what());
  }
  return std::unique_ptr<Ranks>(std::move(ranks));
}

}  // namespace

Result<std::unique_ptr<Ranks>> start_ranks(const RanksOptions& options) {
  KEYE_TRY_VOID(check(options));
  const Place& place = options.place;
  Join join{.place = place,
            .timeout_ms = options.timeout.count(),
            .meet_timeout_ms = options.meet_timeout.count(),
            .terms_max = options.terms_max,
            .key = link_key(options.token),
            .hosts = {},
            .port = 0};
  std::shared_ptr<const LinkContext> context;
  std::vector<Watch::Neighbour> neighbours;
  if (place.nodes > 1) {
    KEYE_TRY(const Address address, Address::parse(options.init_address));
    if (address.port + place.size > 65535) {
      return make_error(ErrorCode::invalid_argument, options.init_address,
                        "the {} ports after it are needed too, and there are none above 65535", place.size);
    }
    context = std::make_shared<const LinkContext>(join.key);
    KEYE_TRY(Met met,
             place.node() == 0 ? meet_as_first(options, address, *context) : meet_as_other(options, address, *context));
    join.hosts = std::move(met.hosts);
    join.port = address.port;
    for (size_t i = 0; i < met.links.size(); ++i) {
      const int node = place.node() == 0 ? static_cast<int>(i) + 1 : 0;
      neighbours.push_back({std::move(met.links[i]), node * place.locals(), -1});
    }
  }
  KEYE_TRY(auto memory, SharedMemory::make(place.locals(), options.terms_max));
  Children children;
  KEYE_TRY_VOID(children.start(options, join, memory->descriptor()));
  std::vector<Link> links;
  if (place.nodes > 1) {
    KEYE_TRY(links, join_nodes(join, *context));
  }
  KEYE_TRY_VOID(children.wait(place, options.meet_timeout));
  for (Watch::Neighbour& child : children.take()) neighbours.push_back(std::move(child));
  return begin(join, std::move(context), std::move(memory), std::move(links), std::move(neighbours));
}

Result<std::unique_ptr<Ranks>> join_ranks(int channel) {
  if (channel != kChannel || ::fcntl(channel, F_GETFD) < 0) {
    return make_error(ErrorCode::invalid_argument, "--channel", "{} is no channel of another rank", channel);
  }
  for (const int inherited : {kChannel, kMemory}) ::fcntl(inherited, F_SETFD, FD_CLOEXEC);
  Link link{Descriptor(channel)};
  KEYE_TRY(const Words words, listen(link, Clock::now() + std::chrono::seconds(10)));
  KEYE_TRY(const Join join, read_join(words.bytes));
  KEYE_TRY(auto memory, SharedMemory::open(Descriptor(kMemory), join.place.locals(), join.terms_max));
  std::shared_ptr<const LinkContext> context;
  std::vector<Link> links;
  if (join.place.nodes > 1) {
    context = std::make_shared<const LinkContext>(join.key);
    auto joined = join_nodes(join, *context);
    if (!joined) {
      static_cast<void>(
          say(link, FrameKind::refused, 0, as_bytes(joined.error().to_string()), Clock::now() + kWordsTime));
      return joined.error();
    }
    links = std::move(joined).value();
  }
  const auto rank = static_cast<uint64_t>(join.place.rank);
  KEYE_TRY_VOID(say(link, FrameKind::ranks_joined, rank, {}, Clock::now() + kWordsTime));
  std::vector<Watch::Neighbour> neighbours;
  neighbours.push_back({std::move(link), join.place.rank - join.place.local(), -1});
  return begin(join, std::move(context), std::move(memory), std::move(links), std::move(neighbours));
}

// -- threads ------------------------------------------------------------------

namespace {

/// Both ends of a TCP connection on this machine.
std::pair<Link, Link> make_pair_over_tcp(const LinkContext& context) {
  auto listener = Listener::open({"127.0.0.1", 0});
  KEYE_CHECK(listener.has_value(), "{}", listener.error().to_string());
  auto socket = connect_to({"127.0.0.1", listener->port()}, std::chrono::milliseconds(1000));
  KEYE_CHECK(socket.has_value(), "{}", socket.error().to_string());
  Link one(std::move(socket).value(), context, false);
  Link other(listener->accept(), context, true);
  const auto is_done = [](Link& link) {
    const auto greeted = link.handshake();
    KEYE_CHECK(greeted.has_value(), "{}", greeted.error().to_string());
    return *greeted;
  };
  for (bool done = false; !done;) {
    const bool first = is_done(one);
    done = is_done(other) && first;
  }
  return {std::move(one), std::move(other)};
}

}  // namespace

std::vector<std::unique_ptr<Group>> make_local_groups(int size, int nodes, int64_t terms_max,
                                                      std::chrono::milliseconds timeout) {
  const auto context = std::make_shared<LinkContext>(link_key("threads of one process"));
  const int locals = size / nodes;
  std::vector<std::shared_ptr<SharedMemory>> memories;
  for (int node = 0; node < nodes; ++node) {
    auto memory = SharedMemory::make(locals, terms_max);
    KEYE_CHECK(memory.has_value(), "{}", memory.error().to_string());
    memories.push_back(std::move(memory).value());
  }
  // links[rank][node]
  std::vector<std::vector<std::optional<Link>>> links(static_cast<size_t>(size));
  for (auto& of_rank : links) of_rank.resize(static_cast<size_t>(nodes));
  for (int a = 0; a < nodes; ++a) {
    for (int b = a + 1; b < nodes; ++b) {
      for (int local = 0; local < locals; ++local) {
        auto [one, other] = make_pair_over_tcp(*context);
        links[static_cast<size_t>(a * locals + local)][static_cast<size_t>(b)] = std::move(one);
        links[static_cast<size_t>(b * locals + local)][static_cast<size_t>(a)] = std::move(other);
      }
    }
  }
  std::vector<std::unique_ptr<Group>> groups;
  for (int rank = 0; rank < size; ++rank) {
    std::vector<Link> of_rank;
    for (std::optional<Link>& link : links[static_cast<size_t>(rank)]) {
      if (link) of_rank.push_back(std::move(*link));
    }
    groups.push_back(
        std::make_unique<RankGroup>(RankGroup::Options{.place = {.rank = rank, .size = size, .nodes = nodes},
                                                       .timeout = timeout,
                                                       .memory = memories[static_cast<size_t>(rank / locals)],
                                                       .context = context,
                                                       .links = std::move(of_rank),
                                                       .on_loss = nullptr}));
  }
  return groups;
}

}  // namespace keye::comm
