// The engine without its thread: one turn at a time.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"
#include "engine/interruptible.h"
#include "engine/reply.h"
#include "engine/runner.h"
#include "engine/scheduler.h"
#include "engine/vision_cache.h"

namespace keye::engine {

class EngineLoop {
 public:
  EngineLoop(LoadedModel& loaded, const EngineOptions& options);

  /// A request that was checked. `sink` hears of its replies until the last one's finish.
  void add(RequestId id, const std::shared_ptr<const Request>& request, TokenSink sink, Progress progress,
           Clock::time_point arrived);
  void end(RequestId id, FinishReason reason);
  void hold(RequestId id, bool held);
  void encode_ahead(RequestId preparing, const std::vector<prompt::VisionItem>& frames, std::string_view cache_salt);
  void end_preparing(RequestId preparing);
  void flush_cache();
  void end_all(FinishReason reason);

  /// One step of the decoder and one slice of the vision encoder, if there is anything to do; either is left, without
  /// effect, when one of its requests is abandoned. False: nothing can be done before another call of the above, or the
  /// next deadline.
  bool turn(Clock::time_point now);
  std::optional<Clock::time_point> next_deadline() const;
  bool is_idle() const { return active_.empty(); }

  /// For other threads: what a turn is at work for.
  Interruptible& work() { return work_of_turn_; }

  EngineStats stats() const;
  const Scheduler& scheduler() const { return scheduler_; }

 private:
  /// A request of which some reply is not over.
  struct Open {
    RequestId id = 0;
    std::shared_ptr<const Request> request;
    TokenSink sink;
    Progress progress;
    std::vector<SequenceId> replies;  // that are not over
    Clock::time_point arrived;
  };
  /// A reply that is not over.
  struct Active {
    Active(Open* of_request, Reply reply_) : open(of_request), reply(std::move(reply_)) {}

    Open* open;
    Reply reply;
    std::vector<Features> features;            // of the prompt's pictures; null: not there, or not needed any more
    std::vector<PlacedFeatures> placed;        // the same, for a step
    std::optional<Clock::time_point> started;  // its first step
    std::optional<Clock::time_point> first_token;
    Clock::time_point vision_begin;  // of its last picture
    double vision_seconds = 0;
  };
  /// A picture to be encoded, by its place in its prompt.
  struct WantedPicture {
    prompt::VisionItem item;
    Digest key;  // in the cache
    size_t place = 0;
  };
  /// The pictures that are being encoded together.
  struct VisionJob {
    RequestId request = 0;
    std::optional<SequenceId> sequence;  // that waits for the first; nothing: they are encoded ahead
    std::vector<WantedPicture> pictures;
    Tensor pixels;
    Tensor features;  // of all of them
  };

  void end_late(Clock::time_point now);
  void begin_vision(const PictureNeed& need);
  void begin_ahead();
  bool begin_job(VisionJob job);
  std::vector<WantedPicture> wanted_from(const PictureNeed& need);
  void take_features(const PictureNeed& need, const Features& features);
  void advance_vision();
  void finish_vision();
  void run_step(const StepPlan& plan);
  void build_batch(const StepPlan& plan);
  void place_features(Active& active, const Sequence& sequence);
  void sample(const StepPlan& plan, ConstView logits);
  void deliver(const StepPlan& plan);
  void finish(SequenceId id, TokenEvent&& event);
  void note_admissions(const StepPlan& plan);
  Active& active(SequenceId id) { return *active_.at(id); }

  LoadedModel& loaded_;
  Interruptible work_of_turn_;
  model::KvCache cache_;
  Runner runner_;
  Scheduler scheduler_;
  VisionCache vision_cache_;
  std::string model_identity_;
  bool shares_pages_;
  std::unordered_map<RequestId, std::unique_ptr<Open>> open_;
  std::unordered_map<SequenceId, std::unique_ptr<Active>> active_;
  std::multimap<Clock::time_point, RequestId> deadlines_;
  std::optional<VisionJob> vision_;
  int64_t patches_together_ = 0;
  size_t ahead_bytes_max_ = 0;
  std::deque<std::pair<RequestId, WantedPicture>> ahead_;  // to be encoded when there is time
  std::unordered_map<RequestId, size_t> ahead_bytes_;      // of features, of each request that is being prepared
  std::vector<Sampler> samplers_;                          // one for each of the backend's workers
  EngineStats stats_;
  SequenceId last_sequence_ = 0;
  Clock::time_point now_;
  // Scratch of a step.
  std::vector<SequenceStep> batch_;
  std::array<std::vector<int32_t>, 3> positions_;
  std::vector<const PlannedRows*> sampling_;
  std::vector<Sampled> sampled_;
  std::vector<int32_t> tokens_;
  std::vector<SequenceId> sampled_ids_;
  std::vector<RequestId> requests_;
};

}  // namespace keye::engine
