#include "text/template/scopes.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "text/template/builtins.h"
#include "text/template/lexer.h"

namespace keye::text {
namespace {

/// Code that has slots of its own at run time.
struct Function {
  int depth = 0;
  std::map<std::string, uint32_t> slots;  // by level and name: scopes that follow each other share slots

  uint32_t slot(const std::string& key) {
    return slots.emplace(key, static_cast<uint32_t>(slots.size())).first->second;
  }
};

struct Reference {
  const Function* owner = nullptr;
  uint32_t slot = 0;
};

/// The names of one scope, as its statements mention them in order.
struct Names {
  struct Load {
    ScopeEntry::Action action = ScopeEntry::Action::clear;
    Reference source;
  };

  Names(Function* function_, const Names* parent_, std::string prefix = "")
      : function(function_),
        parent(parent_),
        level(parent_ == nullptr ? 0 : parent_->level + 1),
        prefix_(std::move(prefix)) {}

  const Reference* find(const std::string& name) const {
    const auto found = references.find(name);
    if (found != references.end()) return &found->second;
    return parent == nullptr ? nullptr : parent->find(name);
  }

  void define(const std::string& name, Load load) {
    references[name] = {function, function->slot(fmt::format("{}{}:{}", prefix_, level, name))};
    loads[name] = load;
  }

  void load(const std::string& name) {
    if (find(name) == nullptr) define(name, {ScopeEntry::Action::resolve, {}});
  }

  void store(const std::string& name) {
    stores.insert(name);
    if (references.contains(name)) return;
    const Reference* outer = parent == nullptr ? nullptr : parent->find(name);
    define(name, outer == nullptr ? Load{} : Load{ScopeEntry::Action::copy, *outer});
  }

  uint32_t declare(const std::string& name) {
    stores.insert(name);
    define(name, {ScopeEntry::Action::parameter, {}});
    return references[name].slot;
  }

  /// Takes over what the branches of an `if` did. A name that only a branch sets keeps its outer value in the others.
  void merge(const std::vector<Names>& branches) {
    std::set<std::string> in_branches;
    for (const Names& branch : branches) in_branches.insert(branch.stores.begin(), branch.stores.end());
    for (const std::string& name : stores) in_branches.erase(name);
    for (const Names& branch : branches) {
      for (const auto& [name, reference] : branch.references) references[name] = reference;
      for (const auto& [name, branch_load] : branch.loads) loads[name] = branch_load;
      stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const std::string& name : in_branches) {
      const Reference* outer = parent == nullptr ? nullptr : parent->find(name);
      loads[name] = outer == nullptr ? Load{ScopeEntry::Action::resolve, {}} : Load{ScopeEntry::Action::copy, *outer};
    }
  }

  Function* function;
  const Names* parent;
  int level;
  std::map<std::string, Reference> references;
  std::map<std::string, Load> loads;
  std::set<std::string> stores;

 private:
  std::string prefix_;
};

/// Calls visit(expression) for the direct parts of an expression, in the order in which jinja2 visits them.
template <class E, class Visit>
void for_each_child(E& expr, const Visit& visit) {
  const auto maybe = [&](auto& child) {
    if (child) visit(*child);
  };
  if (expr.kind == ExprKind::conditional) {
    visit(*expr.children[1]);
    visit(*expr.children[0]);
    maybe(expr.children[2]);
  } else {
    for (auto& child : expr.children) maybe(child);
  }
  if (expr.arguments) {
    for (auto& child : expr.arguments->positional) maybe(child);
    for (auto& [name, child] : expr.arguments->named) maybe(child);
    maybe(expr.arguments->star);
    maybe(expr.arguments->double_star);
  }
}

/// Calls visit(name node) for every name below a statement or expression, in jinja2's order.
using NameVisitor = std::function<void(const Expr&)>;
void visit_names(const Expr& expr, const NameVisitor& visit) {
  if (expr.kind == ExprKind::name) visit(expr);
  for_each_child(expr, [&](const Expr& child) { visit_names(child, visit); });
}
void visit_names(const Block& block, const NameVisitor& visit);
void visit_names(const Stmt& stmt, const NameVisitor& visit) {
  const auto all = [&](const std::vector<ExprPtr>& exprs) {
    for (const ExprPtr& expr : exprs) visit_names(*expr, visit);
  };
  const auto maybe = [&](const ExprPtr& expr) {
    if (expr) visit_names(*expr, visit);
  };
  if (stmt.kind == StmtKind::filter_block) {
    visit_names(stmt.body, visit);
    maybe(stmt.value);
    return;
  }
  if (stmt.kind != StmtKind::macro) maybe(stmt.target);
  if (stmt.kind == StmtKind::if_else) maybe(stmt.test);
  maybe(stmt.value);
  all(stmt.parameters);
  all(stmt.defaults);
  all(stmt.expressions);
  visit_names(stmt.body, visit);
  visit_names(stmt.otherwise, visit);
  if (stmt.kind == StmtKind::for_loop) maybe(stmt.test);
}
void visit_names(const Block& block, const NameVisitor& visit) {
  for (const Stmt& stmt : block) visit_names(stmt, visit);
}

/// Which of `names` the block uses before it sets them.
std::set<std::string> find_undeclared(const Block& block, std::set<std::string> names) {
  std::set<std::string> undeclared;
  visit_names(block, [&](const Expr& name) {
    if (name.use == NameUse::load && names.contains(name.name)) {
      undeclared.insert(name.name);
    } else if (name.use != NameUse::load) {
      names.erase(name.name);
    }
  });
  return undeclared;
}

ExprPtr clone_target(const Expr& target) {
  auto copy = std::make_unique<Expr>();
  copy->kind = target.kind;
  copy->use = target.use;
  copy->at = target.at;
  copy->name = target.name;
  for (const ExprPtr& child : target.children) copy->children.push_back(clone_target(*child));
  return copy;
}

class Resolver {
 public:
  explicit Resolver(Program& program) : program_(program) {}

