#include "text/template/expression_parser.h"

#include <algorithm>
#include <charconv>

namespace keye::text {
namespace {

constexpr int kNestingMax = 200;  // of expressions in expressions and of statements in statements
constexpr int kTreeDepthMax = 400;

}  // namespace

std::string ExpressionParser::describe(const Token& token) {
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
Result<void> ExpressionParser::check_nesting() const {
  if (nesting_ > kNestingMax) return fail(fmt::format("nested deeper than {} levels", kNestingMax));
  return {};
}

Result<ExprPtr> ExpressionParser::finish(ExprPtr expr) const {
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
bool ExpressionParser::is_reserved(std::string_view name) {
  return name == "true" || name == "false" || name == "none" || name == "True" || name == "False" || name == "None";
}
void ExpressionParser::set_use(Expr& expr, NameUse use) {
  expr.use = use;
  for (const ExprPtr& child : expr.children) {
    if (child) set_use(*child, use);
  }
}
bool ExpressionParser::can_assign(const Expr& expr) {
  if (expr.kind == ExprKind::name || expr.kind == ExprKind::namespace_ref) return true;
  return expr.kind == ExprKind::tuple &&
         std::ranges::all_of(expr.children, [](const ExprPtr& child) { return can_assign(*child); });
}

Result<ExprPtr> ExpressionParser::parse_target(TupleRules rules) {
  rules.simplified = true;
  const Position at = current().at;
  KEYE_TRY(ExprPtr target, parse_tuple(rules));
  if (!can_assign(*target)) return syntax_error(where_, at, "expected a name to assign to");
  set_use(*target, NameUse::store);
  return target;
}

Result<ExprPtr> ExpressionParser::parse_name_target() {
  if (current().kind != TokenKind::name || is_reserved(current().text)) return unexpected("a name");
  ExprPtr target = node(ExprKind::name, current().at);
  target->name = next().text;
  target->use = NameUse::store;
  return target;
}

// Expressions, loosest first.
Result<ExprPtr> ExpressionParser::parse_tuple(TupleRules rules) {
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

Result<ExprPtr> ExpressionParser::parse_expression(bool conditional) {
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

Result<ExprPtr> ExpressionParser::parse_or() {
  KEYE_TRY(ExprPtr left, parse_and());
  while (is_name("or")) {
    const Position at = next().at;
    KEYE_TRY(ExprPtr right, parse_and());
    KEYE_TRY(left, make(ExprKind::logical_or, at, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_and() {
  KEYE_TRY(ExprPtr left, parse_not());
  while (is_name("and")) {
    const Position at = next().at;
    KEYE_TRY(ExprPtr right, parse_not());
    KEYE_TRY(left, make(ExprKind::logical_and, at, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_compare();
  const Nesting nesting(nesting_);
  KEYE_TRY_VOID(check_nesting());
  const Position at = next().at;
  KEYE_TRY(ExprPtr operand, parse_not());
  return make(ExprKind::logical_not, at, std::move(operand));
}

std::optional<CompareOp> ExpressionParser::take_compare() {
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

Result<ExprPtr> ExpressionParser::parse_compare() {
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

Result<ExprPtr> ExpressionParser::parse_sum() {
  KEYE_TRY(ExprPtr left, parse_concat());
  while (is_symbol("+") || is_symbol("-")) {
    const ExprKind kind = is_symbol("+") ? ExprKind::add : ExprKind::subtract;
    const Position at = next().at;
    KEYE_TRY(ExprPtr right, parse_concat());
    KEYE_TRY(left, make(kind, at, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_concat() {
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

Result<ExprPtr> ExpressionParser::parse_product() {
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

Result<ExprPtr> ExpressionParser::parse_power() {
  KEYE_TRY(ExprPtr left, parse_unary(true));
  while (is_symbol("**")) {
    const Position at = next().at;
    KEYE_TRY(ExprPtr right, parse_unary(true));
    KEYE_TRY(left, make(ExprKind::power, at, std::move(left), std::move(right)));
  }
  return left;
}

Result<ExprPtr> ExpressionParser::parse_unary(bool with_filter) {
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

Result<ExprPtr> ExpressionParser::parse_primary(bool namespaces) {
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

Result<ExprPtr> ExpressionParser::parse_name(bool namespaces) {
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

Result<ExprPtr> ExpressionParser::parse_number() {
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

Result<ExprPtr> ExpressionParser::parse_list() {
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

Result<ExprPtr> ExpressionParser::parse_dict() {
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

Result<ExprPtr> ExpressionParser::parse_postfix(ExprPtr expr) {
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

Result<ExprPtr> ExpressionParser::parse_dot(ExprPtr object) {
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

Result<ExprPtr> ExpressionParser::parse_subscript(ExprPtr object) {
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

Result<std::unique_ptr<ArgumentExprs>> ExpressionParser::parse_arguments() {
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
      const bool twice = std::ranges::any_of(arguments->named, [&](const auto& other) { return other.first == name; });
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

Result<ExprPtr> ExpressionParser::parse_call(ExprPtr callee) {
  ExprPtr call = node(ExprKind::call, current().at);
  call->children.push_back(std::move(callee));
  KEYE_TRY(call->arguments, parse_arguments());
  return finish(std::move(call));
}

Result<std::string> ExpressionParser::parse_dotted_name() {
  KEYE_TRY(std::string name, expect_name());
  while (skip_symbol(".")) {
    KEYE_TRY(const std::string part, expect_name());
    name += "." + part;
  }
  return name;
}

Result<ExprPtr> ExpressionParser::parse_one_filter(ExprPtr operand) {
  ExprPtr filter = node(ExprKind::filter, current().at);
  KEYE_TRY(filter->name, parse_dotted_name());
  filter->arguments = std::make_unique<ArgumentExprs>();
  if (is_symbol("(")) {
    KEYE_TRY(filter->arguments, parse_arguments());
  }
  filter->children.push_back(std::move(operand));
  return finish(std::move(filter));
}

Result<ExprPtr> ExpressionParser::parse_filters(ExprPtr operand) {
  while (skip_symbol("|")) {
    KEYE_TRY(operand, parse_one_filter(std::move(operand)));
  }
  return operand;
}

Result<ExprPtr> ExpressionParser::parse_test(ExprPtr operand) {
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

}  // namespace keye::text
