#include "server/request_fields.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/hash.h"
#include "text/value_text.h"

namespace keye::server {

using text::Kind;
using text::Value;

namespace {

uint64_t random_seed() {
  const auto bytes = random_bytes();
  uint64_t seed = 0;
  std::memcpy(&seed, bytes.data(), sizeof seed);
  return seed;
}

Result<void> read_logit_bias(Fields& fields, engine::SamplingParams& sampling) {
  KEYE_TRY(const text::Dict* biases, fields.object("logit_bias"));
  if (biases == nullptr) return {};
  if (biases->size() > kBiasesMax) {
    return fields.wrong("logit_bias", fmt::format("has {} entries, at most {} are taken", biases->size(), kBiasesMax));
  }
  for (const auto& [key, value] : biases->items()) {
    const std::string& name = key.text();
    int32_t token = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), token);
    const bool is_number = value.is(Kind::integer) || value.is(Kind::real);
    if (error != std::errc() || end != name.data() + name.size() || !is_number) {
      return fields.wrong("logit_bias", fmt::format("should map token ids to numbers, got \"{}\": {}",
                                                    name.substr(0, 40), shown(value)));
    }
    sampling.logit_bias.emplace_back(token, static_cast<float>(value.real()));
  }
  return {};
}

/// Whether the value asks for nothing that is not there: false, 1, -1, "none", an empty list, {"type": "text"},
/// ["text"].
bool asks_for_nothing(std::string_view name, const Value& value) {
  if (value.is(Kind::boolean)) return !value.boolean();
  if (name == "best_of") return value.is(Kind::integer) && value.integer() == 1;
  if (name == "logprob_start_len") return value.is(Kind::integer) && value.integer() == -1;
  if (name == "tool_choice") return value.is_string() && value.text() == "none";
  if (name == "response_format" && value.is(Kind::dict)) {
    const Value* type = value.dict().find("type");
    return type != nullptr && type->is_string() && type->text() == "text" && value.dict().size() == 1;
  }
  if (name == "modalities" && value.is(Kind::list)) {
    return value.items().size() == 1 && value.items()[0].is_string() && value.items()[0].text() == "text";
  }
  return value.is(Kind::list) && value.items().empty();
}

}  // namespace

Result<Value> parse_body(std::string_view body) {
  auto value = text::parse_value(body, text::kOriginUser, "body", {.unique_keys = true, .values_max = kBodyValuesMax});
  if (!value) return Error{ErrorCode::invalid_argument, value.error().message, "body"};
  if (!value->is(Kind::dict)) {
    return Error{ErrorCode::invalid_argument, fmt::format("should be a JSON object, got {}", shown(*value)), "body"};
  }
  return value;
}

engine::Request default_request(const RequestRules& rules) {
  const model::GenerationDefaults& defaults = rules.generation;
  engine::Request request;
  // A checkpoint that does not sample by default is greedy until a request says otherwise.
  request.sampling.temperature = defaults.do_sample ? defaults.temperature : 0.0F;
  request.sampling.top_k = defaults.do_sample ? defaults.top_k : 0;
  request.sampling.top_p = defaults.do_sample ? defaults.top_p : 1.0F;
  request.sampling.repetition_penalty = defaults.repetition_penalty;
  request.sampling.seed = random_seed();
  request.stop.token_ids = defaults.eos_ids;
  request.stop.max_tokens = static_cast<int>(rules.context_max);
  return request;
}

