// Walks a program and makes its text. Also the operations on values that filters, tests and methods share: each works
// as Python's does, and counts against the limits of the render call.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/template.h"
#include "text/template/ast.h"
#include "text/template/builtins.h"
#include "text/value.h"

namespace keye::text {

class Iterator;
class LoopContext;
class Macro;
class Namespace;

/// The variables of one call of a function; `outer` holds those of the code around it.
struct Activation {
  std::vector<Value> slots;
  std::shared_ptr<Activation> outer;
};

/// An error as Python would raise it; its place is filled in by the expression that fails.
template <class... Args>
Error failure(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::invalid_argument, "", format, std::forward<Args>(args)...);
}
inline Error undefined_error(const Value& value) { return failure("{}", value.note()); }

class Interpreter {
 public:
  Interpreter(const Program& program, const Value& variables, const TemplateLimits& limits, const RenderTime& now)
      : program_(program), variables_(variables), limits_(limits), now_(now) {}
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  Result<Rendered> run();

  // Limits. Errors: too_large, naming the limit.
  const TemplateLimits& limits() const { return limits_; }
  const RenderTime& now() const { return now_; }
  Result<void> step(int64_t count = 1);
  Result<void> check_bytes(size_t bytes) const;
  Result<void> check_items(size_t items) const;
  /// Counts one level of nested evaluation while it lives.
  class Depth {
   public:
    explicit Depth(Interpreter& interpreter) : depth_(++interpreter.depth_) {}
    ~Depth() { --depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    int& depth_;
  };
  Result<void> check_depth() const;

  // New values, within the limits.
  Result<Value> string(Marked text, bool markup = false);
  Result<Value> list(Values items);
  Result<Value> tuple(Values items);
  Result<Value> dict(Dict items);
  Result<Value> iterator(std::shared_ptr<Iterator> iterator, int depth);
  Value new_namespace(Dict attributes);
  /// For a loop that holds values of its own, which may hold the loop.
  void remember(std::shared_ptr<LoopContext> loop);

  // Python's built-in functions.
  Result<Marked> str(const Value& value) const;
  Result<bool> truthy(const Value& value);
  Result<int64_t> length(const Value& value);
  bool has_length(const Value& value) const;
  Result<std::shared_ptr<Iterator>> iterate(const Value& value);
  bool is_iterable(const Value& value) const;
  Result<Values> collect(const Value& value);
  Result<int64_t> index(const Value& value) const;  // an argument that must be an integer
  Result<void> require_hashable(const Value& value) const;
  /// dict(value, **named).
  Result<Dict> make_dict(const Arguments& arguments);

  // Operators.
  Result<bool> equals(const Value& a, const Value& b);
  /// One of the four order comparisons. Errors: no order between these types.
  Result<bool> ordered(CompareOp op, const Value& a, const Value& b);
  Result<bool> contains(const Value& container, const Value& item);
  /// Whether all items of `a` are in `b`, and, unless `a` may be smaller, as many.
  Result<bool> is_subset(const Value& a, const Value& b, bool may_be_smaller);
  Result<bool> compare(CompareOp op, const Value& a, const Value& b);
  Result<Value> binary(ExprKind op, const Value& a, const Value& b);
  /// Sorts stably as sorted() does, by keys of the same length.
  Result<void> sort(Values& items, const Values& keys, bool reverse);

  // Access, as jinja's sandbox allows it.
  Result<Value> attribute(const Value& object, std::string_view name);
  /// An attribute that Python itself knows, never an item; missing if there is none.
  Result<Value> real_attribute(const Value& object, std::string_view name);
  Result<Value> item(const Value& object, const Value& key);
  Result<Value> slice(const Value& object, const Value& start, const Value& stop, const Value& step);

  // Calls.
  Result<Value> call(const Value& callee, Arguments arguments);
  Result<Value> call_filter(std::string_view name, const Value& value, Arguments arguments);
  Result<bool> call_test(std::string_view name, const Value& value, Arguments arguments);
  Result<Value> call_macro(const Macro& macro, Arguments arguments);
  /// The text of a recursive loop over `iterable`.
  Result<Value> call_loop(const Stmt& loop, std::shared_ptr<Activation> closure, const Value& iterable, int depth);

 private:
  friend class TestedIterator;
  enum class Flow : uint8_t { normal, break_loop, continue_loop };
  class Entered;

  // Statements.
  Result<Flow> run_block(const Block& block);
  Result<Flow> run_statement(const Stmt& stmt);
  Result<Flow> run_if(const Stmt& stmt);
  Result<Flow> run_with(const Stmt& stmt);
  Result<Flow> run_for(const Stmt& stmt);
  Result<Flow> run_loop(const Stmt& stmt, const Value& iterable, std::shared_ptr<Activation> closure, int depth);
  Result<void> run_output(const Stmt& stmt);
  Result<void> run_set(const Stmt& stmt);
  Result<Flow> run_set_block(const Stmt& stmt);
  Result<Flow> run_filter_block(const Stmt& stmt);
  Result<void> run_call_block(const Stmt& stmt);
  Result<void> run_generation(const Stmt& stmt);
  Result<void> write(const Marked& text);
  Result<void> assign(const Expr& target, Value value);
  Value make_macro(const Stmt& stmt);

  // Expressions.
  Result<Value> eval(const Expr& expr);
  Result<Value> eval_compound(const Expr& expr);
  Result<Value> eval_logical(const Expr& expr);
  Result<Value> eval_conditional(const Expr& expr);
  Result<Value> eval_sequence(const Expr& expr);
  Result<Value> eval_dict(const Expr& expr);
  Result<Value> eval_slice(const Expr& expr);
  Result<Value> eval_call(const Expr& expr, const Value* caller = nullptr);
  Result<Value> eval_filter(const Expr& expr, const Value* block_text = nullptr);
  Result<Value> eval_test(const Expr& expr);
  Result<Value> eval_binary(const Expr& expr);
  Result<Value> eval_unary(const Expr& expr);
  Result<Value> eval_concat(const Expr& expr);
  Result<Value> eval_compare(const Expr& expr);
  Result<Arguments> eval_arguments(const ArgumentExprs& exprs);
  /// Filters over the text of a block; the innermost one has no operand of its own.
  Result<Value> filter_text(const Expr& filter, const Value& text);

  Value& variable(const Variable& at);
  Value lookup(const std::string& name) const;
  Error locate(const Error& error, Position at) const;

  const Program& program_;
  const Value& variables_;
  const TemplateLimits& limits_;
  const RenderTime& now_;
  std::shared_ptr<Activation> frame_;
  Marked* out_ = nullptr;
  int64_t steps_ = 0;
  int depth_ = 0;
  // What can be part of a cycle of references; taken apart at the end.
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<Macro>> macros_;
  std::vector<std::shared_ptr<LoopContext>> loops_;
};

}  // namespace keye::text
