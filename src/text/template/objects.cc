#include "text/template/objects.h"

#include "text/template/characters.h"
#include "text/template/text_ops.h"

namespace keye::text {
namespace {

/// How many numbers range(start, stop, step) has.
int64_t range_size(int64_t start, int64_t stop, int64_t step) {
  const auto distance = [](int64_t low, int64_t high) {
    return static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
  };
  uint64_t count = 0;
  if (step > 0 && start < stop) count = (distance(start, stop) - 1) / static_cast<uint64_t>(step) + 1;
  if (step < 0 && stop < start) count = (distance(stop, start) - 1) / (~static_cast<uint64_t>(step) + 1) + 1;
  return static_cast<int64_t>(std::min<uint64_t>(count, INT64_MAX));
}

constexpr Builtin kLoopMethods[] = {
    {"cycle", "*", false,
     [](Interpreter&, const Value& self, Arguments& arguments) -> Result<Value> {
       return self.as<LoopContext>()->cycle(arguments.positional);
     }},
    {"changed", "*", false,
     [](Interpreter& interpreter, const Value& self, Arguments& arguments) -> Result<Value> {
       KEYE_TRY(const bool changed, self.as<LoopContext>()->changed(interpreter, arguments.positional));
       return Value(changed);
     }},
};

constexpr Builtin kCyclerMethods[] = {
    {"next", "", false,
     [](Interpreter&, const Value& self, Arguments&) -> Result<Value> { return self.as<Cycler>()->next(); }},
    {"reset", "", false,
     [](Interpreter&, const Value& self, Arguments&) -> Result<Value> {
       self.as<Cycler>()->reset();
       return Value::none();
     }},
};

constexpr Builtin kFromKeys = {"fromkeys", "iterable,value?", false,
                               [](Interpreter& interpreter, const Value&, Arguments& arguments) -> Result<Value> {
                                 KEYE_TRY(const Values keys, interpreter.collect(arguments.positional[0]));
                                 const Value& value = arguments.positional[1];
                                 Dict dict;
                                 for (const Value& key : keys) {
                                   KEYE_TRY_VOID(interpreter.require_hashable(key));
                                   dict.set(key, value.is(Kind::missing) ? Value::none() : value);
                                 }
                                 return interpreter.dict(std::move(dict));
                               }};

/// An object of its own that shares ownership of `object`.
Value method_of(std::shared_ptr<Object> object, const Builtin& method) {
  return Value::object(std::make_shared<BoundMethod>(Value::object(std::move(object)), method), 2);
}

}  // namespace

bool is_hashable_object(const Value& value) {
  const auto* view = value.as<DictView>();
  return value.is(Kind::object) && (view == nullptr || view->part() == DictView::Part::values);
}

PlainIterator::PlainIterator(Value source, bool reversed) : source_(std::move(source)), reversed_(reversed) {
  if (reversed && source_.is_string()) byte_ = source_.marked().size();
}

Result<std::optional<Value>> PlainIterator::next(Interpreter& interpreter) {
  KEYE_TRY(const int64_t length, interpreter.length(source_));
  const auto size = static_cast<size_t>(length);
  if (at_ >= size) return std::optional<Value>();
  const size_t index = reversed_ ? size - 1 - at_ : at_;
  ++at_;
  switch (source_.kind()) {
    case Kind::list:
    case Kind::tuple:
      return std::optional(source_.items()[index]);
    case Kind::dict:
      return std::optional(source_.dict().items()[index].key);
    case Kind::string: {
      const Marked& text = source_.marked();
      const size_t begin = reversed_ ? unicode::previous(text.text, byte_) : byte_;
      const size_t bytes = unicode::decode(text.text, begin).bytes;
      byte_ = reversed_ ? begin : begin + bytes;
      return std::optional(Value(text.slice(begin, bytes)));
    }
    default:
      break;
  }
  if (const auto* range = source_.as<Range>()) return std::optional(Value(range->at(static_cast<int64_t>(index))));
  if (const auto* view = source_.as<DictView>()) return std::optional(view->at(index));
  return std::optional<Value>();
}

Range::Range(int64_t start, int64_t stop, int64_t step)
    : start_(start), stop_(stop), step_(step), size_(range_size(start, stop, step)) {}

bool Range::contains(int64_t value) const {
  if (size_ == 0) return false;
  const int64_t last = at(size_ - 1);
  if (value < std::min(start_, last) || value > std::max(start_, last)) return false;
  return (static_cast<__int128>(value) - start_) % step_ == 0;
}

bool Range::operator==(const Range& other) const {
  return size_ == other.size_ && (size_ == 0 || (start_ == other.start_ && (size_ == 1 || step_ == other.step_)));
}

Value Range::slice(int64_t start, int64_t stop, int64_t step) const {
  return Value::object(std::make_shared<Range>(at(start), at(stop), step_ * step));
}

Result<void> Range::write_repr(ReprWriter& writer) const {
  if (step_ == 1) return writer.put(fmt::format("range({}, {})", start_, stop_));
  return writer.put(fmt::format("range({}, {}, {})", start_, stop_, step_));
}

Result<Value> Range::attribute(Interpreter&, std::string_view name) {
  if (name == "start") return Value(start_);
  if (name == "stop") return Value(stop_);
  if (name == "step") return Value(step_);
  return Value::missing();
}

Value DictView::at(size_t index) const {
  const Dict::Item& item = dict().items()[index];
  if (part_ == Part::keys) return item.key;
  return part_ == Part::values ? item.value : Value::tuple({item.key, item.value});
}

std::string_view DictView::type_name() const {
  return part_ == Part::keys ? "dict_keys" : part_ == Part::values ? "dict_values" : "dict_items";
}

Result<void> DictView::write_repr(ReprWriter& writer) const {
  KEYE_TRY_VOID(writer.put(type_name()));
  KEYE_TRY_VOID(writer.put("(["));
  for (size_t i = 0; i < dict().size(); ++i) {
    if (i > 0) KEYE_TRY_VOID(writer.put(", "));
    KEYE_TRY_VOID(writer.write(at(i)));
  }
  return writer.put("])");
}

Result<void> Namespace::write_repr(ReprWriter& writer) const {
  KEYE_TRY_VOID(writer.put("<Namespace "));
  KEYE_TRY_VOID(writer.write_dict(attributes_, this));
  return writer.put(">");
}

Result<Value> Namespace::attribute(Interpreter&, std::string_view name) {
  const Value* value = attributes_.find(name);
  return value == nullptr ? Value::missing() : *value;
}

Result<Value> BoundMethod::call(Interpreter& interpreter, Arguments arguments) {
  return call_builtin(interpreter, method_, self_, std::move(arguments));
}

Result<Value> FunctionObject::call(Interpreter& interpreter, Arguments arguments) {
  return call_builtin(interpreter, function_, Value(), std::move(arguments));
}

Result<Value> FunctionObject::attribute(Interpreter&, std::string_view name) {
  if (function_.name != "dict" || name != "fromkeys") return Value::missing();
  return Value::object(std::make_shared<BoundMethod>(Value(), kFromKeys));
}

Result<void> Macro::write_repr(ReprWriter& writer) const {
  if (stmt.name.empty()) return writer.put("<Macro anonymous>");
  KEYE_TRY_VOID(writer.put("<Macro "));
  KEYE_TRY_VOID(writer.write_quoted(Marked(stmt.name)));
  return writer.put(">");
}

Result<Value> Macro::attribute(Interpreter&, std::string_view name) {
  if (name == "name") return stmt.name.empty() ? Value::none() : Value(stmt.name);
  if (name == "catch_kwargs") return Value(stmt.function.kwargs >= 0);
  if (name == "catch_varargs") return Value(stmt.function.varargs >= 0);
  if (name == "arguments") {
    Values names;
    for (const ExprPtr& parameter : stmt.parameters) names.push_back(Value(parameter->name));
    return Value::tuple(std::move(names));
  }
  return Value::missing();
}

Result<Value> Macro::call(Interpreter& interpreter, Arguments arguments) {
  return interpreter.call_macro(*this, std::move(arguments));
}

Result<std::optional<Value>> LoopContext::advance(Interpreter& interpreter) {
  std::optional<Value> item = std::move(after_);
  after_.reset();
  if (!item) {
    KEYE_TRY(item, source_->next(interpreter));
  }
  if (!item) return item;
  ++index0_;
  before_ = std::move(current_);
  current_ = *item;
  return item;
}

Result<void> LoopContext::peek(Interpreter& interpreter) {
  if (after_) return {};
  KEYE_TRY(after_, source_->next(interpreter));
  return {};
}

Result<int64_t> LoopContext::length(Interpreter& interpreter) {
  if (length_) return *length_;
  if (!iterable_.is(Kind::missing)) {
    KEYE_TRY(length_, interpreter.length(iterable_));
    return *length_;
  }
  Values rest;
  while (true) {
    KEYE_TRY(std::optional<Value> item, source_->next(interpreter));
    if (!item) break;
    KEYE_TRY_VOID(interpreter.step());
    KEYE_TRY_VOID(interpreter.check_items(rest.size() + 1));
    rest.push_back(std::move(*item));
  }
  length_ = static_cast<int64_t>(rest.size()) + index0_ + 1 + (after_ ? 1 : 0);
  source_ = std::make_shared<PlainIterator>(Value::list(std::move(rest)));
  return *length_;
}

Result<Value> LoopContext::attribute(Interpreter& interpreter, std::string_view name) {
  if (name == "index") return Value(index0_ + 1);
  if (name == "index0") return Value(index0_);
  if (name == "first") return Value(index0_ == 0);
  if (name == "depth") return Value(depth_ + 1);
  if (name == "depth0") return Value(depth_);
  if (name == "last" || name == "nextitem") {
    KEYE_TRY_VOID(peek(interpreter));
    if (name == "last") return Value(!after_.has_value());
    return after_ ? *after_ : Value::undefined("there is no next item");
  }
  if (name == "previtem") return index0_ == 0 ? Value::undefined("there is no previous item") : before_;
  if (name == "length" || name == "revindex" || name == "revindex0") {
    KEYE_TRY(const int64_t size, length(interpreter));
    return Value(name == "length" ? size : size - index0_ - (name == "revindex0" ? 1 : 0));
  }
  for (const Builtin& method : kLoopMethods) {
    if (method.name == name) return method_of(shared_from_this(), method);
  }
  return Value::missing();
}

Result<Value> LoopContext::call(Interpreter& interpreter, Arguments arguments) {
  if (!stmt_.recursive) return failure("this loop cannot be called: it is not marked as recursive");
  static constexpr Builtin kSignature = {"loop", "iterable", true, nullptr};
  KEYE_TRY_VOID(bind_arguments(kSignature, arguments));
  return interpreter.call_loop(stmt_, closure_, arguments.positional[0], depth_ + 1);
}

Result<Value> LoopContext::cycle(const Values& values) const {
  if (values.empty()) return failure("cycle needs values");
  return values[static_cast<size_t>(index0_) % values.size()];
}

Result<bool> LoopContext::changed(Interpreter& interpreter, const Values& values) {
  if (last_changed_) {
    KEYE_TRY(const bool same, interpreter.equals(Value::tuple(*last_changed_), Value::tuple(values)));
    if (same) return false;
  } else {
    interpreter.remember(shared_from_this());
  }
  last_changed_ = values;
  return true;
}

Result<Value> Cycler::attribute(Interpreter&, std::string_view name) {
  if (name == "current") return items_[at_];
  if (name == "items") return Value::tuple(items_);
  if (name == "pos") return Value(at_);
  for (const Builtin& method : kCyclerMethods) {
    if (method.name == name) return method_of(shared_from_this(), method);
  }
  return Value::missing();
}

Value Cycler::next() {
  Value current = items_[at_];
  at_ = (at_ + 1) % items_.size();
  return current;
}

Result<Value> Joiner::attribute(Interpreter&, std::string_view name) {
  if (name == "sep") return separator_;
  if (name == "used") return Value(used_);
  return Value::missing();
}

Result<Value> Joiner::call(Interpreter&, Arguments arguments) {
  if (!arguments.positional.empty() || !arguments.named.empty()) return failure("a joiner takes no arguments");
  if (used_) return separator_;
  used_ = true;
  return Value("");
}

}  // namespace keye::text
