#include "server/field_table.h"

namespace keye::server {
namespace {

constexpr FieldStatus kYes = FieldStatus::supported;
constexpr FieldStatus kNo = FieldStatus::refused;
constexpr FieldStatus kIdle = FieldStatus::no_effect;

constexpr std::string_view kBool = R"({"type":"boolean"})";
constexpr std::string_view kString = R"({"type":"string"})";
constexpr std::string_view kObject = R"({"type":"object"})";
constexpr std::string_view kArray = R"({"type":"array"})";
constexpr std::string_view kCount = R"({"type":"integer","minimum":1})";
constexpr std::string_view kInteger = R"({"type":"integer"})";
constexpr std::string_view kStrings = R"({"type":["string","array"],"items":{"type":"string"}})";
constexpr std::string_view kTokens = R"({"type":["integer","array"],"items":{"type":"integer"}})";
constexpr std::string_view kPenalty = R"({"type":"number","minimum":-2,"maximum":2})";
constexpr std::string_view kAny = R"({})";

const FieldRow kRid = {"rid", kYes, kString, "the response's id, for /abort_request"};
const FieldRow kPriority = {"priority", kYes, R"({"type":"integer","minimum":-1000,"maximum":1000})",
                            "higher ones first; default: 0"};
const FieldRow kTimeout = {"timeout", kYes, R"({"type":"number","exclusiveMinimum":0})",
                           "seconds until the request ends with an error"};
const FieldRow kCacheSalt = {"cache_salt", kYes, kString, "only requests with the same salt share what was computed"};
const FieldRow kParseSpecial = {
    "parse_special", kYes, kBool,
    "default: false: what looks like a special token in the prompt is text; true: it becomes one"};

/// Of the chat and the completions request.
const std::vector<FieldRow> kShared = {
    {"model", kYes, kString, "a served name, or empty"},
    {"temperature", kYes, R"({"type":"number","minimum":0,"maximum":100})", "0: greedy; default: the checkpoint's"},
    {"top_p", kYes, R"({"type":"number","exclusiveMinimum":0,"maximum":1})", "default: the checkpoint's"},
    {"top_k", kYes, R"({"type":"integer","minimum":-1})", "0 or -1: all tokens; default: the checkpoint's"},
    {"min_p", kYes, R"({"type":"number","minimum":0,"maximum":1})",
     "drops tokens below this share of the likeliest one's probability"},
    {"frequency_penalty", kYes, kPenalty, "counts the reply"},
    {"presence_penalty", kYes, kPenalty, "counts the reply"},
    {"repetition_penalty", kYes, R"({"type":"number","exclusiveMinimum":0,"maximum":100})",
     "counts the prompt and the reply; default: the checkpoint's"},
    {"logit_bias", kYes, kObject, "token ids to numbers in [-100, 100]; at most 1024"},
    {"seed", kYes, kInteger, "same seed, same reply, bit for bit; reply i of n has seed + i"},
    {"max_tokens", kYes, kCount, "of the reply; never more than the context holds; default: as many as it holds"},
    {"stop", kYes, kStrings, "at most 16, of at most 256 bytes each; they are not part of the reply"},
    {"stop_token_ids", kYes, kTokens, "at most 64, besides the checkpoint's own"},
    {"ignore_eos", kYes, kBool, "no stop token ends the reply"},
    {"skip_special_tokens", kYes, kBool, "default: true"},
    {"n", kYes, R"({"type":"integer","minimum":1,"maximum":128})", "replies, all in one response"},
    {"stream", kYes, kBool, "server-sent events"},
    {"stream_options", kYes, kObject, "include_usage, continuous_usage_stats; include_obfuscation: true is refused"},
    {"return_token_ids", kYes, kBool, "prompt_token_ids and token_ids in the response"},
    kRid,
    kPriority,
    kTimeout,
    kCacheSalt,
    {"user", kIdle, kString, "the API key says who asks"},
};

const std::vector<FieldRow> kChatOnly = {
    {"messages", kYes, kArray,
     "roles system, developer (taken as system), user, assistant; content a string, or text, image_url and video_url "
     "parts"},
    {"max_completion_tokens", kYes, kCount, "as max_tokens, before which it goes"},
    {"logprobs", kYes, kBool, "of each token of the reply"},
    {"top_logprobs", kYes, R"({"type":"integer","minimum":0,"maximum":20})", "with logprobs: so many alternatives"},
    {"chat_template_kwargs", kYes, kObject,
     "switches of the chat template, such as enable_thinking; others are refused"},
    {"add_generation_prompt", kYes, kBool, "default: true, and false with continue_final_message"},
    {"continue_final_message", kYes, kBool, "the reply goes on where the last message, an assistant's, ends"},
    {"separate_reasoning", kYes, kBool, "default: true: thoughts go to reasoning_content"},
    {"metadata", kIdle, kObject, "nothing is stored"},
    {"prompt_cache_key", kIdle, kString, "prompts are found by what they hold; see cache_salt"},
    {"prompt_cache_options", kIdle, kObject, "likewise"},
    {"prompt_cache_retention", kIdle, kString, "pages are kept as long as there is room"},
    {"safety_identifier", kIdle, kString, "the API key says who asks"},
    {"service_tier", kIdle, kString, "there is one; see priority"},
    {"parallel_tool_calls", kIdle, kBool, "there are no tool calls"},
    {"store", kNo, kBool, "true is refused: nothing is stored"},
    {"tools", kNo, kArray, "tool calls are not supported yet; an empty list is taken"},
    {"tool_choice", kNo, kAny, "\"none\" is taken"},
    {"functions", kNo, kArray, "tool calls are not supported yet"},
    {"function_call", kNo, kAny, "tool calls are not supported yet"},
    {"response_format", kNo, kObject, "{\"type\": \"text\"} is taken; structured output is not supported yet"},
    {"modalities", kNo, kArray, "[\"text\"] is taken"},
    {"audio", kNo, kObject, "no model of the family speaks"},
    {"prediction", kNo, kObject, "speculation is not supported"},
    {"reasoning_effort", kNo, kString, "use chat_template_kwargs, or /think and /no_think in the message"},
    {"verbosity", kNo, kString, "say it in a message"},
    {"moderation", kNo, kObject, "nothing is moderated here"},
    {"web_search_options", kNo, kObject, "the server does not search"},
};

const std::vector<FieldRow> kCompletionOnly = {
    {"prompt", kYes, kAny, "a string, a list of strings, token ids, or a list of lists of token ids; at most 128"},
    kParseSpecial,
    {"logprobs", kYes, R"({"type":"integer","minimum":0,"maximum":20})",
     "of each token of the reply, and alternatives"},
    {"echo", kNo, kBool, "true is refused: the prompt is not repeated"},
    {"suffix", kNo, kString, "no model of the family fills in"},
    {"best_of", kNo, kCount, "1 is taken; use n"},
};

const std::vector<FieldRow> kGenerate = {
    {"text", kYes, kStrings, "a prompt, or a list of at most 128"},
    {"input_ids", kYes, kArray, "instead of text: token ids, or a list of lists of them"},
    {"sampling_params", kYes, kObject,
     "max_new_tokens (default: 128), n, and of the chat request's fields those from temperature to "
     "skip_special_tokens"},
    {"stream", kYes, kBool, "server-sent events; each has all of its reply so far"},
    {"return_logprob", kYes, kBool, "of each token of the reply"},
    {"top_logprobs_num", kYes, R"({"type":"integer","minimum":0,"maximum":20})",
     "with return_logprob: so many alternatives"},
    {"return_text_in_logprobs", kYes, kBool, "tokens of log-probabilities with their text"},
    kParseSpecial,
    kRid,
    kPriority,
    kTimeout,
    kCacheSalt,
    {"log_metrics", kIdle, kBool, "all requests are counted"},
    {"logprob_start_len", kNo, kInteger, "-1 is taken: prompts have no log-probabilities"},
    {"token_ids_logprob", kNo, kArray, "use top_logprobs_num"},
    {"return_hidden_states", kNo, kBool, "only tokens leave the model"},
    {"input_embeds", kNo, kArray, "send text, input_ids or messages"},
    {"image_data", kNo, kAny, "send pictures to /v1/chat/completions"},
    {"video_data", kNo, kAny, "send videos to /v1/chat/completions"},
    {"audio_data", kNo, kAny, "no model of the family hears"},
    {"session_params", kNo, kObject, "every request holds all of its prompt"},
    {"lora_path", kNo, kString, "adapters are not supported"},
    {"custom_logit_processor", kNo, kString, "no code of a request is ever run; use logit_bias"},
};

const std::vector<FieldRow> kTokenize = {
    {"prompt", kYes, kStrings, "a text, or a list of at most 128"},
    {"parse_special", kYes, kBool, "default: true: what looks like a special token becomes one"},
    {"model", kYes, kString, "ignored: there is one tokenizer"},
};
const std::vector<FieldRow> kDetokenize = {
    {"tokens", kYes, kArray, "token ids, or a list of lists of them"},
    {"skip_special_tokens", kYes, kBool, "default: true"},
    {"model", kYes, kString, "ignored: there is one tokenizer"},
};
const std::vector<FieldRow> kAbort = {
    {"rid", kYes, kString, "the id of a response that is under way"},
    {"abort_all", kYes, kBool, "all of everybody; needs the admin key"},
};

std::vector<FieldRow> joined(const std::vector<FieldRow>& own) {
  std::vector<FieldRow> rows = own;
  rows.insert(rows.end(), kShared.begin(), kShared.end());
  return rows;
}

}  // namespace

const std::vector<FieldRow>& chat_fields() {
  static const std::vector<FieldRow> rows = joined(kChatOnly);
  return rows;
}

const std::vector<FieldRow>& completion_fields() {
  static const std::vector<FieldRow> rows = joined(kCompletionOnly);
  return rows;
}

const std::vector<FieldRow>& generate_fields() { return kGenerate; }
const std::vector<FieldRow>& tokenize_fields() { return kTokenize; }
const std::vector<FieldRow>& detokenize_fields() { return kDetokenize; }
const std::vector<FieldRow>& abort_fields() { return kAbort; }

std::string_view field_status_name(FieldStatus status) {
  switch (status) {
    case FieldStatus::supported:
      return "supported";
    case FieldStatus::refused:
      return "refused";
    case FieldStatus::no_effect:
      return "no effect";
  }
  return "";
}

}  // namespace keye::server
