#include "server/api_request.h"

#include <algorithm>

#include "prompt/template_kwargs.h"
#include "prompt/video_parts.h"
#include "server/request_fields.h"

namespace keye::server {

using text::Dict;
using text::Kind;
using text::Value;

namespace {

// -- messages ----------------------------------------------------------------

/// Options of a picture: inside image_url.preprocess_kwargs, beside it, or as fields of the part. The inner ones win.
Result<Value> read_picture_options(Fields& part, Fields& url) {
  Dict options;
  for (const char* name : {"min_pixels", "max_pixels", "factor"}) {
    if (const Value* value = part.find(name)) options.set(name, *value);
  }
  for (Fields* from : {&part, &url}) {
    KEYE_TRY(const Dict* kwargs, from->object("preprocess_kwargs"));
    if (kwargs == nullptr) continue;
    for (const auto& [key, value] : kwargs->items()) options.set(key, value);
  }
  return Value::dict(std::move(options));
}

Result<Value> read_picture(Fields& part) {
  const Value* image_url = part.find("image_url");
  if (image_url == nullptr) return part.wrong("image_url", "is missing");
  Dict short_form;  // "image_url": "https://..." is not OpenAI's form, but many clients send it
  if (image_url->is_string()) short_form.set("url", *image_url);
  if (!image_url->is_string() && !image_url->is(Kind::dict)) {
    return part.wrong("image_url", fmt::format("should be an object with a url, got {}", shown(*image_url)));
  }
  Fields url(image_url->is_string() ? short_form : image_url->dict(), part.place("image_url."));
  const Value* address = url.find("url");
  if (address == nullptr || !address->is_string()) return url.wrong("url", "should be a string");
  url.find("detail");             // without effect: the size decides
  url.find("max_dynamic_patch");  // without effect, as in the published server
  url.find("min_dynamic_patch");
  part.find("prompt_cache_breakpoint");  // without effect: prompts are found by what they hold
  KEYE_TRY(Value options, read_picture_options(part, url));
  KEYE_TRY_VOID(url.refuse_others());
  Dict inner;
  inner.set("url", *address);
  inner.set("preprocess_kwargs", std::move(options));
  Dict picture;
  picture.set("type", Value("image_url"));
  picture.set("image_url", Value::dict(std::move(inner)));
  return Value::dict(std::move(picture));
}

Result<Value> read_part(const Value& given, const std::string& where) {
  if (!given.is(Kind::dict)) {
    return Error{ErrorCode::invalid_argument, fmt::format("should be an object, got {}", shown(given)), where};
  }
  Fields part(given.dict(), where + ".");
  KEYE_TRY(const auto type, part.string("type", 64));
  if (type == "image_url") {
    KEYE_TRY(Value picture, read_picture(part));
    KEYE_TRY_VOID(part.refuse_others());
    return picture;
  }
  if (type == "text") {
    const Value* text = part.find("text");
    if (text == nullptr || !text->is_string()) return part.wrong("text", "should be a string");
    part.find("prompt_cache_breakpoint");  // without effect, likewise
    KEYE_TRY_VOID(part.refuse_others());
    return given;
  }
  if (type == "video_url" || type == "video") {
    KEYE_TRY_VOID(prompt::read_video(given, where));
    return given;
  }
  return Error{
      ErrorCode::unsupported,
      fmt::format("parts of type \"{}\" are not supported; use text, image_url or video_url", type.value_or("")),
      where};
}

Result<Value> read_content(const Value& content, const std::string& where) {
  if (content.is_string()) return content;
  if (!content.is(Kind::list)) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("should be a string or a list of parts, got {}", shown(content)), where};
  }
  text::Values parts;
  for (size_t i = 0; i < content.items().size(); ++i) {
    KEYE_TRY(Value part, read_part(content.items()[i], fmt::format("{}[{}]", where, i)));
    parts.push_back(std::move(part));
  }
  return Value::list(std::move(parts));
}

