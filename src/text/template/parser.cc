#include "text/template/parser.h"

#include <algorithm>
#include <set>

#include "text/template/expression_parser.h"

namespace keye::text {
namespace {

using Names = std::vector<std::string_view>;

class Parser final : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Result<Block> run() { return parse_block({}); }

 private:
  bool at_end_tag(const Names& end_tags) const {
    return current().kind == TokenKind::name && std::ranges::find(end_tags, current().text) != end_tags.end();
  }

  /// Statements up to one of `end_tags` (left as the current token) or to the end of the template.
  Result<Block> parse_block(const Names& end_tags) {
    const Nesting nesting(nesting_);
    KEYE_TRY_VOID(check_nesting());
    Block body;
    bool joins = false;  // whether output joins the statement before it
    while (current().kind != TokenKind::end) {
      const Token& token = current();
      if (token.kind == TokenKind::block_begin) {
        next();
        if (at_end_tag(end_tags)) return body;
        KEYE_TRY(Stmt stmt, parse_statement());
        KEYE_TRY_VOID(expect(TokenKind::block_end));
        joins = false;
        body.push_back(std::move(stmt));
        continue;
      }
      if (!joins) body.emplace_back().at = token.at;
      joins = true;
      next();
      if (token.kind == TokenKind::data) {
        body.back().expressions.push_back(constant(Value(token.text), token.at));
      } else {
        KEYE_TRY(ExprPtr expr, parse_tuple({}));
        body.back().expressions.push_back(std::move(expr));
        KEYE_TRY_VOID(expect(TokenKind::variable_end));
      }
    }
    if (!end_tags.empty()) return unexpected(fmt::format("{{% {} %}}", fmt::join(end_tags, " %} or {% ")));
    return body;
  }

  /// The rest of a tag, and statements up to one of `end_tags`.
  Result<Block> parse_body(const Names& end_tags) {
    skip_symbol(":");
    KEYE_TRY_VOID(expect(TokenKind::block_end));
    return parse_block(end_tags);
  }
  /// parse_body that also takes the end tag's name.
  Result<Block> parse_whole_body(std::string_view end_tag) {
    KEYE_TRY(Block body, parse_body({end_tag}));
    next();
    return body;
  }

  Result<Stmt> parse_statement() {
    if (current().kind != TokenKind::name) return unexpected("the name of a tag");
    Stmt stmt;
    stmt.at = current().at;
    const std::string tag = current().text;
    if (tag == "if") return parse_if(std::move(stmt));
    if (tag == "for") return parse_for(std::move(stmt));
    next();
    if (tag == "set") return parse_set(std::move(stmt));
    if (tag == "print") return parse_print(std::move(stmt));
    if (tag == "macro") return parse_macro(std::move(stmt));
    if (tag == "call") return parse_call_block(std::move(stmt));
    if (tag == "filter") return parse_filter_block(std::move(stmt));
    if (tag == "with") return parse_with(std::move(stmt));
    if (tag == "break" || tag == "continue") {
      stmt.kind = tag == "break" ? StmtKind::break_loop : StmtKind::continue_loop;
      return stmt;
    }
    if (tag == "generation") {
      stmt.kind = StmtKind::generation;
      KEYE_TRY(stmt.body, parse_whole_body("endgeneration"));
      return stmt;
    }
    static constexpr std::string_view kRefused[] = {"block", "extends",    "include", "import",
                                                    "from",  "autoescape", "do",      "trans"};
    Error error = syntax_error(where(), stmt.at, fmt::format("there is no tag \"{}\" here", tag));
    if (std::ranges::find(kRefused, tag) != std::end(kRefused)) {
      error.code = ErrorCode::unsupported;
      error.message =
          fmt::format("the tag \"{}\" is not supported: a chat template is one file, without autoescaping", tag);
    }
    return error;
  }

  Result<Stmt> parse_if(Stmt stmt) {
    const Nesting nesting(nesting_);
    KEYE_TRY_VOID(check_nesting());
    next();
    stmt.kind = StmtKind::if_else;
    KEYE_TRY(stmt.test, parse_tuple({.conditional = false}));
    KEYE_TRY(stmt.body, parse_body({"elif", "else", "endif"}));
    if (is_name("elif")) {
      Stmt branch;
      branch.at = current().at;
      KEYE_TRY(branch, parse_if(std::move(branch)));
      branch.elif = true;
      stmt.otherwise.push_back(std::move(branch));
      return stmt;
    }
    if (skip_name("else")) {
      KEYE_TRY(stmt.otherwise, parse_whole_body("endif"));
      return stmt;
    }
    next();
    return stmt;
  }

