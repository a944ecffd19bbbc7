// The one door to a model for whoever has messages: pictures are fetched, the prompt is built, the engine asked, and
// what it says split into thoughts and answer.
#pragma once

#include <atomic>
#include <memory>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "base/task_pool.h"
#include "engine/engine.h"
#include "media/fetch_policy.h"
#include "media/video.h"
#include "prompt/prompt_builder.h"
#include "prompt/reply_parser.h"
#include "prompt/video_cache.h"

namespace keye::engine {

/// What a prompt is made of.
using PromptSource = std::variant<prompt::Conversation,   // messages, through the chat template
                                  prompt::PlainPrompt,    // text as it is
                                  std::vector<int32_t>>;  // token ids

struct ChatRequest {
  PromptSource source;
  Request request;                 // without its prompt
  bool separate_reasoning = true;  // otherwise all of a reply is content
};

/// What happened to one reply. Exactly one event of each reply has a finish.
struct ChatEvent {
  int reply = 0;
  std::string reasoning;  // both: what is new
  std::string content;
  std::optional<Sampled> token;  // that this event began with
  bool is_first = false;         // of the reply
  int64_t cached_tokens = 0;
  std::optional<FinishReason> finish;
  std::string stop_string;
  int32_t stop_token = -1;
  Timings timings;  // with the finish
};

/// Told what becomes of a call, on threads of the client or the engine, one call at a time. Must not wait, and must not
/// call back. on_prompt comes first, then events; or on_error alone, once.
class ChatListener {
 public:
  virtual ~ChatListener() = default;
  virtual void on_prompt(std::shared_ptr<const prompt::Prompt> prompt) = 0;
  virtual void on_event(ChatEvent&& event) = 0;
  virtual void on_error(Error&& error) = 0;
  /// Part and progress of what takes long before the first token. Default: ignored.
  virtual void on_progress(std::string_view /*part*/, int64_t /*done*/, int64_t /*total*/) {}
};

/// A call under way. From any thread.
class ChatCall {
 public:
  virtual ~ChatCall() = default;
  /// Ends it, whatever it is doing. The listener still gets what is owed to it: an error, or a finish for each reply.
  virtual void abort(FinishReason reason = FinishReason::cancelled) = 0;
  /// While held, it makes no progress.
  virtual void hold(bool held) = 0;
};

struct ChatClientOptions {
  media::FetchPolicy fetch;
  media::MediaLimits limits;
  int pictures_max = 256;                        // of one request
  int videos_max = 16;                           // of one request
  int list_frames_max = 4096;                    // of a video that is a list of pictures
  media::VideoOptions video;                     // how clips are decoded
  bool adaptive_video_budget = false;            // Keye-VL-2.0: shorter clips have smaller budgets of tokens
  size_t video_cache_bytes = size_t{512} << 20;  // of prepared videos that are kept; 0: none is
  int preparing_threads = 8;                     // requests with pictures that are prepared at the same time
  int text_threads = 2;                          // and those without, which wait for nobody's server
  int preparing_max = 256;                       // and those that wait for it; more are refused
  int64_t picture_bytes_max = int64_t{4} << 30;  // prepared pictures of all calls that are not over; more are refused
};

/// What is there now, and counters since the start.
struct ChatClientStats {
  int preparing = 0;  // requests
  prompt::VideoCache::Stats videos;
};

class ChatClient {
 public:
  /// The engine must outlive the client.
  ChatClient(Engine& engine, const ChatClientOptions& options);
  /// Ends all calls that are being prepared.
  ~ChatClient();

  Engine& engine() { return engine_; }
  /// Errors: overloaded, unavailable; all others come to the listener.
  Result<std::shared_ptr<ChatCall>> start(ChatRequest request, std::shared_ptr<ChatListener> listener);
  /// Forgets all that is kept for later requests, by the engine too.
  void flush_cache();
  ChatClientStats stats() const { return {.preparing = preparing_.load(), .videos = videos_.stats()}; }
  /// Splits what a model of this kind says.
  prompt::ReplyStyle reply_style() const { return reply_style_; }

 private:
  class Call;

  Engine& engine_;
  ChatClientOptions options_;
  prompt::ReplyStyle reply_style_;
  std::atomic<int> preparing_{0};
  std::shared_ptr<std::atomic<int64_t>> picture_bytes_ = std::make_shared<std::atomic<int64_t>>(0);  // calls outlive us
  std::stop_source stopping_;
  media::VideoDecoder decoder_;
  prompt::VideoCache videos_;
  TaskPool pool_;
  TaskPool text_pool_;
};

}  // namespace keye::engine
