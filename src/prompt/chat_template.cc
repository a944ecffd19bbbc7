#include "prompt/chat_template.h"

#include <algorithm>
#include <utility>

#include "base/json.h"
#include "text/template/text_ops.h"
#include "text/value_text.h"

namespace keye::prompt {
namespace {

using text::Dict;
using text::Kind;
using text::Value;
using text::Values;

Error refuse(std::string where, std::string message, ErrorCode code = ErrorCode::invalid_argument) {
  return {code, std::move(message), std::move(where)};
}

/// The same value with every string's bytes marked as coming from `origin`.
Value mark(const Value& value, char origin) {
  switch (value.kind()) {
    case Kind::string:
      return Value(text::Marked(value.text(), origin));
    case Kind::list: {
      Values items;
      for (const Value& item : value.items()) items.push_back(mark(item, origin));
      return Value::list(std::move(items));
    }
    case Kind::dict: {
      Dict items;
      for (const auto& [key, item] : value.dict().items()) items.set(mark(key, origin), mark(item, origin));
      return Value::dict(std::move(items));
    }
    default:
      return value;
  }
}

const Value* field(const Value& value, std::string_view key) {
  return value.is(Kind::dict) ? value.dict().find(key) : nullptr;
}

std::string text_of(const Value* value) {
  return value != nullptr && value->is_string() ? value->text() : std::string();
}

/// The part's kind as templates know it: "image", "video", or "" for all others.
std::string media_kind(const Value& part) {
  const std::string type = text_of(field(part, "type"));
  if (type == "image" || type == "image_url") return "image";
  if (type == "video" || type == "video_url") return "video";
  return {};
}

Value short_part(const std::string& kind, char origin) {
  Dict part;
  part.set("type", Value(text::Marked(kind, origin)));
  return Value::dict(std::move(part));
}

/// A template that takes strings only gets the text parts, joined by a space.
Result<Value> joined_text(const Value& parts, const std::string& where, char origin) {
  text::Marked joined;
  for (const Value& part : parts.items()) {
    if (!media_kind(part).empty()) {
      return refuse(where, "this checkpoint's chat template takes text only; remove the pictures and videos",
                    ErrorCode::unsupported);
    }
    const Value* words = part.is_string() ? &part : field(part, "text");
    if (words == nullptr || !words->is_string()) continue;
    if (!joined.empty()) joined.append(" ", origin);
    joined.append(words->text(), origin);
  }
  return Value(std::move(joined));
}

Result<Value> normalise_content(const Value& content, bool takes_parts, const std::string& where, char origin) {
  if (!content.is_sequence()) return content;
  if (!takes_parts) return joined_text(content, where, origin);
  Values parts;
  for (const Value& part : content.items()) {
    const std::string kind = media_kind(part);
    parts.push_back(kind.empty() ? part : short_part(kind, origin));
  }
  return Value::list(std::move(parts));
}

/// {"function": {"arguments": "{...}"}} with its arguments as an object; arguments that are not JSON stay text.
Value normalise_call(const Value& call, char origin) {
  if (!call.is(Kind::dict)) return call;
  const Value* function = field(call, "function");
  if (function != nullptr) {
    Dict outer = call.dict();
    outer.set("function", normalise_call(*function, origin));
    return Value::dict(std::move(outer));
  }
  const Value* arguments = field(call, "arguments");
  if (arguments == nullptr || !arguments->is_string()) return call;
  auto parsed = text::parse_value(arguments->text(), origin, "arguments");
  if (!parsed) return call;
  Dict inner = call.dict();
  inner.set("arguments", std::move(parsed).value());
  return Value::dict(std::move(inner));
}

Result<Value> normalise_message(const Value& message, bool takes_parts, const std::string& where) {
  if (!message.is(Kind::dict)) return refuse(where, "should be an object with role and content");
  const std::string role = text_of(field(message, "role"));
  if (role.empty()) return refuse(where + ".role", "should be a string such as \"user\"");
  const char origin = role == "assistant" ? text::kOriginAssistant : text::kOriginUser;
  const Value marked = mark(message, origin);
  Dict result;
  for (const auto& [key, value] : marked.dict().items()) {
    if (value.is(Kind::none)) continue;
    const std::string name = key.is_string() ? key.text() : std::string();
    if (name == "content") {
      KEYE_TRY(Value content, normalise_content(value, takes_parts, where + ".content", origin));
      result.set(key, std::move(content));
    } else if (name == "tool_calls" && role == "assistant" && value.is_sequence()) {
      Values calls;
      for (const Value& call : value.items()) calls.push_back(normalise_call(call, origin));
      result.set(key, Value::list(std::move(calls)));
    } else {
      result.set(key, value);
    }
  }
  return Value::dict(std::move(result));
}

/// Whether message content may be a list of parts: as the published serving code decides it.
bool takes_parts(const text::Template& compiled, std::string_view source) {
  if (compiled.loops_over_content()) return true;
  for (const std::string_view word : {"image", "audio", "video", "vision"}) {
    if (source.find(word) != std::string_view::npos) return true;
  }
  return false;
}

/// What is put behind the text of a message that is to be continued, to see where that text ends once it is rendered.
/// Templates look at how a message ends; as with Hugging Face, they see a word and a space.
constexpr std::string_view kEndMark = "END_OF_FINAL_MESSAGE ";
/// Its bytes are known by their origin: no other text can be taken for it.
constexpr char kOriginEndMark = 3;

Value with_end_mark(const Value& text) {
  text::Marked marked = text.marked();
  marked.append(kEndMark, kOriginEndMark);
  return Value(std::move(marked));
}

Value with_field(const Value& dict, std::string_view key, Value value) {
  Dict changed = dict.dict();
  changed.set(key, std::move(value));
  return Value::dict(std::move(changed));
}

/// Puts the mark behind the last text of a message; returns that text, or an undefined value if there is none.
Value mark_end(Value& message) {
  const Value* content = field(message, "content");
  if (content == nullptr) return {};
  if (content->is_string()) {
    Value text = *content;
    message = with_field(message, "content", with_end_mark(text));
    return text;
  }
  if (!content->is_sequence()) return {};
  Values parts = content->items();
  for (size_t i = parts.size(); i-- > 0;) {
    const Value* found = field(parts[i], "text");
    if (found == nullptr || !found->is_string()) continue;
    Value text = *found;
    parts[i] = with_field(parts[i], "text", with_end_mark(text));
    message = with_field(message, "content", Value::list(std::move(parts)));
    return text;
  }
  return {};
}

/// Readies the last message to be continued; returns its last text.
Result<text::Marked> open_final_message(Values& messages, bool add_generation_prompt) {
  if (add_generation_prompt)
    return refuse("continue_final_message",
                  "the last message is continued or an answer begun, not both: "
                  "set add_generation_prompt to false");
  if (messages.empty()) return refuse("messages", "there is no message that continue_final_message could continue");
  const std::string where = fmt::format("messages[{}]", messages.size() - 1);
  if (text_of(field(messages.back(), "role")) != "assistant")
    return refuse(where + ".role", "continue_final_message needs a last message of the assistant");
  const Value text = mark_end(messages.back());
  if (!text.is_string()) return refuse(where + ".content", "continue_final_message needs a text to continue");
  return text.marked();
}

text::Marked without_marks(const text::Rendered& rendered) {
  text::Marked result;
  for (size_t begin = 0; begin < rendered.size();) {
    const size_t end = std::min(rendered.origin.find(kOriginEndMark, begin), rendered.size());
    result.append(rendered, begin, end - begin);
    begin = std::min(rendered.origin.find_first_not_of(kOriginEndMark, end), rendered.size());
  }
  return result;
}

/// The prompt up to the mark, or up to the last character before it if the template strips its messages.
Result<text::Rendered> cut_at_mark(const text::Rendered& rendered, const text::Marked& final_text) {
  size_t cut = rendered.origin.rfind(kOriginEndMark);
  if (cut != std::string::npos) {
    const size_t first = cut + 1 - std::min(cut + 1, kEndMark.size());
    while (cut > first && rendered.origin[cut - 1] == kOriginEndMark) --cut;
    text::Marked prompt = without_marks(rendered.slice(0, cut));
    if (!rendered.text.substr(cut).starts_with(kEndMark)) prompt = text::strip(prompt, nullptr, false, true);
    if (prompt.text.find(text::strip(final_text, nullptr, true, true).text) != std::string::npos) return prompt;
  }
  return refuse("continue_final_message",
                "the chat template leaves out or changes the last message, so that it cannot be continued");
}

/// A template's source, or sources by name, as JSON files hold them.
Result<std::map<std::string, std::string>> sources_of(const Json& value, const std::string& where) {
  std::map<std::string, std::string> sources;
  if (value.is_string()) {
    sources["default"] = value.get<std::string>();
    return sources;
  }
  if (!value.is_array())
    return refuse(where, "\"chat_template\" should be a string or a list", ErrorCode::corrupt_data);
  for (const Json& entry : value) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() || !entry.contains("template") ||
        !entry["template"].is_string()) {
      return refuse(where, "\"chat_template\" should list objects with name and template", ErrorCode::corrupt_data);
    }
    sources[entry["name"].get<std::string>()] = entry["template"].get<std::string>();
  }
  if (!sources.contains("default"))
    return refuse(where, "\"chat_template\" has no template named \"default\"", ErrorCode::unsupported);
  return sources;
}

