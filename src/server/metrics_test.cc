#include "server/metrics.h"

#include <gtest/gtest.h>

#include <map>
#include <sstream>

namespace keye::server {
namespace {

/// Values by name and labels, as they stand in the text.
std::map<std::string, double> values_of(const std::string& text) {
  std::map<std::string, double> values;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line.starts_with('#')) continue;
    const size_t space = line.rfind(' ');
    EXPECT_NE(space, std::string::npos) << line;
    EXPECT_TRUE(values.emplace(line.substr(0, space), std::stod(line.substr(space + 1))).second) << line;
  }
  return values;
}

TEST(Metrics, ShowsWhatItWasTold) {
  Metrics metrics("keye-nano");
  metrics.observe_first_token(0.3);
  metrics.observe_next_token(0.01);
  metrics.observe_next_token(0.03);
  metrics.observe_media(0.2);
  metrics.observe_reply({.seconds = 2,
                         .queued = 0.5,
                         .vision = 0.25,
                         .prompt_tokens = 100,
                         .cached_tokens = 64,
                         .tokens = 7,
                         .finish = "stop"});
  metrics.observe_reply({.seconds = 1, .prompt_tokens = 10, .tokens = 3, .finish = "length"});
  metrics.count_error("overloaded");
  metrics.count_response("/v1/models", 200);
  metrics.count_response("/v1/models", 200);
  engine::EngineStats engine;
  engine.running = 3;
  engine.pages_total = 10;
  engine.pages_used = 4;
  engine.steps = 12;
  engine.steps_abandoned = 2;
  engine.pictures_found = 2;
  HttpStats http;
  http.connections = 5;
  engine::ChatClientStats chats;
  chats.preparing = 6;
  chats.videos = {.prepared = 3, .found = 8, .bytes = 1000};
  const auto values = values_of(metrics.text(engine, http, chats));
  const std::string model = "{model_name=\"keye-nano\"}";
  EXPECT_EQ(values.at("keye_time_to_first_token_seconds_count" + model), 1);
  EXPECT_EQ(values.at("keye_time_to_first_token_seconds_sum" + model), 0.3);
  EXPECT_EQ(values.at("keye_time_to_first_token_seconds_bucket{model_name=\"keye-nano\",le=\"0.25\"}"), 0);
  EXPECT_EQ(values.at("keye_time_to_first_token_seconds_bucket{model_name=\"keye-nano\",le=\"0.5\"}"), 1);
  EXPECT_EQ(values.at("keye_time_to_first_token_seconds_bucket{model_name=\"keye-nano\",le=\"+Inf\"}"), 1);
  EXPECT_EQ(values.at("keye_inter_token_latency_seconds_count" + model), 2);
  EXPECT_EQ(values.at("keye_media_time_seconds_count" + model), 1);
  EXPECT_EQ(values.at("keye_vision_time_seconds_count" + model), 1);  // the second reply had no picture
  EXPECT_EQ(values.at("keye_queue_time_seconds_sum" + model), 0.5);
  EXPECT_EQ(values.at("keye_e2e_request_latency_seconds_sum" + model), 3);
  EXPECT_EQ(values.at("keye_prompt_tokens_total" + model), 110);
  EXPECT_EQ(values.at("keye_cached_tokens_total" + model), 64);
  EXPECT_EQ(values.at("keye_generation_tokens_total" + model), 10);
  EXPECT_EQ(values.at("keye_replies_total{model_name=\"keye-nano\",finish_reason=\"stop\"}"), 1);
  EXPECT_EQ(values.at("keye_request_errors_total{model_name=\"keye-nano\",kind=\"overloaded\"}"), 1);
  EXPECT_EQ(values.at("keye_http_responses_total{model_name=\"keye-nano\",path=\"/v1/models\",status=\"200\"}"), 2);
  EXPECT_EQ(values.at("keye_num_running_reqs" + model), 3);
  EXPECT_EQ(values.at("keye_num_preparing_reqs" + model), 6);
  EXPECT_EQ(values.at("keye_kv_pages_used" + model), 4);
  EXPECT_EQ(values.at("keye_connections" + model), 5);
  EXPECT_EQ(values.at("keye_engine_steps_total" + model), 12);
  EXPECT_EQ(values.at("keye_engine_steps_abandoned_total" + model), 2);
  EXPECT_EQ(values.at("keye_pictures_found_total" + model), 2);
  EXPECT_EQ(values.at("keye_videos_prepared_total" + model), 3);
  EXPECT_EQ(values.at("keye_videos_found_total" + model), 8);
  EXPECT_EQ(values.at("keye_video_cache_bytes" + model), 1000);
}

TEST(Metrics, CountersOfTheEngineOnlyRise) {
  Metrics metrics("m");
  engine::EngineStats engine;
  const auto steps = [&](uint64_t now) {
    engine.steps = now;
    return values_of(metrics.text(engine, {}, {})).at("keye_engine_steps_total{model_name=\"m\"}");
  };
  EXPECT_EQ(steps(5), 5);
  EXPECT_EQ(steps(8), 8);
  EXPECT_EQ(steps(0), 8);  // while the engine is gone
}

TEST(Metrics, AModelsNameCannotBreakTheText) {
  Metrics metrics("a\"b\\c\nd");
  metrics.count_error("x");
  const std::string text = metrics.text({}, {}, {});
  EXPECT_NE(text.find(R"(model_name="a\"b\\c\nd")"), std::string::npos);
  values_of(text);
}

}  // namespace
}  // namespace keye::server
