// The syntax tree of a template, with its names resolved to slots (scopes.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/value.h"

namespace keye::text {

struct Position {
  uint32_t line = 1;
  uint32_t column = 1;
};

/// Where a name's value lives at run time: `up` activations out, at `slot`.
struct Variable {
  uint32_t up = 0;
  uint32_t slot = 0;
};

struct Builtin;  // template/builtins.h
struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind : uint8_t {
  constant,       // value
  name,           // name, variable
  namespace_ref,  // name.attribute as a target of `set`
  tuple,          // children
  list,           // children
  dict,           // children: key, value, key, value, ...
  attribute,      // children[0] . name
  item,           // children[0] [ children[1] ]
  slice,          // children[0] [ children[1] : children[2] : children[3] ], each of the three may be null
  call,           // children[0], arguments
  filter,         // children[0] (null: the text of the block), name, builtin, arguments
  test,           // children[0], name, builtin, arguments
  conditional,    // children[0] if children[1] else children[2] (may be null)
  negative,       // children[0]
  positive,       // children[0]
  logical_not,    // children[0]
  logical_and,    // children[0], children[1]
  logical_or,
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  concat,   // children, joined as text
  compare,  // children, with compares between them
};

enum class CompareOp : uint8_t { equal, not_equal, less, less_equal, greater, greater_equal, in, not_in };

enum class NameUse : uint8_t { load, store, parameter };

struct ArgumentExprs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> named;
  ExprPtr star;         // *expression
  ExprPtr double_star;  // **expression
};

struct Expr {
  ExprKind kind = ExprKind::constant;
  NameUse use = NameUse::load;
  int depth = 1;  // of this tree
  Position at;
  Value value;
  std::string name;
  std::string attribute;
  Variable variable;
  const Builtin* builtin = nullptr;
  std::vector<ExprPtr> children;
  std::vector<CompareOp> compares;
  std::unique_ptr<ArgumentExprs> arguments;
};

/// What happens to a name when its scope is entered.
struct ScopeEntry {
  enum class Action : uint8_t { parameter, resolve, copy, clear };
  Action action = Action::clear;
  uint32_t slot = 0;
  std::string name;  // resolve: looked up among the variables of the render call
  Variable source;   // copy: from an outer scope
};
using Scope = std::vector<ScopeEntry>;

/// A macro, the body of a call block, or a recursive loop: code with slots of its own.
struct FunctionInfo {
  uint32_t slots = 0;
  std::vector<uint32_t> parameters;  // slots of the declared parameters
  int caller = -1;                   // slots of the special parameters, if the body uses them
  int kwargs = -1;
  int varargs = -1;
};

struct Stmt;
using Block = std::vector<Stmt>;

enum class StmtKind : uint8_t {
  output,        // expressions
  set,           // target, value
  set_block,     // target, value (a filter chain or null), body
  for_loop,      // target, value (what is iterated), test, body, otherwise
  if_else,       // test, body, otherwise
  macro,         // name, target (a store to the name), parameters, defaults, body
  call_block,    // value (the call), parameters, defaults, body
  generation,    // body
  filter_block,  // value (a filter chain), body
  with,          // parameters, expressions, body
  break_loop,
  continue_loop,
};

struct Stmt {
  StmtKind kind = StmtKind::output;
  Position at;
  std::string name;
  ExprPtr target;
  ExprPtr value;
  ExprPtr test;
  ExprPtr test_target;  // for_loop: the target again, in the scope of its test
  std::vector<ExprPtr> expressions;
  std::vector<ExprPtr> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Block body;
  Block otherwise;
  bool recursive = false;
  bool elif = false;   // if_else: the branch of another one's `elif`
  int loop_slot = -1;  // for_loop: where `loop` lives, if it is used
  Scope scope;
  Scope else_scope;
  Scope test_scope;
  FunctionInfo function;
};

struct Program {
  std::string where;
  Block body;
  Scope scope;
  uint32_t slots = 0;
};

}  // namespace keye::text
