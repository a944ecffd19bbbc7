// One request for replies, from its fields to the last byte of its response.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/chat_client.h"
#include "server/exchange.h"
#include "server/metrics.h"
#include "server/reply_json.h"

namespace keye::server {

class ApiReply;

/// Requests that are being answered, by tenant and id of their response. On the server's thread.
class OpenReplies {
 public:
  /// False if the tenant has one with this id.
  bool add(const std::string& tenant, const std::string& id, const std::shared_ptr<ApiReply>& reply) {
    return replies_.try_emplace({tenant, id}, reply).second;
  }
  void remove(const std::string& tenant, const std::string& id) { replies_.erase({tenant, id}); }
  /// Whether there was such a request. What it has said so far is its reply.
  bool abort(const std::string& tenant, const std::string& id);
  /// How many there were.
  int abort_all();

 private:
  std::map<std::pair<std::string, std::string>, std::weak_ptr<ApiReply>> replies_;
};

/// What replies need beside their request.
struct ReplyContext {
  engine::ChatClient& chats;
  Metrics& metrics;
  OpenReplies& open;
};

/// Lives as long as something may still happen. On the server's thread but for what the listeners hear.
class ApiReply : public std::enable_shared_from_this<ApiReply> {
 public:
  ApiReply(const ReplyContext& context, std::shared_ptr<Exchange> exchange, ApiRequest request);

  /// Asks the model; the exchange is answered in any case.
  void start();
  void abort();

 private:
  class Listener;

  void on_prompt(size_t index, std::shared_ptr<const prompt::Prompt> prompt);
  void on_event(size_t index, engine::ChatEvent event);
  void fail(const Error& error);
  void on_progress(const std::string& part, int64_t done, int64_t total);
  void open_stream();
  void complete();
  void close();
  void end();
  void hold_back();
  Usage usage() const;
  void count(const engine::ChatEvent& event, Choice& choice);

  ReplyContext context_;
  std::shared_ptr<Exchange> exchange_;
  ApiRequest request_;
  ReplyWriter writer_;
  std::vector<std::shared_ptr<engine::ChatCall>> calls_;
  std::vector<std::shared_ptr<const prompt::Prompt>> prompts_;
  std::vector<Choice> choices_;  // all replies of the first prompt, then of the second, ...
  std::vector<engine::Clock::time_point> last_event_;
  engine::Clock::time_point arrived_;
  engine::Clock::time_point last_progress_;  // that the stream's reader was told of
  size_t replies_each_ = 1;
  size_t open_choices_ = 0;
  bool streaming_ = false;
  bool held_ = false;
  bool over_ = false;
};

/// Status and body of an error.
HttpResponse error_response(const Error& error);

}  // namespace keye::server