Result<Value> read_message(const Value& given, const std::string& where) {
  if (!given.is(Kind::dict)) {
    return Error{ErrorCode::invalid_argument, fmt::format("should be an object, got {}", shown(given)), where};
  }
  Fields fields(given.dict(), where + ".");
  KEYE_TRY(auto role, fields.string("role", 64));
  if (role == "developer") role = "system";
  if (role == "tool" || role == "function") {
    return Error{ErrorCode::unsupported, fmt::format("messages of role \"{}\" are not supported yet", *role),
                 where + ".role"};
  }
  if (role != "system" && role != "user" && role != "assistant") {
    return fields.wrong("role",
                        fmt::format("should be system, developer, user or assistant, got \"{}\"", role.value_or("")));
  }
  Dict message;
  message.set("role", Value(std::string_view(*role)));
  const Value* content = fields.find("content");
  if (content == nullptr) return fields.wrong("content", "is missing");
  KEYE_TRY(Value read, read_content(*content, where + ".content"));
  message.set("content", std::move(read));
  KEYE_TRY(const auto name, fields.string("name", 256));
  if (name) message.set("name", *fields.find("name"));
  if (role == "assistant") {
    if (const Value* reasoning = fields.find("reasoning_content")) {
      if (!reasoning->is_string()) return fields.wrong("reasoning_content", "should be a string");
      message.set("reasoning_content", *reasoning);
    }
    fields.find("refusal");  // OpenAI's own replies come back with these: nobody refused, nothing was cited
    fields.find("annotations");
    for (const char* call : {"tool_calls", "function_call", "audio"}) {
      if (const Value* value = fields.find(call);
          value != nullptr && !(value->is(Kind::list) && value->items().empty())) {
        return Error{ErrorCode::unsupported, "is not supported yet", where + "." + call};
      }
    }
  }
  KEYE_TRY_VOID(fields.refuse_others());
  return Value::dict(std::move(message));
}

Result<Value> read_messages(Fields& fields) {
  const Value* messages = fields.find("messages");
  if (messages == nullptr || !messages->is(Kind::list) || messages->items().empty()) {
    return fields.wrong("messages", "should be a list of at least one message");
  }
  text::Values read;
  for (size_t i = 0; i < messages->items().size(); ++i) {
    KEYE_TRY(Value message, read_message(messages->items()[i], fmt::format("messages[{}]", i)));
    read.push_back(std::move(message));
  }
  return Value::list(std::move(read));
}

Result<void> read_max_tokens(Fields& fields, std::initializer_list<const char*> names, engine::Request& request) {
  for (const char* name : names) {
    KEYE_TRY(const auto limit, fields.integer(name, 1, INT32_MAX));
    if (limit) request.stop.max_tokens = static_cast<int>(*limit);
  }
  return {};
}

// -- prompts -----------------------------------------------------------------

bool is_token_list(const Value& value) {
  return value.is(Kind::list) && !value.items().empty() && value.items()[0].is(Kind::integer);
}

/// One prompt: text or token ids.
Result<engine::PromptSource> read_prompt(const Value& prompt, bool parse_special, const std::string& where) {
  if (prompt.is_string()) {
    return engine::PromptSource(prompt::PlainPrompt{.text = prompt.text(), .parse_special = parse_special});
  }
  Dict wrapped;
  wrapped.set("ids", prompt);
  Fields fields(wrapped);
  if (!is_token_list(prompt)) {
    return Error{ErrorCode::invalid_argument, fmt::format("should be a string or token ids, got {}", shown(prompt)),
                 where};
  }
  auto ids = fields.token_ids("ids", size_t{1} << 24);
  if (!ids) return Error{ErrorCode::invalid_argument, ids.error().message, where};
  return engine::PromptSource(std::move(ids).value());
}