struct Sources {
  std::map<std::string, std::string> by_name;
  std::string where;
};

Result<Sources> find_sources(const Path& folder) {
  Sources found;
  const Path jinja = folder / "chat_template.jinja";
  if (std::filesystem::exists(jinja)) {
    found.where = jinja.string();
    KEYE_TRY(found.by_name["default"], read_file(jinja, size_t{16} << 20));
    return found;
  }
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    const Path path = folder / name;
    if (!std::filesystem::exists(path)) continue;
    KEYE_TRY(const Json json, read_json(path));
    if (!json.is_object() || !json.contains("chat_template") || json["chat_template"].is_null()) continue;
    found.where = path.string();
    KEYE_TRY(found.by_name, sources_of(json["chat_template"], found.where));
    return found;
  }
  return refuse(folder.string(),
                "no chat template: neither chat_template.jinja, nor \"chat_template\" in chat_template.json or "
                "tokenizer_config.json",
                ErrorCode::not_found);
}

}  // namespace

Result<SpecialTokens> read_special_tokens(const Path& folder) {
  SpecialTokens tokens;
  const Path path = folder / "tokenizer_config.json";
  if (!std::filesystem::exists(path)) return tokens;
  KEYE_TRY(const Json json, read_json(path));
  if (!json.is_object()) return refuse(path.string(), "should be a JSON object", ErrorCode::corrupt_data);
  for (const char* name : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    if (!json.contains(name) || json[name].is_null()) continue;
    const Json& value = json[name];
    const Json& content = value.is_object() && value.contains("content") ? value["content"] : value;
    if (!content.is_string())
      return refuse(path.string(), fmt::format("\"{}\" should be a string or an object with content", name),
                    ErrorCode::corrupt_data);
    tokens[name] = content.get<std::string>();
  }
  return tokens;
}

