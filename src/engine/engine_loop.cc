#include "engine/engine_loop.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace keye::engine {
namespace {

/// Patches of small pictures that are encoded together: many enough to keep the machine busy, few enough for a slice of
/// the work not to hold replies up.
constexpr int64_t kPatchesTogether = 2048;
constexpr int64_t kDevicePatchesTogether = 16384;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

SchedulerLimits scheduler_limits(const model::Model& model, const EngineOptions& options) {
  const int step_tokens = model.step_tokens_max();
  return {.step_tokens = step_tokens,
          .chunk_tokens = std::clamp(options.chunk_tokens, 1, step_tokens),
          .running = std::min({options.running_max, step_tokens, model.step_logits_max()})};
}

}  // namespace

EngineLoop::EngineLoop(LoadedModel& loaded, const EngineOptions& options)
    : loaded_(loaded),
      work_of_turn_(*loaded.backend),
      cache_(loaded.model->kv_spec(), static_cast<int>(ops::pages_for(options.kv_tokens)), *loaded.backend),
      runner_(*loaded.model, cache_),
      scheduler_(scheduler_limits(*loaded.model, options), cache_.pages(), options.prefix_cache),
      vision_cache_(options.vision_cache_bytes),
      model_identity_(options.model_identity),
      shares_pages_(options.prefix_cache),
      samplers_(static_cast<size_t>(loaded.backend->workers()), Sampler(loaded.model->config().text.vocab)) {
  patches_together_ = (loaded.backend->on_host() ? kPatchesTogether : kDevicePatchesTogether) * loaded.ranks;
  ahead_bytes_max_ = options.vision_cache_bytes / 2;
  const auto n = static_cast<size_t>(loaded.model->step_tokens_max());
  for (auto& axis : positions_) axis.resize(n);
  batch_.reserve(n);
}

void EngineLoop::add(RequestId id, const std::shared_ptr<const Request>& request, TokenSink sink, Progress progress,
                     Clock::time_point arrived) {
  auto open = std::make_unique<Open>(
      Open{.id = id, .request = request, .sink = std::move(sink), .progress = std::move(progress), .arrived = arrived});
  // Without a cache only the replies of one request share their prompt.
  const Digest root = page_key_root(model_identity_, shares_pages_ ? request->cache_salt : fmt::format("#{}", id));
  const auto keys = std::make_shared<const std::vector<Digest>>(page_keys(*request->prompt, root));
  for (int i = 0; i < request->replies; ++i) {
    const SequenceId sequence = ++last_sequence_;
    open->replies.push_back(sequence);
    auto reply = std::make_unique<Active>(open.get(), Reply(request, i, loaded_.prompts->tokenizer()));
    reply->features.resize(request->prompt->vision.size());
    active_.emplace(sequence, std::move(reply));
    scheduler_.add({sequence, request->prompt, keys, root, request->priority});
  }
  if (request->deadline) deadlines_.emplace(*request->deadline, id);
  open_.emplace(id, std::move(open));
}

void EngineLoop::end(RequestId id, FinishReason reason) {
  end_preparing(id);
  const auto found = open_.find(id);
  if (found == open_.end()) return;
  const std::vector<SequenceId> replies = found->second->replies;
  for (const SequenceId sequence : replies) finish(sequence, active(sequence).reply.end(reason));
}

void EngineLoop::end_all(FinishReason reason) {
  while (!open_.empty()) end(open_.begin()->first, reason);
}

void EngineLoop::hold(RequestId id, bool held) {
  const auto found = open_.find(id);
  if (found == open_.end()) return;
  for (const SequenceId sequence : found->second->replies) scheduler_.hold(sequence, held);
}

void EngineLoop::flush_cache() {
  scheduler_.flush();
  vision_cache_.clear();
}

std::optional<Clock::time_point> EngineLoop::next_deadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return deadlines_.begin()->first;
}

void EngineLoop::end_late(Clock::time_point now) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    const RequestId id = deadlines_.begin()->second;
    deadlines_.erase(deadlines_.begin());
    end(id, FinishReason::deadline);
  }
}

bool EngineLoop::turn(Clock::time_point now) {
  now_ = now;
  end_late(now);
  const StepPlan& plan = scheduler_.plan();
  note_admissions(plan);
  const bool has_rows = !plan.rows.empty();
  const std::optional<PictureNeed> picture = plan.picture;
  if (has_rows) run_step(plan);
  if (picture && !vision_) {
    begin_vision(*picture);
  } else if (!vision_ && !ahead_.empty()) {
    begin_ahead();
  }
  const bool has_vision = vision_.has_value();
  if (has_vision) advance_vision();
  return has_rows || has_vision || picture.has_value() || !ahead_.empty();
}