  Result<Stmt> parse_for(Stmt stmt) {
    next();
    stmt.kind = StmtKind::for_loop;
    KEYE_TRY(stmt.target, parse_target({.end = "in"}));
    if (!skip_name("in")) return unexpected("\"in\"");
    KEYE_TRY(stmt.value, parse_tuple({.conditional = false, .end = "recursive"}));
    if (skip_name("if")) {
      KEYE_TRY(stmt.test, parse_expression());
    }
    stmt.recursive = skip_name("recursive");
    KEYE_TRY(stmt.body, parse_body({"endfor", "else"}));
    if (skip_name("else")) {
      KEYE_TRY(stmt.otherwise, parse_whole_body("endfor"));
    } else {
      next();
    }
    return stmt;
  }

  Result<Stmt> parse_set(Stmt stmt) {
    KEYE_TRY(stmt.target, parse_target({.namespaces = true}));
    if (skip_symbol("=")) {
      stmt.kind = StmtKind::set;
      KEYE_TRY(stmt.value, parse_tuple({}));
      return stmt;
    }
    stmt.kind = StmtKind::set_block;
    if (is_symbol("|")) {
      KEYE_TRY(stmt.value, parse_filters(nullptr));
    }
    KEYE_TRY(stmt.body, parse_whole_body("endset"));
    return stmt;
  }

  Result<Stmt> parse_print(Stmt stmt) {
    while (current().kind != TokenKind::block_end) {
      if (!stmt.expressions.empty()) KEYE_TRY_VOID(expect_symbol(","));
      KEYE_TRY(ExprPtr expr, parse_expression());
      stmt.expressions.push_back(std::move(expr));
    }
    return stmt;
  }

  Result<Stmt> parse_macro(Stmt stmt) {
    stmt.kind = StmtKind::macro;
    KEYE_TRY(stmt.target, parse_name_target());
    stmt.name = stmt.target->name;
    KEYE_TRY_VOID(parse_signature(stmt));
    KEYE_TRY(stmt.body, parse_whole_body("endmacro"));
    return stmt;
  }

  Result<Stmt> parse_call_block(Stmt stmt) {
    stmt.kind = StmtKind::call_block;
    if (is_symbol("(")) KEYE_TRY_VOID(parse_signature(stmt));
    const Position at = current().at;
    KEYE_TRY(stmt.value, parse_expression());
    if (stmt.value->kind != ExprKind::call) return syntax_error(where(), at, "expected a call of a macro");
    for (const auto& [name, value] : stmt.value->arguments->named) {
      if (name == "caller")
        return syntax_error(where(), at, "the argument \"caller\" is given by the call block itself");
    }
    KEYE_TRY(stmt.body, parse_whole_body("endcall"));
    return stmt;
  }

  Result<Stmt> parse_filter_block(Stmt stmt) {
    stmt.kind = StmtKind::filter_block;
    KEYE_TRY(stmt.value, parse_one_filter(nullptr));
    if (is_symbol("|")) {
      KEYE_TRY(stmt.value, parse_filters(std::move(stmt.value)));
    }
    KEYE_TRY(stmt.body, parse_whole_body("endfilter"));
    return stmt;
  }

  Result<Stmt> parse_with(Stmt stmt) {
    stmt.kind = StmtKind::with;
    while (current().kind != TokenKind::block_end) {
      if (!stmt.parameters.empty()) KEYE_TRY_VOID(expect_symbol(","));
      KEYE_TRY(ExprPtr target, parse_target({}));
      set_use(*target, NameUse::parameter);
      stmt.parameters.push_back(std::move(target));
      KEYE_TRY_VOID(expect_symbol("="));
      KEYE_TRY(ExprPtr value, parse_expression());
      stmt.expressions.push_back(std::move(value));
    }
    KEYE_TRY(stmt.body, parse_whole_body("endwith"));
    return stmt;
  }

  Result<void> parse_signature(Stmt& stmt) {
    std::set<std::string> seen;
    KEYE_TRY_VOID(expect_symbol("("));
    while (!is_symbol(")")) {
      if (!stmt.parameters.empty()) KEYE_TRY_VOID(expect_symbol(","));
      KEYE_TRY(ExprPtr parameter, parse_name_target());
      parameter->use = NameUse::parameter;
      if (!seen.insert(parameter->name).second)
        return fail(fmt::format("the parameter \"{}\" appears twice", parameter->name));
      if (skip_symbol("=")) {
        KEYE_TRY(ExprPtr value, parse_expression());
        stmt.defaults.push_back(std::move(value));
      } else if (!stmt.defaults.empty()) {
        return fail("a parameter without a default follows one with a default");
      }
      stmt.parameters.push_back(std::move(parameter));
    }
    return expect_symbol(")");
  }
};

}  // namespace

Result<Program> parse_template(std::string_view source, std::string_view where) {
  KEYE_TRY(std::vector<Token> tokens, tokenize(source, where));
  Program program;
  program.where = where;
  KEYE_TRY(program.body, Parser(std::move(tokens), where).run());
  return program;
}

}  // namespace keye::text
