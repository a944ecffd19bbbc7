// The objects that only templates make: iterators, ranges, namespaces, macros, loops and what else can be called.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "text/template/interpreter.h"
#include "text/value_text.h"

namespace keye::text {

/// What a template can do with an object beyond printing it.
class TemplateObject : public Object {
 public:
  /// The attribute, or a missing value if there is none of this name.
  virtual Result<Value> attribute(Interpreter&, std::string_view) { return Value::missing(); }
  virtual bool callable() const { return false; }
  virtual Result<Value> call(Interpreter&, Arguments) { return failure("a {} cannot be called", type_name()); }
};

/// Whether Python could look the object up in a dict, where it never is: keys that are objects are not supported.
bool is_hashable_object(const Value& value);

/// A sequence that is made while it is used, once; Python's generators and iterators.
class Iterator : public TemplateObject {
 public:
  /// The next item, or nothing at the end.
  virtual Result<std::optional<Value>> next(Interpreter& interpreter) = 0;
  std::string_view type_name() const override { return "generator"; }
};

/// Over what is there already: the items of a list, the characters of a string, the keys of a dict, the numbers of a
/// range.
class PlainIterator final : public Iterator {
 public:
  explicit PlainIterator(Value source, bool reversed = false);
  Result<std::optional<Value>> next(Interpreter& interpreter) override;
  std::string_view type_name() const override { return "iterator"; }

 private:
  Value source_;
  bool reversed_;
  size_t at_ = 0;    // items seen
  size_t byte_ = 0;  // position in a string
};

/// Calls a function for each next item.
class FunctionIterator final : public Iterator {
 public:
  using Next = std::function<Result<std::optional<Value>>(Interpreter&)>;
  explicit FunctionIterator(Next next) : next_(std::move(next)) {}
  Result<std::optional<Value>> next(Interpreter& interpreter) override { return next_(interpreter); }

 private:
  Next next_;
};

class Range final : public TemplateObject {
 public:
  Range(int64_t start, int64_t stop, int64_t step);
  int64_t size() const { return size_; }
  int64_t at(int64_t index) const { return start_ + index * step_; }
  int64_t step() const { return step_; }
  bool contains(int64_t value) const;
  bool operator==(const Range& other) const;
  /// From item `start` to item `stop`, which may be one past either end.
  Value slice(int64_t start, int64_t stop, int64_t step) const;

  std::string_view type_name() const override { return "range"; }
  Result<void> write_repr(ReprWriter& writer) const override;
  Result<Value> attribute(Interpreter&, std::string_view name) override;

 private:
  int64_t start_;
  int64_t stop_;
  int64_t step_;
  int64_t size_;
};

/// dict.keys(), dict.values() or dict.items().
class DictView final : public TemplateObject {
 public:
  enum class Part : uint8_t { keys, values, items };
  DictView(Value dict, Part part) : dict_(std::move(dict)), part_(part) {}
  const Dict& dict() const { return dict_.dict(); }
  Part part() const { return part_; }
  Value at(size_t index) const;

  std::string_view type_name() const override;
  Result<void> write_repr(ReprWriter& writer) const override;

 private:
  Value dict_;
  Part part_;
};

class Namespace final : public TemplateObject {
 public:
  explicit Namespace(Dict attributes) : attributes_(std::move(attributes)) {}
  Dict& attributes() { return attributes_; }
  std::string_view type_name() const override { return "Namespace"; }
  Result<void> write_repr(ReprWriter& writer) const override;
  Result<Value> attribute(Interpreter&, std::string_view name) override;

 private:
  Dict attributes_;
};

/// A method together with what it is called on.
class BoundMethod final : public TemplateObject {
 public:
  BoundMethod(Value self, const Builtin& method) : self_(std::move(self)), method_(method) {}
  std::string_view type_name() const override { return "builtin_function_or_method"; }
  bool callable() const override { return true; }
  Result<Value> call(Interpreter& interpreter, Arguments arguments) override;

 private:
  Value self_;
  const Builtin& method_;
};

/// A global function.
class FunctionObject final : public TemplateObject {
 public:
  explicit FunctionObject(const Builtin& function) : function_(function) {}
  std::string_view type_name() const override { return "function"; }
  Result<Value> attribute(Interpreter&, std::string_view name) override;
  bool callable() const override { return true; }
  Result<Value> call(Interpreter& interpreter, Arguments arguments) override;

 private:
  const Builtin& function_;
};

class Macro final : public TemplateObject {
 public:
  Macro(const Stmt& definition, std::shared_ptr<Activation> closure_)
      : stmt(definition), closure(std::move(closure_)) {}
  std::string_view type_name() const override { return "Macro"; }
  Result<void> write_repr(ReprWriter& writer) const override;
  Result<Value> attribute(Interpreter& interpreter, std::string_view name) override;
  bool callable() const override { return true; }
  Result<Value> call(Interpreter& interpreter, Arguments arguments) override;

  const Stmt& stmt;
  std::shared_ptr<Activation> closure;
};

/// The variable `loop` of a running loop.
class LoopContext final : public TemplateObject, public std::enable_shared_from_this<LoopContext> {
 public:
  /// `closure` is set for recursive loops.
  LoopContext(const Stmt& stmt, Value iterable, std::shared_ptr<Iterator> source, std::shared_ptr<Activation> closure,
              int depth)
      : stmt_(stmt),
        iterable_(std::move(iterable)),
        source_(std::move(source)),
        closure_(std::move(closure)),
        depth_(depth) {}

  Result<std::optional<Value>> advance(Interpreter& interpreter);
  Result<int64_t> length(Interpreter& interpreter);

  std::string_view type_name() const override { return "LoopContext"; }
  Result<Value> attribute(Interpreter& interpreter, std::string_view name) override;
  bool callable() const override { return true; }
  Result<Value> call(Interpreter& interpreter, Arguments arguments) override;

  Result<Value> cycle(const Values& values) const;
  Result<bool> changed(Interpreter& interpreter, const Values& values);
  void forget() { last_changed_.reset(); }

 private:
  Result<void> peek(Interpreter& interpreter);

  const Stmt& stmt_;
  Value iterable_;  // missing if its length is only known by running it
  std::shared_ptr<Iterator> source_;
  std::shared_ptr<Activation> closure_;
  int depth_;
  int64_t index0_ = -1;
  std::optional<int64_t> length_;
  std::optional<Value> after_;
  Value current_ = Value::missing();
  Value before_ = Value::missing();
  std::optional<Values> last_changed_;
};

class Cycler final : public TemplateObject, public std::enable_shared_from_this<Cycler> {
 public:
  explicit Cycler(Values items) : items_(std::move(items)) {}
  std::string_view type_name() const override { return "Cycler"; }
  Result<Value> attribute(Interpreter& interpreter, std::string_view name) override;
  Value next();
  void reset() { at_ = 0; }

 private:
  Values items_;
  size_t at_ = 0;
};

class Joiner final : public TemplateObject {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  std::string_view type_name() const override { return "Joiner"; }
  Result<Value> attribute(Interpreter&, std::string_view name) override;
  bool callable() const override { return true; }
  Result<Value> call(Interpreter&, Arguments arguments) override;

 private:
  Value separator_;
  bool used_ = false;
};

}  // namespace keye::text