void EngineLoop::note_admissions(const StepPlan& plan) {
  for (const SequenceId id : plan.preempted) {
    ++stats_.preemptions;
    std::fill(active(id).features.begin(), active(id).features.end(), nullptr);
  }
  for (const SequenceId id : plan.admitted) {
    Active& reply = active(id);
    if (reply.started) continue;  // again, after a preemption
    reply.started = now_;
    stats_.cached_tokens += static_cast<uint64_t>(scheduler_.find(id)->prompt_hits);
  }
}

// -- vision ------------------------------------------------------------------

void EngineLoop::begin_vision(const PictureNeed& need) {
  Active& reply = active(need.sequence);
  const prompt::VisionItem& item = scheduler_.find(need.sequence)->spec.prompt->vision[need.picture];
  if (reply.features[need.picture]) return scheduler_.picture_ready(need);  // came with one before it
  if (const Features found = vision_cache_.find(features_key(item.content, reply.open->request->cache_salt))) {
    ++stats_.pictures_found;
    return take_features(need, found);
  }
  reply.vision_begin = now_;
  const RequestId request = reply.open->id;
  if (!begin_job({.request = request, .sequence = need.sequence, .pictures = wanted_from(need)})) {
    end(request, FinishReason::failed);
  }
}

/// The picture, and those after it that are encoded together with it: frames of videos are small.
std::vector<EngineLoop::WantedPicture> EngineLoop::wanted_from(const PictureNeed& need) {
  const Active& reply = active(need.sequence);
  const std::vector<prompt::VisionItem>& pictures = scheduler_.find(need.sequence)->spec.prompt->vision;
  std::vector<WantedPicture> wanted;
  int64_t patches = 0;
  for (size_t i = need.picture; i < pictures.size(); ++i) {
    const Digest key = features_key(pictures[i].content, reply.open->request->cache_salt);
    const bool is_there = reply.features[i] || (i > need.picture && vision_cache_.find(key));
    const bool is_double =
        std::any_of(wanted.begin(), wanted.end(), [&](const auto& other) { return other.key == key; });
    if (is_there || is_double) continue;
    patches += pictures[i].grid.patches();
    if (!wanted.empty() && patches > patches_together_) break;
    wanted.push_back({pictures[i], key, i});
  }
  return wanted;
}

void EngineLoop::encode_ahead(RequestId preparing, const std::vector<prompt::VisionItem>& frames,
                              std::string_view cache_salt) {
  size_t& bytes = ahead_bytes_[preparing];
  for (const prompt::VisionItem& frame : frames) {
    bytes +=
        static_cast<size_t>(frame.tokens) * static_cast<size_t>(loaded_.model->config().text.hidden) * sizeof(float);
    if (bytes > ahead_bytes_max_) return;  // the first ones would be gone when they are needed
    ahead_.emplace_back(preparing, WantedPicture{frame, features_key(frame.content, cache_salt), 0});
  }
}

void EngineLoop::end_preparing(RequestId preparing) {
  std::erase_if(ahead_, [&](const auto& entry) { return entry.first == preparing; });
  ahead_bytes_.erase(preparing);
}

void EngineLoop::begin_ahead() {
  VisionJob job{.request = ahead_.front().first};
  int64_t patches = 0;
  while (!ahead_.empty() && ahead_.front().first == job.request) {
    WantedPicture& next = ahead_.front().second;
    if (!vision_cache_.find(next.key)) {
      patches += next.item.grid.patches();
      if (!job.pictures.empty() && patches > patches_together_) break;
      job.pictures.push_back(std::move(next));
    }
    ahead_.pop_front();
  }
  if (!job.pictures.empty()) begin_job(std::move(job));
}

/// False: there is no memory for it.
bool EngineLoop::begin_job(VisionJob job) {
  try {
    std::vector<model::VisionGrid> grids;
    std::vector<prompt::ImagePatches> patches;
    int64_t tokens = 0;
    int64_t count = 0;
    for (const WantedPicture& picture : job.pictures) {
      grids.push_back({picture.item.grid.rows, picture.item.grid.cols});
      patches.push_back(loaded_.prompts->image_processor()->patchify(*picture.item.image));
      tokens += picture.item.tokens;
      count += picture.item.grid.patches();
    }
    const Shape& shape = patches[0].pixel_values.shape();
    job.pixels = Tensor(DType::f32, {count, shape[1], shape[2], shape[3]});
    char* to = job.pixels.as<char>();
    for (const prompt::ImagePatches& one : patches) {
      const ConstView from = one.pixel_values.view();
      std::memcpy(to, from.data, from.bytes());
      to += from.bytes();
    }
    job.features = loaded_.backend->tensor(DType::f32, {tokens, loaded_.model->config().text.hidden});
    vision_ = std::move(job);
    loaded_.model->begin_vision(vision_->pixels.view(), grids, vision_->features.view());
    return true;
  } catch (const std::bad_alloc&) {
    vision_.reset();
    return false;
  }
}

