// The filters of jinja2 that work on sequences and mappings. Those that are generators in Python are lazy here too:
// what they would raise, they raise when their items are asked for.
#include <algorithm>

#include "text/template/builtin_tables.h"
#include "text/template/characters.h"
#include "text/template/interpreter.h"
#include "text/template/objects.h"
#include "text/template/text_ops.h"

namespace keye::text {
namespace {

using Item = Result<std::optional<Value>>;

/// What to take from an item: "a.b.0" goes through attributes and items.
class Getter {
 public:
  Getter() = default;
  explicit Getter(const Value& attribute, Value otherwise = Value::none()) : otherwise_(std::move(otherwise)) {
    if (attribute.is(Kind::none) || attribute.is(Kind::missing)) return;
    if (!attribute.is_string()) {
      parts_.push_back(attribute);
      return;
    }
    for (const Marked& part : split_at(attribute.marked(), ".", -1, false)) {
      const bool digits = !part.empty() && part.size() < 18 &&
                          std::ranges::all_of(part.text, [](char c) { return c >= '0' && c <= '9'; });
      parts_.push_back(digits ? Value(static_cast<int64_t>(std::stoll(part.text))) : Value(part));
    }
  }

  Result<Value> get(Interpreter& interpreter, Value item) const {
    for (const Value& part : parts_) {
      KEYE_TRY(item, interpreter.item(item, part));
      if (item.is(Kind::undefined) && !otherwise_.is(Kind::none)) item = otherwise_;
    }
    return item;
  }
  /// get(), with strings in lower case unless case matters.
  Result<Value> key(Interpreter& interpreter, Value item, bool case_sensitive) const {
    KEYE_TRY(Value value, get(interpreter, std::move(item)));
    if (case_sensitive || !value.is_string()) return value;
    return interpreter.string(unicode::to_lower(value.marked()));
  }
  int depth() const { return otherwise_.depth(); }

 private:
  Values parts_;
  Value otherwise_ = Value::none();
};

Result<Value> lazy(Interpreter& interpreter, int depth, FunctionIterator::Next next) {
  return interpreter.iterator(std::make_shared<FunctionIterator>(std::move(next)), depth + 1);
}

int depth_of(const Arguments& arguments) {
  int deepest = 0;
  for (const Value& value : arguments.positional) deepest = std::max(deepest, value.depth());
  for (const auto& [name, value] : arguments.named) deepest = std::max(deepest, value.depth());
  return deepest;
}

/// A source that is opened when the first item is asked for; a false value is an empty one.
class LateSource {
 public:
  explicit LateSource(Value value, bool false_is_empty = false)
      : value_(std::move(value)), false_is_empty_(false_is_empty) {}

  Item next(Interpreter& interpreter) {
    const Interpreter::Depth depth(interpreter);
    KEYE_TRY_VOID(interpreter.check_depth());
    KEYE_TRY_VOID(interpreter.step());
    if (!source_) {
      if (false_is_empty_) {
        KEYE_TRY(const bool any, interpreter.truthy(value_));
        if (!any) return std::optional<Value>();
      }
      KEYE_TRY(source_, interpreter.iterate(value_));
    }
    return source_->next(interpreter);
  }

