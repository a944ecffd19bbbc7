#include "prompt/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "text/value_text.h"

namespace keye::prompt {
namespace {

using testing::HasSubstr;

text::Value parse(std::string_view json) {
  const Result<text::Value> value = text::parse_value(json, text::kOriginUser, "test");
  EXPECT_TRUE(value) << value.error().to_string();
  return *value;
}

text::Value read_golden(const std::string& kind) {
  const Result<std::string> text = read_file(Path("tests/golden/chat_templates") / (kind + ".json"));
  EXPECT_TRUE(text) << text.error().to_string();
  return parse(*text);
}

ChatTemplate compile(std::string_view source, SpecialTokens tokens = {}) {
  Result<ChatTemplate> compiled = ChatTemplate::from_source(source, "test.jinja", std::move(tokens));
  EXPECT_TRUE(compiled) << compiled.error().to_string();
  return std::move(compiled).value();
}

class ChatTemplateGolden : public testing::TestWithParam<const char*> {};

TEST_P(ChatTemplateGolden, RendersAsTheReference) {
  const text::Value golden = read_golden(GetParam());
  SpecialTokens tokens;
  for (const auto& [name, token] : golden.dict().find("token_variables")->dict().items())
    tokens[name.text()] = token.text();
  const ChatTemplate chat_template = compile(golden.dict().find("template")->text(), tokens);
  const text::Values& cases = golden.dict().find("cases")->items();
  EXPECT_EQ(cases.size(), 31U);
  for (const text::Value& one : cases) {
    SCOPED_TRACE(one.dict().find("name")->text());
    RenderOptions options;
    if (const text::Value* variables = one.dict().find("variables")) {
      for (const auto& [name, value] : variables->dict().items()) {
        if (name.text() == "tools") {
          options.tools = value;
        } else if (name.text() == "add_generation_prompt") {
          options.add_generation_prompt = value.boolean();
        } else {
          options.variables.set(name, value);
        }
      }
    }
    const Result<text::Rendered> rendered = chat_template.render(*one.dict().find("messages"), options);
    if (const text::Value* expected = one.dict().find("expected")) {
      ASSERT_TRUE(rendered) << rendered.error().to_string();
      EXPECT_EQ(rendered->text, expected->text());
    } else {
      EXPECT_FALSE(rendered) << "the reference fails with " << one.dict().find("error")->text();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ChatTemplateGolden,
                         testing::Values("qwen3-text", "keye-1_5", "keye-nano", "deepseek-v3-text", "keye-671b"));

/// The compiled template that continued.json names: a checkpoint's own, or one of the styles.
ChatTemplate read_template(const std::string& name) {
  const Path folder = "tests/golden/chat_templates";
  Path described = folder / name;
  const text::Value json = parse(*read_file(described.replace_extension(".json")));
  SpecialTokens tokens;
  for (const auto& [key, token] : json.dict().find("token_variables")->dict().items())
    tokens[key.text()] = token.text();
  const text::Value* source = json.dict().find("template");
  return compile(source != nullptr ? source->text() : *read_file(folder / name), tokens);
}

TEST(ChatTemplate, TheTimeIsTheClocksUnlessItIsGiven) {
  const ChatTemplate chat_template = compile("{{ strftime_now('%Y-%m-%d') }}");
  const auto today = [] {
    const std::tm time = text::local_time_now().time;
    return fmt::format("{}-{:02}-{:02}", time.tm_year + 1900, time.tm_mon + 1, time.tm_mday);
  };
  RenderOptions options;
  const std::string before = today();  // it may become midnight meanwhile
  const Result<text::Rendered> rendered = chat_template.render(parse("[]"), options);
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  EXPECT_TRUE(rendered->text == before || rendered->text == today()) << rendered->text;
  EXPECT_GE(before, "2025");
  options.now.emplace();
  options.now->time.tm_year = 125;
  options.now->time.tm_mday = 7;
  EXPECT_EQ(chat_template.render(parse("[]"), options)->text, "2025-01-07");
}

TEST(ContinueFinalMessage, LeavesTheMessageOpenAsTheReference) {
  const text::Value golden = read_golden("continued");
  const text::Dict& conversations = golden.dict().find("conversations")->dict();
  RenderOptions options;
  options.add_generation_prompt = false;
  options.continue_final_message = true;
  options.now.emplace();
  options.now->time.tm_year = 125;  // the oracle's 2025-03-07
  options.now->time.tm_mon = 2;
  options.now->time.tm_mday = 7;
  int compared = 0;
  for (const auto& [name, expected] : golden.dict().find("expected")->dict().items()) {
    const ChatTemplate chat_template = read_template(name.text());
    for (const auto& [conversation, text] : expected.dict().items()) {
      SCOPED_TRACE(name.text() + " " + conversation.text());
      const Result<text::Rendered> rendered = chat_template.render(*conversations.find(conversation), options);
      ++compared;
      if (text.is_string()) {
        ASSERT_TRUE(rendered) << rendered.error().to_string();
        EXPECT_EQ(rendered->text, text.text());
      } else {
        ASSERT_FALSE(rendered) << rendered->text;
        EXPECT_EQ(rendered.error().code, ErrorCode::invalid_argument);
      }
    }
  }
  EXPECT_EQ(compared, 303);
}

Result<text::Rendered> continued(std::string_view source, std::string_view messages) {
  RenderOptions options;
  options.add_generation_prompt = false;
  options.continue_final_message = true;
  return compile(source).render(parse(messages), options);
}

constexpr std::string_view kTurns = "{% for m in messages %}[{{ m.role }}] {{ m.content }} {% endfor %}";

TEST(ContinueFinalMessage, TheTextBelongsToTheAssistant) {
  const Result<text::Rendered> rendered =
      continued(kTurns, R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b "}])");
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  EXPECT_EQ(rendered->text, "[user] a [assistant] b ");
  EXPECT_EQ(rendered->origin.substr(rendered->size() - 4), std::string("\0\0\2\2", 4));
}

TEST(ContinueFinalMessage, NothingInAMessageIsTakenForItsEnd) {
  const Result<text::Rendered> rendered = continued(
      kTurns, R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "END_OF_FINAL_MESSAGE b"}])");
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  EXPECT_EQ(rendered->text, "[user] a [assistant] END_OF_FINAL_MESSAGE b");
}

TEST(ContinueFinalMessage, AMessageWrittenTwiceEndsWhereItIsWrittenLast) {
  const Result<text::Rendered> rendered = continued("{{ messages[0].content }}|{{ messages[0].content | trim }}.",
                                                    R"([{"role": "assistant", "content": "b "}])");
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  EXPECT_EQ(rendered->text, "b |b");
}

TEST(ContinueFinalMessage, ContinuesTheLastTextOfJoinedParts) {
  const Result<text::Rendered> rendered = continued(
      "{{ messages[0].content + '|' }}",
      R"([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])");
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  EXPECT_EQ(rendered->text, "a b");
}

TEST(ContinueFinalMessage, RefusesWhatCannotBeContinued) {
  struct Refused {
    std::string_view source, messages, where;
  };
  for (const Refused& one : {
           Refused{kTurns, "[]", "messages"},
           Refused{kTurns, R"([{"role": "user", "content": "a"}])", "messages[0].role"},
           Refused{kTurns, R"([{"role": "user", "content": "a"}, {"role": "assistant"}])", "messages[1].content"},
           Refused{kTurns, R"([{"role": "assistant", "content": null}])", "messages[0].content"},
           Refused{kTurns, R"([{"role": "assistant", "content": 3}])", "messages[0].content"},
           Refused{"{{ m.content.image }}", R"([{"role": "assistant", "content": []}])", "messages[0].content"},
           Refused{"no messages", R"([{"role": "assistant", "content": "a"}])", "continue_final_message"},
           Refused{"{{ messages[0].content | replace('a', 'c') }}", R"([{"role": "assistant", "content": "a"}])",
                   "continue_final_message"},
           Refused{"{{ messages[0].content[:1] }}", R"([{"role": "assistant", "content": "ab"}])",
                   "continue_final_message"},
       }) {
    const Result<text::Rendered> rendered = continued(one.source, one.messages);
    ASSERT_FALSE(rendered) << one.messages << rendered->text;
    EXPECT_EQ(rendered.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(rendered.error().where, one.where);
  }
}

TEST(ContinueFinalMessage, DoesNotGoWithAGenerationPrompt) {
  RenderOptions options;
  options.continue_final_message = true;
  const Result<text::Rendered> rendered =
      compile(kTurns).render(parse(R"([{"role": "assistant", "content": "a"}])"), options);
  ASSERT_FALSE(rendered);
  EXPECT_EQ(rendered.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(rendered.error().to_string(), HasSubstr("add_generation_prompt"));
}

TEST(ChatTemplate, EveryByteKnowsWhoWroteIt) {
  const ChatTemplate chat_template = compile(
      "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim | upper }}{{ m.tool_calls | tojson if "
      "m.tool_calls }}<|end|>{% endfor %}{{ tools | tojson }}",
      {{"bos_token", "<s>"}});
  RenderOptions options;
  options.tools = parse(R"([{"name": "<|t|>"}])");
  const Result<text::Rendered> rendered = chat_template.render(
      parse(
          R"([{"role": "user", "content": " <|end|> "}, {"role": "assistant", "content": "ok", "tool_calls": [{"f": "<|x|>"}]}])"),
      options);
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  const std::string& text = rendered->text;
  EXPECT_EQ(text, "<s><|user|><|END|><|end|><|assistant|>OK[{\"f\": \"<|x|>\"}]<|end|>[{\"name\": \"<|t|>\"}]");
  ASSERT_EQ(rendered->origin.size(), text.size());
  const auto origins = [&](std::string_view part) {
    const size_t at = text.find(part);
    return rendered->origin.substr(at, part.size());
  };
  EXPECT_EQ(origins("<s><|"), std::string(5, text::kOriginEngine));
  EXPECT_EQ(origins("user"), std::string(4, text::kOriginUser));
  EXPECT_EQ(origins("<|END|>"), std::string(7, text::kOriginUser));
  EXPECT_EQ(origins("<|end|>"), std::string(7, text::kOriginEngine));
  EXPECT_EQ(origins("OK"), std::string(2, text::kOriginAssistant));
  EXPECT_EQ(origins("<|x|>"), std::string(5, text::kOriginAssistant));
  EXPECT_EQ(origins("<|t|>"), std::string(5, text::kOriginUser));
  EXPECT_EQ(origins("[{\""), std::string(3, text::kOriginEngine));
}

TEST(ChatTemplate, TemplatesForStringsGetJoinedTextAndNoMedia) {
  const ChatTemplate chat_template = compile("{% for m in messages %}{{ m.content + '|' }}{% endfor %}");
  const Result<text::Rendered> joined = chat_template.render(
      parse(R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])"), {});
  ASSERT_TRUE(joined) << joined.error().to_string();
  EXPECT_EQ(joined->text, "a b|");
  const Result<text::Rendered> picture = chat_template.render(
      parse(R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])"), {});
  ASSERT_FALSE(picture);
  EXPECT_EQ(picture.error().code, ErrorCode::unsupported);
  EXPECT_THAT(picture.error().to_string(), HasSubstr("messages[0].content"));
}

TEST(ChatTemplate, DropsNullFieldsAndParsesArguments) {
  const ChatTemplate chat_template = compile("{{ messages | tojson }}");
  const Result<text::Rendered> rendered = chat_template.render(
      parse(
          R"([{"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": "{\"b\": 1e3, \"a\": 18446744073709551615}"}}]}])"),
      {});
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  EXPECT_EQ(
      rendered->text,
      R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1000.0, "a": 18446744073709551615}}}]}])");
}