/// The sequence, which waits for these features, has them.
void EngineLoop::take_features(const PictureNeed& need, const Features& features) {
  active(need.sequence).features[need.picture] = features;
  scheduler_.picture_ready(need);
}

void EngineLoop::advance_vision() {
  if (vision_->sequence && !scheduler_.waits_for({*vision_->sequence, vision_->pictures[0].place})) {
    vision_.reset();
    return;
  }
  const RequestId request = vision_->request;
  bool is_encoded = false;
  if (!work_of_turn_.run({&request, 1}, [&] { is_encoded = loaded_.model->advance_vision(); })) {
    vision_.reset();  // a slice left in the middle cannot be taken up again
    return;
  }
  if (is_encoded) finish_vision();
}

void EngineLoop::finish_vision() {
  const VisionJob job = std::move(*vision_);
  vision_.reset();
  int64_t done = 0;
  for (const WantedPicture& picture : job.pictures) {
    const ConstView rows_of_it = rows(job.features.view(), done, done + picture.item.tokens);
    auto features = std::make_shared<Tensor>(loaded_.backend->tensor(DType::f32, rows_of_it.shape));
    loaded_.backend->copy(features->view().data, rows_of_it.data, rows_of_it.bytes());
    done += picture.item.tokens;
    ++stats_.pictures_encoded;
    vision_cache_.add(picture.key, features, features->view().bytes());
    if (job.sequence) {
      active(*job.sequence).features[picture.place] = features;
      scheduler_.picture_ready({*job.sequence, picture.place});
    }
  }
  if (!job.sequence) return;
  Active& reply = active(*job.sequence);
  reply.vision_seconds += seconds_between(reply.vision_begin, Clock::now());
  if (reply.open->progress) {
    const auto& pictures = reply.reply.request().prompt->vision;
    reply.open->progress("vision", static_cast<int64_t>(job.pictures.back().place) + 1,
                         static_cast<int64_t>(pictures.size()));
  }
}

// -- steps -------------------------------------------------------------------

void EngineLoop::run_step(const StepPlan& plan) {
  const Clock::time_point start = Clock::now();
  build_batch(plan);
  requests_.clear();
  for (const PlannedRows& rows : plan.rows) requests_.push_back(active(rows.sequence->spec.id).open->id);
  ConstView logits;
  if (work_of_turn_.run(requests_, [&] { logits = runner_.step(batch_); })) {
    sample(plan, logits);
    deliver(plan);
    ++stats_.steps;
  } else {
    ++stats_.steps_abandoned;
  }
  stats_.busy_seconds += seconds_between(start, Clock::now());
}

void EngineLoop::build_batch(const StepPlan& plan) {
  batch_.clear();
  size_t at = 0;
  for (const PlannedRows& rows : plan.rows) {
    const Sequence& sequence = *rows.sequence;
    const prompt::Prompt& prompt = *sequence.spec.prompt;
    const auto count = static_cast<size_t>(rows.count);
    SequenceStep step{.tokens = std::span(sequence.tokens).subspan(static_cast<size_t>(rows.first), count),
                      .positions = {},
                      .context = static_cast<int32_t>(rows.first),
                      .pages = sequence.pages,
                      .features = {},
                      .logits = rows.samples ? SequenceStep::Logits::last : SequenceStep::Logits::none};
    for (size_t axis = 0; axis < 3; ++axis) {
      const std::vector<int32_t>& given = prompt.positions[axis];
      for (size_t i = 0; i < count; ++i) {
        const size_t index = static_cast<size_t>(rows.first) + i;
        positions_[axis][at + i] =
            index < given.size() ? given[index] : static_cast<int32_t>(index) + prompt.position_delta;
      }
      step.positions[axis] = std::span<const int32_t>(positions_[axis]).subspan(at, count);
    }
    if (rows.first < sequence.prompt_length() && !prompt.vision.empty()) {
      Active& reply = active(sequence.spec.id);
      place_features(reply, sequence);
      step.features = reply.placed;
    }
    at += count;
    batch_.push_back(step);
  }
}