  Result<void> run() {
    if (find_undeclared(program_.body, {"self"}).contains("self")) {
      return make_error(ErrorCode::unsupported, program_.where,
                        "the name \"self\" stands for template blocks, which are not supported");
    }
    Function root;
    Names names(&root, nullptr);
    collect(program_.body, names);
    KEYE_TRY_VOID(resolve(program_.body, names, {}));
    program_.scope = scope_of(names);
    program_.slots = static_cast<uint32_t>(root.slots.size());
    return {};
  }

 private:
  struct Context {
    bool in_loop = false;  // of this function
    bool soft = false;     // directly in an `if`: unknown filters fail only when they are used
  };

  // First pass over a scope: which names it mentions. It stops where an inner scope begins.
  static void collect(const Expr& expr, Names& names, bool as_parameter = false) {
    if (expr.kind == ExprKind::namespace_ref) {
      names.load(expr.name);
    } else if (expr.kind == ExprKind::name) {
      if (as_parameter || expr.use == NameUse::parameter) {
        names.declare(expr.name);
      } else if (expr.use == NameUse::store) {
        names.store(expr.name);
      } else {
        names.load(expr.name);
      }
    }
    for_each_child(expr, [&](const Expr& child) { collect(child, names, as_parameter); });
  }
  static void collect(const std::vector<ExprPtr>& exprs, Names& names) {
    for (const ExprPtr& expr : exprs) collect(*expr, names);
  }
  static void collect(const Block& block, Names& names) {
    for (const Stmt& stmt : block) collect(stmt, names);
  }
  static void collect(const Stmt& stmt, Names& names) {
    switch (stmt.kind) {
      case StmtKind::output:
      case StmtKind::with:
        return collect(stmt.expressions, names);
      case StmtKind::set:
        collect(*stmt.value, names);
        return collect(*stmt.target, names);
      case StmtKind::set_block:
      case StmtKind::macro:
        return collect(*stmt.target, names);
      case StmtKind::for_loop:
      case StmtKind::call_block:
      case StmtKind::filter_block:
        return collect(*stmt.value, names);
      case StmtKind::if_else: {
        collect(*stmt.test, names);
        std::vector<Names> branches(2, names);
        collect(stmt.body, branches[0]);
        collect(stmt.otherwise, branches[1]);
        return names.merge(branches);
      }
      case StmtKind::generation:
      case StmtKind::break_loop:
      case StmtKind::continue_loop:
        return;
    }
  }

  // Second pass: names become variables.
  static Variable variable_of(const Reference& reference, const Names& names) {
    return {static_cast<uint32_t>(names.function->depth - reference.owner->depth), reference.slot};
  }

  static Scope scope_of(const Names& names) {
    Scope scope;
    for (const auto& [name, load] : names.loads) {
      ScopeEntry entry{load.action, names.references.at(name).slot, name, {}};
      if (load.action == ScopeEntry::Action::copy) entry.source = variable_of(load.source, names);
      scope.push_back(std::move(entry));
    }
    return scope;
  }

