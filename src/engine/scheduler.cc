#include "engine/scheduler.h"

#include <algorithm>

#include "ops/paged_kv.h"

namespace keye::engine {

using ops::kPageTokens;
using ops::pages_for;

Scheduler::Scheduler(const SchedulerLimits& limits, int pages, bool keeps_pages)
    : limits_(limits), store_(pages, keeps_pages) {
  KEYE_CHECK(limits.chunk_tokens > 0 && limits.running > 0 && limits.running <= limits.step_tokens);
  plan_.rows.reserve(static_cast<size_t>(limits.running));
  in_order_.reserve(static_cast<size_t>(limits.running));
}

void Scheduler::add(SequenceSpec spec) {
  const SequenceId id = spec.id;
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = spec.prompt->tokens;
  KEYE_CHECK(!sequence->tokens.empty() && pages_for(sequence->length() + 1) <= store_.total_pages(),
             "{} tokens do not fit into {} pages", sequence->length(), store_.total_pages());
  sequence->spec = std::move(spec);
  sequence->arrival = arrivals_++;
  waiting_.insert(sequence.get());
  const bool is_new = sequences_.emplace(id, std::move(sequence)).second;
  KEYE_CHECK(is_new, "sequence {} is there already", id);
}

void Scheduler::remove(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  Sequence& sequence = *found->second;
  if (sequence.running) {
    give_back(sequence);
    running_.erase(&sequence);
  } else {
    waiting_.erase(&sequence);
  }
  sequences_.erase(found);
}

void Scheduler::hold(SequenceId id, bool held) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  found->second->held = held;
  if (held) forget_promises(*found->second);  // nobody may wait for it
}

void Scheduler::picture_ready(const PictureNeed& need) {
  if (waits_for(need)) ++sequences_.at(need.sequence)->next_picture;
}

bool Scheduler::waits_for(const PictureNeed& need) const {
  const Sequence* sequence = find(need.sequence);
  return sequence != nullptr && sequence->running && sequence->next_picture == need.picture;
}

const Sequence* Scheduler::find(SequenceId id) const {
  const auto found = sequences_.find(id);
  return found == sequences_.end() ? nullptr : found->second.get();
}

const StepPlan& Scheduler::plan() {
  plan_.rows.clear();
  plan_.picture.reset();
  plan_.admitted.clear();
  plan_.preempted.clear();
  admit();
  plan_replies();
  plan_prompts();
  return plan_;
}

// -- admission ---------------------------------------------------------------

void Scheduler::admit() {
  for (auto next = waiting_.begin(); next != waiting_.end();) {
    Sequence& sequence = **next;
    Admission answer = try_admit(sequence);
    while (answer == Admission::no_room && held_running() != nullptr) {
      preempt(*held_running());
      answer = try_admit(sequence);
    }
    if (answer == Admission::no_room) return;  // nobody behind it may take the place that it waits for
    if (answer == Admission::later) {
      ++next;
      continue;
    }
    next = waiting_.erase(next);
    running_.insert(&sequence);
    plan_.admitted.push_back(sequence.spec.id);
  }
}

Scheduler::Admission Scheduler::try_admit(Sequence& sequence) {
  if (sequence.held) return Admission::later;
  if (sequence.waits_for && being_computed_.contains(*sequence.waits_for)) return Admission::later;
  const size_t matched = count_matches(sequence);
  if (waits_for_others(sequence, matched)) return Admission::later;
  if (running() >= limits_.running) return Admission::no_room;

  const std::vector<Digest>& keys = *sequence.spec.keys;
  const size_t of_prompt = std::min(matched, keys.size());
  store_.take_matches(keys, of_prompt, sequence.pages);
  store_.take_matches(sequence.reply_keys, matched - of_prompt, sequence.pages);
  const int64_t needed = pages_for(sequence.length() + 1) - static_cast<int64_t>(matched);
  // Every running sequence may want another page soon: leave it, or the newcomer would only drive somebody out.
  if (needed + running() > store_.available_pages()) {
    give_back(sequence);
    return Admission::no_room;
  }
  for (int64_t i = 0; i < needed; ++i) sequence.pages.push_back(store_.take());
  sequence.computed = static_cast<int64_t>(matched) * kPageTokens;
  if (sequence.prompt_hits < 0) sequence.prompt_hits = sequence.computed;
  sequence.running = true;
  sequence.next_picture = 0;
  for (size_t page = matched; page < keys.size(); ++page) being_computed_.try_emplace(keys[page], sequence.spec.id);
  return Admission::admitted;
}

