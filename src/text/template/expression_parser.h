// The half of the parser that reads expressions and the targets of assignments, loosest operators first.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "text/template/ast.h"
#include "text/template/lexer.h"

namespace keye::text {

class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, std::string_view where) : tokens_(std::move(tokens)), where_(where) {}

 protected:
  // Tokens.
  const Token& current() const { return tokens_[at_]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  const Token& look() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  static bool is(const Token& token, TokenKind kind, std::string_view text) {
    return token.kind == kind && token.text == text;
  }
  bool is_name(std::string_view name) const { return is(current(), TokenKind::name, name); }
  bool is_symbol(std::string_view symbol) const { return is(current(), TokenKind::symbol, symbol); }
  bool skip_name(std::string_view name) { return is_name(name) && (next(), true); }
  bool skip_symbol(std::string_view symbol) { return is_symbol(symbol) && (next(), true); }
  static std::string describe(const Token& token);
  Error fail(std::string message) const { return syntax_error(where_, current().at, std::move(message)); }
  Error unexpected(std::string_view expected) const {
    return fail(fmt::format("expected {}, found {}", expected, describe(current())));
  }
  Result<void> expect_symbol(std::string_view symbol) {
    if (!skip_symbol(symbol)) return unexpected(fmt::format("\"{}\"", symbol));
    return {};
  }
  Result<void> expect(TokenKind kind) {
    if (current().kind != kind) return unexpected(describe(Token{kind, {}, ""}));
    next();
    return {};
  }
  Result<std::string> expect_name() {
    if (current().kind != TokenKind::name) return unexpected("a name");
    return next().text;
  }

  /// Counts nesting while it lives.
  struct Nesting {
    explicit Nesting(int& depth) : depth_(++depth) {}
    ~Nesting() { --depth_; }
    int& depth_;
  };
  Result<void> check_nesting() const;

  // Nodes.
  ExprPtr node(ExprKind kind, Position at) const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->at = at;
    return expr;
  }
  /// Checks the depth of a finished node: chains such as a.b.c or 1+1+1 nest to the left without nesting the parser.
  Result<ExprPtr> finish(ExprPtr expr) const;
  template <class... Children>
  Result<ExprPtr> make(ExprKind kind, Position at, Children... children) const {
    ExprPtr expr = node(kind, at);
    (expr->children.push_back(std::move(children)), ...);
    return finish(std::move(expr));
  }
  ExprPtr constant(Value value, Position at) const {
    ExprPtr expr = node(ExprKind::constant, at);
    expr->value = std::move(value);
    return expr;
  }

  // Targets of assignments.
  struct TupleRules {
    bool conditional = true;    // whether "a if b" may appear
    std::string_view end = {};  // a name that ends the tuple
    bool simplified = false;    // only names, literals and parentheses
    bool namespaces = false;    // "a.b" is a namespace's attribute (simplified only)
    bool parentheses = false;   // in parentheses: may be empty
  };

  static bool is_reserved(std::string_view name);
  static void set_use(Expr& expr, NameUse use);
  static bool can_assign(const Expr& expr);
  Result<ExprPtr> parse_target(TupleRules rules);
  Result<ExprPtr> parse_name_target();
  Result<ExprPtr> parse_tuple(TupleRules rules);
  Result<ExprPtr> parse_expression(bool conditional = true);
  Result<ExprPtr> parse_one_filter(ExprPtr operand);
  Result<ExprPtr> parse_filters(ExprPtr operand);

  std::string_view where() const { return where_; }
  int nesting_ = 0;

 private:
  Result<ExprPtr> parse_or();
  Result<ExprPtr> parse_and();
  Result<ExprPtr> parse_not();
  std::optional<CompareOp> take_compare();
  Result<ExprPtr> parse_compare();
  Result<ExprPtr> parse_sum();
  Result<ExprPtr> parse_concat();
  Result<ExprPtr> parse_product();
  Result<ExprPtr> parse_power();
  Result<ExprPtr> parse_unary(bool with_filter);
  Result<ExprPtr> parse_primary(bool namespaces);
  Result<ExprPtr> parse_name(bool namespaces);
  Result<ExprPtr> parse_number();
  Result<ExprPtr> parse_list();
  Result<ExprPtr> parse_dict();
  Result<ExprPtr> parse_postfix(ExprPtr expr);
  Result<ExprPtr> parse_dot(ExprPtr object);
  Result<ExprPtr> parse_subscript(ExprPtr object);
  Result<std::unique_ptr<ArgumentExprs>> parse_arguments();
  Result<ExprPtr> parse_call(ExprPtr callee);
  Result<std::string> parse_dotted_name();
  Result<ExprPtr> parse_test(ExprPtr operand);

  std::vector<Token> tokens_;
  std::string_view where_;
  size_t at_ = 0;
};

}  // namespace keye::text