Result<ChatTemplate> ChatTemplate::load(const Path& folder) {
  KEYE_TRY(const Sources sources, find_sources(folder));
  ChatTemplate result;
  for (const auto& [name, source] : sources.by_name) {
    KEYE_TRY(auto compiled, text::Template::compile(source, sources.where));
    if (name == "default") result.takes_parts_ = takes_parts(compiled, source);
    result.templates_.emplace(name, std::move(compiled));
  }
  KEYE_TRY(result.special_tokens_, read_special_tokens(folder));
  return result;
}

Result<ChatTemplate> ChatTemplate::from_source(std::string_view source, std::string_view where,
                                               SpecialTokens special_tokens) {
  ChatTemplate result;
  KEYE_TRY(auto compiled, text::Template::compile(source, where));
  result.takes_parts_ = takes_parts(compiled, source);
  result.templates_.emplace("default", std::move(compiled));
  result.special_tokens_ = std::move(special_tokens);
  return result;
}

const text::Template& ChatTemplate::choose(const RenderOptions& options) const {
  const auto tool_use = templates_.find("tool_use");
  return !options.tools.is(Kind::none) && tool_use != templates_.end() ? tool_use->second
                                                                       : templates_.find("default")->second;
}

Result<text::Rendered> ChatTemplate::render(const Value& messages, const RenderOptions& options) const {
  if (!messages.is_sequence()) return refuse("messages", "should be a list");
  Values normalised;
  for (size_t i = 0; i < messages.items().size(); ++i) {
    KEYE_TRY(Value message, normalise_message(messages.items()[i], takes_parts_, fmt::format("messages[{}]", i)));
    normalised.push_back(std::move(message));
  }
  text::Marked final_text;
  if (options.continue_final_message) {
    KEYE_TRY(final_text, open_final_message(normalised, options.add_generation_prompt));
  }
  Dict variables;
  for (const auto& [name, token] : special_tokens_) variables.set(name, Value(std::string_view(token)));
  variables.set("add_generation_prompt", Value(options.add_generation_prompt));
  // Hugging Face gives both to every template, none if there are none: "defined" does not mean "given".
  variables.set("tools", mark(options.tools, text::kOriginUser));
  variables.set("documents", Value::none());
  for (const auto& [key, value] : options.variables.items()) variables.set(key, value);
  variables.set("messages", Value::list(std::move(normalised)));
  const text::RenderTime now = options.now ? *options.now : text::local_time_now();
  KEYE_TRY(text::Rendered rendered, choose(options).render(Value::dict(std::move(variables)), options.limits, now));
  if (!options.continue_final_message) return rendered;
  return cut_at_mark(rendered, final_text);
}

}  // namespace keye::prompt
