// Chat templates against what jinja2 makes of them (scripts/oracle/chat_templates.py).
#include <gtest/gtest.h>

#include <filesystem>

#include "base/json.h"
#include "text/template.h"
#include "text/value_text.h"

namespace keye::text {
namespace {

const Path kFolder = "tests/golden/chat_templates";

/// The time of the oracle's strftime_now: 2025-03-07T14:05:09.000042, a Friday.
RenderTime oracle_time() {
  RenderTime now;
  now.time.tm_year = 125;
  now.time.tm_mon = 2;
  now.time.tm_mday = 7;
  now.time.tm_hour = 14;
  now.time.tm_min = 5;
  now.time.tm_sec = 9;
  now.time.tm_wday = 5;
  now.time.tm_yday = 65;
  now.microsecond = 42;
  return now;
}

Value as_value(const Json& json, char origin) {
  Result<Value> value = parse_value(json.dump(), origin, "case");
  EXPECT_TRUE(value) << value.error().to_string();
  return *value;
}

/// The file with its objects in their own order, as the templates see them.
Value read_ordered(const Path& path) {
  const Result<std::string> text = read_file(path);
  EXPECT_TRUE(text) << text.error().to_string();
  const Result<Value> value = parse_value(*text, kOriginUser, path.string());
  EXPECT_TRUE(value) << value.error().to_string();
  return *value;
}

int check_cases(const Template& compiled, const Value& golden,
                const std::vector<std::pair<std::string, Value>>& always) {
  int count = 0;
  for (const Value& one : golden.dict().find("cases")->items()) {
    const Dict& given = one.dict();
    SCOPED_TRACE(given.find("name")->text());
    Dict variables;
    for (const auto& [name, value] : always) variables.set(name, value);
    for (const auto& [name, value] : golden.dict().find("token_variables")->dict().items()) variables.set(name, value);
    if (const Value* own = given.find("variables")) {
      for (const auto& [name, value] : own->dict().items()) variables.set(name, value);
    }
    variables.set("messages", *given.find("messages"));
    const Result<Rendered> rendered = compiled.render(Value::dict(std::move(variables)), {}, oracle_time());
    ++count;
    if (const Value* expected = given.find("expected")) {
      EXPECT_TRUE(rendered) << rendered.error().to_string();
      if (rendered) {
        EXPECT_EQ(rendered->text, expected->text());
      }
    } else {
      EXPECT_FALSE(rendered) << "expected " << given.find("error")->text();
    }
  }
  return count;
}

TEST(TemplateGolden, StylesOfPublishedTemplates) {
  int styles = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder / "styles")) {
    if (entry.path().extension() != ".jinja") continue;
    SCOPED_TRACE(entry.path().string());
    const Result<std::string> source = read_file(entry.path());
    ASSERT_TRUE(source);
    const Result<Template> compiled = Template::compile(*source, entry.path().filename().string());
    ASSERT_TRUE(compiled) << compiled.error().to_string();
    Path expected = entry.path();
    const std::vector<std::pair<std::string, Value>> always = {
        {"tools", Value::none()}, {"documents", Value::none()}, {"add_generation_prompt", Value(true)}};
    EXPECT_EQ(check_cases(*compiled, read_ordered(expected.replace_extension(".json")), always), 14);
    ++styles;
  }
  EXPECT_EQ(styles, 11);
}

TEST(TemplateGolden, RandomPrograms) {
  const Value golden = read_ordered(kFolder / "programs.json");
  const Value& variables = *golden.dict().find("variables");
  int same = 0;
  for (const Value& one : golden.dict().find("cases")->items()) {
    const std::string& source = one.dict().find("template")->text();
    SCOPED_TRACE(source);
    const Result<Template> compiled = Template::compile(source, "program");
    const Result<Rendered> rendered =
        compiled ? compiled->render(variables, {}, oracle_time()) : Result<Rendered>(compiled.error());
    if (const Value* expected = one.dict().find("expected")) {
      EXPECT_TRUE(rendered) << rendered.error().to_string();
      if (rendered) {
        EXPECT_EQ(rendered->text, expected->text());
      }
    } else {
      EXPECT_FALSE(rendered) << rendered->text << "\nexpected " << one.dict().find("error")->text();
    }
    ++same;
  }
  EXPECT_EQ(same, 850);
}

TEST(TemplateGolden, SourcesSurviveCarriageReturns) {
  const Value golden = read_ordered(kFolder / "qwen3-text.json");
  std::string source;
  for (const char c : golden.dict().find("template")->text()) source += c == '\n' ? "\r\n" : std::string(1, c);
  const Result<Template> compiled = Template::compile(source, "crlf");
  ASSERT_TRUE(compiled) << compiled.error().to_string();
  const Result<Rendered> rendered =
      compiled->render(as_value(Json{{"messages", {{{"role", "user"}, {"content", "a\r\nb"}}}}}, kOriginUser));
  ASSERT_TRUE(rendered) << rendered.error().to_string();
  EXPECT_EQ(rendered->text, "<|im_start|>user\na\r\nb<|im_end|>\n");
}

}  // namespace
}  // namespace keye::text
