"""Every path of `keye serve`: what it answers, to whom, by which methods, and before the model is there."""

import json
import re
import threading
import unittest

from program import CHECKPOINTS, NANO, ROOT, data_uri
from serving import Server

OPEN = ["/health"]
GET = ["/v1/models", "/v1/models/keye-nano", "/health", "/health_generate", "/get_model_info", "/model_info", "/get_server_info",
       "/server_info", "/metrics", "/openapi.json", "/flush_cache"]
POST = ["/v1/chat/completions", "/v1/completions", "/generate", "/tokenize", "/v1/tokenize", "/detokenize", "/v1/detokenize",
        "/abort_request", "/flush_cache"]
SCENE = data_uri(NANO / "chart.png")


class Routes(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)

    def json(self, path: str, **options):
        status, _, text = self.server.get(path, **options)
        self.assertEqual(status, 200, text)
        return json.loads(text)

    # -- replies -------------------------------------------------------------------

    def test_completions(self):
        status, reply = self.server.post("/v1/completions", {"model": "", "prompt": "Once", "max_tokens": 5, "ignore_eos": True})
        self.assertEqual(status, 200)
        self.assertEqual((reply["object"], reply["model"], len(reply["choices"])), ("text_completion", "keye-nano", 1))
        self.assertEqual((reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]), ("length", 5))
        self.assertTrue(reply["id"].startswith("cmpl-"))
        several = self.server.post("/v1/completions", {"prompt": ["Once", "Twice"], "n": 2, "max_tokens": 5, "ignore_eos": True})[1]
        self.assertEqual([choice["index"] for choice in several["choices"]], [0, 1, 2, 3])
        self.assertEqual([several["choices"][i]["text"] for i in (0, 1)], [reply["choices"][0]["text"]] * 2)  # greedy
        self.assertEqual(several["usage"]["completion_tokens"], 20)
        self.assertEqual(several["usage"]["prompt_tokens"],
                         sum(self.server.post("/tokenize", {"prompt": ["Once", "Twice"], "parse_special": False})[1]["count"]))

    def test_streams_of_several_prompts_are_told_apart(self):
        body = {"prompt": ["Once", "Twice"], "n": 2, "max_tokens": 5, "ignore_eos": True, "temperature": 1, "seed": 3}
        whole = self.server.post("/v1/completions", body)[1]["choices"]
        texts = [""] * 4
        for event in self.server.stream("/v1/completions", body):
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        self.assertEqual(texts, [choice["text"] for choice in whole])

    def test_generate(self):
        body = {"text": ["Once", "Twice"], "sampling_params": {"max_new_tokens": 5, "n": 2, "temperature": 1, "seed": 3, "ignore_eos": True}}
        status, replies = self.server.post("/generate", body)
        self.assertEqual((status, len(replies)), (200, 4))
        for reply in replies:
            self.assertEqual(set(reply), {"text", "output_ids", "meta_info"})
            self.assertEqual(reply["meta_info"]["finish_reason"], {"type": "length", "length": 5})
            self.assertEqual(len(reply["output_ids"]), 5)
        last = {}
        for event in self.server.stream("/generate", body):
            last[event["index"]] = event
        self.assertEqual([last[i]["text"] for i in range(4)], [reply["text"] for reply in replies])
        self.assertEqual([last[i]["output_ids"] for i in range(4)], [reply["output_ids"] for reply in replies])

    def test_tokens_and_back(self):
        for text in ("How many bars?", "", "Ünïcödé 汉字 🙂", "<|im_start|>user"):
            one = self.server.post("/tokenize", {"prompt": text})[1]
            self.assertEqual((one["count"], one["max_model_len"]), (len(one["tokens"]), self.json("/v1/models")["data"][0]["max_model_len"]))
            back = {"tokens": one["tokens"], "skip_special_tokens": False}
            self.assertEqual(self.server.post("/detokenize", back)[1], {"text": text})
            self.assertEqual(self.server.post("/v1/tokenize", {"prompt": [text, "a"]})[1]["tokens"][0], one["tokens"])
            self.assertEqual(self.server.post("/v1/detokenize", {"tokens": [one["tokens"], []], "skip_special_tokens": False})[1],
                             {"text": [text, ""]})
        self.assertEqual(self.server.post("/tokenize", {"prompt": "<|im_start|>"})[1]["tokens"], [648])
        self.assertGreater(self.server.post("/tokenize", {"prompt": "<|im_start|>", "parse_special": False})[1]["count"], 1)
        self.assertEqual(self.server.post("/detokenize", {"tokens": [648]})[1], {"text": ""})
        for path, body, param in [("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 1}, "prompt"), ("/detokenize", {}, "tokens"),
                                  ("/detokenize", {"tokens": "a"}, "tokens"), ("/detokenize", {"tokens": [1.5]}, "tokens"),
                                  ("/detokenize", {"tokens": [[1], 2]}, "tokens"), ("/tokenize", {"prompt": "a", "x": 1}, "x"),
                                  ("/detokenize", {"tokens": [1], "x": 1}, "x")]:
            status, reply = self.server.post(path, body)
            self.assertEqual((status, reply["error"]["param"]), (400, param), (path, body))

    # -- what the server is --------------------------------------------------------

    def test_models(self):
        models = self.json("/v1/models")
        self.assertEqual((models["object"], [model["id"] for model in models["data"]]), ("list", ["keye-nano"]))
        model = models["data"][0]
        self.assertEqual((model["object"], model["modalities"]), ("model", ["text", "image"]))
        self.assertEqual(self.json("/v1/models/keye-nano"), model)
        status, _, text = self.server.get("/v1/models/other")
        self.assertEqual((status, json.loads(text)["error"]["code"]), (404, "model_not_found"))

    def test_health(self):
        self.assertEqual(self.json("/health"), {"status": "ok"})
        reply = self.json("/health_generate")
        self.assertEqual(reply["meta_info"]["completion_tokens"], 1)

    def test_infos(self):
        info = self.json("/get_model_info")
        self.assertEqual(info, self.json("/model_info"))
        self.assertEqual((info["model_path"], info["is_generation"], info["has_image_understanding"]), (str(NANO), True, True))
        self.assertEqual(info["architectures"], ["KeyeVL2MoeForConditionalGeneration"])
        server = self.json("/get_server_info")
        self.assertEqual(set(server), set(self.json("/server_info")))
        self.assertEqual(server["state"]["running"], 0)
        self.assertEqual(server["flags"]["max_running_requests"], 64)
        self.assertGreater(server["max_total_num_tokens"], 0)

    def test_openapi_names_every_path(self):
        document = self.json("/openapi.json")
        self.assertRegex(document["openapi"], r"^3\.1\.\d+$")
        self.assertEqual(set(document["info"]) >= {"title", "version"}, True)
        operations = {(method.upper(), path.replace("{name}", "keye-nano")): operation
                      for path, methods in document["paths"].items() for method, operation in methods.items()}
        self.assertEqual(set(operations), {("GET", path) for path in GET} | {("POST", path) for path in POST})
        for (method, path), operation in operations.items():
            self.assertTrue(operation["summary"], path)
            self.assertTrue(all(set(response) >= {"description"} for response in operation["responses"].values()))
            self.assertEqual("requestBody" in operation, method == "POST" and path != "/flush_cache", path)
            self.assertEqual(operation.get("security") == [], path in OPEN, path)
        references = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document))
        self.assertEqual(set(references), set(document["components"]["schemas"]))
        for schema in document["components"]["schemas"].values():
            self.assertLessEqual(set(schema.get("required", [])), set(schema["properties"]))

    def test_the_document_names_every_path(self):
        text = (ROOT / "docs/openai-compat.md").read_text()
        for path in {*GET, *POST} - {"/v1/models/keye-nano", "/v1/tokenize", "/v1/detokenize"}:
            self.assertIn(path, text)

    # -- metrics ---------------------------------------------------------------------

    def parsed_metrics(self) -> dict[str, dict[str, float]]:
        """name -> labels -> value, from text that must be well-formed."""
        status, headers, text = self.server.get("/metrics")
        self.assertEqual(status, 200)
        self.assertTrue(headers["Content-Type"].startswith("text/plain; version=0.0.4"))
        self.assertTrue(text.endswith("\n"))
        kinds, values = {}, {}
        for line in text.splitlines():
            if described := re.fullmatch(r"# (HELP|TYPE) (\w+) (.+)", line):
                if described[1] == "TYPE":
                    self.assertNotIn(described[2], kinds)
                    kinds[described[2]] = described[3]
                continue
            sample = re.fullmatch(r"([a-z0-9_]+)\{((?:\w+=\"(?:[^\"\\\n]|\\.)*\",?)*)\} (\S+)", line)
            self.assertTrue(sample, line)
            values.setdefault(sample[1], {})[sample[2]] = float(sample[3])
        for name, samples in values.items():
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            kind = kinds.get(name) or kinds[family]
            if name.endswith("_bucket"):
                counts = list(samples.values())
                self.assertEqual((kind, counts), ("histogram", sorted(counts)))
                self.assertIn('le="+Inf"', list(samples)[-1])
                self.assertEqual(counts[-1], sum(values[family + "_count"].values()))
        return values

    def total(self, values: dict, name: str) -> float:
        return sum(values.get(name, {}).values())

    def test_metrics_move(self):
        self.server.wait_until_idle()
        before = self.parsed_metrics()
        picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SCENE}},
                                                {"type": "text", "text": "How many bars does the chart have? " * 9}]}]
        for _ in range(2):
            self.server.chat(picture, max_tokens=10, ignore_eos=True)
        self.server.post("/v1/chat/completions", {"messages": "none"})
        after = self.parsed_metrics()

        def grown(name):
            return self.total(after, name) - self.total(before, name)
        for name, growth in {
            "keye_time_to_first_token_seconds_count": 2, "keye_inter_token_latency_seconds_count": 18, "keye_queue_time_seconds_count": 2,
            "keye_e2e_request_latency_seconds_count": 2, "keye_media_time_seconds_count": 2, "keye_vision_time_seconds_count": 1,
            "keye_generation_tokens_total": 20, "keye_engine_generated_tokens_total": 20, "keye_pictures_encoded_total": 1,
            "keye_replies_total": 2, "keye_request_errors_total": 1,
        }.items():
            self.assertEqual(grown(name), growth, name)
        for name in ("keye_time_to_first_token_seconds_sum", "keye_inter_token_latency_seconds_sum", "keye_media_time_seconds_sum",
                     "keye_vision_time_seconds_sum", "keye_e2e_request_latency_seconds_sum", "keye_engine_busy_seconds_total",
                     "keye_engine_steps_total", "keye_kv_pages_kept", "keye_http_responses_total", "keye_connections_accepted_total"):
            self.assertGreater(grown(name), 0, name)
        self.assertGreaterEqual(grown("keye_cached_tokens_total"), 64)
        self.assertGreater(self.total(after, "keye_kv_pages"), 0)
        for name in ("keye_num_running_reqs", "keye_num_queue_reqs", "keye_num_preparing_reqs", "keye_kv_pages_used"):
            self.assertEqual(self.total(after, name), 0, name)
            self.assertIn(name, after)

    def test_metrics_show_what_runs(self):
        ended = threading.Event()

        def run():
            self.server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello " * 200}], "n": 3, "ignore_eos": True,
                                                      "max_tokens": 20000, "rid": "shown", "temperature": 1})
            ended.set()
        threading.Thread(target=run).start()
        self.server.wait_until(lambda: self.server.metrics()["keye_num_running_reqs"] == 3, "three replies run")
        self.assertGreaterEqual(self.server.metrics()["keye_kv_pages_used"], 3)
        self.assertEqual(self.server.post("/abort_request", {"rid": "shown"}), (200, {"aborted": 1}))
        self.assertTrue(ended.wait(30))
        self.server.wait_until_idle()

    # -- admin -----------------------------------------------------------------------

    def test_flush_cache(self):
        def cached() -> int:
            return self.server.chat("These words fill a page of the cache. " * 20, max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"]
        cached()
        self.assertGreater(cached(), 0)
        for method in ("POST", "GET"):
            self.assertEqual(self.server.request(method, "/flush_cache")[0], 200)
            self.server.wait_until(lambda: self.server.metrics()["keye_kv_pages_kept"] == 0, "no page is kept")
            self.assertEqual(cached(), 0)

    def test_abort_request(self):
        for body, param in [({}, "rid"), ({"rid": ""}, "rid"), ({"rid": 1}, "rid"), ({"rid": "a", "x": 1}, "x"), ({"abort_all": 1}, "abort_all")]:
            status, reply = self.server.post("/abort_request", body)
            self.assertEqual((status, reply["error"]["param"]), (400, param))
        self.assertEqual(self.server.post("/abort_request", {"rid": "nobody"}), (200, {"aborted": 0}))
        replies = {}

        def run(rid):
            replies[rid] = self.server.post("/v1/completions", {"prompt": "a", "max_tokens": 20000, "ignore_eos": True, "rid": rid})
        threads = [threading.Thread(target=run, args=(rid,)) for rid in ("one", "two", "three")]
        for thread in threads:
            thread.start()
        self.server.wait_until(lambda: self.server.metrics()["keye_num_running_reqs"] == 3, "three replies run")
        self.assertEqual(self.server.post("/abort_request", {"rid": "two"}), (200, {"aborted": 1}))
        threads[1].join(30)
        self.assertEqual(set(replies), {"two"})
        self.assertEqual(self.server.post("/abort_request", {"abort_all": True}), (200, {"aborted": 2}))
        for thread in threads:
            thread.join(30)
        for status, reply in replies.values():
            self.assertEqual((status, reply["choices"][0]["finish_reason"]), (200, "abort"))

    # -- methods -----------------------------------------------------------------------

    def test_other_methods_and_paths(self):
        for path in {*GET, *POST}:
            allowed = ([] if path not in GET else ["GET", "HEAD"]) + ([] if path not in POST else ["POST"])
            for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
                if method in allowed:
                    continue
                status, headers, text = self.server.request(method, path)
                self.assertEqual((status, headers["Allow"].split(", ")), (405, allowed), (method, path))
                self.assertEqual(json.loads(text)["error"]["type"], "invalid_request_error")
        for path in ("/", "/v1", "/v1/", "/v1/chat", "/v1/chat/completions/", "/V1/models", "/v1/models/../models", "/metrics/", "/docs"):
            status, _, text = self.server.get(path)
            self.assertEqual((status, json.loads(text)["error"]["type"]), (404, "not_found_error"), path)
        self.assertEqual(self.server.get("/v1/models?limit=1")[0], 200)
        self.assertEqual(self.server.get("/v1%2Fmodels")[0], 200)

    def test_head_is_get_without_a_body(self):
        for path in ("/health", "/v1/models", "/nothing"):
            status, headers, text = self.server.request("HEAD", path)
            full_status, full_headers, full_text = self.server.get(path)
            self.assertEqual((status, text), (full_status, ""))
            self.assertEqual(headers["Content-Length"], full_headers["Content-Length"])
            self.assertEqual(int(headers["Content-Length"]), len(full_text))

    def test_every_response_has_an_id(self):
        first, second = (self.server.get("/health")[1]["X-Request-Id"] for _ in range(2))
        self.assertRegex(first, r"^req-[0-9a-f]{32}$")
        self.assertNotEqual(first, second)
        self.assertEqual(self.server.get("/health", headers={"X-Request-Id": "mine_1.a"})[1]["X-Request-Id"], "mine_1.a")
        self.assertNotEqual(self.server.get("/health", headers={"X-Request-Id": "a b"})[1]["X-Request-Id"], "a b")

    def test_no_other_origin_may_call(self):
        origin = {"Origin": "https://page.example"}
        for method, path in (("GET", "/health"), ("OPTIONS", "/v1/models")):
            status, headers, _ = self.server.request(method, path, headers={**origin, "Access-Control-Request-Method": "GET"})
            self.assertEqual(status, 200 if method == "GET" else 405)
            self.assertFalse([name for name in headers if name.lower().startswith("access-control")])


class Guarded(unittest.TestCase):
    def headers(self, key: str) -> dict:
        return {"Authorization": f"Bearer {key}"}

    def test_keys(self):
        with Server("--api-key", "one", "--api-key", "two", "--admin-api-key", "boss") as server:
            for method, paths in (("GET", GET), ("POST", POST)):
                for path in paths:
                    admin = path == "/flush_cache"
                    for key, enters in [("", False), ("wrong", False), ("one", not admin), ("two", not admin), ("boss", True)]:
                        for headers in (self.headers(key), {"X-API-Key": key}):
                            status, answer, _ = server.request(method, path, None if method == "GET" else {}, headers=headers)
                            self.assertEqual(status != 401, enters or path in OPEN, (method, path, key))
                            self.assertEqual(answer["WWW-Authenticate"], "Bearer" if status == 401 else None)
            self.assertEqual(server.get("/nothing")[0], 401)
            self.assertEqual(server.get("/nothing", headers=self.headers("one"))[0], 404)
            self.assertEqual(server.post("/abort_request", {"abort_all": True}, headers=self.headers("one"))[0], 401)
            self.assertEqual(server.post("/abort_request", {"abort_all": True}, headers=self.headers("boss")), (200, {"aborted": 0}))

    def test_an_id_belongs_to_its_key(self):
        with Server("--api-key", "one", "--api-key", "two") as server:
            body = {"prompt": "a", "max_tokens": 20000, "ignore_eos": True, "rid": "mine"}
            done = []
            thread = threading.Thread(target=lambda: done.append(server.post("/v1/completions", body, headers=self.headers("one"))))
            thread.start()
            server.wait_until(lambda: server.metrics(self.headers("one"))["keye_num_running_reqs"] == 1, "a reply runs")
            self.assertEqual(server.post("/abort_request", {"rid": "mine"}, headers=self.headers("two")), (200, {"aborted": 0}))
            status, reply = server.post("/v1/completions", {**body, "max_tokens": 1}, headers=self.headers("one"))
            self.assertEqual((status, reply["error"]["param"]), (400, "rid"))
            self.assertEqual(server.post("/v1/completions", {**body, "max_tokens": 1}, headers=self.headers("two"))[0], 200)
            self.assertEqual(server.post("/abort_request", {"rid": "mine"}, headers=self.headers("one")), (200, {"aborted": 1}))
            thread.join(30)
            self.assertEqual(done[0][1]["choices"][0]["finish_reason"], "abort")

    def test_pages_of_named_origins_may_call(self):
        with Server("--cors-origins", "https://page.example", "--api-key", "one") as server:
            origin = {"Origin": "https://page.example"}
            status, headers, text = server.request("OPTIONS", "/v1/chat/completions",
                                                   headers={**origin, "Access-Control-Request-Method": "POST"})
            self.assertEqual((status, text), (204, ""))
            self.assertEqual(headers["Access-Control-Allow-Origin"], "https://page.example")
            self.assertIn("POST", headers["Access-Control-Allow-Methods"])
            self.assertIn("Authorization", headers["Access-Control-Allow-Headers"])
            for key, code in (("one", 200), ("two", 401)):
                status, headers, _ = server.get("/v1/models", headers={**origin, **self.headers(key)})
                self.assertEqual((status, headers["Access-Control-Allow-Origin"], headers["Vary"]), (code, origin["Origin"], "Origin"))
            status, headers, _ = server.get("/v1/models", headers={"Origin": "https://other.example", **self.headers("one")})
            self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (200, None))

    def test_a_model_without_pictures(self):
        with Server(model=CHECKPOINTS / "qwen3-text") as server:
            self.assertEqual(json.loads(server.get("/v1/models")[2])["data"][0]["modalities"], ["text"])
            messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SCENE}}]}]
            status, reply = server.post("/v1/chat/completions", {"messages": messages})
            self.assertEqual((status, reply["error"]["code"]), (400, "unsupported"))


if __name__ == "__main__":
    unittest.main()