  Error fail(Position at, std::string message) const { return syntax_error(program_.where, at, std::move(message)); }

  Result<void> resolve(const std::vector<ExprPtr>& exprs, const Names& names, bool soft) {
    for (const ExprPtr& expr : exprs) KEYE_TRY_VOID(resolve(*expr, names, soft));
    return {};
  }

  Result<void> resolve(Expr& expr, const Names& names, bool soft) {
    if (expr.kind == ExprKind::name || expr.kind == ExprKind::namespace_ref) {
      const Reference* reference = names.find(expr.name);
      if (reference == nullptr)
        return fail(expr.at, fmt::format("\"{}\" cannot be used here: this scope does not know it", expr.name));
      expr.variable = variable_of(*reference, names);
    }
    if (expr.kind == ExprKind::filter || expr.kind == ExprKind::test) KEYE_TRY_VOID(find_builtin(expr, soft));
    soft = soft || expr.kind == ExprKind::conditional;
    Result<void> result;
    for_each_child(expr, [&](Expr& child) {
      if (result) result = resolve(child, names, soft);
    });
    return result;
  }

  Result<void> find_builtin(Expr& expr, bool soft) const {
    const bool filter = expr.kind == ExprKind::filter;
    expr.builtin = filter ? find_filter(expr.name) : find_test(expr.name);
    if (expr.builtin != nullptr) return {};
    if (const std::string_view reason = refused_filter(expr.name); filter && !reason.empty()) {
      Error error = fail(expr.at, fmt::format("the filter \"{}\" is not supported: {}", expr.name, reason));
      error.code = ErrorCode::unsupported;
      return error;
    }
    if (soft) return {};
    return fail(expr.at, fmt::format("there is no {} \"{}\"", filter ? "filter" : "test", expr.name));
  }

  Result<void> resolve(Block& block, const Names& names, Context context) {
    for (Stmt& stmt : block) KEYE_TRY_VOID(resolve(stmt, names, context));
    return {};
  }

  Result<void> resolve(Stmt& stmt, const Names& names, Context context) {
    switch (stmt.kind) {
      case StmtKind::output:
        return resolve(stmt.expressions, names, context.soft);
      case StmtKind::set:
        KEYE_TRY_VOID(resolve(*stmt.target, names, context.soft));
        return resolve(*stmt.value, names, context.soft);
      case StmtKind::set_block:
        return resolve_set_block(stmt, names, context);
      case StmtKind::for_loop:
        return resolve_for(stmt, names, context);
      case StmtKind::if_else:
        context.soft = true;
        KEYE_TRY_VOID(resolve(*stmt.test, names, true));
        KEYE_TRY_VOID(resolve(stmt.body, names, context));
        return resolve(stmt.otherwise, names, context);
      case StmtKind::macro:
        KEYE_TRY_VOID(resolve(*stmt.target, names, context.soft));
        return resolve_function(stmt, names);
      case StmtKind::call_block:
        KEYE_TRY_VOID(resolve_function(stmt, names));
        return resolve(*stmt.value, names, context.soft);
      case StmtKind::generation:
        return resolve_function(stmt, names);
      case StmtKind::filter_block:
        return resolve_filter_block(stmt, names, context);
      case StmtKind::with:
        return resolve_with(stmt, names, context);
      case StmtKind::break_loop:
      case StmtKind::continue_loop:
        if (!context.in_loop) return fail(stmt.at, "break and continue belong into a loop");
        return {};
    }
    return {};
  }

  Result<void> resolve_set_block(Stmt& stmt, const Names& names, Context context) {
    Names inner(names.function, &names);
    collect(stmt.body, inner);
    stmt.scope = scope_of(inner);
    KEYE_TRY_VOID(resolve(*stmt.target, names, context.soft));
    if (stmt.value) KEYE_TRY_VOID(resolve(*stmt.value, inner, false));
    return resolve(stmt.body, inner, {context.in_loop, false});
  }

  Result<void> resolve_filter_block(Stmt& stmt, const Names& names, Context context) {
    Names inner(names.function, &names);
    collect(stmt.body, inner);
    collect(*stmt.value, inner);
    stmt.scope = scope_of(inner);
    KEYE_TRY_VOID(resolve(*stmt.value, inner, false));
    return resolve(stmt.body, inner, {context.in_loop, false});
  }