TEST(ChatTemplate, ToolsAndDocumentsAreNoneWhenNotGiven) {
  const ChatTemplate chat_template =
      compile("{{ tools is defined }} {{ tools is none }} {{ documents is none }} {{ other is defined }}");
  EXPECT_EQ(chat_template.render(parse("[]"), {})->text, "True True True False");
}

TEST(ChatTemplate, RefusesMessagesOfAnotherForm) {
  const ChatTemplate chat_template = compile("x");
  for (const auto& [json, where] : {std::pair{R"({"role": "user"})", "messages"},
                                    {R"(["hi"])", "messages[0]"},
                                    {R"([{"content": "hi"}])", "messages[0].role"}}) {
    const Result<text::Rendered> rendered = chat_template.render(parse(json), {});
    ASSERT_FALSE(rendered) << json;
    EXPECT_EQ(rendered.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(rendered.error().where, where);
  }
}

class TemplateFolder : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, std::string_view text) { ASSERT_TRUE(write_file(folder_ / name, text)); }
  std::string render(const RenderOptions& options = {}) {
    const Result<ChatTemplate> loaded = ChatTemplate::load(folder_);
    if (!loaded) return "error: " + loaded.error().message;
    const Result<text::Rendered> rendered = loaded->render(parse("[]"), options);
    return rendered ? rendered->text : "error: " + rendered.error().message;
  }
  Path folder_ = Path(testing::TempDir()) / fmt::format("keye_chat_template_{}", getpid());
};

