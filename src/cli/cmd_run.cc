#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>
#include <random>

#include "base/json.h"
#include "cli/attention_flags.h"
#include "cli/command.h"
#include "cli/commands.h"
#include "cli/conversation.h"
#include "cli/model_flags.h"
#include "cli/stdin_lines.h"
#include "cli/video_flags.h"
#include "engine/engine.h"
#include "engine/memory_plan.h"

namespace keye::cli {
namespace {

struct Flags {
  std::string folder, prompt, system, messages;
  std::vector<std::string> images, stops;
  std::vector<int32_t> stop_ids;
  std::vector<std::string> logit_bias;
  ModelFlags model;
  AttentionFlags attention;
  VideoFlags video;
  int max_tokens = 1024;
  int replies = 1;
  int64_t context = 0;
  bool ignore_eos = false;
  bool show_special = false;
  bool as_json = false;
  // Absent: as the checkpoint's generation_config.json says.
  std::optional<float> temperature, top_p, repetition_penalty;
  std::optional<int> top_k;
  std::optional<uint64_t> seed;
  float min_p = 0, presence_penalty = 0, frequency_penalty = 0;
};

void add_flags(CLI::App& app, Flags& flags) {
  app.add_option("--model", flags.folder, "checkpoint folder (default: the model that comes with the program)");
  app.add_option("--image", flags.images, "picture file, http(s)://, file:// or data: URI; may be repeated");
  auto* prompt =
      app.add_option("--prompt", flags.prompt, "the question; without it, questions are read from standard input");
  app.add_option("--system", flags.system, "system message");
  app.add_option("--messages", flags.messages,
                 "JSON file: a list of chat messages, in place of --prompt, --image, --video and --system")
      ->excludes(prompt);
  app.add_option("--max-tokens", flags.max_tokens, "longest reply, in tokens")->capture_default_str();
  app.add_option("--context", flags.context,
                 "tokens of prompt and reply to have memory for (default: the model's context, as far as memory goes)")
      ->check(CLI::Range(int64_t{64}, int64_t{1} << 30));
  app.add_option("--temperature", flags.temperature, "0: always the likeliest token");
  app.add_option("--top-p", flags.top_p, "sample from the likeliest tokens that make up this share");
  app.add_option("--top-k", flags.top_k, "sample from so many likeliest tokens; 0: all");
  app.add_option("--min-p", flags.min_p, "drop tokens below this share of the likeliest one's probability")
      ->capture_default_str();
  app.add_option("--repetition-penalty", flags.repetition_penalty, "divides the logits of tokens already seen");
  app.add_option("--presence-penalty", flags.presence_penalty, "subtracted from tokens already in the reply")
      ->capture_default_str();
  app.add_option("--frequency-penalty", flags.frequency_penalty, "the same, for each time they occur")
      ->capture_default_str();
  app.add_option("--logit-bias", flags.logit_bias, "TOKEN_ID=BIAS added to that token's logit; may be repeated");
  app.add_option("--seed", flags.seed, "of the random numbers; same seed, same reply (default: random)");
  app.add_option("--n", flags.replies, "replies to the one prompt; reply i uses seed + i")->capture_default_str();
  app.add_option("--stop", flags.stops, "text that ends the reply; may be repeated");
  app.add_option("--stop-token-id", flags.stop_ids, "token that ends the reply; may be repeated");
  app.add_flag("--ignore-eos", flags.ignore_eos, "go on after end-of-sequence tokens, up to --max-tokens");
  app.add_flag("--show-special-tokens", flags.show_special, "print special tokens too");
  app.add_flag("--json", flags.as_json,
               "print one object: text, finish_reason, prompt_tokens, completion_tokens, timings");
  flags.video.add(app);
  flags.model.add(app);
  flags.attention.add(app);
}

uint64_t random_seed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

Result<std::vector<std::pair<int32_t, float>>> parse_bias(const std::vector<std::string>& items) {
  std::vector<std::pair<int32_t, float>> result;
  for (const std::string& item : items) {
    int token = 0;
    float bias = 0;
    char rest = 0;
    if (std::sscanf(item.c_str(), "%d=%f%c", &token, &bias, &rest) != 2) {
      return make_error(ErrorCode::invalid_argument, "--logit-bias", "expected TOKEN_ID=BIAS, got \"{}\"", item);
    }
    result.emplace_back(token, bias);
  }
  return result;
}

Result<engine::SamplingParams> sampling_of(const Flags& flags, const model::GenerationDefaults& defaults) {
  engine::SamplingParams sampling;
  // A checkpoint that does not sample by default is greedy until a flag says otherwise.
  sampling.temperature = flags.temperature.value_or(defaults.do_sample ? defaults.temperature : 0.0F);
  sampling.top_k = flags.top_k.value_or(defaults.do_sample ? defaults.top_k : 0);
  sampling.top_p = flags.top_p.value_or(defaults.do_sample ? defaults.top_p : 1.0F);
  sampling.repetition_penalty = flags.repetition_penalty.value_or(defaults.repetition_penalty);
  sampling.min_p = flags.min_p;
  sampling.presence_penalty = flags.presence_penalty;
  sampling.frequency_penalty = flags.frequency_penalty;
  sampling.seed = flags.seed ? *flags.seed : random_seed();
  KEYE_TRY(sampling.logit_bias, parse_bias(flags.logit_bias));
  return sampling;
}

struct Answer {
  std::string text;
  std::string finish_reason;
  int tokens = 0;
};

/// What the engine's thread tells, to be taken by this one.
class Events {
 public:
  void add(engine::TokenEvent&& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    wake_.notify_one();
  }
  /// The next event, or nothing when `stop` is requested first.
  std::optional<engine::TokenEvent> next(const std::stop_token& stop) {
    std::unique_lock lock(mutex_);
    if (!wake_.wait(lock, stop, [this] { return !events_.empty(); })) return std::nullopt;
    engine::TokenEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<engine::TokenEvent> events_;
};

/// Where a request's time went; its replies ran side by side.
struct Spent {
  int64_t prompt_tokens = 0;
  engine::Timings timings;

