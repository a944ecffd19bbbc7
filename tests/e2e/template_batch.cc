// Renders many templates in one process, for scripts/oracle/template_differential.py. Reads a line of JSON for each,
// {"template": "...", "variables": {...}}, and answers each with {"text": "..."} or {"error": "...", "code": "..."}.
#include <iostream>
#include <string>

#include "base/json.h"
#include "text/template.h"
#include "text/value_text.h"

namespace {

using namespace keye;

Result<text::Rendered> render(const std::string& line) {
  KEYE_TRY(const text::Value job, text::parse_value(line, text::kOriginUser, "input"));
  const text::Value* source = job.dict().find("template");
  const text::Value* variables = job.dict().find("variables");
  KEYE_TRY(const text::Template compiled, text::Template::compile(source->text(), "template"));
  return compiled.render(*variables);
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const Result<text::Rendered> rendered = render(line);
    Json answer;
    if (rendered) {
      answer["text"] = rendered->text;
    } else {
      answer["error"] = rendered.error().to_string();
      answer["code"] = error_code_name(rendered.error().code);
    }
    std::cout << answer.dump() << '\n';
  }
  return 0;
}