/// One or several.
Result<std::vector<engine::PromptSource>> read_prompts(const Value& prompt, bool parse_special,
                                                       const std::string& where, bool& is_batch) {
  is_batch = prompt.is(Kind::list) && !is_token_list(prompt);
  std::vector<engine::PromptSource> sources;
  if (!is_batch) {
    KEYE_TRY(auto source, read_prompt(prompt, parse_special, where));
    sources.push_back(std::move(source));
    return sources;
  }
  const size_t count = prompt.items().size();
  if (count < 1 || count > kPromptsMax) {
    return Error{ErrorCode::invalid_argument, fmt::format("should have 1 to {} prompts, got {}", kPromptsMax, count),
                 where};
  }
  for (size_t i = 0; i < count; ++i) {
    KEYE_TRY(auto source, read_prompt(prompt.items()[i], parse_special, fmt::format("{}[{}]", where, i)));
    sources.push_back(std::move(source));
  }
  return sources;
}

/// One request for each prompt. `where` names the field that says how many replies each has.
Result<ApiRequest> with_prompts(ApiRequest api, std::vector<engine::PromptSource> sources,
                                const engine::Request& request, std::string_view where) {
  if (sources.size() * static_cast<size_t>(request.replies) > kPromptsMax) {
    return make_error(ErrorCode::invalid_argument, where, "{} prompts of {} replies each are more than {} replies",
                      sources.size(), request.replies, kPromptsMax);
  }
  for (engine::PromptSource& source : sources) {
    api.chats.push_back({.source = std::move(source), .request = request, .separate_reasoning = false});
  }
  return api;
}

}  // namespace

Result<ApiRequest> read_chat_request(std::string_view body, const RequestRules& rules) {
  KEYE_TRY(const Value whole, parse_body(body));
  Fields fields(whole.dict());
  ApiRequest api;
  ReplyShape& shape = api.shape;
  engine::ChatRequest chat{.source = {}, .request = default_request(rules)};
  engine::Request& request = chat.request;
  KEYE_TRY_VOID(read_unsupported(fields, chat_fields()));
  KEYE_TRY_VOID(read_common(fields, rules, request, shape));
  KEYE_TRY_VOID(read_sampling(fields, request));
  KEYE_TRY_VOID(read_stream(fields, shape));
  KEYE_TRY_VOID(read_max_tokens(fields, {"max_tokens", "max_completion_tokens"}, request));
  KEYE_TRY(const auto logprobs, fields.boolean("logprobs"));
  KEYE_TRY(const auto top, fields.integer("top_logprobs", 0, engine::kLogprobsMax));
  if (top.value_or(0) > 0 && !logprobs.value_or(false)) return fields.wrong("top_logprobs", "needs logprobs: true");
  if (logprobs.value_or(false)) shape.logprobs = static_cast<int>(top.value_or(0));
  request.sampling.logprobs = shape.logprobs;
  KEYE_TRY(const auto token_ids, fields.boolean("return_token_ids"));
  shape.return_token_ids = token_ids.value_or(false);
  KEYE_TRY(const auto separate, fields.boolean("separate_reasoning"));
  chat.separate_reasoning = separate.value_or(true);

  prompt::Conversation conversation;
  KEYE_TRY(conversation.messages, read_messages(fields));
  KEYE_TRY(const auto continues, fields.boolean("continue_final_message"));
  KEYE_TRY(const auto opens, fields.boolean("add_generation_prompt"));
  conversation.render.continue_final_message = continues.value_or(false);
  conversation.render.add_generation_prompt = opens.value_or(!continues.value_or(false));
  if (const Value* kwargs = fields.find("chat_template_kwargs")) {
    KEYE_TRY(conversation.render.variables, prompt::check_template_kwargs(*kwargs));
  }
  KEYE_TRY_VOID(fields.refuse_others());
  chat.source = std::move(conversation);
  api.chats.push_back(std::move(chat));
  return api;
}