/// Pages of the sequence that are there. The last token is always computed, as its logits are wanted.
size_t Scheduler::count_matches(const Sequence& sequence) const {
  const auto limit = static_cast<size_t>((sequence.length() - 1) / kPageTokens);
  const std::span<const Digest> keys(*sequence.spec.keys);
  size_t matched = store_.count_matches(keys.first(std::min(limit, keys.size())));
  if (matched == keys.size() && matched < limit) {
    const std::span<const Digest> reply(sequence.reply_keys);
    matched += store_.count_matches(reply.first(std::min(limit - matched, reply.size())));
  }
  return matched;
}

/// Whether a running sequence is at work on the first page that this one does not find.
bool Scheduler::waits_for_others(Sequence& sequence, size_t matched) const {
  const std::vector<Digest>& keys = *sequence.spec.keys;
  sequence.waits_for.reset();
  if (matched >= keys.size() || !being_computed_.contains(keys[matched])) return false;
  sequence.waits_for = keys[matched];
  return true;
}

// -- steps -------------------------------------------------------------------

/// The end of what can be computed now: up to the next picture that is not encoded.
int64_t Scheduler::ready_end(Sequence& sequence) {
  const std::vector<prompt::VisionItem>& pictures = sequence.spec.prompt->vision;
  // Pictures whose tokens are all computed need no encoding.
  while (sequence.next_picture < pictures.size()) {
    const prompt::VisionItem& picture = pictures[sequence.next_picture];
    if (int64_t{picture.first_token} + picture.tokens > sequence.computed) return picture.first_token;
    ++sequence.next_picture;
  }
  return sequence.length();
}

/// The sequences that lack only their newest token, each with one row.
void Scheduler::plan_replies() {
  in_order_.assign(running_.begin(), running_.end());
  for (Sequence* sequence : in_order_) {
    // A better one may have driven it out just now.
    if (!sequence->running || sequence->held || sequence->length() - sequence->computed != 1) continue;
    if (ready_end(*sequence) < sequence->length()) continue;
    if (grow(*sequence, sequence->length())) plan_.rows.push_back({sequence, sequence->computed, 1, true});
  }
}

/// Chunks of the others, the best in rank first.
void Scheduler::plan_prompts() {
  auto left = std::min<int64_t>(limits_.chunk_tokens, limits_.step_tokens - static_cast<int64_t>(plan_.rows.size()));
  const size_t replies = plan_.rows.size();
  size_t next_reply = 0;
  for (Sequence* sequence : running_) {
    if (next_reply < replies && plan_.rows[next_reply].sequence == sequence) {
      ++next_reply;
      continue;
    }
    if (sequence->held) continue;
    const int64_t end = ready_end(*sequence);
    if (end < sequence->length() && !plan_.picture) {
      plan_.picture = PictureNeed{sequence->spec.id, sequence->next_picture};
    }
    const int64_t count = std::min(end - sequence->computed, left);
    if (count <= 0) continue;
    const bool samples = sequence->computed + count == sequence->length();
    plan_.rows.push_back({sequence, sequence->computed, count, samples});
    left -= count;
  }
}

/// Pages for so many tokens. False: there were none left, and the sequence itself had to give up its own.
bool Scheduler::grow(Sequence& sequence, int64_t tokens) {
  while (static_cast<int64_t>(sequence.pages.size()) < pages_for(tokens)) {
    int32_t page = store_.take();
    while (page < 0) {
      Sequence* victim = worst_running();
      preempt(*victim);
      if (victim == &sequence) return false;
      page = store_.take();
    }
    sequence.pages.push_back(page);
  }
  return true;
}

/// Who gives up pages first: those whose reader is slow, then the last in rank.
Sequence* Scheduler::worst_running() const {
  Sequence* held = held_running();
  return held != nullptr ? held : *running_.rbegin();
}

Sequence* Scheduler::held_running() const {
  const auto held = std::find_if(running_.rbegin(), running_.rend(), [](const Sequence* s) { return s->held; });
  return held == running_.rend() ? nullptr : *held;
}

