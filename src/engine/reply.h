// One reply while it is written: what is sampled becomes text, and at some point ends.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/request.h"
#include "text/detokenizer.h"

namespace keye::engine {

class Reply {
 public:
  /// The tokenizer must outlive the reply.
  Reply(std::shared_ptr<const Request> request, int index, const text::Tokenizer& tokenizer);

  const Request& request() const { return *request_; }
  int index() const { return index_; }
  /// With the seed of this reply.
  const SamplingParams& sampling() const { return sampling_; }
  const TokenHistory& history() const { return history_; }

  /// Takes the next token; the event tells what can be shown, and whether this was the last one.
  TokenEvent accept(Sampled sampled);
  /// Ends the reply for another reason; the event has the text that was held back.
  TokenEvent end(FinishReason reason);

 private:
  std::shared_ptr<const Request> request_;
  int index_;
  SamplingParams sampling_;
  TokenHistory history_;
  text::Detokenizer detokenizer_;
  StopStrings stops_;
  int tokens_ = 0;
};

}  // namespace keye::engine