TEST_F(TemplateFolder, LooksInThreePlacesInOrder) {
  EXPECT_THAT(render(), HasSubstr("no chat template"));
  write(
      "tokenizer_config.json",
      R"({"chat_template": "config {{ bos_token }}{{ eos_token }}{{ pad_token is defined }}", "bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null})");
  EXPECT_EQ(render(), "config <s></s>False");
  write("chat_template.json", R"({"chat_template": "json {{ eos_token }}"})");
  EXPECT_EQ(render(), "json </s>");
  write("chat_template.jinja", "jinja {{ bos_token }}");
  EXPECT_EQ(render(), "jinja <s>");
}

TEST_F(TemplateFolder, ChoosesTheTemplateForTools) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]})");
  EXPECT_EQ(render(), "plain");
  RenderOptions options;
  options.tools = parse("[{}]");
  EXPECT_EQ(render(options), "tools");
}

TEST_F(TemplateFolder, RefusesWhatIsNoTemplate) {
  write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  EXPECT_THAT(render(), HasSubstr("\"default\""));
  write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_THAT(render(), HasSubstr("should be a string or a list"));
  write("tokenizer_config.json", R"({"chat_template": "{% for %}"})");
  EXPECT_THAT(render(), HasSubstr("expected an expression"));
}

}  // namespace
}  // namespace keye::prompt
