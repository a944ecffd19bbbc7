// The thread that owns a model: requests in from any thread, tokens out through their sinks.
//
// Each turn of its loop takes what has arrived, asks the scheduler for a plan, runs one step of the decoder and one
// slice of the vision encoder, samples, and tells the sinks. Nothing else touches the model, the cache or the
// scheduler.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "engine/load.h"
#include "engine/request.h"

namespace keye::engine {

struct EngineOptions {
  int64_t kv_tokens = 8192;  // that the cache holds, of all sequences together
  int64_t context_max = 0;   // of one sequence; 0: the model's own, or what the cache holds
  int running_max = 64;      // replies that are computed together
  int queued_max = 1024;     // replies that wait
  int chunk_tokens = 512;    // of prompts, in one step; results do not depend on it
  bool prefix_cache = true;  // whether requests find what earlier ones have computed
  size_t vision_cache_bytes = size_t{512} << 20;
  std::string model_identity;  // of what is computed with: part of the names of kept pages
};

/// Counters since the start, and what is there now.
struct EngineStats {
  int waiting = 0, running = 0;
  int pages_total = 0, pages_used = 0, pages_kept = 0;
  size_t vision_cache_bytes = 0;
  uint64_t steps = 0;
  uint64_t steps_abandoned = 0;  // in the middle, as nobody wanted their results any more
  uint64_t prompt_tokens = 0;    // computed, after preemptions again
  uint64_t cached_tokens = 0;    // of prompts, found
  uint64_t generated_tokens = 0;
  uint64_t preemptions = 0;
  uint64_t pictures_encoded = 0, pictures_found = 0;
  double busy_seconds = 0;        // spent in steps
  double seconds_since_step = 0;  // since the loop last turned; large while it has work: it hangs
};

class Engine {
 public:
  Engine(LoadedModel loaded, const EngineOptions& options);
  /// As stop().
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const prompt::PromptBuilder& prompts() const;
  const model::ModelConfig& config() const;
  const model::GenerationDefaults& generation() const;
  /// The most tokens of one sequence, prompt and reply.
  int64_t context_max() const;

  /// Admits the request; from then on the sink gets exactly one finish for each of its replies. stop.max_tokens is cut
  /// to what the context holds. Errors: invalid_argument (sampling fields), too_large (the prompt does not fit),
  /// overloaded (too many replies wait), unavailable (the engine has stopped).
  Result<RequestId> submit(Request request, TokenSink sink, Progress progress = {});
  /// Frames of a request that is still being prepared: they are encoded while nobody else needs the vision encoder, so
  /// that the request finds them; no more than half of what is kept of pictures. `preparing` comes from
  /// new_preparing(), and end_preparing() forgets what was not begun.
  RequestId new_preparing();
  void encode_ahead(RequestId preparing, std::vector<prompt::VisionItem> frames, const std::string& cache_salt);
  void end_preparing(RequestId preparing);

  /// Ends the request's unfinished replies, or what is encoded ahead for it; a step that is under way for it is left,
  /// where the device can. Unknown and finished requests are ignored.
  void abort(RequestId id, FinishReason reason = FinishReason::cancelled);
  /// A held request makes no progress, until it is let go: its reader is slow.
  void hold(RequestId id, bool held);
  /// Forgets all that is kept for later requests.
  void flush_cache();

  EngineStats stats() const;
  /// Ends all replies with this reason and the thread with them. Where a rank of the model is lost (comm/group.h), they
  /// end by themselves, with FinishReason::lost, and nothing is taken any more.
  void stop(FinishReason reason = FinishReason::shutdown);

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace keye::engine
