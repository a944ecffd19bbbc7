"""The same request with the same seed has the same reply to the last digit of its log-probabilities, whatever else the
server does and however it is set up."""

import concurrent.futures
import json
import random
import unittest

from program import GOLDEN, NANO, data_uri
from serving import Server

REQUESTS = 64
PAGE = 64  # tokens
WORDS = ("the red circle is on the left of a blue square and the green star shines above two small triangles while nine "
         "bars of the chart rise to the right open stop hello sun cat dog").split()


def words(random_: random.Random, count: int) -> str:
    return " ".join(random_.choice(WORDS) for _ in range(count))


def make_requests() -> list[tuple[str, dict]]:
    """(path, body) of requests of all kinds: greedy and sampled, text and pictures, some that begin alike."""
    random_ = random.Random(64)
    pictures = [data_uri(path) for path in (NANO / "demo.png", NANO / "chart.png", GOLDEN / "images/rgb_97x61.png",
                                            GOLDEN / "images/palette_120x75.png")]
    system = {"role": "system", "content": words(random_, 90)}
    requests = []
    for i in range(REQUESTS):
        body = {"max_tokens": random_.choice((6, 12, 24, 70)), "seed": i, "ignore_eos": i % 4 != 0, "temperature": i % 2,
                "logprobs": True, "top_logprobs": 2, "return_token_ids": True}
        if i % 5 == 0:
            body |= {"top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2, "presence_penalty": 0.5}
        if i % 16 == 7:
            body |= {"n": 3, "temperature": 1}
        if i % 8 == 5:
            del body["top_logprobs"]
            body |= {"prompt": [random_.randrange(600) for _ in range(random_.randrange(1, 200))], "logprobs": 2}
            requests.append(("/v1/completions", body))
            continue
        content = [{"type": "text", "text": words(random_, random_.randrange(1, 120))}]
        if i % 3 == 0:  # one or two pictures, before or behind the text
            for picture in random_.sample(pictures, random_.choice((1, 1, 2))):
                content.insert(random_.randrange(len(content) + 1), {"type": "image_url", "image_url": {"url": picture}})
        messages = [{"role": "user", "content": content}]
        body["messages"] = [system] + messages if i % 4 < 2 else messages
        requests.append(("/v1/chat/completions", body))
    return requests


def said(reply: dict) -> dict:
    """What must be the same: all but id, time and what was found in the cache."""
    usage = {name: reply["usage"][name] for name in ("prompt_tokens", "completion_tokens", "completion_tokens_details")}
    choices = [{key: value for key, value in choice.items() if key != "prompt_token_ids"} for choice in reply["choices"]]
    prompt = reply.get("prompt_token_ids") or reply["choices"][0]["prompt_token_ids"]
    return {"choices": choices, "prompt": prompt, "usage": usage}


def joined(events: list) -> dict:
    """A chat stream's chunks as the reply that they are."""
    choices: dict[int, dict] = {}
    whole = {"usage": events[-1]["usage"], "prompt_token_ids": events[0]["prompt_token_ids"]}
    for event in events[:-1]:
        for part in event["choices"]:
            choice = choices.setdefault(part["index"], {"index": part["index"], "message": {"role": "assistant", "content": ""},
                                                        "logprobs": {"content": [], "refusal": None}, "token_ids": []})
            for name in ("content", "reasoning_content"):
                if part["delta"].get(name):
                    choice["message"][name] = choice["message"].get(name, "") + part["delta"][name]
            choice["logprobs"]["content"] += (part["logprobs"] or {}).get("content", [])
            choice["token_ids"] += part.get("token_ids", [])
            choice["finish_reason"] = part["finish_reason"]
            choice["matched_stop"] = part.get("matched_stop")
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


class Invariance(unittest.TestCase):
    maxDiff = 1000

    @classmethod
    def setUpClass(cls):
        cls.requests = make_requests()
        cls.server = Server("--threads", 2)
        cls.alone = []
        for path, body in cls.requests:  # each with nothing in the cache and nobody beside it
            cls.server.post_ok("/flush_cache", {})
            cls.alone.append(cls.server.post_ok(path, body))
        cls.expected = [said(reply) for reply in cls.alone]

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def assert_same(self, replies: list, how: str):
        for i, (reply, expected) in enumerate(zip(replies, self.expected, strict=True)):
            if said(reply) != expected:
                self.assertEqual(json.dumps(said(reply), indent=1), json.dumps(expected, indent=1), f"request {i}, {how}")

    def all_at_once(self, server: Server, ask=None) -> list:
        ask = ask or (lambda request: server.post_ok(*request))
        with concurrent.futures.ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(ask, self.requests))

    def test_the_replies_are_worth_comparing(self):
        for reply in self.alone:
            self.assertEqual(reply["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        texts = {json.dumps(expected["choices"]) for expected in self.expected}
        self.assertEqual(len(texts), REQUESTS)
        numbers = [item["logprob"] for expected in self.expected for choice in expected["choices"]
                   for item in choice["logprobs"].get("content", [])]
        self.assertGreater(len(numbers), 1000)
        self.assertGreater(len(set(numbers)), 500)
        self.assertGreater(max(len(repr(number)) for number in numbers), 15)  # all digits are there
        differ = 0  # and the seed matters, where the model is not too sure
        for (path, body), expected in zip(self.requests, self.expected):
            if body["temperature"] == 1:
                differ += said(self.server.post_ok(path, {**body, "seed": 1000}))["choices"] != expected["choices"]
        self.assertGreater(differ, 10)

    def test_with_a_warm_cache(self):
        for request in self.requests:
            self.server.post_ok(*request)
        before = self.server.metrics()
        replies = [self.server.post_ok(*request) for request in self.requests]
        found = self.server.metrics()
        self.assert_same(replies, "warm")
        for reply in replies:
            usage = reply["usage"]
            # All whole pages of the prompt, but the one that its last token is in.
            self.assertEqual(usage["prompt_tokens_details"]["cached_tokens"], (usage["prompt_tokens"] - 1) // PAGE * PAGE)
        self.assertGreater(found["keye_pictures_found_total"] + found["keye_cached_tokens_total"],
                           before["keye_pictures_found_total"] + before["keye_cached_tokens_total"])

    def test_in_a_batch_of_all(self):
        self.server.post_ok("/flush_cache", {})
        before = self.server.metrics()
        replies = self.all_at_once(self.server)
        after = self.server.metrics()
        self.assert_same(replies, "together")
        steps = after["keye_engine_steps_total"] - before["keye_engine_steps_total"]
        tokens = after["keye_engine_generated_tokens_total"] - before["keye_engine_generated_tokens_total"]
        self.assertGreater(tokens / steps, 5)  # they did run together

    def test_streaming_together(self):
        def ask(request):
            path, body = request
            if path != "/v1/chat/completions":
                return self.server.post_ok(path, body)
            return joined(self.server.stream(path, {**body, "stream_options": {"include_usage": True}}))
        self.assert_same(self.all_at_once(self.server, ask), "streaming")

    def test_replies_of_one_request_are_those_of_its_seeds(self):
        for i, (path, body) in enumerate(self.requests):
            if body.get("n") != 3:
                continue
            for k in range(3):
                one = self.server.post_ok(path, {**body, "n": 1, "seed": body["seed"] + k})["choices"][0]
                self.assertEqual({**one, "index": k}, self.expected[i]["choices"][k])

    def test_other_set_ups(self):
        for flags in (
            ["--threads", 1, "--chunked-prefill-size", PAGE],
            ["--threads", 2, "--chunked-prefill-size", 7, "--max-running-requests", 5],
            ["--chunked-prefill-size", 2048, "--disable-radix-cache", "--vision-cache-mib", 0, "--video-cache-mib", 0],
        ):
            with self.subTest(flags=flags), Server(*flags) as server:
                self.assert_same(self.all_at_once(server), str(flags))

    def test_when_pages_run_out(self):
        longest = max(e["usage"]["prompt_tokens"] + body["max_tokens"] for e, (_, body) in zip(self.expected, self.requests))
        with Server("--max-total-tokens", (longest // PAGE + 2) * PAGE) as server:
            self.assert_same(self.all_at_once(server), "few pages")
            now = server.metrics()
            self.assertGreater(now["keye_preemptions_total"], 0)
            self.assertEqual(now["keye_kv_pages_used"], 0)


if __name__ == "__main__":
    unittest.main()