 private:
  Value value_;
  bool false_is_empty_;
  std::shared_ptr<Iterator> source_;
};

Result<Value> map(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  struct State {
    LateSource source;
    Arguments arguments;
    Getter getter;
    bool by_attribute = false;
    bool prepared = false;
  };
  auto state = std::make_shared<State>(State{LateSource(value, true), arguments, {}, false, false});
  return lazy(interpreter, std::max(value.depth(), depth_of(arguments)), [state](Interpreter& in) -> Item {
    KEYE_TRY(std::optional<Value> item, state->source.next(in));
    if (!item) return item;
    Arguments& given = state->arguments;
    if (!state->prepared) {
      state->prepared = true;
      const auto named = [&](std::string_view name) {
        return std::ranges::find_if(given.named, [&](const auto& argument) { return argument.first == name; });
      };
      state->by_attribute = given.positional.empty() && named("attribute") != given.named.end();
      if (state->by_attribute) {
        const auto otherwise = named("default");
        state->getter =
            Getter(named("attribute")->second, otherwise == given.named.end() ? Value::none() : otherwise->second);
        if (given.named.size() > (otherwise == given.named.end() ? 1 : 2))
          return failure("map takes \"attribute\" and \"default\" by name");
      } else if (given.positional.empty()) {
        return failure("map needs the name of a filter");
      }
    }
    Result<Value> mapped = Value();
    if (state->by_attribute) {
      mapped = state->getter.get(in, std::move(*item));
    } else {
      if (!given.positional[0].is_string()) return failure("map needs the name of a filter");
      mapped = in.call_filter(given.positional[0].text(), *item,
                              {{given.positional.begin() + 1, given.positional.end()}, given.named});
    }
    if (!mapped) return mapped.error();
    return std::optional(std::move(*mapped));
  });
}

template <bool by_attribute, bool keep>
Result<Value> select(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  struct State {
    LateSource source;
    Arguments arguments;
  };
  auto state = std::make_shared<State>(State{LateSource(value, true), arguments});
  return lazy(interpreter, std::max(value.depth(), depth_of(arguments)), [state](Interpreter& in) -> Item {
    const Arguments& given = state->arguments;
    constexpr size_t kName = by_attribute ? 1 : 0;  // where the name of the test stands
    while (true) {
      KEYE_TRY(std::optional<Value> item, state->source.next(in));
      if (!item) return item;
      Value tested = *item;
      if (by_attribute) {
        if (given.positional.empty()) return failure("the name of an attribute is needed");
        KEYE_TRY(tested, Getter(given.positional[0]).get(in, std::move(tested)));
      }
      bool passes = false;
      if (given.positional.size() > kName) {
        const Value& name = given.positional[kName];
        if (!name.is_string()) return failure("the name of a test must be a string");
        KEYE_TRY(passes, in.call_test(name.text(), tested,
                                      {{given.positional.begin() + kName + 1, given.positional.end()}, given.named}));
      } else {
        KEYE_TRY(passes, in.truthy(tested));
      }
      if (passes == keep) return item;
    }
  });
}

Result<Value> items_of(Interpreter& interpreter, const Value& value, Arguments&) {
  return lazy(interpreter, value.depth(), [value, at = size_t{0}](Interpreter&) mutable -> Item {
    if (value.is(Kind::undefined)) return std::optional<Value>();
    if (!value.is(Kind::dict)) return failure("only a mapping has items, not {}", type_name(value));
    if (at >= value.dict().size()) return std::optional<Value>();
    const Dict::Item& item = value.dict().items()[at++];
    return std::optional(Value::tuple({item.key, item.value}));
  });
}

Result<Value> unique(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const bool case_sensitive, flag(interpreter, arguments.positional[0]));
  struct State {
    LateSource source;
    Getter getter;
    Dict seen;
  };
  auto state = std::make_shared<State>(State{LateSource(value), Getter(arguments.positional[1]), {}});
  return lazy(interpreter, value.depth(), [state, case_sensitive](Interpreter& in) -> Item {
    while (true) {
      KEYE_TRY(std::optional<Value> item, state->source.next(in));
      if (!item) return item;
      KEYE_TRY(const Value key, state->getter.key(in, *item, case_sensitive));
      KEYE_TRY_VOID(in.require_hashable(key));
      if (state->seen.find(key) != nullptr) continue;
      KEYE_TRY_VOID(in.check_items(state->seen.size() + 1));
      state->seen.set(key, Value::none());
      return item;
    }
  });
}

Result<Value> batch(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const int64_t size, interpreter.index(arguments.positional[0]));
  const Value fill = arguments.positional[1].is(Kind::missing) ? Value::none() : arguments.positional[1];
  struct State {
    LateSource source;
    Values row;
    bool ended = false;
  };
  auto state = std::make_shared<State>(State{LateSource(value), {}, false});
  return lazy(interpreter, std::max(value.depth(), fill.depth()) + 1, [state, size, fill](Interpreter& in) -> Item {
    const auto full = static_cast<size_t>(size);
    while (!state->ended) {
      KEYE_TRY(std::optional<Value> item, state->source.next(in));
      if (!item) break;
      std::optional<Value> row;
      if (size >= 0 && state->row.size() == full) {
        KEYE_TRY(row, in.list(std::move(state->row)));
        state->row.clear();
      }
      KEYE_TRY_VOID(in.check_items(state->row.size() + 1));
      state->row.push_back(std::move(*item));
      if (row) return row;
    }
    state->ended = true;
    if (state->row.empty()) return std::optional<Value>();
    if (!fill.is(Kind::none) && size > 0 && state->row.size() < full) {
      KEYE_TRY_VOID(in.check_items(full));
      state->row.resize(full, fill);
    }
    KEYE_TRY(Value row, in.list(std::move(state->row)));
    state->row.clear();
    return std::optional(std::move(row));
  });
}