  void add(const engine::Timings& reply) {
    timings.vision = std::max(timings.vision, reply.vision);
    timings.prefill = std::max(timings.prefill, reply.prefill);
    timings.decode = std::max(timings.decode, reply.decode);
  }
};

/// An engine, and the flags that every question has in common.
class Session {
 public:
  Session(const Flags& flags, engine::LoadedModel loaded, int64_t kv_tokens)
      : flags_(flags), engine_(std::move(loaded), {.kv_tokens = kv_tokens, .running_max = engine::kRepliesMax}) {}

  /// Answers a conversation; `show` gets the first reply's text as it grows.
  Result<std::vector<Answer>> answer(const prompt::Conversation& conversation,
                                     const std::function<void(std::string_view)>& show, const std::stop_token& stop,
                                     Spent& spent) {
    engine::Request request;
    KEYE_TRY(auto prompt, engine_.prompts().build(conversation, command_access(decoder_, flags_.video, stop)));
    spent.prompt_tokens = static_cast<int64_t>(prompt.tokens.size());
    request.prompt = std::make_shared<const prompt::Prompt>(std::move(prompt));
    KEYE_TRY(request.sampling, sampling_of(flags_, engine_.generation()));
    request.stop = {.max_tokens = flags_.max_tokens,
                    .strings = flags_.stops,
                    .token_ids = engine_.generation().eos_ids,
                    .ignore_eos = flags_.ignore_eos};
    request.stop.token_ids.insert(request.stop.token_ids.end(), flags_.stop_ids.begin(), flags_.stop_ids.end());
    request.replies = flags_.replies;
    request.skip_special_tokens = !flags_.show_special;
    const auto events = std::make_shared<Events>();
    KEYE_TRY(const engine::RequestId id,
             engine_.submit(
                 std::move(request), [events](engine::TokenEvent&& event) { events->add(std::move(event)); },
                 generate_progress()));
    return collect(*events, id, show, stop, spent);
  }

 private:
  std::vector<Answer> collect(Events& events, engine::RequestId id, const std::function<void(std::string_view)>& show,
                              const std::stop_token& stop, Spent& spent) {
    std::vector<Answer> answers(static_cast<size_t>(flags_.replies));
    for (size_t unfinished = answers.size(); unfinished > 0;) {
      auto event = events.next(stop);
      if (!event) {
        engine_.abort(id);
        event = events.next({});
      }
      Answer& answer = answers[static_cast<size_t>(event->reply)];
      answer.text += event->text;
      if (event->token >= 0) ++answer.tokens;
      if (event->reply == 0 && !event->text.empty()) show(event->text);
      if (!event->finish) continue;
      answer.finish_reason = std::string(engine::finish_reason_name(*event->finish));
      spent.add(event->timings);
      --unfinished;
    }
    return answers;
  }

