#include "loadtest/reply.h"

#include <algorithm>

#include "base/json.h"

namespace keye::loadtest {
namespace {

/// A member of an object, or nullptr.
const Json* member(const Json& json, std::string_view name) {
  if (!json.is_object()) return nullptr;
  const auto found = json.find(name);
  return found == json.end() ? nullptr : &*found;
}

bool has_text(const Json& json, std::string_view name) {
  const Json* const value = member(json, name);
  return value != nullptr && value->is_string() && !value->get_ref<const std::string&>().empty();
}

/// A count, or -1.
int64_t count_of(const Json& json, std::string_view name) {
  const Json* const value = member(json, name);
  if (value == nullptr || !value->is_number_integer()) return -1;
  const auto count = value->get<int64_t>();
  return count >= 0 && count <= (int64_t{1} << 40) ? count : -1;
}

Usage read_usage(const Json& json) {
  Usage usage{.prompt_tokens = count_of(json, "prompt_tokens"),
              .completion_tokens = count_of(json, "completion_tokens")};
  if (const Json* const details = member(json, "prompt_tokens_details"); details != nullptr)
    usage.cached_tokens = count_of(*details, "cached_tokens");
  return usage;
}

bool choice_has_text(const Json& choice) {
  if (has_text(choice, "text")) return true;
  const Json* const delta = member(choice, "delta");
  if (delta == nullptr) return false;
  if (has_text(*delta, "content") || has_text(*delta, "reasoning_content") || has_text(*delta, "reasoning"))
    return true;
  const Json* const calls = member(*delta, "tool_calls");
  return calls != nullptr && calls->is_array() && !calls->empty();
}

std::string error_message(const Json& error) {
  if (error.is_string()) return error.get<std::string>();
  if (has_text(error, "message")) return member(error, "message")->get<std::string>();
  return error.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

Result<Chunk> read_chunk(std::string_view json) {
  KEYE_TRY(const Json parsed, parse_json(json, "chunk"));
  if (!parsed.is_object()) {
    return make_error(ErrorCode::corrupt_data, "chunk", "expected an object, found {}", parsed.type_name());
  }
  Chunk chunk;
  if (const Json* const error = member(parsed, "error"); error != nullptr && !error->is_null()) {
    chunk.error = error_message(*error);
    if (chunk.error.empty()) chunk.error = "an error without a message";
    return chunk;
  }
  if (const Json* const choices = member(parsed, "choices"); choices != nullptr && choices->is_array()) {
    for (const Json& choice : *choices) {
      chunk.has_text = chunk.has_text || choice_has_text(choice);
      chunk.finished = chunk.finished || has_text(choice, "finish_reason");
    }
  }
  if (const Json* const usage = member(parsed, "usage"); usage != nullptr && usage->is_object())
    chunk.usage = read_usage(*usage);
  return chunk;
}

std::string first_model(std::string_view json) {
  const Result<Json> parsed = parse_json(json, "models");
  if (!parsed) return {};
  const Json* const data = member(*parsed, "data");
  if (data == nullptr || !data->is_array() || data->empty() || !has_text(data->front(), "id")) return {};
  return data->front()["id"].get<std::string>();
}

void Reply::push(std::string_view bytes, double now_s) {
  if (over_) return;
  const auto pushed = parser_.push(bytes, [&](std::string_view data) { take_event(data, now_s); });
  if (!pushed && !over_) fail({"malformed_stream", pushed.error().to_string()});
}

void Reply::take_event(std::string_view data, double now_s) {
  if (over_) return;
  if (data == "[DONE]") {
    outcome_.end_s = now_s - start_s_;
    over_ = true;
    return;
  }
  const Result<Chunk> chunk = read_chunk(data);
  if (!chunk) return fail({"malformed_stream", chunk.error().to_string()});
  if (!chunk->error.empty()) return fail({"server_error", chunk->error});
  finished_ = finished_ || chunk->finished;
  if (chunk->usage) outcome_.usage = *chunk->usage;
  if (!chunk->has_text) return;
  const double at_s = now_s - start_s_;
  if (outcome_.chunks == 0) {
    outcome_.first_s = at_s;
  } else {
    outcome_.gaps_ms.push_back(static_cast<float>((at_s - outcome_.last_s) * 1e3));
  }
  outcome_.last_s = at_s;
  ++outcome_.chunks;
}

void Reply::end(double now_s) {
  if (over_) return;
  if (!finished_) return fail({"disconnected", "the stream ended without [DONE] and without a finish reason"});
  outcome_.end_s = now_s - start_s_;
  over_ = true;
}

void Reply::fail(Failure failure) {
  if (over_) return;
  outcome_.failure = std::move(failure);
  over_ = true;
}

}  // namespace keye::loadtest