/// Features that are there, with their places; those whose tokens are all computed are let go.
void EngineLoop::place_features(Active& reply, const Sequence& sequence) {
  reply.placed.clear();
  const std::vector<prompt::VisionItem>& pictures = sequence.spec.prompt->vision;
  for (size_t i = 0; i < pictures.size(); ++i) {
    if (int64_t{pictures[i].first_token} + pictures[i].tokens <= sequence.computed) reply.features[i] = nullptr;
    if (reply.features[i]) reply.placed.push_back({reply.features[i]->view(), pictures[i].first_token});
  }
}

void EngineLoop::sample(const StepPlan& plan, ConstView logits) {
  sampling_.clear();
  for (const PlannedRows& rows : plan.rows) {
    if (rows.samples) sampling_.push_back(&rows);
  }
  sampled_.resize(sampling_.size());
  tokens_.resize(sampling_.size());
  const auto vocab = static_cast<size_t>(logits.shape[1]);
  loaded_.backend->for_each(static_cast<int64_t>(sampling_.size()), [&](int64_t item, int worker) {
    const auto i = static_cast<size_t>(item);
    const Sequence& sequence = *sampling_[i]->sequence;
    const Reply& reply = active(sequence.spec.id).reply;
    const std::span<const float> row(logits.as<float>() + i * vocab, vocab);
    sampled_[i] =
        samplers_[static_cast<size_t>(worker)].sample(row, reply.sampling(), reply.history(), sequence.length());
    tokens_[i] = sampled_[i].token;
  });
}

/// Tells the scheduler, then the sinks.
void EngineLoop::deliver(const StepPlan& plan) {
  const Clock::time_point now = Clock::now();
  for (const PlannedRows& rows : plan.rows) {
    const Sequence& sequence = *rows.sequence;
    const int64_t of_prompt = std::clamp<int64_t>(sequence.prompt_length() - rows.first, 0, rows.count);
    stats_.prompt_tokens += static_cast<uint64_t>(of_prompt);
    const Open& open = *active(sequence.spec.id).open;
    if (of_prompt > 0 && open.progress) open.progress("prefill", rows.first + of_prompt, sequence.prompt_length());
  }
  sampled_ids_.clear();
  for (const PlannedRows* rows : sampling_) sampled_ids_.push_back(rows->sequence->spec.id);
  scheduler_.commit(tokens_);
  for (size_t i = 0; i < sampled_ids_.size(); ++i) {
    Active& reply = active(sampled_ids_[i]);
    ++stats_.generated_tokens;
    if (!reply.first_token) reply.first_token = now;
    TokenEvent event = reply.reply.accept(std::move(sampled_[i]));
    if (event.finish) {
      finish(sampled_ids_[i], std::move(event));
    } else {
      event.cached_tokens = scheduler_.find(sampled_ids_[i])->prompt_hits;
      reply.open->sink(std::move(event));
    }
  }
}

void EngineLoop::finish(SequenceId id, TokenEvent&& event) {
  Active& reply = active(id);
  Open& open = *reply.open;
  const Clock::time_point now = Clock::now();
  event.cached_tokens = std::max<int64_t>(0, scheduler_.find(id)->prompt_hits);
  const Clock::time_point started = reply.started.value_or(now);
  const Clock::time_point first_token = reply.first_token.value_or(now);
  event.timings = {.queued = seconds_between(open.arrived, started),
                   .vision = reply.vision_seconds,
                   .prefill = std::max(0.0, seconds_between(started, first_token) - reply.vision_seconds),
                   .decode = seconds_between(first_token, now)};
  scheduler_.remove(id);
  std::erase(open.replies, id);
  const bool is_last = open.replies.empty();
  open.sink(std::move(event));
  if (is_last) {
    if (open.request->deadline) {
      auto [first, last] = deadlines_.equal_range(*open.request->deadline);
      const auto own = std::find_if(first, last, [&](const auto& entry) { return entry.second == open.id; });
      if (own != last) deadlines_.erase(own);
    }
    open_.erase(open.id);
  }
  active_.erase(id);
}

EngineStats EngineLoop::stats() const {
  EngineStats stats = stats_;
  stats.waiting = scheduler_.waiting();
  stats.running = scheduler_.running();
  const PageStore& store = scheduler_.store();
  stats.pages_total = store.total_pages();
  stats.pages_kept = store.kept_pages();
  stats.pages_used = store.total_pages() - store.available_pages();
  stats.vision_cache_bytes = vision_cache_.bytes();
  return stats;
}

}  // namespace keye::engine
