#include "engine/generate.h"

#include <algorithm>
#include <chrono>

#include "text/detokenizer.h"

namespace keye::engine {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::span<const float> logits_row(ConstView logits, int64_t row) {
  const auto vocab = static_cast<size_t>(logits.shape[1]);
  return {logits.as<float>() + static_cast<size_t>(row) * vocab, vocab};
}

}  // namespace

/// The state of one reply while it is written.
struct Generator::Reply {
  int index = 0;
  SamplingParams sampling;
  std::vector<int32_t> pages;
  TokenHistory history;
  text::Detokenizer detokenizer;
  StopStrings stops;
  int64_t length = 0;  // tokens of prompt and reply, the newest not yet in the cache
  int32_t last_token = 0;
  int tokens = 0;  // of the reply
  bool done = false;
};

Generator::Generator(model::Model& model, model::KvCache& cache, const text::Tokenizer& tokenizer)
    : model_(model),
      cache_(cache),
      tokenizer_(tokenizer),
      runner_(model, cache),
      sampler_(model.config().text.vocab),
      pool_(cache.pages()) {}

Result<void> Generator::check(const Request& request) const {
  const model::TextConfig& text = model_.config().text;
  KEYE_TRY_VOID(check_sampling(request.sampling, text.vocab));
  if (request.prompt.tokens.empty()) return make_error(ErrorCode::invalid_argument, "prompt", "is empty");
  if (request.replies < 1 || request.replies > std::min(128, model_.step_logits_max())) {
    return make_error(ErrorCode::invalid_argument, "n", "should be in [1, {}], got {}",
                      std::min(128, model_.step_logits_max()), request.replies);
  }
  if (request.stop.max_tokens < 1) {
    return make_error(ErrorCode::invalid_argument, "max_tokens", "should be at least 1, got {}",
                      request.stop.max_tokens);
  }
  for (const int32_t token : request.prompt.tokens) {
    if (token < 0 || token >= text.vocab) {
      return make_error(ErrorCode::invalid_argument, "prompt", "token id {} is not in [0, {})", token, text.vocab);
    }
  }
  const auto length = static_cast<int64_t>(request.prompt.tokens.size());
  const int64_t longest = length + request.stop.max_tokens;
  if (longest > text.positions_max) {
    return make_error(ErrorCode::too_large, "prompt",
                      "{} tokens of prompt and up to {} of reply exceed the model's context of {}", length,
                      request.stop.max_tokens, text.positions_max);
  }
  // Replies share the prompt's whole pages.
  const int64_t shared = length / ops::kPageTokens;
  const int64_t needed = shared + request.replies * (ops::pages_for(longest) - shared) + 1;
  if (needed > pool_.free_pages()) {
    return make_error(ErrorCode::too_large, "prompt", "needs {} pages of KV cache ({} tokens each), {} are free",
                      needed, ops::kPageTokens, pool_.free_pages());
  }
  return {};
}

void Generator::grow(std::vector<int32_t>& pages, int64_t tokens) {
  while (static_cast<int64_t>(pages.size()) < ops::pages_for(tokens)) {
    const int32_t page = pool_.take();
    KEYE_CHECK(page >= 0, "check() admits only what fits");
    pages.push_back(page);
  }
}

std::vector<int32_t> Generator::fork(const std::vector<int32_t>& pages, int64_t tokens) {
  std::vector<int32_t> copy;
  const auto whole = static_cast<size_t>(tokens / ops::kPageTokens);
  for (size_t i = 0; i < whole; ++i) {
    pool_.share(pages[i]);
    copy.push_back(pages[i]);
  }
  if (tokens % ops::kPageTokens != 0) {
    grow(copy, tokens);
    cache_.copy_page(pages[whole], copy[whole]);
  }
  return copy;
}

