#include "server/router.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "server/server.h"
#include "server/testing.h"

namespace keye::server {
namespace {

HttpRequest request(std::string method, std::string path, std::string key = {}) {
  HttpRequest made;
  made.method = std::move(method);
  made.path = std::move(path);
  if (!key.empty()) made.headers["authorization"] = "Bearer " + key;
  return made;
}

/// Answers with its path.
Router routes(ApiKeys keys = {}, std::vector<std::string> origins = {}) {
  Router router(std::move(keys), std::move(origins));
  const auto add = [&](const char* method, const char* path, Access access) {
    router.add({method, path, access, [path](std::shared_ptr<Exchange> exchange) {
                  exchange->respond({.status = 200, .headers = {}, .body = path});
                }});
  };
  add("GET", "/open", Access::everybody);
  add("POST", "/locked", Access::key);
  add("GET", "/names/*", Access::key);
  add("GET|POST", "/admin", Access::admin);
  return router;
}

HttpResponse ask(const Router& router, HttpRequest asked) {
  const auto exchange = std::make_shared<FakeExchange>(std::move(asked));
  router.handle(exchange);
  EXPECT_EQ(exchange->responses.size(), 1U);
  return exchange->responses.at(0);
}
int status(const Router& router, HttpRequest asked) { return ask(router, std::move(asked)).status; }

TEST(Router, FindsByMethodAndPath) {
  const Router router = routes();
  EXPECT_EQ(ask(router, request("GET", "/open")).body, "/open");
  EXPECT_EQ(ask(router, request("HEAD", "/open")).body, "/open");  // the connection leaves the body out
  EXPECT_EQ(ask(router, request("GET", "/names/a/b")).body, "/names/*");
  EXPECT_EQ(ask(router, request("GET", "/admin")).body, "/admin");
  EXPECT_EQ(ask(router, request("POST", "/admin")).body, "/admin");
  for (const char* path : {"/", "", "/OPEN", "/open/", "/openx", "/names", "//open"}) {
    EXPECT_EQ(status(router, request("GET", path)), 404) << path;
  }
  const HttpResponse wrong = ask(router, request("POST", "/open"));
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(header_of(wrong.headers, "Allow"), "GET, HEAD");
  EXPECT_EQ(header_of(ask(router, request("DELETE", "/admin")).headers, "Allow"), "GET, HEAD, POST");
  EXPECT_EQ(header_of(ask(router, request("HEAD", "/locked")).headers, "Allow"), "POST");
}

TEST(Router, AsksForTheKey) {
  const Router router = routes({.keys = {"one", "two"}, .admin = "boss"});
  EXPECT_EQ(status(router, request("GET", "/open")), 200);
  EXPECT_EQ(status(router, request("POST", "/locked", "one")), 200);
  EXPECT_EQ(status(router, request("POST", "/locked", "two")), 200);
  EXPECT_EQ(status(router, request("POST", "/locked", "boss")), 200);
  EXPECT_EQ(status(router, request("GET", "/admin", "boss")), 200);
  EXPECT_EQ(status(router, request("GET", "/admin", "one")), 401);
  for (const char* key : {"", "on", "onee", "ONE", "one two"}) {
    const HttpResponse refused = ask(router, request("POST", "/locked", key));
    EXPECT_EQ(refused.status, 401) << key;
    EXPECT_EQ(header_of(refused.headers, "WWW-Authenticate"), "Bearer");
    EXPECT_EQ(Json::parse(refused.body)["error"]["code"], "invalid_api_key");
  }
  // Whoever has no key does not learn which paths there are, nor their methods.
  EXPECT_EQ(status(router, request("GET", "/nothing")), 401);
  EXPECT_EQ(status(router, request("GET", "/locked")), 401);
  EXPECT_EQ(status(router, request("GET", "/nothing", "one")), 404);
}

TEST(Router, WithoutAnAdminKeyAdminPathsTakeAnApiKey) {
  EXPECT_EQ(status(routes(), request("GET", "/admin")), 200);
  EXPECT_EQ(status(routes({.keys = {"one"}, .admin = ""}), request("GET", "/admin", "one")), 200);
  EXPECT_EQ(status(routes({.keys = {"one"}, .admin = ""}), request("GET", "/admin")), 401);
  // With only an admin key, the other paths stay open.
  EXPECT_EQ(status(routes({.keys = {}, .admin = "boss"}), request("POST", "/locked")), 200);
  EXPECT_EQ(status(routes({.keys = {}, .admin = "boss"}), request("GET", "/admin")), 401);
}

TEST(Router, TheKeyComesInEitherHeader) {
  HttpRequest asked = request("POST", "/locked");
  EXPECT_EQ(Router::key_of(asked), "");
  asked.headers["x-api-key"] = "one";
  EXPECT_EQ(Router::key_of(asked), "one");
  asked.headers["authorization"] = "bEaReR two";
  EXPECT_EQ(Router::key_of(asked), "two");
  asked.headers["authorization"] = "Basic dHdv";
  EXPECT_EQ(Router::key_of(asked), "one");
  asked.headers = {{"authorization", "Bearer "}};
  EXPECT_EQ(Router::key_of(asked), "");
}

TEST(Router, CorsIsOffByDefault) {
  HttpRequest page = request("GET", "/open");
  page.headers["origin"] = "https://page";
  EXPECT_TRUE(routes().cors_headers(page).empty());
  HttpRequest preflight = request("OPTIONS", "/locked");
  preflight.headers["origin"] = "https://page";
  const HttpResponse refused = ask(routes({.keys = {"one"}, .admin = ""}), preflight);
  EXPECT_EQ(refused.status, 405);
  EXPECT_NE(header_of(refused.headers, "Allow"), "");
}

TEST(Router, CorsForThePagesThatWereNamed) {
  const Router router = routes({.keys = {"one"}, .admin = ""}, {"https://page"});
  HttpRequest page = request("OPTIONS", "/locked");
  EXPECT_TRUE(router.cors_headers(page).empty());
  page.headers["origin"] = "https://page";
  const HttpResponse preflight = ask(router, page);  // browsers send it without the key
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(header_of(preflight.headers, "Access-Control-Allow-Origin"), "https://page");
  EXPECT_EQ(header_of(preflight.headers, "Vary"), "Origin");
  EXPECT_NE(header_of(preflight.headers, "Access-Control-Allow-Headers").find("Authorization"), std::string::npos);
  page.headers["origin"] = "https://page.evil";
  EXPECT_TRUE(router.cors_headers(page).empty());
  EXPECT_EQ(ask(router, page).status, 405);
  EXPECT_EQ(header_of(routes({}, {"*"}).cors_headers(page), "Access-Control-Allow-Origin"), "*");
}

TEST(Router, PathsOfMetricsAreBounded) {
  const Router router = routes();
  EXPECT_EQ(router.route_path(request("GET", "/open")), "/open");
  EXPECT_EQ(router.route_path(request("DELETE", "/names/1234")), "/names/*");
  EXPECT_EQ(router.route_path(request("GET", "/1234")), "other");
}

TEST(OpenApi, DescribesTheRoutes) {
  const Json document = Json::parse(openapi_document(routes().routes()).dump());
  EXPECT_EQ(document["openapi"], "3.1.0");
  const Json& paths = document["paths"];
  EXPECT_EQ(paths.size(), 4U);
  EXPECT_TRUE(paths["/open"]["get"].contains("responses"));
  EXPECT_EQ(paths["/open"]["get"]["security"], Json::array());
  EXPECT_FALSE(paths["/locked"]["post"].contains("security"));
  EXPECT_EQ(paths["/admin"].size(), 2U);
  EXPECT_EQ(paths["/names/{name}"]["get"]["parameters"][0]["name"], "name");
  for (const auto& [name, schema] : document["components"]["schemas"].items()) {
    EXPECT_EQ(schema["additionalProperties"], false) << name;
    for (const auto& [field, property] : schema["properties"].items()) {
      EXPECT_FALSE(property["description"].get<std::string>().empty()) << name << "." << field;
    }
  }
  EXPECT_EQ(document["components"]["schemas"]["ChatRequest"]["required"], Json::array({"messages"}));
}

}  // namespace
}  // namespace keye::server