  const Flags& flags_;
  engine::Engine engine_;
  media::VideoDecoder decoder_{{}};
};

OrderedJson to_json(const std::vector<Answer>& answers, const Spent& spent, double load_seconds) {
  int tokens = 0;
  for (const Answer& answer : answers) tokens += answer.tokens;
  OrderedJson json = {{"text", answers[0].text},
                      {"finish_reason", answers[0].finish_reason},
                      {"prompt_tokens", spent.prompt_tokens},
                      {"completion_tokens", tokens}};
  if (answers.size() > 1) {
    for (const Answer& answer : answers)
      json["choices"].push_back(
          {{"text", answer.text}, {"finish_reason", answer.finish_reason}, {"completion_tokens", answer.tokens}});
  }
  json["timings"] = {{"load_s", load_seconds},
                     {"vision_s", spent.timings.vision},
                     {"prefill_s", spent.timings.prefill},
                     {"decode_s", spent.timings.decode}};
  return json;
}

Result<int> answer_once(Session& session, const Flags& flags, const prompt::Conversation& conversation,
                        double load_seconds, const std::stop_token& stop) {
  Spent spent;
  const bool streams = !flags.as_json && flags.replies == 1;
  auto show = [&](std::string_view text) {
    if (streams && !write_stdout(text)) std::_Exit(kExitFailed);  // nobody reads any more
  };
  KEYE_TRY(const auto answers, session.answer(conversation, show, stop, spent));
  if (flags.as_json) {
    KEYE_TRY_VOID(write_stdout(
        to_json(answers, spent, load_seconds).dump(-1, ' ', false, OrderedJson::error_handler_t::replace) + "\n"));
  } else if (streams) {
    KEYE_TRY_VOID(write_stdout("\n"));
  } else {
    for (size_t i = 0; i < answers.size(); ++i)
      KEYE_TRY_VOID(write_stdout(fmt::format("[{}] {}\n", i + 1, answers[i].text)));
  }
  return stop.stop_requested() ? kExitFailed : kExitOk;
}

/// Questions from standard input, one a line, each answer becoming part of the conversation.
Result<int> converse(Session& session, const Flags& flags, const std::stop_token& stop) {
  const bool is_terminal = ::isatty(STDIN_FILENO) == 1;
  text::Values messages;
  if (!flags.system.empty()) messages.push_back(plain_message("system", flags.system));
  std::vector<std::string> pictures = flags.images;
  text::Values videos = flags.video.parts();
  StdinLines lines;
  std::string line;
  if (is_terminal) std::fputs("Type a question; an empty line or Ctrl-D ends.\n", stderr);
  while (!stop.stop_requested()) {
    if (is_terminal) KEYE_TRY_VOID(write_stdout("> "));
    KEYE_TRY(const bool has_line, lines.next(line, stop));
    if (!has_line || line.empty()) break;
    messages.push_back(user_message(pictures, videos, line));
    pictures.clear();
    videos.clear();
    prompt::Conversation conversation;
    conversation.messages = text::Value::list(messages);
    Spent spent;
    auto show = [](std::string_view text) {
      if (!write_stdout(text)) std::_Exit(kExitFailed);
    };
    KEYE_TRY(const auto answers, session.answer(conversation, show, stop, spent));
    KEYE_TRY_VOID(write_stdout("\n"));
    messages.push_back(plain_message("assistant", answers[0].text));
  }
  return stop.stop_requested() ? kExitFailed : kExitOk;
}

Result<int> run(const Flags& flags) {
  const std::stop_token stop = interrupt_token();  // before any thread starts, so that all leave the signals to it
  KEYE_TRY(const Path folder, model_folder(flags.folder));
  const auto start = std::chrono::steady_clock::now();
  KEYE_TRY(auto loaded, engine::load(folder, {.dtype = flags.model.dtype(),
                                              .attention = flags.attention.options(flags.model.dtype()),
                                              .device = flags.model.device,
                                              .progress = load_progress()}));
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const int64_t context = flags.context > 0 ? flags.context : loaded.model->config().text.positions_max;
  KEYE_TRY(const int64_t kv_tokens,
           engine::plan_kv_tokens(*loaded.model,
                                  {.dtype = flags.model.dtype(),
                                   .fraction = 0.9,
                                   .tokens_wanted = context * std::clamp(flags.replies, 1, engine::kRepliesMax)}));
  Session session(flags, std::move(loaded), kv_tokens);
  if (!flags.messages.empty()) {
    KEYE_TRY(const auto conversation, read_conversation(flags.messages, {}));
    return answer_once(session, flags, conversation, load_seconds, stop);
  }
  if (flags.prompt.empty()) return converse(session, flags, stop);
  text::Values messages;
  if (!flags.system.empty()) messages.push_back(plain_message("system", flags.system));
  messages.push_back(user_message(flags.images, flags.video.parts(), flags.prompt));
  prompt::Conversation conversation;
  conversation.messages = text::Value::list(std::move(messages));
  return answer_once(session, flags, conversation, load_seconds, stop);
}

}  // namespace

int cmd_run(int argc, char** argv) {
  CLI::App app("Answers a question, about pictures and videos if there are any", "run");
  Flags flags;
  add_flags(app, flags);
  if (const auto code = parse_flags(app, argc, argv)) return *code;
  if (!flags.messages.empty() && (!flags.images.empty() || flags.video.any() || !flags.system.empty())) {
    return usage_error(
        "run", "--messages holds the whole conversation; it cannot be combined with --image, --video or --system");
  }
  if (flags.prompt.empty() && flags.messages.empty() && (flags.as_json || flags.replies != 1)) {
    return usage_error("run", "--json and --n need --prompt or --messages");
  }
  const auto code = run(flags);
  if (!code) clear_progress();
  return code ? *code : report("run", code.error());
}

}  // namespace keye::cli
