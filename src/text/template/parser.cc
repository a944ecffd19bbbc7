#include "text/template/parser.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>

#include "text/template/lexer.h"

namespace keye::text {
namespace {

constexpr int kNestingMax = 200;  // of expressions in expressions and of statements in statements
constexpr int kTreeDepthMax = 400;

using Names = std::vector<std::string_view>;

class Parser {
 public:
  Parser(std::vector<Token> tokens, std::string_view where) : tokens_(std::move(tokens)), where_(where) {}

  Result<Block> run() { return parse_block({}); }

 private:
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

  static std::string describe(const Token& token) {
    switch (token.kind) {
      case TokenKind::data:
        return "text";
      case TokenKind::variable_begin:
        return "\"{{\"";
      case TokenKind::variable_end:
        return "\"}}\"";
      case TokenKind::block_begin:
        return "\"{%\"";
      case TokenKind::block_end:
        return "\"%}\"";
      case TokenKind::string:
        return "a string";
      case TokenKind::integer:
      case TokenKind::real:
      case TokenKind::symbol:
      case TokenKind::name:
        return "\"" + token.text + "\"";
      case TokenKind::end:
        return "the end of the template";
    }
    return "";
  }
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
  Result<void> check_nesting() const {
    if (nesting_ > kNestingMax) return fail(fmt::format("nested deeper than {} levels", kNestingMax));
    return {};
  }

  // Nodes.
  ExprPtr node(ExprKind kind, Position at) const {
    auto expr = std::make_unique<Expr>();
    expr->kind = kind;
    expr->at = at;
    return expr;
  }
  /// Checks the depth of a finished node: chains such as a.b.c or 1+1+1 nest to the left without nesting the parser.
  Result<ExprPtr> finish(ExprPtr expr) const {
    int deepest = 0;
    const auto visit = [&](const ExprPtr& child) {
      if (child) deepest = std::max(deepest, child->depth);
    };
    for (const ExprPtr& child : expr->children) visit(child);
    if (expr->arguments) {
      for (const ExprPtr& child : expr->arguments->positional) visit(child);
      for (const auto& [name, child] : expr->arguments->named) visit(child);
      visit(expr->arguments->star);
      visit(expr->arguments->double_star);
    }
    expr->depth = deepest + 1;
    if (expr->depth > kTreeDepthMax) {
      return syntax_error(where_, expr->at, fmt::format("this expression is deeper than {} levels", kTreeDepthMax));
    }
    return expr;
  }
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