  Result<void> resolve_with(Stmt& stmt, const Names& names, Context context) {
    Names inner(names.function, &names);
    collect(stmt.parameters, inner);
    collect(stmt.body, inner);
    stmt.scope = scope_of(inner);
    KEYE_TRY_VOID(resolve(stmt.parameters, inner, false));
    KEYE_TRY_VOID(resolve(stmt.expressions, names, context.soft));
    return resolve(stmt.body, inner, {context.in_loop, false});
  }

  Result<void> resolve_function(Stmt& stmt, const Names& names) {
    Function function{names.function->depth + 1, {}};
    Names inner(&function, &names);
    collect(stmt.parameters, inner);
    collect(stmt.defaults, inner);
    collect(stmt.body, inner);
    FunctionInfo& info = stmt.function;
    const auto parameter = std::ranges::find_if(stmt.parameters, [](const ExprPtr& p) { return p->name == "caller"; });
    const bool explicit_caller = parameter != stmt.parameters.end();
    const auto declared = [&](std::string_view name) {
      return std::ranges::any_of(stmt.parameters, [&](const ExprPtr& p) { return p->name == name; });
    };
    const std::set<std::string> special = find_undeclared(stmt.body, {"caller", "kwargs", "varargs"});
    if (special.contains("caller")) {
      const auto required = static_cast<ptrdiff_t>(stmt.parameters.size() - stmt.defaults.size());
      if (explicit_caller && parameter - stmt.parameters.begin() < required) {
        return fail(stmt.at, "the parameter \"caller\" is special: leave it out, or give it a default");
      }
      if (!explicit_caller) inner.declare("caller");
    }
    if (special.contains("kwargs") && !declared("kwargs")) inner.declare("kwargs");
    if (special.contains("varargs") && !declared("varargs")) inner.declare("varargs");
    const auto slot = [&](const std::string& name) { return inner.references.at(name).slot; };
    for (const ExprPtr& p : stmt.parameters) info.parameters.push_back(slot(p->name));
    if (special.contains("caller") && !explicit_caller) info.caller = static_cast<int>(slot("caller"));
    if (special.contains("kwargs") && !declared("kwargs")) info.kwargs = static_cast<int>(slot("kwargs"));
    if (special.contains("varargs") && !declared("varargs")) info.varargs = static_cast<int>(slot("varargs"));
    stmt.scope = scope_of(inner);
    KEYE_TRY_VOID(resolve(stmt.defaults, inner, false));
    KEYE_TRY_VOID(resolve(stmt.body, inner, {}));
    info.slots = static_cast<uint32_t>(function.slots.size());
    return {};
  }

  Result<void> resolve_for(Stmt& stmt, const Names& names, Context context) {
    std::optional<Position> loop_store;
    visit_names(stmt, [&](const Expr& name) {
      if (name.use == NameUse::store && name.name == "loop" && !loop_store) loop_store = name.at;
    });
    if (loop_store) return fail(*loop_store, "\"loop\" is special in a loop and cannot be assigned");
    KEYE_TRY_VOID(resolve(*stmt.value, names, context.soft));

    Function own{names.function->depth + 1, {}};
    Function* function = stmt.recursive ? &own : names.function;
    Names body(function, &names);
    if (stmt.recursive || find_undeclared(stmt.body, {"loop"}).contains("loop")) {
      stmt.loop_slot = static_cast<int>(body.declare("loop"));
    }
    collect(*stmt.target, body, true);
    collect(stmt.body, body);
    stmt.scope = scope_of(body);
    KEYE_TRY_VOID(resolve(*stmt.target, body, false));

    if (stmt.test) {
      // The test runs in a scope of its own, in which the target has its own variables.
      Names test(function, &names, fmt::format("test{}.", tests_++));
      stmt.test_target = clone_target(*stmt.target);
      collect(*stmt.test_target, test, true);
      collect(*stmt.test, test);
      stmt.test_scope = scope_of(test);
      KEYE_TRY_VOID(resolve(*stmt.test_target, test, false));
      KEYE_TRY_VOID(resolve(*stmt.test, test, false));
    }

    Names otherwise(function, &names);
    collect(stmt.otherwise, otherwise);
    stmt.else_scope = scope_of(otherwise);
    KEYE_TRY_VOID(resolve(stmt.body, body, {true, false}));
    KEYE_TRY_VOID(resolve(stmt.otherwise, otherwise, {context.in_loop && !stmt.recursive, false}));
    stmt.function.slots = static_cast<uint32_t>(own.slots.size());
    return {};
  }

  Program& program_;
  int tests_ = 0;
};

}  // namespace

Result<void> resolve_scopes(Program& program) { return Resolver(program).run(); }

}  // namespace keye::text
