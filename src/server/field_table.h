// Every field of the chat and completions requests, and what the server does with it. docs/openai-compat.md shows this
// table, /openapi.json is made from it, and a test walks it.
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
std::string_view field_status_name(FieldStatus status);

}  // namespace keye::server