Result<Value> slices(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Value count = arguments.positional[0];
  const Value fill = arguments.positional[1].is(Kind::missing) ? Value::none() : arguments.positional[1];
  auto rows = std::make_shared<std::optional<Values>>();
  const int depth = std::max({value.depth(), fill.depth(), count.depth()}) + 1;
  return lazy(interpreter, depth, [=, at = int64_t{0}](Interpreter& in) mutable -> Item {
    if (!*rows) {
      KEYE_TRY(*rows, in.collect(value));
    }
    KEYE_TRY(const int64_t slices, in.index(count));
    const auto size = static_cast<int64_t>((*rows)->size());
    if (slices == 0) return failure("a sequence cannot be cut into 0 slices");
    if (at >= slices) return std::optional<Value>();
    KEYE_TRY_VOID(in.step());
    const int64_t each = size / slices;
    const int64_t longer = size % slices;  // so many slices get one more
    const int64_t begin = at * each + std::min(at, longer);
    const int64_t end = begin + each + (at < longer ? 1 : 0);
    Values row((*rows)->begin() + begin, (*rows)->begin() + end);
    if (!fill.is(Kind::none) && at >= longer) row.push_back(fill);
    ++at;
    KEYE_TRY(Value slice, in.list(std::move(row)));
    return std::optional(std::move(slice));
  });
}

Result<Value> sort(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const bool reverse, integer_flag(interpreter, arguments.positional[0]));
  KEYE_TRY(const bool case_sensitive, flag(interpreter, arguments.positional[1]));
  const Value& attribute = arguments.positional[2];
  std::vector<Getter> getters;
  if (attribute.is_string()) {
    for (const Marked& part : split_at(attribute.marked(), ",", -1, false)) getters.emplace_back(Value(part));
  } else {
    getters.emplace_back(attribute);
  }
  KEYE_TRY(Values items, interpreter.collect(value));
  Values keys;
  for (const Value& item : items) {
    Values key;
    for (const Getter& getter : getters) {
      KEYE_TRY(Value part, getter.key(interpreter, item, case_sensitive));
      key.push_back(std::move(part));
    }
    KEYE_TRY(Value whole, interpreter.list(std::move(key)));
    keys.push_back(std::move(whole));
  }
  KEYE_TRY_VOID(interpreter.sort(items, keys, reverse));
  return interpreter.list(std::move(items));
}

Result<Value> sort_dict(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const bool case_sensitive, flag(interpreter, arguments.positional[0]));
  const Value& by = arguments.positional[1];
  KEYE_TRY(const bool reverse, integer_flag(interpreter, arguments.positional[2]));
  const bool by_value = by.is_string() && by.text() == "value";
  if (!by.is(Kind::missing) && !by_value && !(by.is_string() && by.text() == "key"))
    return failure("dictsort sorts by \"key\" or by \"value\"");
  if (!value.is(Kind::dict)) return failure("dictsort needs a dict, not {}", type_name(value));
  Values items;
  Values keys;
  for (const Dict::Item& item : value.dict().items()) {
    items.push_back(Value::tuple({item.key, item.value}));
    KEYE_TRY(Value key, Getter().key(interpreter, by_value ? item.value : item.key, case_sensitive));
    keys.push_back(std::move(key));
  }
  KEYE_TRY_VOID(interpreter.sort(items, keys, reverse));
  return interpreter.list(std::move(items));
}

Result<Value> group_by(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Value otherwise = arguments.positional[1].is(Kind::missing) ? Value::none() : arguments.positional[1];
  const Getter getter(arguments.positional[0], otherwise);
  KEYE_TRY(const bool case_sensitive, flag(interpreter, arguments.positional[2]));
  KEYE_TRY(Values items, interpreter.collect(value));
  Values keys;
  for (const Value& item : items) {
    KEYE_TRY(Value key, getter.key(interpreter, item, case_sensitive));
    keys.push_back(std::move(key));
  }
  // Sorted together: each item travels with its key.
  Values pairs;
  for (size_t i = 0; i < items.size(); ++i) pairs.push_back(Value::tuple({keys[i], items[i]}));
  KEYE_TRY_VOID(interpreter.sort(pairs, keys, false));
  Values groups;
  for (size_t i = 0; i < pairs.size();) {
    const Value key = pairs[i].items()[0];
    const Value first = pairs[i].items()[1];
    Values members;
    while (i < pairs.size()) {
      KEYE_TRY(const bool same, interpreter.equals(key, pairs[i].items()[0]));
      if (!same && !members.empty()) break;
      members.push_back(pairs[i++].items()[1]);
    }
    KEYE_TRY(Value shown, getter.get(interpreter, first));
    KEYE_TRY(Value list, interpreter.list(std::move(members)));
    groups.push_back(Value::group(case_sensitive ? key : std::move(shown), std::move(list)));
  }
  return interpreter.list(std::move(groups));
}

template <CompareOp better>
Result<Value> extreme(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  KEYE_TRY(const bool case_sensitive, flag(interpreter, arguments.positional[0]));
  const Getter getter(arguments.positional[1]);
  KEYE_TRY(const Values items, interpreter.collect(value));
  if (items.empty()) return Value::undefined("the sequence was empty");
  Value best = items[0];
  KEYE_TRY(Value best_key, getter.key(interpreter, best, case_sensitive));
  for (size_t i = 1; i < items.size(); ++i) {
    KEYE_TRY(Value key, getter.key(interpreter, items[i], case_sensitive));
    KEYE_TRY(const bool is_better, interpreter.ordered(better, key, best_key));
    if (!is_better) continue;
    best = items[i];
    best_key = std::move(key);
  }
  return best;
}

