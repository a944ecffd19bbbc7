// The cases of tests/golden: inputs, expected outputs, and how to build the program's own version of the input.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "prompt/prompt_builder.h"
#include "tensor/safetensors.h"
#include "text/value.h"

namespace keye::golden {

/// The folder with cases/ and expected/: tests/golden, or $KEYE_GOLDENS (as scripts/oracle/other_seeds sets it).
Path golden_folder();

/// qwen3-text, qwen3-moe-text, keye-1_5, keye-2_0 and keye-nano.
const std::vector<std::string>& kinds();
/// Of "KIND", or of "KIND.VARIANT", which is the same checkpoint computed in another way.
Path checkpoint_folder(const std::string& kind);
/// The published arithmetic of the indexer, on keye-2_0's checkpoint.
inline constexpr const char* kF8Indexer = "keye-2_0.fp8-indexer";

struct GoldenCase {
  std::string kind;
  std::string name;
  Json expected;       // expected/KIND/NAME.json; its "case" holds the input
  text::Value source;  // the same file, with the order of its keys, as a template may see them
  TensorFile tensors;  // expected/KIND/NAME.safetensors

  /// The tensor, or an empty view if this case has none of that name.
  ConstView find(std::string_view tensor) const;
  const Json& input() const { return expected.at("case"); }
};

/// All cases of a kind in the order of cases/KIND.json. A file that is missing or broken ends the test program.
std::vector<GoldenCase> load_cases(const std::string& kind);
GoldenCase load_case(const std::string& kind, const std::string& name);

/// The conversation of a case with messages, its pictures as paths.
prompt::Conversation conversation(const GoldenCase& golden);
/// The prompt that the program makes of a case.
prompt::Prompt build_prompt(const prompt::PromptBuilder& builder, const GoldenCase& golden);

/// A name that GoogleTest takes: letters, digits and underscores.
std::string identifier(std::string name);

/// What a Result must hold in a test; ends the test program with the error otherwise.
template <class T>
T must(Result<T> result) {
  KEYE_CHECK(result.has_value(), "{}", result.error().to_string());
  return std::move(result).value();
}

}  // namespace keye::golden
