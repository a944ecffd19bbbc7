#include "text/template/interpreter.h"

#include <algorithm>

#include "text/template/objects.h"
#include "text/value_text.h"

namespace keye::text {

/// Enters a scope, and leaves it when it goes, unless `keep`: a function's own scope lives on in what was made there.
class Interpreter::Entered {
 public:
  Entered(Interpreter& interpreter, const Scope& scope, bool keep = false)
      : frame_(interpreter.frame_), scope_(scope), keep_(keep) {
    enter(interpreter, scope);
  }
  ~Entered() {
    if (keep_) return;
    for (const ScopeEntry& entry : scope_) frame_->slots[entry.slot] = Value::missing();
  }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;

  /// Gives the names of a scope their first values; parameters keep theirs.
  static void enter(Interpreter& interpreter, const Scope& scope) {
    std::vector<Value>& slots = interpreter.frame_->slots;
    for (const ScopeEntry& entry : scope) {
      switch (entry.action) {
        case ScopeEntry::Action::parameter:
          break;
        case ScopeEntry::Action::resolve:
          slots[entry.slot] = interpreter.lookup(entry.name);
          break;
        case ScopeEntry::Action::copy:
          slots[entry.slot] = interpreter.variable(entry.source);
          break;
        case ScopeEntry::Action::clear:
          slots[entry.slot] = Value::missing();
          break;
      }
    }
  }

 private:
  std::shared_ptr<Activation> frame_;
  const Scope& scope_;
  bool keep_;
};

namespace {

/// Sends output elsewhere while it lives.
class Redirected {
 public:
  Redirected(Marked*& out, Marked& target) : out_(out), previous_(out) { out = &target; }
  ~Redirected() { out_ = previous_; }
  Redirected(const Redirected&) = delete;
  Redirected& operator=(const Redirected&) = delete;

 private:
  Marked*& out_;
  Marked* previous_;
};

/// Makes another activation the current one while it lives.
class Activated {
 public:
  Activated(std::shared_ptr<Activation>& current, std::shared_ptr<Activation> next)
      : current_(current), previous_(std::move(current)) {
    current_ = std::move(next);
  }
  ~Activated() { current_ = std::move(previous_); }
  Activated(const Activated&) = delete;
  Activated& operator=(const Activated&) = delete;

 private:
  std::shared_ptr<Activation>& current_;
  std::shared_ptr<Activation> previous_;
};

std::shared_ptr<Activation> activate(uint32_t slots, std::shared_ptr<Activation> outer) {
  auto activation = std::make_shared<Activation>();
  activation->slots.assign(slots, Value::missing());
  activation->outer = std::move(outer);
  return activation;
}

}  // namespace

/// The items of a loop that pass its test, rebuilt from the loop's target as jinja2 does.
class TestedIterator final : public Iterator {
 public:
  TestedIterator(const Stmt& stmt, std::shared_ptr<Iterator> source, const std::shared_ptr<Activation>& frame)
      : stmt_(stmt), source_(std::move(source)), frame_(frame) {}

  Result<std::optional<Value>> next(Interpreter& interpreter) override {
    const std::shared_ptr<Activation> frame = frame_.lock();
    if (!frame) return std::optional<Value>();
    const Activated activated(interpreter.frame_, frame);
    const Interpreter::Depth depth(interpreter);
    KEYE_TRY_VOID(interpreter.check_depth());
    if (!entered_) Interpreter::Entered::enter(interpreter, stmt_.test_scope);
    entered_ = true;
    while (true) {
      KEYE_TRY(std::optional<Value> item, source_->next(interpreter));
      if (!item) return item;
      KEYE_TRY_VOID(interpreter.assign(*stmt_.test_target, std::move(*item)));
      KEYE_TRY(const Value passed, interpreter.eval(*stmt_.test));
      KEYE_TRY(const bool passes, interpreter.truthy(passed));
      if (passes) {
        KEYE_TRY(Value rebuilt, rebuild(interpreter, *stmt_.test_target));
        return std::optional(std::move(rebuilt));
      }
    }
  }

 private:
  static Result<Value> rebuild(Interpreter& interpreter, const Expr& target) {
    if (target.kind != ExprKind::tuple) return interpreter.variable(target.variable);
    Values items;
    for (const ExprPtr& child : target.children) {
      KEYE_TRY(Value item, rebuild(interpreter, *child));
      items.push_back(std::move(item));
    }
    return interpreter.tuple(std::move(items));
  }

