// Who runs next, and on which pages: a value machine without clock, threads or tensors.
//
// Every sequence is a row of tokens of which the first `computed` are in the KV cache. A step computes some more of
// each running sequence: the next one of a reply, or a chunk of a prompt, or (after a preemption) a chunk of both. When
// the last known token is computed, the step samples the next.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/page_keys.h"
#include "engine/page_store.h"
#include "prompt/prompt.h"

namespace keye::engine {

using SequenceId = uint64_t;

struct SchedulerLimits {
  int step_tokens = 512;   // new tokens of one step
  int chunk_tokens = 512;  // of them, those of prompts
  int running = 64;        // sequences that hold pages; at most step_tokens, as each may want a token in one step
};

struct SequenceSpec {
  SequenceId id = 0;
  std::shared_ptr<const prompt::Prompt> prompt;
  std::shared_ptr<const std::vector<Digest>> keys;  // page_keys of the prompt
  Digest root;                                      // where they begin
  int priority = 0;                                 // higher ones first; equal ones as they came
};

/// A sequence and its state, to be read.
struct Sequence {
  SequenceSpec spec;
  uint64_t arrival = 0;
  std::vector<int32_t> tokens;  // prompt and reply
  std::vector<int32_t> pages;
  std::vector<Digest> reply_keys;   // of the whole pages after the prompt's
  int64_t computed = 0;             // tokens in the cache
  int64_t prompt_hits = -1;         // tokens of the prompt found in the cache when first admitted; -1: not admitted yet
  size_t next_picture = 0;          // pictures before it are encoded, or not needed any more
  std::optional<Digest> waits_for;  // a page that a running sequence is about to fill
  int preemptions = 0;
  bool running = false;
  bool held = false;

  int64_t length() const { return static_cast<int64_t>(tokens.size()); }
  int64_t prompt_length() const { return static_cast<int64_t>(spec.prompt->tokens.size()); }
};

/// One sequence's part of a step: its tokens [first, first + count).
struct PlannedRows {
  Sequence* sequence = nullptr;
  int64_t first = 0;
  int64_t count = 0;
  bool samples = false;
};

/// A picture that must be encoded before its sequence can go on.
struct PictureNeed {
  SequenceId sequence = 0;
  size_t picture = 0;
};

struct StepPlan {
  std::vector<PlannedRows> rows;
  std::optional<PictureNeed> picture;  // the next one that anybody waits for
  std::vector<SequenceId> admitted;    // since the plan before
  std::vector<SequenceId> preempted;
};

class Scheduler {
 public:
  /// `keeps_pages`: whether sequences find what earlier ones have computed.
  Scheduler(const SchedulerLimits& limits, int pages, bool keeps_pages);

  /// A sequence that wants to run. Its prompt must fit into all pages together, with one more token.
  void add(SequenceSpec spec);
  /// The sequence is over, whatever it was doing; its pages go back. Unknown ids are ignored.
  void remove(SequenceId id);
  /// A held sequence is not planned: its reader is slow. It is the first to lose its pages.
  void hold(SequenceId id, bool held);
  /// Whether the sequence still waits for this picture.
  bool waits_for(const PictureNeed& need) const;
  /// The features of this picture are there. Without effect if the sequence does not wait for it any more.
  void picture_ready(const PictureNeed& need);

  /// What to do next. Pages of the planned tokens are assigned. Valid until the next call of anything.
  const StepPlan& plan();
  /// The plan was carried out; `sampled` has a token for each of its rows that samples, in order.
  void commit(std::span<const int32_t> sampled);

  const Sequence* find(SequenceId id) const;
  int waiting() const { return static_cast<int>(waiting_.size()); }
  int running() const { return static_cast<int>(running_.size()); }
  const PageStore& store() const { return store_; }
  /// Gives up what is kept for later sequences.
  int flush() { return store_.flush(); }
  /// Pages and queues agree with each other. A CHECK; for tests and idle moments.
  void check_invariants() const;

 private:
  /// First the higher priority, then the earlier arrival.
  struct Rank {
    bool operator()(const Sequence* a, const Sequence* b) const {
      return a->spec.priority != b->spec.priority ? a->spec.priority > b->spec.priority : a->arrival < b->arrival;
    }
  };

  enum class Admission { admitted, later, no_room };

  void admit();
  Admission try_admit(Sequence& sequence);
  bool waits_for_others(Sequence& sequence, size_t matched) const;
  size_t count_matches(const Sequence& sequence) const;
  void plan_replies();
  void plan_prompts();
  bool grow(Sequence& sequence, int64_t tokens);
  void preempt(Sequence& sequence);
  void give_back(Sequence& sequence);
  Sequence* worst_running() const;
  Sequence* held_running() const;
  void publish(Sequence& sequence, int64_t before);
  const Digest& key(Sequence& sequence, int64_t page);
  static int64_t ready_end(Sequence& sequence);
  void forget_promises(const Sequence& sequence);

  SchedulerLimits limits_;
  PageStore store_;
  std::unordered_map<SequenceId, std::unique_ptr<Sequence>> sequences_;
  std::set<Sequence*, Rank> waiting_;
  std::set<Sequence*, Rank> running_;
  /// Keys of prompt pages that a running sequence is about to fill: a sequence that needs the same ones waits for them.
  std::unordered_map<Digest, SequenceId, DigestHash> being_computed_;
  StepPlan plan_;
  std::vector<Sequence*> in_order_;  // scratch
  uint64_t arrivals_ = 0;
};

}  // namespace keye::engine
