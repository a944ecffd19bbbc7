// Every field of the requests, and what the server does with it. docs/openai-compat.md shows these tables,
// /openapi.json is made from them, and a test walks them.
#pragma once

#include <string_view>
#include <vector>

namespace keye::server {

enum class FieldStatus : unsigned char {
  supported,
  refused,    // a value that would change the reply is a 400 that names the field
  no_effect,  // taken, and nothing depends on it
};

struct FieldRow {
  std::string_view name;
  FieldStatus status = FieldStatus::supported;
  std::string_view schema;  // JSON schema of its value
  std::string_view note;
};

const std::vector<FieldRow>& chat_fields();
const std::vector<FieldRow>& completion_fields();
/// SGLang's /generate, and the bodies of the smaller paths.
const std::vector<FieldRow>& generate_fields();
const std::vector<FieldRow>& tokenize_fields();
const std::vector<FieldRow>& detokenize_fields();
const std::vector<FieldRow>& abort_fields();
std::string_view field_status_name(FieldStatus status);

}  // namespace keye::server