Result<ApiRequest> read_completion_request(std::string_view body, const RequestRules& rules) {
  KEYE_TRY(const Value whole, parse_body(body));
  Fields fields(whole.dict());
  ApiRequest api;
  ReplyShape& shape = api.shape;
  shape.api = ReplyApi::completion;
  engine::Request request = default_request(rules);
  KEYE_TRY_VOID(read_unsupported(fields, completion_fields()));
  KEYE_TRY_VOID(read_common(fields, rules, request, shape));
  KEYE_TRY_VOID(read_sampling(fields, request));
  KEYE_TRY_VOID(read_stream(fields, shape));
  KEYE_TRY_VOID(read_max_tokens(fields, {"max_tokens"}, request));
  KEYE_TRY(const auto logprobs, fields.integer("logprobs", 0, engine::kLogprobsMax));
  if (logprobs) shape.logprobs = static_cast<int>(*logprobs);
  request.sampling.logprobs = shape.logprobs;
  KEYE_TRY(const auto token_ids, fields.boolean("return_token_ids"));
  shape.return_token_ids = token_ids.value_or(false);
  KEYE_TRY(const auto parse_special, fields.boolean("parse_special"));
  const Value* prompt = fields.find("prompt");
  if (prompt == nullptr) return fields.wrong("prompt", "is missing");
  KEYE_TRY(auto sources, read_prompts(*prompt, parse_special.value_or(false), "prompt", shape.is_batch));
  KEYE_TRY_VOID(fields.refuse_others());
  return with_prompts(std::move(api), std::move(sources), request, "n");
}

Result<ApiRequest> read_generate_request(std::string_view body, const RequestRules& rules) {
  KEYE_TRY(const Value whole, parse_body(body));
  Fields fields(whole.dict());
  ApiRequest api;
  ReplyShape& shape = api.shape;
  shape.api = ReplyApi::generate;
  shape.model = rules.served_names.front();
  engine::Request request = default_request(rules);
  KEYE_TRY_VOID(read_unsupported(fields, generate_fields()));
  KEYE_TRY_VOID(read_scheduling(fields, rules, request, shape));
  request.stop.max_tokens = 128;  // as in SGLang
  KEYE_TRY(const Dict* params, fields.object("sampling_params"));
  if (params != nullptr) {
    Fields sampling(*params, "sampling_params.");
    KEYE_TRY_VOID(read_sampling(sampling, request));
    KEYE_TRY_VOID(read_max_tokens(sampling, {"max_new_tokens"}, request));
    KEYE_TRY(const auto replies, sampling.integer("n", 1, engine::kRepliesMax));
    request.replies = static_cast<int>(replies.value_or(1));
    KEYE_TRY_VOID(sampling.refuse_others());
  }
  KEYE_TRY(const auto stream, fields.boolean("stream"));
  shape.stream = stream.value_or(false);
  KEYE_TRY(const auto return_logprob, fields.boolean("return_logprob"));
  KEYE_TRY(const auto top, fields.integer("top_logprobs_num", 0, engine::kLogprobsMax));
  if (return_logprob.value_or(false)) shape.logprobs = static_cast<int>(top.value_or(0));
  request.sampling.logprobs = shape.logprobs;
  KEYE_TRY(const auto logprob_texts, fields.boolean("return_text_in_logprobs"));
  shape.logprob_texts = logprob_texts.value_or(false);
  KEYE_TRY(const auto parse_special, fields.boolean("parse_special"));
  const Value* text = fields.find("text");
  const Value* ids = fields.find("input_ids");
  if ((text == nullptr) == (ids == nullptr)) return fields.wrong("text", "give one of text and input_ids");
  const char* name = text != nullptr ? "text" : "input_ids";
  KEYE_TRY(auto sources,
           read_prompts(text != nullptr ? *text : *ids, parse_special.value_or(false), name, shape.is_batch));
  for (const engine::PromptSource& source : sources) {
    if (std::holds_alternative<prompt::PlainPrompt>(source) == (text != nullptr)) continue;
    return fields.wrong(name, text != nullptr ? "should be text; token ids go to input_ids" : "should be token ids");
  }
  KEYE_TRY_VOID(fields.refuse_others());
  return with_prompts(std::move(api), std::move(sources), request, "sampling_params.n");
}

}  // namespace keye::server
