#include "prompt/template_kwargs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "prompt/chat_template.h"
#include "text/value_text.h"

namespace keye::prompt {
namespace {

using testing::HasSubstr;
using testing::Not;

Result<text::Dict> check(std::string_view json) {
  const Result<text::Value> value = text::parse_value(json, text::kOriginEngine, "test");
  EXPECT_TRUE(value) << value.error().to_string();
  return check_template_kwargs(*value);
}

Error refused(std::string_view json) {
  const Result<text::Dict> checked = check(json);
  EXPECT_FALSE(checked) << json;
  return checked ? Error{} : checked.error();
}

TEST(TemplateKwargs, SwitchesReachTheTemplate) {
  const Result<text::Dict> checked = check(
      R"({"enable_thinking": false, "thinking": true, "reasoning_effort": "low", "thinking_budget": 512,
          "preserve_thinking": true, "clear_thinking": false, "add_vision_id": true, "date_string": "1 Jan 2000",
          "tools_in_user_message": 0.5})");
  ASSERT_TRUE(checked) << checked.error().to_string();
  EXPECT_EQ(checked->size(), 9U);
  RenderOptions options;
  options.variables = *checked;
  const Result<ChatTemplate> chat_template = ChatTemplate::from_source(
      "{{ enable_thinking }} {{ thinking_budget + 1 }} {{ reasoning_effort }} {{ tools_in_user_message }}", "test", {});
  ASSERT_TRUE(chat_template);
  const Result<text::Rendered> rendered = chat_template->render(text::Value::list({}), options);
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  EXPECT_EQ(rendered->text, "False 513 low 0.5");
}

TEST(TemplateKwargs, StringsBelongToTheUser) {
  const Result<text::Dict> checked = check(R"({"reasoning_effort": "<|im_end|>"})");
  ASSERT_TRUE(checked);
  EXPECT_EQ(checked->find("reasoning_effort")->marked().origin, std::string(10, text::kOriginUser));
}

TEST(TemplateKwargs, NoneIsNoSwitches) {
  for (const char* json : {"null", "{}"}) {
    const Result<text::Dict> checked = check(json);
    ASSERT_TRUE(checked);
    EXPECT_TRUE(checked->empty());
  }
}

TEST(TemplateKwargs, Cve_2025_62426_RefusesWhatIsNoSwitch) {
  for (const std::string name : {"tokenize",
                                 "add_generation_prompt",
                                 "continue_final_message",
                                 "chat_template",
                                 "conversation",
                                 "messages",
                                 "tools",
                                 "documents",
                                 "bos_token",
                                 "eos_token",
                                 "pad_token",
                                 "unk_token",
                                 "raise_exception",
                                 "strftime_now",
                                 "namespace",
                                 "range",
                                 "dict",
                                 "loop",
                                 "self",
                                 "return_dict",
                                 "return_tensors",
                                 "padding",
                                 "truncation",
                                 "max_length",
                                 "tokenizer_kwargs",
                                 "__class__",
                                 "Enable_Thinking",
                                 "enable_thinking ",
                                 ""}) {
    const Error error = refused(fmt::format(R"({{"enable_thinking": true, "{}": true}})", name));
    EXPECT_EQ(error.code, ErrorCode::unsupported) << name;
    EXPECT_EQ(error.where, "chat_template_kwargs." + name);
    EXPECT_THAT(error.message, HasSubstr("enable_thinking, thinking"));
  }
}

TEST(TemplateKwargs, LongNamesAreNotRepeated) {
  const Error error = refused(R"({")" + std::string(100'000, 'x') + R"(": 1})");
  EXPECT_EQ(error.code, ErrorCode::unsupported);
  EXPECT_LT(error.to_string().size(), 300U);
  EXPECT_THAT(error.message, HasSubstr("100000 bytes"));
}

TEST(TemplateKwargs, ValuesAreSmall) {
  for (const char* value : {"null", "[]", "[1]", "{}", R"({"a": 1})", "18446744073709551616"}) {
    const Error error = refused(fmt::format(R"({{"thinking": {}}})", value));
    EXPECT_EQ(error.code, ErrorCode::invalid_argument) << value;
    EXPECT_EQ(error.where, "chat_template_kwargs.thinking");
  }
  EXPECT_TRUE(check(R"({"thinking": ")" + std::string(256, 'x') + R"("})"));
  const Error error = refused(R"({"thinking": ")" + std::string(257, 'x') + R"("})");
  EXPECT_EQ(error.code, ErrorCode::too_large);
  EXPECT_THAT(error.message, Not(HasSubstr("xxx")));
}

TEST(TemplateKwargs, AreAnObject) {
  for (const char* json : {"[]", "true", R"("enable_thinking")"}) {
    const Error error = refused(json);
    EXPECT_EQ(error.code, ErrorCode::invalid_argument);
    EXPECT_EQ(error.where, "chat_template_kwargs");
  }
}

}  // namespace
}  // namespace keye::prompt
