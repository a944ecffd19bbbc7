#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <mutex>

namespace keye::server {

namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

const Buckets kFirstToken = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640};
const Buckets kNextToken = {0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5};
const Buckets kWhole = {0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560};
const Buckets kPart = {0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};

}  // namespace

struct Metrics::Impl {
  explicit Impl(const std::string& model) : labels{{"model_name", model}} {}

  Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return BuildHistogram().Name(name).Help(help).Labels(labels).Register(registry).Add({}, buckets);
  }
  Counter& counter(const char* name, const char* help) {
    return BuildCounter().Name(name).Help(help).Labels(labels).Register(registry).Add({});
  }
  Family<Counter>& counters(const char* name, const char* help) {
    return BuildCounter().Name(name).Help(help).Labels(labels).Register(registry);
  }
  /// Raises a counter to a total that somebody else keeps.
  static void raise(Counter& counter, double total) {
    if (total > counter.Value()) counter.Increment(total - counter.Value());
  }
  void set(const char* name, const char* help, double value) {
    auto [place, is_new] = gauges.try_emplace(name, nullptr);
    if (is_new) place->second = &BuildGauge().Name(name).Help(help).Labels(labels).Register(registry).Add({});
    place->second->Set(value);
  }
  void total(const char* name, const char* help, double value) {
    auto [place, is_new] = totals.try_emplace(name, nullptr);
    if (is_new) place->second = &counter(name, help);
    raise(*place->second, value);
  }

  prometheus::Labels labels;
  prometheus::Registry registry;
  std::mutex mutex;  // of the maps
  std::map<std::string, Gauge*> gauges;
  std::map<std::string, Counter*> totals;
  Histogram& first_token =
      histogram("keye_time_to_first_token_seconds", "From a request to its first token.", kFirstToken);
  Histogram& next_token = histogram("keye_inter_token_latency_seconds", "From a token to the next one.", kNextToken);
  Histogram& whole = histogram("keye_e2e_request_latency_seconds", "From a request to the end of a reply.", kWhole);
  Histogram& queued = histogram("keye_queue_time_seconds", "From a request's preparation to its first step.", kPart);
  Histogram& media =
      histogram("keye_media_time_seconds",
                "From a request with pictures to its prompt: waiting for that, fetching, decoding, resizing.", kPart);
  Histogram& vision = histogram("keye_vision_time_seconds", "Encoding the pictures of a request.", kPart);
  Counter& prompt_tokens = counter("keye_prompt_tokens_total", "Tokens of prompts of finished replies.");
  Counter& generation_tokens = counter("keye_generation_tokens_total", "Tokens of finished replies.");
  Counter& cached_tokens = counter("keye_cached_tokens_total", "Tokens of prompts that did not have to be computed.");
  Family<Counter>& replies = counters("keye_replies_total", "Finished replies, by reason.");
  Family<Counter>& errors = counters("keye_request_errors_total", "Requests that ended with an error, by kind.");
  Family<Counter>& responses = counters("keye_http_responses_total", "Responses, by path and status.");
};

Metrics::Metrics(const std::string& model) : impl_(std::make_unique<Impl>(model)) {}
Metrics::~Metrics() = default;

void Metrics::observe_media(double seconds) { impl_->media.Observe(seconds); }
void Metrics::observe_first_token(double seconds) { impl_->first_token.Observe(seconds); }
void Metrics::observe_next_token(double seconds) { impl_->next_token.Observe(seconds); }

void Metrics::observe_reply(const ReplyNumbers& reply) {
  impl_->whole.Observe(reply.seconds);
  impl_->queued.Observe(reply.queued);
  if (reply.vision > 0) impl_->vision.Observe(reply.vision);
  impl_->prompt_tokens.Increment(static_cast<double>(reply.prompt_tokens));
  impl_->cached_tokens.Increment(static_cast<double>(reply.cached_tokens));
  impl_->generation_tokens.Increment(static_cast<double>(reply.tokens));
  impl_->replies.Add({{"finish_reason", std::string(reply.finish)}}).Increment();
}

void Metrics::count_error(std::string_view kind) { impl_->errors.Add({{"kind", std::string(kind)}}).Increment(); }

void Metrics::count_response(std::string_view path, int status) {
  impl_->responses.Add({{"path", std::string(path)}, {"status", std::to_string(status)}}).Increment();
}

std::string Metrics::text(const engine::EngineStats& engine, const HttpStats& http,
                          const engine::ChatClientStats& chats) {
  {
    const std::lock_guard lock(impl_->mutex);
    const auto number = [](auto value) { return static_cast<double>(value); };
    impl_->set("keye_num_running_reqs", "Replies that are being computed.", number(engine.running));
    impl_->set("keye_num_queue_reqs", "Replies that wait for their turn.", number(engine.waiting));
    impl_->set("keye_num_preparing_reqs", "Requests whose prompts are being prepared.", number(chats.preparing));
    impl_->set("keye_kv_pages", "Pages of the KV cache.", number(engine.pages_total));
    impl_->set("keye_kv_pages_used", "Pages that running replies hold.", number(engine.pages_used));
    impl_->set("keye_kv_pages_kept", "Pages kept for later requests.", number(engine.pages_kept));
    impl_->set("keye_vision_cache_bytes", "Features of pictures kept.", number(engine.vision_cache_bytes));
    impl_->set("keye_video_cache_bytes", "Prepared videos kept.", number(chats.videos.bytes));
    impl_->set("keye_connections", "Open connections.", number(http.connections));
    impl_->set("keye_seconds_since_step", "Since the engine's loop last turned.", engine.seconds_since_step);
    impl_->total("keye_engine_steps_total", "Steps of the decoder.", number(engine.steps));
    impl_->total("keye_engine_steps_abandoned_total", "Steps left in the middle, as their request was aborted.",
                 number(engine.steps_abandoned));
    impl_->total("keye_engine_busy_seconds_total", "Time spent in steps.", engine.busy_seconds);
    impl_->total("keye_engine_prompt_tokens_total", "Tokens of prompts computed, after preemptions again.",
                 number(engine.prompt_tokens));
    impl_->total("keye_engine_generated_tokens_total", "Tokens sampled.", number(engine.generated_tokens));
    impl_->total("keye_preemptions_total", "Replies that gave up their pages for others.", number(engine.preemptions));
    impl_->total("keye_pictures_encoded_total", "Pictures encoded.", number(engine.pictures_encoded));
    impl_->total("keye_pictures_found_total", "Pictures whose features were kept.", number(engine.pictures_found));
    impl_->total("keye_videos_prepared_total", "Videos decoded and resized.", number(chats.videos.prepared));
    impl_->total("keye_videos_found_total", "Videos that did not have to be decoded.", number(chats.videos.found));
    impl_->total("keye_connections_accepted_total", "Connections accepted.", number(http.accepted));
    impl_->total("keye_connections_refused_total", "Connections over the limit.", number(http.refused));
  }
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace keye::server