/// The sequence starts over: what it has said so far becomes part of what it computes first.
void Scheduler::preempt(Sequence& sequence) {
  give_back(sequence);
  sequence.running = false;
  ++sequence.preemptions;
  running_.erase(&sequence);
  waiting_.insert(&sequence);
  plan_.preempted.push_back(sequence.spec.id);
}

void Scheduler::give_back(Sequence& sequence) {
  store_.release(sequence.pages);
  sequence.pages.clear();
  sequence.computed = 0;
  forget_promises(sequence);
}

void Scheduler::forget_promises(const Sequence& sequence) {
  for (const Digest& key : *sequence.spec.keys) {
    const auto found = being_computed_.find(key);
    if (found != being_computed_.end() && found->second == sequence.spec.id) being_computed_.erase(found);
  }
}

void Scheduler::commit(std::span<const int32_t> sampled) {
  size_t next = 0;
  for (const PlannedRows& rows : plan_.rows) {
    Sequence& sequence = *rows.sequence;
    const int64_t before = sequence.computed;
    sequence.computed += rows.count;
    publish(sequence, before);
    if (rows.samples) sequence.tokens.push_back(sampled[next++]);
  }
  KEYE_CHECK(next == sampled.size(), "{} tokens for {} samples", sampled.size(), next);
  plan_.rows.clear();
}

/// Pages that are full now get their keys.
void Scheduler::publish(Sequence& sequence, int64_t before) {
  for (int64_t page = before / kPageTokens; page < sequence.computed / kPageTokens; ++page) {
    const Digest& name = key(sequence, page);
    int32_t& held = sequence.pages[static_cast<size_t>(page)];
    held = store_.publish(held, name);
    if (const auto found = being_computed_.find(name);
        found != being_computed_.end() && found->second == sequence.spec.id) {
      being_computed_.erase(found);
    }
  }
}

const Digest& Scheduler::key(Sequence& sequence, int64_t page) {
  const auto index = static_cast<size_t>(page);
  const std::vector<Digest>& of_prompt = *sequence.spec.keys;
  if (index < of_prompt.size()) return of_prompt[index];
  std::vector<Digest>& of_reply = sequence.reply_keys;
  while (of_prompt.size() + of_reply.size() <= index) {
    const Digest& last =
        !of_reply.empty() ? of_reply.back() : (!of_prompt.empty() ? of_prompt.back() : sequence.spec.root);
    const auto first = static_cast<int64_t>(of_prompt.size() + of_reply.size()) * kPageTokens;
    of_reply.push_back(page_key(last, sequence.tokens, sequence.spec.prompt->vision, first));
  }
  return of_reply[index - of_prompt.size()];
}

void Scheduler::check_invariants() const {
  store_.check_invariants();
  KEYE_CHECK(sequences_.size() == waiting_.size() + running_.size());
  std::unordered_map<int32_t, int> users;
  for (const auto& [id, sequence] : sequences_) {
    KEYE_CHECK(sequence->running == running_.contains(sequence.get()), "sequence {}", id);
    KEYE_CHECK(sequence->running || (sequence->pages.empty() && sequence->computed == 0),
               "sequence {} waits with {} pages", id, sequence->pages.size());
    KEYE_CHECK(sequence->computed <= sequence->length() &&
                   pages_for(sequence->computed) <= static_cast<int64_t>(sequence->pages.size()),
               "sequence {}: {} computed, {} long, {} pages", id, sequence->computed, sequence->length(),
               sequence->pages.size());
    for (const int32_t page : sequence->pages) ++users[page];
  }
  int used = 0;
  for (const auto& [page, count] : users) {
    KEYE_CHECK(store_.users(page) == count, "page {} has {} users, {} counted", page, count, store_.users(page));
    ++used;
  }
  KEYE_CHECK(used + store_.available_pages() == store_.total_pages(), "{} pages used, {} available of {}", used,
             store_.available_pages(), store_.total_pages());
  for (const auto& [key, id] : being_computed_) {
    const Sequence* sequence = find(id);
    KEYE_CHECK(sequence != nullptr && sequence->running, "page of a sequence that does not run: {}", id);
  }
  KEYE_CHECK(static_cast<int>(running_.size()) <= limits_.running);
}

}  // namespace keye::engine