  const Stmt& stmt_;
  std::shared_ptr<Iterator> source_;
  std::weak_ptr<Activation> frame_;  // it holds the loop that holds this
  bool entered_ = false;
};

Interpreter::~Interpreter() {
  frame_.reset();
  for (const auto& space : namespaces_) space->attributes() = Dict();
  for (const auto& macro : macros_) macro->closure.reset();
  for (const auto& loop : loops_) loop->forget();
}

Result<Rendered> Interpreter::run() {
  Rendered out;
  const Redirected redirected(out_, out);
  frame_ = activate(program_.slots, nullptr);
  Entered::enter(*this, program_.scope);
  KEYE_TRY_VOID(run_block(program_.body));
  return out;
}

Error Interpreter::locate(const Error& error, Position at) const {
  if (!error.where.empty()) return error;
  return Error{error.code, error.message, fmt::format("{}:{}:{}", program_.where, at.line, at.column)};
}

Result<void> Interpreter::step(int64_t count) {
  steps_ += count;
  if (steps_ > limits_.steps_max) {
    return make_error(ErrorCode::too_large, "", "the template takes more than {} steps", limits_.steps_max);
  }
  return {};
}

Result<void> Interpreter::check_depth() const {
  if (depth_ > limits_.depth_max) {
    return make_error(ErrorCode::too_large, "", "the evaluation is nested deeper than {} levels", limits_.depth_max);
  }
  return {};
}

Result<void> Interpreter::check_bytes(size_t bytes) const {
  if (bytes > limits_.string_bytes_max) {
    return make_error(ErrorCode::too_large, "", "a text has more than {} bytes", limits_.string_bytes_max);
  }
  return {};
}

Result<void> Interpreter::check_items(size_t items) const {
  if (items > limits_.items_max) {
    return make_error(ErrorCode::too_large, "", "a list has more than {} items", limits_.items_max);
  }
  return {};
}

Value Interpreter::make_macro(const Stmt& stmt) {
  auto macro = std::make_shared<Macro>(stmt, frame_);
  macros_.push_back(macro);
  return Value::object(std::move(macro));
}

Value Interpreter::new_namespace(Dict attributes) {
  auto space = std::make_shared<Namespace>(std::move(attributes));
  namespaces_.push_back(space);
  return Value::object(std::move(space));
}

void Interpreter::remember(std::shared_ptr<LoopContext> loop) { loops_.push_back(std::move(loop)); }

Value& Interpreter::variable(const Variable& at) {
  Activation* frame = frame_.get();
  for (uint32_t up = 0; up < at.up; ++up) frame = frame->outer.get();
  return frame->slots[at.slot];
}

Value Interpreter::lookup(const std::string& name) const {
  if (const Value* value = variables_.dict().find(name)) return *value;
  if (const Builtin* function = find_function(name)) return Value::object(std::make_shared<FunctionObject>(*function));
  return Value::missing();
}

Result<void> Interpreter::write(const Marked& text) {
  KEYE_TRY_VOID(step(static_cast<int64_t>(text.size() / 64)));
  KEYE_TRY_VOID(check_bytes(out_->size() + text.size()));
  out_->append(text);
  return {};
}

Result<void> Interpreter::assign(const Expr& target, Value value) {
  if (target.kind == ExprKind::name) {
    variable(target.variable) = std::move(value);
    return {};
  }
  if (target.kind == ExprKind::namespace_ref) {
    auto* space = variable(target.variable).as<Namespace>();
    if (space == nullptr)
      return locate(failure("\"{}\" is not a namespace: only those have attributes to set", target.name), target.at);
    if (target.attribute.front() == '_') {
      return locate(
          failure("a namespace cannot hold \"{}\": names with a leading underscore are refused", target.attribute),
          target.at);
    }
    space->attributes().set(target.attribute, std::move(value));
    return {};
  }
  KEYE_TRY(const auto source, iterate(value));
  const size_t wanted = target.children.size();
  for (size_t i = 0;; ++i) {
    KEYE_TRY(std::optional<Value> item, source->next(*this));
    if (item.has_value() != (i < wanted))
      return locate(failure("cannot unpack this value into {} names", wanted), target.at);
    if (!item) return {};
    KEYE_TRY_VOID(assign(*target.children[i], std::move(*item)));
  }
}

Result<Interpreter::Flow> Interpreter::run_block(const Block& block) {
  for (const Stmt& stmt : block) {
    auto flow = run_statement(stmt);
    if (!flow) return locate(flow.error(), stmt.at);
    if (*flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Result<Interpreter::Flow> Interpreter::run_statement(const Stmt& stmt) {
  const Depth depth(*this);
  KEYE_TRY_VOID(check_depth());
  KEYE_TRY_VOID(step());
  switch (stmt.kind) {
    case StmtKind::output:
      KEYE_TRY_VOID(run_output(stmt));
      break;
    case StmtKind::set:
      KEYE_TRY_VOID(run_set(stmt));
      break;
    case StmtKind::set_block:
      return run_set_block(stmt);
    case StmtKind::for_loop:
      return run_for(stmt);
    case StmtKind::if_else:
      return run_if(stmt);
    case StmtKind::macro:
      variable(stmt.target->variable) = make_macro(stmt);
      break;
    case StmtKind::call_block:
      KEYE_TRY_VOID(run_call_block(stmt));
      break;
    case StmtKind::generation:
      KEYE_TRY_VOID(run_generation(stmt));
      break;
    case StmtKind::filter_block:
      return run_filter_block(stmt);
    case StmtKind::with:
      return run_with(stmt);
    case StmtKind::break_loop:
      return Flow::break_loop;
    case StmtKind::continue_loop:
      return Flow::continue_loop;
  }
  return Flow::normal;
}

Result<void> Interpreter::run_output(const Stmt& stmt) {
  for (const ExprPtr& expr : stmt.expressions) {
    if (expr->kind == ExprKind::constant && expr->value.is_string()) {
      KEYE_TRY_VOID(write(expr->value.marked()));
      continue;
    }
    KEYE_TRY(const Value value, eval(*expr));
    if (value.is_string()) {
      KEYE_TRY_VOID(write(value.marked()));
    } else {
      const auto text = str(value);
      if (!text) return locate(text.error(), expr->at);
      KEYE_TRY_VOID(write(*text));
    }
  }
  return {};
}

Result<void> Interpreter::run_set(const Stmt& stmt) {
  KEYE_TRY(Value value, eval(*stmt.value));
  return assign(*stmt.target, std::move(value));
}

Result<Interpreter::Flow> Interpreter::run_if(const Stmt& stmt) {
  KEYE_TRY(const Value value, eval(*stmt.test));
  KEYE_TRY(const bool taken, truthy(value));
  return run_block(taken ? stmt.body : stmt.otherwise);
}

Result<Interpreter::Flow> Interpreter::run_set_block(const Stmt& stmt) {
  const Entered entered(*this, stmt.scope);
  Marked text;
  {
    const Redirected redirected(out_, text);
    KEYE_TRY(const Flow flow, run_block(stmt.body));
    if (flow != Flow::normal) return flow;
  }
  KEYE_TRY(Value value, string(std::move(text)));
  if (stmt.value) {
    KEYE_TRY(value, filter_text(*stmt.value, value));
  }
  KEYE_TRY_VOID(assign(*stmt.target, std::move(value)));
  return Flow::normal;
}

Result<Interpreter::Flow> Interpreter::run_filter_block(const Stmt& stmt) {
  const Entered entered(*this, stmt.scope);
  Marked text;
  {
    const Redirected redirected(out_, text);
    KEYE_TRY(const Flow flow, run_block(stmt.body));
    if (flow != Flow::normal) return flow;
  }
  KEYE_TRY(const Value value, string(std::move(text)));
  KEYE_TRY(const Value filtered, filter_text(*stmt.value, value));
  KEYE_TRY(const Marked out, str(filtered));
  KEYE_TRY_VOID(write(out));
  return Flow::normal;
}

Result<Interpreter::Flow> Interpreter::run_with(const Stmt& stmt) {
  const Entered entered(*this, stmt.scope);
  for (size_t i = 0; i < stmt.parameters.size(); ++i) {
    KEYE_TRY(Value value, eval(*stmt.expressions[i]));
    KEYE_TRY_VOID(assign(*stmt.parameters[i], std::move(value)));
  }
  return run_block(stmt.body);
}

Result<void> Interpreter::run_call_block(const Stmt& stmt) {
  const Value caller = make_macro(stmt);
  KEYE_TRY(const Value value, eval_call(*stmt.value, &caller));
  KEYE_TRY(const Marked text, str(value));
  return write(text);
}

Result<void> Interpreter::run_generation(const Stmt& stmt) {
  KEYE_TRY(const Value text, call_macro(Macro(stmt, frame_), {}));
  return write(text.marked());
}

Result<Interpreter::Flow> Interpreter::run_for(const Stmt& stmt) {
  KEYE_TRY(const Value iterable, eval(*stmt.value));
  if (!stmt.recursive) return run_loop(stmt, iterable, nullptr, 0);
  KEYE_TRY(const Value text, call_loop(stmt, frame_, iterable, 0));
  KEYE_TRY_VOID(write(text.marked()));
  return Flow::normal;
}

Result<Value> Interpreter::call_loop(const Stmt& loop, std::shared_ptr<Activation> closure, const Value& iterable,
                                     int depth) {
  const Depth nested(*this);
  KEYE_TRY_VOID(check_depth());
  Marked text;
  const Activated activated(frame_, activate(loop.function.slots, closure));
  const Redirected redirected(out_, text);
  KEYE_TRY_VOID(run_loop(loop, iterable, std::move(closure), depth));
  return string(std::move(text));
}

Result<Interpreter::Flow> Interpreter::run_loop(const Stmt& stmt, const Value& iterable,
                                                std::shared_ptr<Activation> closure, int depth) {
  KEYE_TRY(std::shared_ptr<Iterator> source, iterate(iterable));
  if (stmt.test) source = std::make_shared<TestedIterator>(stmt, source, frame_);
  std::shared_ptr<LoopContext> loop;
  if (stmt.loop_slot >= 0) {
    const bool sized = !stmt.test && has_length(iterable);
    loop = std::make_shared<LoopContext>(stmt, sized ? iterable : Value::missing(), source, std::move(closure), depth);
  }
  bool completed = false;  // one iteration ran to its end: jinja2 runs `else` also when all were cut short
  {
    const Entered entered(*this, stmt.scope, stmt.recursive && stmt.otherwise.empty());
    while (true) {
      KEYE_TRY_VOID(step());
      KEYE_TRY(std::optional<Value> item, loop ? loop->advance(*this) : source->next(*this));
      if (!item) break;
      KEYE_TRY_VOID(assign(*stmt.target, std::move(*item)));
      if (loop) frame_->slots[static_cast<size_t>(stmt.loop_slot)] = Value::object(loop, iterable.depth() + 1);
      Entered::enter(*this, stmt.scope);
      KEYE_TRY(const Flow flow, run_block(stmt.body));
      if (flow == Flow::break_loop) break;
      completed = completed || flow == Flow::normal;
    }
  }
  if (completed || stmt.otherwise.empty()) return Flow::normal;
  const Entered entered(*this, stmt.else_scope);
  return run_block(stmt.otherwise);
}

Result<Value> Interpreter::call_macro(const Macro& macro, Arguments arguments) {
  const Depth depth(*this);
  KEYE_TRY_VOID(check_depth());
  const Stmt& stmt = macro.stmt;
  const FunctionInfo& info = stmt.function;
  const auto activation = activate(info.slots, macro.closure);
  const auto take = [&](std::string_view name) {
    Value value = Value::missing();
    const auto found =
        std::ranges::find_if(arguments.named, [&](const auto& argument) { return argument.first == name; });
    if (found != arguments.named.end()) {
      value = std::move(found->second);
      arguments.named.erase(found);
    }
    return value;
  };
  const size_t count = info.parameters.size();
  const size_t given = std::min(count, arguments.positional.size());
  for (size_t i = 0; i < count; ++i) {
    activation->slots[info.parameters[i]] = i < given ? arguments.positional[i] : take(stmt.parameters[i]->name);
  }
  if (info.caller >= 0) {
    Value caller = take("caller");
    const bool absent = caller.is(Kind::missing) || caller.is(Kind::none);
    activation->slots[static_cast<size_t>(info.caller)] =
        absent ? Value::undefined("no caller is defined") : std::move(caller);
  }
  if (info.kwargs >= 0) {
    Dict named;
    for (auto& [name, value] : arguments.named) named.set(name, std::move(value));
    KEYE_TRY(activation->slots[static_cast<size_t>(info.kwargs)], dict(std::move(named)));
  } else if (!arguments.named.empty()) {
    return failure("the macro \"{}\" takes no argument \"{}\"", stmt.name, arguments.named.front().first);
  }
  if (info.varargs >= 0) {
    arguments.positional.erase(arguments.positional.begin(),
                               arguments.positional.begin() + static_cast<ptrdiff_t>(given));
    KEYE_TRY(activation->slots[static_cast<size_t>(info.varargs)], tuple(std::move(arguments.positional)));
  } else if (arguments.positional.size() > count) {
    return failure("the macro \"{}\" takes at most {} arguments", stmt.name, count);
  }

  Marked text;
  const Activated activated(frame_, activation);
  const Redirected redirected(out_, text);
  const Entered entered(*this, stmt.scope, true);
  const size_t required = count - stmt.defaults.size();
  for (size_t i = 0; i < count; ++i) {
    if (!activation->slots[info.parameters[i]].is(Kind::missing)) continue;
    if (i >= required) {
      KEYE_TRY(Value value, eval(*stmt.defaults[i - required]));
      activation->slots[info.parameters[i]] = std::move(value);
    } else {
      activation->slots[info.parameters[i]] =
          Value::undefined(fmt::format("the parameter \"{}\" was not given", stmt.parameters[i]->name));
    }
  }
  KEYE_TRY_VOID(run_block(stmt.body));
  return string(std::move(text));
}

}  // namespace keye::text
