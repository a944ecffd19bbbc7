#include "text/template.h"

#include <chrono>

#include "text/template/interpreter.h"
#include "text/template/parser.h"
#include "text/template/scopes.h"

namespace keye::text {
namespace {

bool is_content_of_message(const Expr& expr) {
  const bool attribute = expr.kind == ExprKind::attribute && expr.name == "content";
  const bool item = expr.kind == ExprKind::item && expr.children[1]->kind == ExprKind::constant &&
                    expr.children[1]->value.is_string() && expr.children[1]->value.text() == "content";
  if (!attribute && !item) return false;
  const Expr& object = *expr.children[0];
  return object.kind == ExprKind::name && (object.name == "message" || object.name == "msg" || object.name == "m");
}

bool loops_over_content(const Block& block) {
  for (const Stmt& stmt : block) {
    if (stmt.kind == StmtKind::for_loop && is_content_of_message(*stmt.value)) return true;
    if (loops_over_content(stmt.body) || loops_over_content(stmt.otherwise)) return true;
  }
  return false;
}

}  // namespace

RenderTime local_time_now() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  RenderTime local;
  localtime_r(&seconds, &local.time);
  local.microsecond = static_cast<int>(
      std::chrono::duration_cast<std::chrono::microseconds>(now - std::chrono::system_clock::from_time_t(seconds))
          .count());
  return local;
}

Result<Template> Template::compile(std::string_view source, std::string_view where) {
  KEYE_TRY(Program program, parse_template(source, where));
  KEYE_TRY_VOID(resolve_scopes(program));
  return Template(std::make_shared<const Program>(std::move(program)));
}

Result<Rendered> Template::render(const Value& variables, const TemplateLimits& limits, const RenderTime& now) const {
  KEYE_CHECK(variables.is(Kind::dict), "the variables of a template are a dict");
  return Interpreter(*program_, variables, limits, now).run();
}

bool Template::loops_over_content() const { return text::loops_over_content(program_->body); }

}  // namespace keye::text
