#include "golden/golden_case.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "text/value_text.h"

namespace keye::golden {

std::string identifier(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

Path golden_folder() {
  const char* folder = std::getenv("KEYE_GOLDENS");
  return folder != nullptr ? Path(folder) : Path("tests/golden");
}

const std::vector<std::string>& kinds() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> kinds = {"qwen3-text", "qwen3-moe-text", "deepseek-v3-text", "keye-8b",
                                      "keye-1_5",   "keye-2_0",       "keye-2_0-dense",   "keye-nano"};
    // Not committed, for its size; scripts/oracle/other_seeds makes it.
    if (std::filesystem::exists(golden_folder() / "checkpoints" / "keye-671b")) kinds.emplace_back("keye-671b");
    return kinds;
  }();
  return all;
}

Path checkpoint_folder(const std::string& kind) {
  return kind == "keye-nano" ? Path("models/keye-nano")
                             : golden_folder() / "checkpoints" / kind.substr(0, kind.find('.'));
}

ConstView GoldenCase::find(std::string_view tensor) const {
  const auto found = tensors.tensors().find(tensor);
  return found == tensors.tensors().end() ? ConstView{} : found->second;
}

GoldenCase load_case(const std::string& kind, const std::string& name) {
  const Path folder = golden_folder() / "expected" / kind;
  const std::string text = must(read_file(folder / (name + ".json")));
  return {kind, name, must(parse_json(text, name)), must(text::parse_value(text, text::kOriginUser, name)),
          must(TensorFile::open(folder / (name + ".safetensors")))};
}

std::vector<GoldenCase> load_cases(const std::string& kind) {
  std::vector<GoldenCase> cases;
  for (const Json& input : must(read_json(golden_folder() / "cases" / (kind + ".json")))) {
    cases.push_back(load_case(kind, input.at("name")));
  }
  return cases;
}

namespace {

/// A case's clip in keye-vl-utils' form.
Json video_part(const Json& clip) {
  Json part = clip.value("options", Json::object());
  part["type"] = "video";
  if (clip.contains("fps")) part["fps"] = clip["fps"];
  for (const std::string file : clip.at("frames")) part["video"].push_back((golden_folder() / "cases" / file).string());
  return part;
}

}  // namespace

prompt::Conversation conversation(const GoldenCase& golden) {
  Json messages = golden.input().at("messages");
  size_t pictures = 0;
  size_t videos = 0;
  for (Json& message : messages) {
    if (!message.at("content").is_array()) continue;
    for (Json& part : message.at("content")) {
      if (part.at("type") == "video_url") part = video_part(golden.input().at("videos").at(videos++));
      if (part.at("type") != "image_url") continue;
      const std::string file = golden.input().at("images").at(pictures++);
      part["image_url"]["url"] = (golden_folder() / "cases" / file).string();
    }
  }
  prompt::Conversation conversation;
  conversation.messages = must(text::parse_value(messages.dump(), text::kOriginUser, golden.name));
  if (const text::Value* variables = golden.source.dict().find("case")->dict().find("template_variables")) {
    for (const auto& [name, value] : variables->dict().items()) {
      KEYE_CHECK(name.text() == "tools", "template variable {} is not read by this test", name.text());
      conversation.render.tools = value;
    }
  }
  return conversation;
}

prompt::Prompt build_prompt(const prompt::PromptBuilder& builder, const GoldenCase& golden) {
  if (golden.input().contains("messages"))
    return must(builder.build(conversation(golden), {.policy = {.any_path = true}}));
  const std::string text = golden.input().at("prompt");
  return builder.from_tokens(builder.tokenizer().encode(text));
}

}  // namespace keye::golden