Result<void> read_sampling(Fields& fields, engine::Request& request) {
  engine::SamplingParams& sampling = request.sampling;
  const auto take = [&](const char* name, double low, double high, float& value) -> Result<void> {
    KEYE_TRY(const auto number, fields.number(name, low, high));
    if (number) value = static_cast<float>(*number);
    return {};
  };
  KEYE_TRY_VOID(take("temperature", 0, 100, sampling.temperature));
  KEYE_TRY_VOID(take("top_p", 1e-9, 1, sampling.top_p));
  KEYE_TRY_VOID(take("min_p", 0, 1, sampling.min_p));
  KEYE_TRY_VOID(take("frequency_penalty", -2, 2, sampling.frequency_penalty));
  KEYE_TRY_VOID(take("presence_penalty", -2, 2, sampling.presence_penalty));
  KEYE_TRY_VOID(take("repetition_penalty", 1e-3, 100, sampling.repetition_penalty));
  KEYE_TRY(const auto top_k, fields.integer("top_k", -1, INT32_MAX));
  if (top_k) sampling.top_k = static_cast<int>(std::clamp<int64_t>(*top_k, 0, 1 << 30));
  KEYE_TRY(const auto seed, fields.integer("seed", INT64_MIN, INT64_MAX));
  if (seed) sampling.seed = static_cast<uint64_t>(*seed);
  KEYE_TRY_VOID(read_logit_bias(fields, sampling));
  KEYE_TRY(request.stop.strings, fields.strings("stop", kStopStringsMax, kStopBytesMax));
  if (std::any_of(request.stop.strings.begin(), request.stop.strings.end(), [](const auto& s) { return s.empty(); })) {
    return fields.wrong("stop", "an empty string would end every reply at once");
  }
  KEYE_TRY(const auto stop_tokens, fields.token_ids("stop_token_ids", kStopTokensMax));
  request.stop.token_ids.insert(request.stop.token_ids.end(), stop_tokens.begin(), stop_tokens.end());
  KEYE_TRY(const auto ignore_eos, fields.boolean("ignore_eos"));
  request.stop.ignore_eos = ignore_eos.value_or(false);
  KEYE_TRY(const auto skip_special, fields.boolean("skip_special_tokens"));
  request.skip_special_tokens = skip_special.value_or(true);
  return {};
}

Result<void> read_scheduling(Fields& fields, const RequestRules& rules, engine::Request& request, ReplyShape& shape) {
  KEYE_TRY(const auto rid, fields.string("rid", 128));
  if (rid) shape.rid = *rid;
  KEYE_TRY(const auto priority, fields.integer("priority", -1000, 1000));
  request.priority = static_cast<int>(priority.value_or(0));
  KEYE_TRY(const auto timeout, fields.number("timeout", 1e-3, 1e7));
  const double seconds = timeout.value_or(std::chrono::duration<double>(rules.timeout).count());
  if (seconds > 0) {
    request.deadline = engine::Clock::now() +
                       std::chrono::duration_cast<engine::Clock::duration>(std::chrono::duration<double>(seconds));
  }
  KEYE_TRY(const auto salt, fields.string("cache_salt", 256));
  request.cache_salt = rules.tenant + "/" + salt.value_or("");
  shape.tenant = rules.tenant;
  return {};
}

Result<void> read_common(Fields& fields, const RequestRules& rules, engine::Request& request, ReplyShape& shape) {
  KEYE_TRY(const auto name, fields.string("model", 1024));
  shape.model = rules.served_names.front();
  if (name && !name->empty()) {
    if (std::find(rules.served_names.begin(), rules.served_names.end(), *name) == rules.served_names.end()) {
      return Error{ErrorCode::not_found,
                   fmt::format("there is no model \"{}\"; served is \"{}\"", *name, rules.served_names.front()),
                   "model"};
    }
    shape.model = *name;
  }
  KEYE_TRY_VOID(read_scheduling(fields, rules, request, shape));
  KEYE_TRY(const auto replies, fields.integer("n", 1, engine::kRepliesMax));
  request.replies = static_cast<int>(replies.value_or(1));
  return {};
}

Result<void> read_stream(Fields& fields, ReplyShape& shape) {
  KEYE_TRY(const auto stream, fields.boolean("stream"));
  shape.stream = stream.value_or(false);
  KEYE_TRY(const text::Dict* options, fields.object("stream_options"));
  if (options == nullptr) return {};
  if (!shape.stream) return fields.wrong("stream_options", "is for stream: true");
  Fields inner(*options, "stream_options.");
  KEYE_TRY(const auto usage, inner.boolean("include_usage"));
  KEYE_TRY(const auto continuous, inner.boolean("continuous_usage_stats"));
  KEYE_TRY(const auto obfuscation, inner.boolean("include_obfuscation"));
  if (obfuscation.value_or(false)) {
    return Error{ErrorCode::unsupported, "is not supported: chunks are as long as what they hold",
                 inner.place("include_obfuscation")};
  }
  shape.include_usage = usage.value_or(false);
  shape.continuous_usage = continuous.value_or(false);
  return inner.refuse_others();
}

Result<void> read_unsupported(Fields& fields, const std::vector<FieldRow>& table) {
  for (const FieldRow& row : table) {
    if (row.status == FieldStatus::supported) continue;
    const Value* value = fields.find(row.name);
    if (value == nullptr || row.status == FieldStatus::no_effect || asks_for_nothing(row.name, *value)) continue;
    return Error{ErrorCode::unsupported, fmt::format("is not supported: {}", row.note), std::string(row.name)};
  }
  return {};
}

}  // namespace keye::server
