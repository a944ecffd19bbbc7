#include <algorithm>

#include "server/field_table.h"
#include "server/server.h"

namespace keye::server {
namespace {

struct Body {
  std::string_view path;
  std::string_view name;  // of its schema
  const std::vector<FieldRow>& rows;
  std::vector<std::string_view> required;
};

const std::vector<Body>& bodies() {
  static const std::vector<Body> all = {
      {"/v1/chat/completions", "ChatRequest", chat_fields(), {"messages"}},
      {"/v1/completions", "CompletionRequest", completion_fields(), {"prompt"}},
      {"/generate", "GenerateRequest", generate_fields(), {}},
      {"/tokenize", "TokenizeRequest", tokenize_fields(), {"prompt"}},
      {"/v1/tokenize", "TokenizeRequest", tokenize_fields(), {"prompt"}},
      {"/detokenize", "DetokenizeRequest", detokenize_fields(), {"tokens"}},
      {"/v1/detokenize", "DetokenizeRequest", detokenize_fields(), {"tokens"}},
      {"/abort_request", "AbortRequest", abort_fields(), {}},
  };
  return all;
}

OrderedJson request_schema(const Body& body) {
  OrderedJson properties = OrderedJson::object();
  for (const FieldRow& row : body.rows) {
    OrderedJson schema = OrderedJson::parse(row.schema);
    std::string description(row.note);
    if (row.status != FieldStatus::supported) {
      description = fmt::format("{}: {}", row.status == FieldStatus::refused ? "Refused" : "Without effect", row.note);
    }
    schema["description"] = description;
    properties[std::string(row.name)] = std::move(schema);
  }
  OrderedJson schema = {{"type", "object"}};
  if (!body.required.empty()) schema["required"] = body.required;
  schema["properties"] = std::move(properties);
  schema["additionalProperties"] = false;
  return schema;
}

std::string_view summary_of(std::string_view path) {
  static constexpr std::pair<std::string_view, std::string_view> kSummaries[] = {
      {"/v1/chat/completions", "Replies to a conversation, with pictures"},
      {"/v1/completions", "Continues a text"},
      {"/generate", "SGLang's native request: continues a text or token ids"},
      {"/v1/models", "The names under which the model is served"},
      {"/v1/models/{name}", "One of them"},
      {"/health", "200 when ready, 503 while loading, draining or stuck"},
      {"/health_generate", "Generates one token"},
      {"/tokenize", "Text to token ids"},
      {"/v1/tokenize", "As /tokenize"},
      {"/detokenize", "Token ids to text"},
      {"/v1/detokenize", "As /detokenize"},
      {"/get_model_info", "What the model is"},
      {"/model_info", "As /get_model_info"},
      {"/get_server_info", "Flags, limits and load"},
      {"/server_info", "As /get_server_info"},
      {"/metrics", "Numbers for Prometheus"},
      {"/openapi.json", "This document"},
      {"/flush_cache", "Forgets what is kept for later requests (admin)"},
      {"/abort_request", "Ends a request by its rid, or all (admin)"},
  };
  const auto found =
      std::find_if(std::begin(kSummaries), std::end(kSummaries), [&](const auto& row) { return row.first == path; });
  return found == std::end(kSummaries) ? std::string_view() : found->second;
}

OrderedJson operation(const Route& route, std::string_view path) {
  OrderedJson json = {{"summary", summary_of(path)}};
  for (const Body& body : bodies()) {
    if (body.path != path) continue;
    json["requestBody"]["required"] = true;
    json["requestBody"]["content"]["application/json"]["schema"] = {
        {"$ref", fmt::format("#/components/schemas/{}", body.name)}};
  }
  json["responses"] = {{"200", {{"description", "OK"}}}};
  if (route.access == Access::everybody) json["security"] = OrderedJson::array();
  return json;
}

}  // namespace

OrderedJson openapi_document(const std::vector<Route>& routes) {
  OrderedJson paths = OrderedJson::object();
  for (const Route& route : routes) {
    std::string path = route.path;
    const bool has_name = path.ends_with('*');
    if (has_name) path.replace(path.size() - 1, 1, "{name}");
    for (const char* method : {"GET", "POST"}) {
      if (route.method.find(method) == std::string::npos) continue;
      OrderedJson entry = operation(route, path);
      if (has_name) {
        OrderedJson parameter = {{"name", "name"}, {"in", "path"}, {"required", true}};
        parameter["schema"] = {{"type", "string"}};
        entry["parameters"] = OrderedJson::array({std::move(parameter)});
      }
      paths[path][method[0] == 'G' ? "get" : "post"] = std::move(entry);
    }
  }
  OrderedJson document = {{"openapi", "3.1.0"}};
  document["info"] = {{"title", "keye serve"}, {"version", "1"}};
  document["paths"] = std::move(paths);
  for (const Body& body : bodies()) document["components"]["schemas"][std::string(body.name)] = request_schema(body);
  document["components"]["securitySchemes"]["key"] = {{"type", "http"}, {"scheme", "bearer"}};
  document["security"] = OrderedJson::array({OrderedJson{{"key", OrderedJson::array()}}});
  return document;
}

}  // namespace keye::server