  // Statements.
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
    Error error = syntax_error(where_, stmt.at, fmt::format("there is no tag \"{}\" here", tag));
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
    if (stmt.value->kind != ExprKind::call) return syntax_error(where_, at, "expected a call of a macro");
    for (const auto& [name, value] : stmt.value->arguments->named) {
      if (name == "caller")
        return syntax_error(where_, at, "the argument \"caller\" is given by the call block itself");
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

  // Targets of assignments.
  struct TupleRules {
    bool conditional = true;    // whether "a if b" may appear
    std::string_view end = {};  // a name that ends the tuple
    bool simplified = false;    // only names, literals and parentheses
    bool namespaces = false;    // "a.b" is a namespace's attribute (simplified only)
    bool parentheses = false;   // in parentheses: may be empty
  };

  static bool is_reserved(std::string_view name) {
    return name == "true" || name == "false" || name == "none" || name == "True" || name == "False" || name == "None";
  }
  static void set_use(Expr& expr, NameUse use) {
    expr.use = use;
    for (const ExprPtr& child : expr.children) {
      if (child) set_use(*child, use);
    }
  }
  static bool can_assign(const Expr& expr) {
    if (expr.kind == ExprKind::name || expr.kind == ExprKind::namespace_ref) return true;
    return expr.kind == ExprKind::tuple &&
           std::ranges::all_of(expr.children, [](const ExprPtr& child) { return can_assign(*child); });
  }

  Result<ExprPtr> parse_target(TupleRules rules) {
    rules.simplified = true;
    const Position at = current().at;
    KEYE_TRY(ExprPtr target, parse_tuple(rules));
    if (!can_assign(*target)) return syntax_error(where_, at, "expected a name to assign to");
    set_use(*target, NameUse::store);
    return target;
  }

  Result<ExprPtr> parse_name_target() {
    if (current().kind != TokenKind::name || is_reserved(current().text)) return unexpected("a name");
    ExprPtr target = node(ExprKind::name, current().at);
    target->name = next().text;
    target->use = NameUse::store;
    return target;
  }

  // Expressions, loosest first.
  Result<ExprPtr> parse_tuple(TupleRules rules) {
    const Position at = current().at;
    std::vector<ExprPtr> items;
    bool is_tuple = false;
    while (true) {
      if (!items.empty()) KEYE_TRY_VOID(expect_symbol(","));
      const bool ends = current().kind == TokenKind::variable_end || current().kind == TokenKind::block_end ||
                        is_symbol(")") || (!rules.end.empty() && is_name(rules.end));
      if (ends) break;
      KEYE_TRY(ExprPtr item, rules.simplified ? parse_primary(rules.namespaces) : parse_expression(rules.conditional));
      items.push_back(std::move(item));
      if (!is_symbol(",")) break;
      is_tuple = true;
    }
    if (!is_tuple) {
      if (!items.empty()) return std::move(items.front());
      if (!rules.parentheses) return unexpected("an expression");
    }
    ExprPtr tuple = node(ExprKind::tuple, at);
    tuple->children = std::move(items);
    return finish(std::move(tuple));
  }

  Result<ExprPtr> parse_expression(bool conditional = true) {
    const Nesting nesting(nesting_);
    KEYE_TRY_VOID(check_nesting());
    KEYE_TRY(ExprPtr value, parse_or());
    while (conditional && is_name("if")) {
      const Position at = next().at;
      KEYE_TRY(ExprPtr test, parse_or());
      ExprPtr otherwise;
      if (skip_name("else")) {
        KEYE_TRY(otherwise, parse_expression());
      }
      KEYE_TRY(value, make(ExprKind::conditional, at, std::move(value), std::move(test), std::move(otherwise)));
    }
    return value;
  }

  Result<ExprPtr> parse_or() {
    KEYE_TRY(ExprPtr left, parse_and());
    while (is_name("or")) {
      const Position at = next().at;
      KEYE_TRY(ExprPtr right, parse_and());
      KEYE_TRY(left, make(ExprKind::logical_or, at, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExprPtr> parse_and() {
    KEYE_TRY(ExprPtr left, parse_not());
    while (is_name("and")) {
      const Position at = next().at;
      KEYE_TRY(ExprPtr right, parse_not());
      KEYE_TRY(left, make(ExprKind::logical_and, at, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExprPtr> parse_not() {
    if (!is_name("not")) return parse_compare();
    const Nesting nesting(nesting_);
    KEYE_TRY_VOID(check_nesting());
    const Position at = next().at;
    KEYE_TRY(ExprPtr operand, parse_not());
    return make(ExprKind::logical_not, at, std::move(operand));
  }

  std::optional<CompareOp> take_compare() {
    static constexpr std::pair<std::string_view, CompareOp> kSymbols[] = {
        {"==", CompareOp::equal},      {"!=", CompareOp::not_equal}, {"<", CompareOp::less},
        {"<=", CompareOp::less_equal}, {">", CompareOp::greater},    {">=", CompareOp::greater_equal}};
    for (const auto& [symbol, op] : kSymbols) {
      if (skip_symbol(symbol)) return op;
    }
    if (skip_name("in")) return CompareOp::in;
    if (!is_name("not") || !is(look(), TokenKind::name, "in")) return std::nullopt;
    next();
    next();
    return CompareOp::not_in;
  }

  Result<ExprPtr> parse_compare() {
    const Position at = current().at;
    KEYE_TRY(ExprPtr left, parse_sum());
    ExprPtr compare = node(ExprKind::compare, at);
    compare->children.push_back(std::move(left));
    while (const auto op = take_compare()) {
      compare->compares.push_back(*op);
      KEYE_TRY(ExprPtr right, parse_sum());
      compare->children.push_back(std::move(right));
    }
    if (compare->compares.empty()) return std::move(compare->children.front());
    return finish(std::move(compare));
  }

  Result<ExprPtr> parse_sum() {
    KEYE_TRY(ExprPtr left, parse_concat());
    while (is_symbol("+") || is_symbol("-")) {
      const ExprKind kind = is_symbol("+") ? ExprKind::add : ExprKind::subtract;
      const Position at = next().at;
      KEYE_TRY(ExprPtr right, parse_concat());
      KEYE_TRY(left, make(kind, at, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExprPtr> parse_concat() {
    const Position at = current().at;
    KEYE_TRY(ExprPtr first, parse_product());
    if (!is_symbol("~")) return first;
    ExprPtr concat = node(ExprKind::concat, at);
    concat->children.push_back(std::move(first));
    while (skip_symbol("~")) {
      KEYE_TRY(ExprPtr more, parse_product());
      concat->children.push_back(std::move(more));
    }
    return finish(std::move(concat));
  }

  Result<ExprPtr> parse_product() {
    KEYE_TRY(ExprPtr left, parse_power());
    while (is_symbol("*") || is_symbol("/") || is_symbol("//") || is_symbol("%")) {
      const ExprKind kind = is_symbol("*")    ? ExprKind::multiply
                            : is_symbol("/")  ? ExprKind::divide
                            : is_symbol("//") ? ExprKind::floor_divide
                                              : ExprKind::modulo;
      const Position at = next().at;
      KEYE_TRY(ExprPtr right, parse_power());
      KEYE_TRY(left, make(kind, at, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExprPtr> parse_power() {
    KEYE_TRY(ExprPtr left, parse_unary(true));
    while (is_symbol("**")) {
      const Position at = next().at;
      KEYE_TRY(ExprPtr right, parse_unary(true));
      KEYE_TRY(left, make(ExprKind::power, at, std::move(left), std::move(right)));
    }
    return left;
  }

  Result<ExprPtr> parse_unary(bool with_filter) {
    const Nesting nesting(nesting_);
    KEYE_TRY_VOID(check_nesting());
    const Position at = current().at;
    ExprPtr expr;
    if (is_symbol("-") || is_symbol("+")) {
      const ExprKind kind = next().text == "-" ? ExprKind::negative : ExprKind::positive;
      KEYE_TRY(ExprPtr operand, parse_unary(false));
      KEYE_TRY(expr, make(kind, at, std::move(operand)));
    } else {
      KEYE_TRY(expr, parse_primary(false));
    }
    KEYE_TRY(expr, parse_postfix(std::move(expr)));
    if (!with_filter) return expr;
    while (true) {
      if (is_symbol("|")) {
        KEYE_TRY(expr, parse_filters(std::move(expr)));
      } else if (is_name("is")) {
        KEYE_TRY(expr, parse_test(std::move(expr)));
      } else if (is_symbol("(")) {
        KEYE_TRY(expr, parse_call(std::move(expr)));
      } else {
        return expr;
      }
    }
  }

  Result<ExprPtr> parse_primary(bool namespaces) {
    const Token& token = current();
    switch (token.kind) {
      case TokenKind::name:
        return parse_name(namespaces);
      case TokenKind::string: {
        std::string text;
        while (current().kind == TokenKind::string) text += next().text;
        return constant(Value(Marked(std::move(text))), token.at);
      }
      case TokenKind::integer:
      case TokenKind::real:
        return parse_number();
      default:
        break;
    }
    if (skip_symbol("(")) {
      KEYE_TRY(ExprPtr expr, parse_tuple({.parentheses = true}));
      KEYE_TRY_VOID(expect_symbol(")"));
      return expr;
    }
    if (is_symbol("[")) return parse_list();
    if (is_symbol("{")) return parse_dict();
    return unexpected("an expression");
  }

  Result<ExprPtr> parse_name(bool namespaces) {
    const Token& token = next();
    if (is_reserved(token.text)) {
      const char first = token.text.front();
      return constant(first == 'n' || first == 'N' ? Value::none() : Value(first == 't' || first == 'T'), token.at);
    }
    ExprPtr name = node(ExprKind::name, token.at);
    name->name = token.text;
    if (namespaces && skip_symbol(".")) {
      name->kind = ExprKind::namespace_ref;
      KEYE_TRY(name->attribute, expect_name());
    }
    return name;
  }

  Result<ExprPtr> parse_number() {
    const Token& token = next();
    if (token.kind == TokenKind::real) {
      double value = 0;
      const auto result = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (result.ec == std::errc::result_out_of_range)
        return syntax_error(where_, token.at, "this number is beyond the range of floats");
      return constant(Value(value), token.at);
    }
    std::string_view digits = token.text;
    const char letter = digits.size() > 1 ? static_cast<char>(digits[1] | 0x20) : '0';
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
    if (base != 10) digits.remove_prefix(2);
    int64_t value = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (result.ec == std::errc()) return constant(Value(value), token.at);
    if (base != 10 || digits.size() > 4300) return syntax_error(where_, token.at, "this integer is beyond 64 bits");
    return constant(Value::big_integer(std::string(digits)), token.at);
  }

  Result<ExprPtr> parse_list() {
    ExprPtr list = node(ExprKind::list, next().at);
    while (!is_symbol("]")) {
      if (!list->children.empty()) KEYE_TRY_VOID(expect_symbol(","));
      if (is_symbol("]")) break;
      KEYE_TRY(ExprPtr item, parse_expression());
      list->children.push_back(std::move(item));
    }
    KEYE_TRY_VOID(expect_symbol("]"));
    return finish(std::move(list));
  }

  Result<ExprPtr> parse_dict() {
    ExprPtr dict = node(ExprKind::dict, next().at);
    while (!is_symbol("}")) {
      if (!dict->children.empty()) KEYE_TRY_VOID(expect_symbol(","));
      if (is_symbol("}")) break;
      KEYE_TRY(ExprPtr key, parse_expression());
      KEYE_TRY_VOID(expect_symbol(":"));
      KEYE_TRY(ExprPtr value, parse_expression());
      dict->children.push_back(std::move(key));
      dict->children.push_back(std::move(value));
    }
    KEYE_TRY_VOID(expect_symbol("}"));
    return finish(std::move(dict));
  }

  Result<ExprPtr> parse_postfix(ExprPtr expr) {
    while (true) {
      if (is_symbol(".")) {
        KEYE_TRY(expr, parse_dot(std::move(expr)));
      } else if (is_symbol("[")) {
        KEYE_TRY(expr, parse_subscript(std::move(expr)));
      } else if (is_symbol("(")) {
        KEYE_TRY(expr, parse_call(std::move(expr)));
      } else {
        return expr;
      }
    }
  }

  Result<ExprPtr> parse_dot(ExprPtr object) {
    const Position at = next().at;
    if (current().kind == TokenKind::integer) {
      KEYE_TRY(ExprPtr index, parse_number());
      return make(ExprKind::item, at, std::move(object), std::move(index));
    }
    if (current().kind != TokenKind::name) return unexpected("a name or a number after \".\"");
    ExprPtr attribute = node(ExprKind::attribute, at);
    attribute->name = next().text;
    attribute->children.push_back(std::move(object));
    return finish(std::move(attribute));
  }

  Result<ExprPtr> parse_subscript(ExprPtr object) {
    const Position at = next().at;
    std::vector<ExprPtr> indices;
    ExprPtr slice;
    while (!is_symbol("]")) {
      if (slice) return fail("a slice cannot be part of a tuple");
      if (!indices.empty()) KEYE_TRY_VOID(expect_symbol(","));
      ExprPtr index;
      if (!is_symbol(":")) {
        KEYE_TRY(index, parse_expression());
      }
      if (!is_symbol(":")) {
        indices.push_back(std::move(index));
        continue;
      }
      if (!indices.empty()) return fail("a slice cannot be part of a tuple");
      slice = node(ExprKind::slice, at);
      slice->children.resize(4);
      slice->children[1] = std::move(index);
      next();
      if (!is_symbol(":") && !is_symbol("]") && !is_symbol(",")) {
        KEYE_TRY(slice->children[2], parse_expression());
      }
      if (skip_symbol(":") && !is_symbol("]") && !is_symbol(",")) {
        KEYE_TRY(slice->children[3], parse_expression());
      }
    }
    KEYE_TRY_VOID(expect_symbol("]"));
    if (slice) {
      slice->children[0] = std::move(object);
      return finish(std::move(slice));
    }
    if (indices.size() == 1) return make(ExprKind::item, at, std::move(object), std::move(indices.front()));
    ExprPtr tuple = node(ExprKind::tuple, at);
    tuple->children = std::move(indices);
    KEYE_TRY(tuple, finish(std::move(tuple)));
    return make(ExprKind::item, at, std::move(object), std::move(tuple));
  }

  Result<std::unique_ptr<ArgumentExprs>> parse_arguments() {
    const Position at = current().at;
    KEYE_TRY_VOID(expect_symbol("("));
    auto arguments = std::make_unique<ArgumentExprs>();
    bool needs_comma = false;
    const auto misplaced = [&] { return syntax_error(where_, at, "the arguments of this call are in a wrong order"); };
    while (!is_symbol(")")) {
      if (needs_comma) {
        KEYE_TRY_VOID(expect_symbol(","));
        if (is_symbol(")")) break;
      }
      needs_comma = true;
      if (skip_symbol("*")) {
        if (arguments->star || arguments->double_star) return misplaced();
        KEYE_TRY(arguments->star, parse_expression());
      } else if (skip_symbol("**")) {
        if (arguments->double_star) return misplaced();
        KEYE_TRY(arguments->double_star, parse_expression());
      } else if (current().kind == TokenKind::name && is(look(), TokenKind::symbol, "=")) {
        if (arguments->double_star) return misplaced();
        std::string name = next().text;
        next();
        const bool twice =
            std::ranges::any_of(arguments->named, [&](const auto& other) { return other.first == name; });
        if (twice) return fail(fmt::format("the argument \"{}\" is given twice", name));
        KEYE_TRY(ExprPtr value, parse_expression());
        arguments->named.emplace_back(std::move(name), std::move(value));
      } else {
        if (arguments->star || arguments->double_star || !arguments->named.empty()) return misplaced();
        KEYE_TRY(ExprPtr value, parse_expression());
        arguments->positional.push_back(std::move(value));
      }
    }
    KEYE_TRY_VOID(expect_symbol(")"));
    return arguments;
  }

  Result<ExprPtr> parse_call(ExprPtr callee) {
    ExprPtr call = node(ExprKind::call, current().at);
    call->children.push_back(std::move(callee));
    KEYE_TRY(call->arguments, parse_arguments());
    return finish(std::move(call));
  }

  Result<std::string> parse_dotted_name() {
    KEYE_TRY(std::string name, expect_name());
    while (skip_symbol(".")) {
      KEYE_TRY(const std::string part, expect_name());
      name += "." + part;
    }
    return name;
  }

  Result<ExprPtr> parse_one_filter(ExprPtr operand) {
    ExprPtr filter = node(ExprKind::filter, current().at);
    KEYE_TRY(filter->name, parse_dotted_name());
    filter->arguments = std::make_unique<ArgumentExprs>();
    if (is_symbol("(")) {
      KEYE_TRY(filter->arguments, parse_arguments());
    }
    filter->children.push_back(std::move(operand));
    return finish(std::move(filter));
  }

  Result<ExprPtr> parse_filters(ExprPtr operand) {
    while (skip_symbol("|")) {
      KEYE_TRY(operand, parse_one_filter(std::move(operand)));
    }
    return operand;
  }

  Result<ExprPtr> parse_test(ExprPtr operand) {
    next();
    const bool negated = skip_name("not");
    ExprPtr test = node(ExprKind::test, current().at);
    KEYE_TRY(test->name, parse_dotted_name());
    test->children.push_back(std::move(operand));
    test->arguments = std::make_unique<ArgumentExprs>();
    const TokenKind kind = current().kind;
    const bool literal = kind == TokenKind::name || kind == TokenKind::string || kind == TokenKind::integer ||
                         kind == TokenKind::real || is_symbol("[") || is_symbol("{");
    if (is_symbol("(")) {
      KEYE_TRY(test->arguments, parse_arguments());
    } else if (literal && !is_name("else") && !is_name("or") && !is_name("and")) {
      if (is_name("is")) return fail("tests cannot be chained with \"is\"");
      KEYE_TRY(ExprPtr argument, parse_primary(false));
      KEYE_TRY(argument, parse_postfix(std::move(argument)));
      test->arguments->positional.push_back(std::move(argument));
    }
    const Position at = test->at;
    KEYE_TRY(test, finish(std::move(test)));
    if (!negated) return test;
    return make(ExprKind::logical_not, at, std::move(test));
  }

  std::vector<Token> tokens_;
  std::string_view where_;
  size_t at_ = 0;
  int nesting_ = 0;
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