Result<Value> sum(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  const Getter getter(arguments.positional[0]);
  Value total = arguments.positional[1].is(Kind::missing) ? Value(0) : arguments.positional[1];
  if (total.is_string()) return failure("sum does not add strings: use join");
  KEYE_TRY(const auto source, interpreter.iterate(value));
  while (true) {
    KEYE_TRY(std::optional<Value> item, source->next(interpreter));
    if (!item) return total;
    KEYE_TRY(const Value part, getter.get(interpreter, std::move(*item)));
    KEYE_TRY(total, interpreter.binary(ExprKind::add, total, part));
  }
}

Result<Value> join(Interpreter& interpreter, const Value& value, Arguments& arguments) {
  Marked separator;
  if (!arguments.positional[0].is(Kind::missing)) {
    KEYE_TRY(separator, interpreter.str(arguments.positional[0]));
  }
  const Getter getter(arguments.positional[1]);
  KEYE_TRY(const auto source, interpreter.iterate(value));
  Marked out;
  for (bool first = true;; first = false) {
    KEYE_TRY_VOID(interpreter.step());
    KEYE_TRY(std::optional<Value> item, source->next(interpreter));
    if (!item) return interpreter.string(std::move(out));
    KEYE_TRY(const Value part, getter.get(interpreter, std::move(*item)));
    KEYE_TRY(const Marked text, interpreter.str(part));
    if (!first) out.append(separator);
    out.append(text);
    KEYE_TRY_VOID(interpreter.check_bytes(out.size()));
  }
}

Result<Value> first(Interpreter& interpreter, const Value& value, Arguments&) {
  KEYE_TRY(const auto source, interpreter.iterate(value));
  KEYE_TRY(std::optional<Value> item, source->next(interpreter));
  return item ? std::move(*item) : Value::undefined("the sequence was empty");
}

bool is_reversible(Interpreter& interpreter, const Value& value) {
  return interpreter.has_length(value) && value.as<LoopContext>() == nullptr;
}

Result<Value> last(Interpreter& interpreter, const Value& value, Arguments&) {
  if (!is_reversible(interpreter, value)) return failure("a value of type {} has no last item", type_name(value));
  KEYE_TRY(std::optional<Value> item, PlainIterator(value, true).next(interpreter));
  return item ? std::move(*item) : Value::undefined("the sequence was empty");
}

Result<Value> reverse(Interpreter& interpreter, const Value& value, Arguments&) {
  if (value.is_string()) return interpreter.slice(value, Value::none(), Value::none(), Value(-1));
  if (is_reversible(interpreter, value))
    return interpreter.iterator(std::make_shared<PlainIterator>(value, true), value.depth() + 1);
  KEYE_TRY(Values items, interpreter.collect(value));
  std::ranges::reverse(items);
  return interpreter.list(std::move(items));
}

Result<Value> length(Interpreter& interpreter, const Value& value, Arguments&) {
  KEYE_TRY(const int64_t size, interpreter.length(value));
  return Value(size);
}

constexpr Builtin kFilters[] = {
    {"batch", "linecount,fill_with?", true, batch},
    {"count", "", false, length},
    {"dictsort", "case_sensitive?,by?,reverse?", true, sort_dict},
    {"first", "", false, first},
    {"groupby", "attribute,default?,case_sensitive?", true, group_by},
    {"items", "", false, items_of},
    {"join", "d?,attribute?", true, join},
    {"last", "", false, last},
    {"length", "", false, length},
    {"list", "", false,
     [](Interpreter& interpreter, const Value& value, Arguments&) -> Result<Value> {
       KEYE_TRY(Values items, interpreter.collect(value));
       return interpreter.list(std::move(items));
     }},
    {"map", "*", true, map},
    {"max", "case_sensitive?,attribute?", true, extreme<CompareOp::greater>},
    {"min", "case_sensitive?,attribute?", true, extreme<CompareOp::less>},
    {"reject", "*", true, select<false, false>},
    {"rejectattr", "*", true, select<true, false>},
    {"reverse", "", false, reverse},
    {"select", "*", true, select<false, true>},
    {"selectattr", "*", true, select<true, true>},
    {"slice", "slices,fill_with?", true, slices},
    {"sort", "reverse?,case_sensitive?,attribute?", true, sort},
    {"sum", "attribute?,start?", true, sum},
    {"unique", "case_sensitive?,attribute?", true, unique},
};

}  // namespace

std::span<const Builtin> sequence_filters() { return kFilters; }

}  // namespace keye::text
