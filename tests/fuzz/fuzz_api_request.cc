// Any bytes as the body of a request: refused with an error that names a field and can be sent, or read to a request
// within all limits, whose prompt is then built with the tokenizer and template of the model that comes with the
// project.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/json.h"
#include "engine/sampler.h"
#include "prompt/prompt_builder.h"
#include "server/api_reply.h"
#include "server/api_request.h"
#include "server/request_fields.h"

namespace {

using namespace keye;

constexpr int kVocabulary = 768;
constexpr int32_t kImageToken = 659;
constexpr int32_t kVideoToken = 660;

const prompt::PromptBuilder& builder() {
  static const prompt::PromptBuilder made =
      *prompt::PromptBuilder::load("models/keye-nano", {.has_vision = true,
                                                        .three_axes = true,
                                                        .image_token = kImageToken,
                                                        .video_token = kVideoToken,
                                                        .video = prompt::VideoPolicy::all_slow,
                                                        .merge = 2});
  return made;
}

/// No files, no network, small pictures.
prompt::MediaAccess access() {
  prompt::MediaAccess access;
  access.policy.remote = false;
  access.limits = {.bytes_max = 1 << 16, .pixels_max = 1 << 14, .side_max = 1 << 12};
  access.pictures_max = 4;
  access.videos_max = 2;
  access.list_frames_max = 8;
  access.tokens_max = 2048;
  return access;
}

void check_error(const Error& error) {
  const auto response = server::error_response(error);
  KEYE_CHECK(response.status >= 400 && response.status < 500, "{} {}", response.status, error.to_string());
  KEYE_CHECK(parse_json(response.body, "error").has_value());
  KEYE_CHECK(response.body.size() < 8192, "{} bytes", response.body.size());
}

void check_request(const engine::Request& request) {
  KEYE_CHECK(request.replies >= 1 && request.replies <= engine::kRepliesMax);
  KEYE_CHECK(request.stop.max_tokens >= 1);
  KEYE_CHECK(request.stop.strings.size() <= server::kStopStringsMax);
  for (const std::string& text : request.stop.strings)
    KEYE_CHECK(!text.empty() && text.size() <= server::kStopBytesMax);
  for (const int32_t token : request.stop.token_ids) KEYE_CHECK(token >= 0);
  KEYE_CHECK(std::isfinite(request.sampling.temperature) && request.sampling.logit_bias.size() <= server::kBiasesMax);
  KEYE_CHECK(request.cache_salt.starts_with("tenant/"));
  const auto fits = engine::check_sampling(request.sampling, kVocabulary);
  if (!fits) check_error(fits.error());
}

/// Exactly the tokens of pictures and frames are such tokens, whatever the text looks like.
void check_prompt(const prompt::Prompt& prompt) {
  int64_t expected = 0;
  for (const prompt::VisionItem& item : prompt.vision) expected += item.tokens;
  int64_t found = 0;
  for (const int32_t token : prompt.tokens) {
    KEYE_CHECK(token >= 0 && token < kVocabulary);
    found += token == kImageToken || token == kVideoToken ? 1 : 0;
  }
  KEYE_CHECK(found == expected, "{} placeholders for {} tokens of pictures", found, expected);
  for (const auto& axis : prompt.positions) KEYE_CHECK(axis.size() == prompt.tokens.size());
}

void build(const engine::ChatRequest& chat) {
  if (const auto* conversation = std::get_if<prompt::Conversation>(&chat.source)) {
    const auto prompt = builder().build(*conversation, access());
    prompt ? check_prompt(*prompt) : check_error(prompt.error());
  } else if (const auto* plain = std::get_if<prompt::PlainPrompt>(&chat.source)) {
    const auto prompt = builder().build(*plain);
    if (!prompt) return check_error(prompt.error());
    if (!plain->parse_special) check_prompt(*prompt);
  } else {
    builder().from_tokens(std::get<std::vector<int32_t>>(chat.source));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  static const server::RequestRules rules{
      .served_names = {"nano", "other"}, .generation = {}, .context_max = 2048, .tenant = "tenant"};
  using Reader = Result<server::ApiRequest> (*)(std::string_view, const server::RequestRules&);
  constexpr Reader kReaders[] = {server::read_chat_request, server::read_completion_request,
                                 server::read_generate_request};
  const auto request = kReaders[data[0] % 3](body, rules);
  if (!request) {
    check_error(request.error());
    return 0;
  }
  KEYE_CHECK(!request->chats.empty());
  KEYE_CHECK(request->chats.size() * static_cast<size_t>(request->chats[0].request.replies) <= server::kPromptsMax);
  for (const engine::ChatRequest& chat : request->chats) {
    check_request(chat.request);
    build(chat);
  }
  return 0;
}
