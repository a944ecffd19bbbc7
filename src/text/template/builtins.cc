#include "text/template/builtins.h"

#include <algorithm>
#include <unordered_map>

#include "text/template/builtin_tables.h"
#include "text/template/interpreter.h"

namespace keye::text {
namespace {

using Table = std::unordered_map<std::string_view, const Builtin*>;

Table make_table(std::initializer_list<std::span<const Builtin>> lists) {
  Table table;
  for (const auto list : lists) {
    for (const Builtin& builtin : list) table.emplace(builtin.name, &builtin);
  }
  return table;
}

const Builtin* find(const Table& table, std::string_view name) {
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

}  // namespace

const Builtin* find_filter(std::string_view name) {
  static const Table kTable = make_table({text_filters(), sequence_filters(), value_filters()});
  return find(kTable, name);
}

const Builtin* find_test(std::string_view name) {
  static const Table kTable = make_table({value_tests()});
  return find(kTable, name);
}

const Builtin* find_function(std::string_view name) {
  static const Table kTable = make_table({global_functions()});
  return find(kTable, name);
}

std::string_view refused_filter(std::string_view name) {
  if (name == "random") return "a prompt must not depend on chance";
  if (name == "pprint" || name == "urlize" || name == "striptags") return "chat templates have no use for it";
  return {};
}

Result<void> bind_arguments(const Builtin& builtin, Arguments& arguments) {
  if (builtin.parameters == "*") {
    if (!builtin.keywords && !arguments.named.empty()) return failure("{} takes no arguments by name", builtin.name);
    return {};
  }
  Values bound;
  size_t used = 0;
  for (std::string_view rest = builtin.parameters; !rest.empty();) {
    std::string_view parameter = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), parameter.size() + 1));
    const bool optional = parameter.ends_with('?');
    if (optional) parameter.remove_suffix(1);
    if (bound.size() < arguments.positional.size()) {
      bound.push_back(std::move(arguments.positional[bound.size()]));
      continue;
    }
    const auto named =
        std::ranges::find_if(arguments.named, [&](const auto& argument) { return argument.first == parameter; });
    if (builtin.keywords && named != arguments.named.end()) {
      bound.push_back(std::move(named->second));
      ++used;
    } else if (optional) {
      bound.push_back(Value::missing());
    } else {
      return failure("{} lacks its argument \"{}\"", builtin.name, parameter);
    }
  }
  if (arguments.positional.size() > bound.size())
    return failure("{} takes at most {} arguments", builtin.name, bound.size());
  if (used < arguments.named.size()) {
    return failure("{} does not take one of the arguments given by name, or takes it twice: \"{}\"", builtin.name,
                   arguments.named.front().first);
  }
  arguments.positional = std::move(bound);
  return {};
}

Result<Value> call_builtin(Interpreter& interpreter, const Builtin& builtin, const Value& self, Arguments arguments) {
  KEYE_TRY_VOID(bind_arguments(builtin, arguments));
  return builtin.run(interpreter, self, arguments);
}

}  // namespace keye::text