Result<Timings> Generator::run(const Request& request, const GenerateOptions& options, const TokenSink& sink,
                               const std::stop_token& stop) {
  KEYE_TRY_VOID(check(request));
  const prompt::Prompt& prompt = request.prompt;
  const auto length = static_cast<int64_t>(prompt.tokens.size());
  Timings timings;
  timings.prompt_tokens = length;
  auto start = std::chrono::steady_clock::now();
  const EncodedPictures pictures = encode_pictures(model_, prompt, options.progress);
  timings.vision = seconds_since(start);

  start = std::chrono::steady_clock::now();
  std::vector<int32_t> pages;
  ConstView logits;
  const int64_t chunk = std::clamp(options.prefill_chunk, 1, model_.step_tokens_max());
  for (int64_t done = 0; done < length && !stop.stop_requested();) {
    const int64_t count = std::min(chunk, length - done);
    grow(pages, done + count);
    SequenceStep step = prompt_step(prompt, done, count, pages, pictures.placed);
    if (done + count == length) step.logits = SequenceStep::Logits::last;
    logits = runner_.step({&step, 1});
    done += count;
    if (options.progress) options.progress("prefill", done, length);
  }
  timings.prefill = seconds_since(start);

  start = std::chrono::steady_clock::now();
  std::vector<Reply> replies;
  replies.reserve(static_cast<size_t>(request.replies));
  for (int i = 0; i < request.replies; ++i) {
    Reply reply{.index = i,
                .sampling = request.sampling,
                .pages = {},
                .history = {},
                .detokenizer = text::Detokenizer(tokenizer_, request.skip_special_tokens),
                .stops = StopStrings(request.stop.strings)};
    reply.sampling.seed += static_cast<uint64_t>(i);
    reply.length = length;
    reply.history.add_prompt(prompt.tokens);
    replies.push_back(std::move(reply));
  }
  if (!stop.stop_requested()) {
    for (Reply& reply : replies) {
      const bool is_last = reply.index + 1 == request.replies;
      reply.pages = is_last ? std::move(pages) : fork(pages, length);
      if (is_last) pages.clear();
      accept(reply, logits_row(logits, 0), request, sink);
    }
  }
  std::vector<SequenceStep> batch;
  std::vector<int32_t> positions(replies.size());
  std::vector<Reply*> running;
  while (!stop.stop_requested()) {
    batch.clear();
    running.clear();
    for (Reply& reply : replies) {
      if (!reply.done) running.push_back(&reply);
    }
    if (running.empty()) break;
    for (size_t i = 0; i < running.size(); ++i) {
      Reply& reply = *running[i];
      const auto index = static_cast<int32_t>(reply.length - 1);  // the newest token is not in the cache yet
      grow(reply.pages, reply.length);
      positions[i] = index + prompt.position_delta;
      const std::span<const int32_t> position(&positions[i], 1);
      batch.push_back({.tokens = {&reply.last_token, 1},
                       .positions = {position, position, position},
                       .context = index,
                       .pages = reply.pages,
                       .features = {},
                       .logits = SequenceStep::Logits::last});
    }
    const ConstView step_logits = runner_.step(batch);
    for (size_t i = 0; i < running.size(); ++i) {
      accept(*running[i], logits_row(step_logits, static_cast<int64_t>(i)), request, sink);
    }
  }
  for (Reply& reply : replies) {
    if (!reply.done) cancel(reply, sink);
    timings.decoded_tokens += reply.tokens;
    for (const int32_t page : reply.pages) pool_.release(page);
  }
  for (const int32_t page : pages) pool_.release(page);
  timings.decode = seconds_since(start);
  return timings;
}

void Generator::accept(Reply& reply, std::span<const float> logits, const Request& request, const TokenSink& sink) {
  const Sampled sampled = sampler_.sample(logits, reply.sampling, reply.history, reply.length);
  reply.history.add_reply(sampled.token);
  reply.last_token = sampled.token;
  ++reply.length;
  ++reply.tokens;
  const StopRules& rules = request.stop;
  const bool is_stop_token = !rules.ignore_eos && std::find(rules.token_ids.begin(), rules.token_ids.end(),
                                                            sampled.token) != rules.token_ids.end();
  TokenEvent event{.reply = reply.index, .token = sampled.token, .logprob = sampled.logprob, .text = {}, .finish = {}};
  const bool is_last = is_stop_token || reply.tokens >= rules.max_tokens;
  // A stop token ends the reply; its own text is no part of it.
  std::string piece = is_stop_token ? std::string() : reply.detokenizer.push(sampled.token);
  if (is_last) piece += reply.detokenizer.flush();
  event.text = reply.stops.push(piece);
  if (reply.stops.hit()) {
    event.finish = FinishReason::stop;
  } else if (is_last) {
    event.text += reply.stops.flush();
    event.finish = is_stop_token ? FinishReason::stop : FinishReason::length;
  }
  reply.done = event.finish.has_value();
  sink(event);
}

void Generator::cancel(Reply& reply, const TokenSink& sink) {
  reply.done = true;
  std::string text = reply.stops.push(reply.detokenizer.flush());
  text += reply.stops.flush();
  sink({.reply = reply.index, .text = std::move(text), .finish = FinishReason::cancelled});
}

}  // namespace keye::engine
