#include "text/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "text/value_text.h"

namespace keye::text {
namespace {

using testing::HasSubstr;

Result<Rendered> render(std::string_view source, std::string_view variables = "{}", const TemplateLimits& limits = {}) {
  KEYE_TRY(const Value given, parse_value(variables, kOriginUser, "variables"));
  KEYE_TRY(const Template compiled, Template::compile(source, "t"));
  return compiled.render(given, limits);
}

std::string text_of(std::string_view source, std::string_view variables = "{}") {
  const Result<Rendered> rendered = render(source, variables);
  return rendered ? rendered->text : "error: " + rendered.error().to_string();
}

TEST(Template, WhatALoopSetsStaysInside) {
  EXPECT_EQ(text_of("{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}"), "231");
  EXPECT_EQ(text_of("{% set n = namespace(x=1) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}"),
            "4");
  EXPECT_EQ(text_of("{% if true %}{% set x = 1 %}{% endif %}{{ x }}"), "1");
  EXPECT_EQ(text_of("{% if false %}{% set x = 1 %}{% endif %}{{ x }}", R"({"x": "given"})"), "given");
  // A name that the template sets anywhere is its own from the start, unless it is read first.
  EXPECT_EQ(text_of("{% for i in [1] %}{{ x }}{% endfor %}{% set x = 1 %}", R"({"x": "given"})"), "");
  EXPECT_EQ(text_of("{{ x }}{% set x = 1 %}{{ x }}", R"({"x": "given"})"), "given1");
}

TEST(Template, MacrosSeeTheTemplateButNotLoops) {
  EXPECT_EQ(
      text_of("{% macro m() %}{{ g }}{{ i }}{% endmacro %}{% set g = 1 %}{% for i in [5] %}{{ m() }}{% endfor %}"),
      "1");
  EXPECT_EQ(text_of("{% macro m(a, b=a ~ '!') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, "
                    "z=4) }}{{ m('x') }}"),
            "12(3,){'z': 4}xx!(){}");
  EXPECT_EQ(text_of("{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call(x) m() %}{{ x + 1 }}{% endcall %}"), "[2]");
}

TEST(Template, LoopsEndEarlyAndSayWhenNothingCame) {
  EXPECT_EQ(text_of("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i "
                    "}}{% else %}none{% endfor %}"),
            "023");
  EXPECT_EQ(text_of("{% for i in [] %}{{ i }}{% else %}none{% endfor %}"), "none");
  EXPECT_EQ(text_of("{% for i in [1, 2, 3, 4] if i is even %}{{ loop.index }}:{{ i }}:{{ loop.last }} {% endfor %}"),
            "1:2:False 2:4:True ");
}

TEST(Template, UndefinedPrintsAsNothingAndFailsWhenUsed) {
  EXPECT_EQ(text_of("[{{ x }}{{ d.x }}{{ d['x'] }}]", R"({"d": {}})"), "[]");
  EXPECT_EQ(text_of("{{ x.y }}"), "error: t:1:5: \"x\" is undefined");
  EXPECT_EQ(text_of("\n  {{ d.x.y }}", R"({"d": {}})"), "error: t:2:9: a value of type dict has no attribute \"x\"");
  EXPECT_EQ(text_of("{% for i in x %}{{ i }}{% endfor %}{{ x|list }}{{ x|length }}{{ x is iterable }}"), "[]0True");
}

TEST(Template, WhitespaceControl) {
  EXPECT_EQ(text_of("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(text_of("a  {%- if true -%}  b  {%- endif %}  c"), "ab  c");
  EXPECT_EQ(text_of("  {%+ if true %}x{% endif +%}\ny"), "  x\ny");
  EXPECT_EQ(text_of("a {#- note -#} b\n  {# alone #}\nc"), "ab\nc");
  EXPECT_EQ(text_of("{{ 'a' -}}   \n b\n\n"), "ab\n");
}

TEST(Template, TheSandboxHoldsBack) {
  EXPECT_EQ(text_of("{{ [].append }}{{ 'a'.__class__ }}{{ {}.__init__ }}"), "");
  EXPECT_THAT(text_of("{{ [].append(1) }}"), HasSubstr("not safe"));
  EXPECT_THAT(text_of("{{ d.pop('a') }}", R"({"d": {"a": 1}})"), HasSubstr("not safe"));
  EXPECT_THAT(text_of("{{ 'a'.__class__.__mro__ }}"), testing::Not(HasSubstr("error: internal")));
  EXPECT_THAT(text_of("{% set n = namespace() %}{% set n._x = 1 %}"), HasSubstr("underscore"));
  EXPECT_EQ(text_of("{{ d._x }}", R"({"d": {"_x": 1}})"), "1");
}

TEST(Template, SyntaxErrorsHaveTheirPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ 1 +", "t:1:7: expected an expression, found the end of the template"},
      {"a\n{% if x %}\nb", "t:3:2: expected {% elif %} or {% else %} or {% endif %}, found the end of the template"},
      {"{{ x | nothing }}", "t:1:8: there is no filter \"nothing\""},
      {"{{ x is nothing }}", "t:1:9: there is no test \"nothing\""},
      {"{{ 'a }}", "t:1:4: this string has no closing quote"},
      {"é {{ (1] }}", "t:1:8: unexpected ']', expected ')'"},
      {"{{ a ? b }}", "t:1:6: unexpected character \"?\""},
      {"{% endfor %}", "t:1:4: there is no tag \"endfor\" here"},
      {"{% set 1 = 2 %}", "t:1:8: expected a name to assign to"},
      {"{% break %}", "t:1:4: break and continue belong into a loop"},
      {"{% for loop in x %}{{ loop.index }}{% endfor %}",
       "t:1:8: \"loop\" is special in a loop and cannot be assigned"},
      {"{{ f(a=1, a=2) }}", "t:1:13: the argument \"a\" is given twice"},
      {"{% macro m(a, a) %}{% endmacro %}", "t:1:16: the parameter \"a\" appears twice"},
      {"{{ '\\ud800' }}", "t:1:5: \\ud800 is not a character"},
      {"{# open", "t:1:1: this comment has no end, expected \"#}\""},
      {"{% raw %} x", "t:1:1: this raw block has no {% endraw %}"},
      {"{{ x[1:2, 3] }}", "t:1:9: a slice cannot be part of a tuple"},
  };
  for (const auto& [source, message] : cases) {
    const Result<Template> compiled = Template::compile(source, "t");
    ASSERT_FALSE(compiled) << source;
    EXPECT_EQ(compiled.error().to_string(), message);
    EXPECT_EQ(compiled.error().code, ErrorCode::invalid_argument);
  }
  EXPECT_FALSE(Template::compile("\xff", "t"));
}

TEST(Template, UnsupportedPartsAreRefusedWhenCompiled) {
  for (const char* source :
       {"{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}",
        "{% block b %}{% endblock %}", "{% autoescape true %}{% endautoescape %}", "{% do x %}", "{{ self.x() }}",
        "{{ [1]|random }}", "{{ x|pprint }}", "{{ x|urlize }}", "{{ x|striptags }}"}) {
    const Result<Template> compiled = Template::compile(source, "t");
    ASSERT_FALSE(compiled) << source;
    EXPECT_EQ(compiled.error().code, ErrorCode::unsupported) << compiled.error().to_string();
  }
  EXPECT_EQ(render("{{ 'x'.encode() }}").error().code, ErrorCode::unsupported);
  EXPECT_EQ(render("{{ lipsum() }}").error().code, ErrorCode::unsupported);
  EXPECT_EQ(render("{{ [1]|map('string') }}").error().code, ErrorCode::unsupported);
}

TEST(Template, LimitsAreNamed) {
  const auto limited = [](std::string_view source, const TemplateLimits& limits) {
    const Result<Rendered> rendered = render(source, "{}", limits);
    EXPECT_FALSE(rendered) << source;
    if (rendered) return std::string();
    EXPECT_EQ(rendered.error().code, ErrorCode::too_large) << rendered.error().to_string();
    return rendered.error().to_string();
  };
  TemplateLimits small;
  small.steps_max = 1000;
  small.string_bytes_max = 100;
  small.items_max = 50;
  EXPECT_THAT(limited("{% for i in range(5000) %}{% set x = i %}{% endfor %}", small),
              HasSubstr("more than 1000 steps"));
  EXPECT_THAT(limited("{{ 'ab' * 60 }}", small), HasSubstr("more than 100 bytes"));
  EXPECT_THAT(limited("{{ 'ab' * 9000000000000000000 }}", {}), HasSubstr("bytes"));
  EXPECT_THAT(limited("{% for i in range(60) %}ab{% endfor %}", small), HasSubstr("more than 100 bytes"));
  EXPECT_THAT(limited("{{ '%500d' % 1 }}", small), HasSubstr("more than 100 bytes"));
  EXPECT_THAT(limited("{{ [1] * 51 }}", small), HasSubstr("more than 50 items"));
  EXPECT_THAT(limited("{{ range(60)|list }}", small), HasSubstr("more than 50 items"));
  EXPECT_THAT(limited("{{ range(100001) }}", {}), HasSubstr("more than 100000 numbers"));
  EXPECT_THAT(limited("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", {}),
              HasSubstr("nested deeper than 1200 levels"));
  EXPECT_THAT(limited("{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", {}), HasSubstr("nested deeper"));
  // Sharing makes a value that is small in memory, and endless to walk.
  const std::string shared =
      "{% set n = namespace(a=['x'], b=['x']) %}{% for i in range(100) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, "
      "n.b] %}{% endfor %}";
  TemplateLimits fewer;
  fewer.steps_max = 1'000'000;
  fewer.string_bytes_max = 1'000'000;
  EXPECT_THAT(limited(shared + "{{ n.a == n.b }}", fewer), HasSubstr("steps"));
  EXPECT_THAT(limited(shared + "{{ n.a }}", fewer), HasSubstr("bytes"));
  EXPECT_THAT(limited(shared + "{{ n.a|tojson }}", fewer), HasSubstr("bytes"));
}

TEST(Template, NestingIsBounded) {
  const auto repeat = [](std::string_view text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  for (const std::string& source :
       {"{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}", "{{ " + repeat("-", 5000) + "1 }}",
        "{{ " + repeat("not ", 5000) + "1 }}", "{{ 1" + repeat(" + 1", 5000) + " }}",
        "{{ x" + repeat(".y", 5000) + " }}", "{{ x" + repeat("|upper", 5000) + " }}", repeat("{% if x %}", 5000),
        "{{ " + repeat("[", 5000), "{{ " + repeat("1 if 1 else ", 5000) + " }}"}) {
    const Result<Template> compiled = Template::compile(source, "t");
    ASSERT_FALSE(compiled) << source.substr(0, 30);
    EXPECT_THAT(compiled.error().message, HasSubstr("deeper than"));
  }
  EXPECT_EQ(text_of("{{ " + repeat("(", 40) + "1" + repeat(")", 40) + repeat(" + 1", 300) + " }}"), "301");
  EXPECT_THAT(text_of("{% set n = namespace(x=1) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor %}"),
              HasSubstr("nested deeper than 200 levels"));
  EXPECT_THAT(
      text_of("{% set n = namespace(x=[1]) %}{% for i in range(1000) %}{% set n.x = n.x|map('string') %}{% endfor %}"),
      HasSubstr("nested deeper than 200 levels"));
}

TEST(Template, CyclesOfReferencesAreTakenApart) {
  // Run under AddressSanitizer, which counts what is left.
  EXPECT_EQ(text_of("{% set n = namespace() %}{% set n.self = n %}{{ n }}"), "<Namespace {'self': <Namespace {...}>}>");
  EXPECT_EQ(text_of("{% set n = namespace() %}{% macro m() %}{% set n.m = m %}{% endmacro %}{{ m() }}{{ n.m }}"),
            "<Macro 'm'>");
  EXPECT_EQ(text_of("{% set n = namespace() %}{% for i in [1, 2] if i %}{% set n.l = loop %}{{ loop.changed(loop) }}{% "
                    "endfor %}"),
            "TrueFalse");
}

TEST(Template, IntegersBeyond64BitsAreKeptButNotCalculatedWith) {
  EXPECT_EQ(text_of("{{ x }} {{ x is integer }} {{ x == y }} {{ x|tojson }}",
                    R"({"x": 18446744073709551615, "y": 18446744073709551615})"),
            "18446744073709551615 True True 18446744073709551615");
  for (const char* source :
       {"{{ 9223372036854775807 + 1 }}", "{{ 2 ** 64 }}", "{{ 99999999999999999999 * 2 }}", "{{ 1e300|int }}"}) {
    EXPECT_THAT(text_of(source), HasSubstr("beyond 64 bits"));
  }
  EXPECT_EQ(text_of("{{ -9223372036854775808 }}"), "-9223372036854775808");
}

TEST(Template, OriginsSurviveEveryOperation) {
  const char* operations[] = {"u",
                              "u ~ ''",
                              "'' + u",
                              "u[0:]",
                              "u[::-1][::-1]",
                              "u|upper|lower",
                              "u|trim",
                              "u|replace('q', 'r')",
                              "u.strip()",
                              "u.split('#')|join('#')",
                              "[u]|join",
                              "''.join([u])",
                              "'%s' % u",
                              "'{}'.format(u)",
                              "u|string",
                              "u|list|join",
                              "u|indent(0)",
                              "u|truncate(99)",
                              "u|wordwrap(99)",
                              "u|center(1)",
                              "u.ljust(1)",
                              "u.title().lower()",
                              "u|safe",
                              "u.partition('|')|join",
                              "u.splitlines()|first",
                              "u.removeprefix('')",
                              "u|format",
                              "[u]|map('lower')|first",
                              "({'k': u}).k",
                              "(u * 2)[:6]",
                              "u.expandtabs()",
                              "u|default('')",
                              "[u]|sort|first",
                              "u|reverse|list|reverse|join",
                              "u.zfill(1)",
                              "u.casefold()"};
  for (const char* operation : operations) {
    const Result<Rendered> rendered = render(fmt::format("{{{{ {} }}}}", operation), R"({"u": "<|a|>\u00e9"})");
    ASSERT_TRUE(rendered) << operation << ": " << rendered.error().to_string();
    EXPECT_EQ(rendered->text, "<|a|>é") << operation;
    EXPECT_EQ(rendered->origin, std::string(7, kOriginUser)) << operation;
  }
  const Result<Rendered> mixed =
      render("<{{ u|tojson }}>{{ [u] }}{% set x %}{{ u }}!{% endset %}{{ x|e }}", R"({"u": "a\"&"})");
  ASSERT_TRUE(mixed);
  EXPECT_EQ(mixed->text, "<\"a\\\"&\">['a\"&']a&#34;&amp;!");
  EXPECT_EQ(mixed->origin, std::string("\0\0\1\1\1\1\0\0", 8) + std::string("\0\0\1\1\1\0\0", 7) +
                               std::string(11, '\1') + std::string(1, '\0'));
}

TEST(Template, KnowsWhetherItTakesParts) {
  const auto takes_parts = [](std::string_view source) { return Template::compile(source, "t")->loops_over_content(); };
  EXPECT_TRUE(
      takes_parts("{% for m in messages %}{% if m.content is string %}x{% else %}{% for p in m['content'] %}{{ p }}{% "
                  "endfor %}{% endif %}{% endfor %}"));
  EXPECT_TRUE(takes_parts("{% for message in messages %}{% for p in message.content %}{% endfor %}{% endfor %}"));
  EXPECT_FALSE(takes_parts("{% for m in messages %}{{ m.content }}{% endfor %}"));
}

}  // namespace
}  // namespace keye::text
