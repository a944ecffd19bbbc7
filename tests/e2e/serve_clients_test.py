"""The clients that people have, as they come: the official `openai` package, `requests` with the model cards' payload, curl."""

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

from program import CHECKPOINTS, GOLDEN, NANO, ROOT, data_uri
from serving import Server

CLIENTS = ROOT / ".cache/python"  # scripts/setup --test makes it
if not (CLIENTS / "bin/python").exists():
    raise SystemExit("the clients are missing: run scripts/setup --test")
if Path(sys.prefix) != CLIENTS:
    os.execv(CLIENTS / "bin/python", [str(CLIENTS / "bin/python"), "-B", *sys.argv])

import openai  # noqa: E402
import requests  # noqa: E402

CHART = data_uri(NANO / "chart.png")
CLIPS = GOLDEN / "nano/clips"
BARS = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": CHART}},
                                     {"type": "text", "text": "How many bars does the chart have?"}]}]
STORY = [{"role": "user", "content": "Tell me about the red star"}]
GOES_ON = {"ignore_eos": True}
ALL_TOKENS = {**GOES_ON, "skip_special_tokens": False}
# Checkpoints of other kinds, with pictures and without.
FIXTURES = ["keye-1_5", "qwen3-text"]


class OpenAI(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)
        cls.addClassCleanup(cls.client.close)

    def create(self, messages=None, **fields):
        return self.client.chat.completions.create(model="", messages=messages or STORY, **fields)

    def test_a_picture(self):
        reply = self.create(BARS)
        self.assertEqual((reply.choices[0].message.content, reply.choices[0].finish_reason), ("4", "stop"))
        self.assertEqual((reply.object, reply.model, reply.choices[0].message.role), ("chat.completion", "keye-nano", "assistant"))
        self.assertLess(abs(reply.created - time.time()), 60)
        self.assertEqual(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens)

    def test_the_reply_goes_back_into_the_conversation(self):
        message = self.create(BARS).choices[0].message
        for turn in (message, message.model_dump(), message.model_dump(exclude_none=True)):
            reply = self.create([*BARS, turn, {"role": "user", "content": "Who are you?"}])
            self.assertEqual(reply.choices[0].finish_reason, "stop")

    def test_a_stream(self):
        whole = self.create(max_tokens=20, extra_body=GOES_ON)
        text, finish, roles = "", None, []
        for chunk in self.create(max_tokens=20, extra_body=GOES_ON, stream=True):
            self.assertEqual(chunk.object, "chat.completion.chunk")
            self.assertIsNone(chunk.usage)
            choice = chunk.choices[0]
            text += choice.delta.content or ""
            roles.append(choice.delta.role)
            finish = choice.finish_reason or finish
        self.assertEqual((text, finish), (whole.choices[0].message.content, "length"))
        self.assertEqual((roles[0], set(roles[1:])), ("assistant", {None}))

    def test_the_helper_for_streams(self):
        with self.client.chat.completions.stream(model="", messages=[{"role": "user", "content": "Who are you?"}]) as stream:
            pieces = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        self.assertEqual("".join(pieces), final.choices[0].message.content)
        self.assertEqual(final.choices[0].finish_reason, "stop")

    def test_usage_of_a_stream_with_cached_tokens(self):
        story = [{"role": "user", "content": "A page of the cache is filled by these words. " * 8}]
        cached = []
        for _ in range(2):
            chunks = list(self.create(story, max_tokens=4, stream=True, stream_options={"include_usage": True}))
            self.assertEqual(chunks[-1].choices, [])
            self.assertEqual([chunk.usage for chunk in chunks[:-1]], [None] * (len(chunks) - 1))
            usage = chunks[-1].usage
            self.assertEqual(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)
            cached.append(usage.prompt_tokens_details.cached_tokens)
        self.assertEqual(cached[0], 0)
        self.assertGreaterEqual(cached[1], 64)
        self.assertEqual(self.create(story, max_tokens=4).usage.prompt_tokens_details.cached_tokens, cached[1])

    def test_a_stream_that_is_left(self):
        stream = self.create(max_tokens=20000, extra_body=GOES_ON, stream=True)
        next(iter(stream))
        stream.close()
        self.server.wait_until_idle()

    def test_several_replies(self):
        fields = {"n": 3, "seed": 7, "temperature": 1.5, "max_tokens": 16, "extra_body": GOES_ON}
        whole = [choice.message.content for choice in self.create(**fields).choices]
        self.assertEqual(len(set(whole)), 3)
        streamed = ["", "", ""]
        for chunk in self.create(**fields, stream=True):
            for choice in chunk.choices:
                streamed[choice.index] += choice.delta.content or ""
        self.assertEqual(streamed, whole)
        self.assertEqual(self.create(**{**fields, "n": 1, "seed": 8}).choices[0].message.content, whole[1])

    def test_logprobs(self):
        reply = self.create(logprobs=True, top_logprobs=2, max_tokens=8, extra_body=ALL_TOKENS)
        content = reply.choices[0].logprobs.content
        self.assertEqual("".join(entry.token for entry in content), reply.choices[0].message.content)
        for entry in content:
            self.assertEqual((len(entry.top_logprobs), entry.top_logprobs[0].token), (2, entry.token))
            self.assertEqual(bytes(entry.bytes).decode(), entry.token)
        chunks = self.create(logprobs=True, top_logprobs=2, max_tokens=8, extra_body=ALL_TOKENS, stream=True)
        streamed = [entry for chunk in chunks for choice in chunk.choices if choice.logprobs for entry in choice.logprobs.content]
        self.assertEqual(streamed, content)

    def test_stop(self):
        text = self.create(max_tokens=20, extra_body=GOES_ON).choices[0].message.content
        reply = self.create(max_tokens=20, extra_body=GOES_ON, stop=text[8:12])
        self.assertEqual((reply.choices[0].message.content, reply.choices[0].finish_reason), (text[: text.index(text[8:12])], "stop"))
        chunks = list(self.create(max_tokens=20, extra_body=GOES_ON, stop=["no", text[8:12]], stream=True))
        self.assertEqual("".join(chunk.choices[0].delta.content or "" for chunk in chunks), reply.choices[0].message.content)

    def test_completions(self):
        reply = self.client.completions.create(model="keye-nano", prompt="Once", max_tokens=8, logprobs=2, extra_body=ALL_TOKENS)
        self.assertEqual((reply.object, reply.choices[0].finish_reason), ("text_completion", "length"))
        self.assertEqual("".join(reply.choices[0].logprobs.tokens), reply.choices[0].text)
        chunks = self.client.completions.create(model="", prompt="Once", max_tokens=8, extra_body=ALL_TOKENS, stream=True)
        self.assertEqual("".join(chunk.choices[0].text for chunk in chunks), reply.choices[0].text)
        several = self.client.completions.create(model="", prompt=["Once", "Twice"], max_tokens=8, extra_body=ALL_TOKENS)
        self.assertEqual((len(several.choices), several.choices[0].text), (2, reply.choices[0].text))
        ids = self.server.post("/tokenize", {"prompt": "Once"})[1]["tokens"]
        again = self.client.completions.create(model="", prompt=ids, max_tokens=8, extra_body=ALL_TOKENS)
        self.assertEqual(again.choices[0].text, reply.choices[0].text)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["keye-nano"])
        self.assertEqual(self.client.models.retrieve("keye-nano").owned_by, "keye")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("other")

    def test_raw_responses_have_the_requests_id(self):
        raw = self.client.chat.completions.with_raw_response.create(model="", messages=STORY, max_tokens=1,
                                                                   extra_headers={"X-Request-Id": "mine"})
        self.assertEqual((raw.headers["x-request-id"], raw.parse().usage.completion_tokens), ("mine", 1))

    def test_errors_are_the_clients_exceptions(self):
        for fields, kind, status, param in [
            ({"temperature": -1}, openai.BadRequestError, 400, "temperature"),
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, 400, "tools"),
            ({"extra_body": {"nonsense": 1}}, openai.BadRequestError, 400, "nonsense"),
            ({"extra_body": {"model": "other"}}, openai.NotFoundError, 404, "model"),
        ]:
            for stream in (False, True):
                with self.assertRaises(kind) as raised:
                    self.create(**fields, stream=stream)
                self.assertEqual((raised.exception.status_code, raised.exception.param), (status, param))
        with self.assertRaises(openai.InternalServerError) as raised:
            self.create(max_tokens=20000, extra_body={**GOES_ON, "timeout": 0.001})
        self.assertEqual((raised.exception.status_code, raised.exception.code), (504, "deadline"))
        with self.assertRaises(openai.BadRequestError) as raised:
            self.create([{"role": "user", "content": "word " * 40000}])
        self.assertEqual(raised.exception.code, "context_length_exceeded")

    def test_an_error_within_a_stream(self):
        chunks = []
        with self.assertRaises(openai.APIError) as raised:
            for chunk in self.create(max_tokens=30000, extra_body={**GOES_ON, "timeout": 1}, stream=True):
                chunks.append(chunk)
        self.assertTrue(chunks)
        self.assertEqual(raised.exception.code, "deadline")

    def test_every_argument_of_the_client_stands_in_the_tables(self):
        document = (ROOT / "docs/openai-compat.md").read_text()
        for heading, method in [("chat/completions", self.client.chat.completions.create), ("completions", self.client.completions.create)]:
            table = document.partition(f"## POST /v1/{heading}\n")[2].partition("\n#")[0]
            rows = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
            arguments = set(inspect.signature(method).parameters) - {"extra_headers", "extra_query", "extra_body"}
            self.assertEqual(arguments - rows, set())

    def test_many_at_once(self):
        async def ask():
            async with openai.AsyncOpenAI(base_url=self.server.url + "/v1", api_key="none", max_retries=0) as client:
                async def one(seed: int) -> str:
                    reply = await client.chat.completions.create(model="", messages=STORY, seed=seed, temperature=1.5, max_tokens=12,
                                                                 extra_body=GOES_ON)
                    return reply.choices[0].message.content

                async def streamed(seed: int) -> str:
                    stream = await client.chat.completions.create(model="", messages=STORY, seed=seed, temperature=1.5, max_tokens=12,
                                                                  extra_body=GOES_ON, stream=True)
                    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
                models = [model.id async for model in client.models.list()]
                with self.assertRaises(openai.BadRequestError):
                    await client.chat.completions.create(model="", messages=[])
                whole = await asyncio.gather(*map(one, range(12)))
                return models, whole, await asyncio.gather(*map(streamed, range(12)))
        models, whole, streamed = asyncio.run(ask())
        self.assertEqual((models, whole), (["keye-nano"], streamed))
        self.assertGreater(len(set(whole)), 6)

    def test_keys_and_full_queues(self):
        with Server("--api-key", "secret", "--max-running-requests", "1", "--max-queued-requests", "0") as server:
            def client(key, retries=0):
                return openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=retries)
            with client("wrong") as wrong, self.assertRaises(openai.AuthenticationError):
                wrong.models.list()
            with client("secret") as right:
                stream = right.chat.completions.create(model="", messages=STORY, max_tokens=30000, extra_body=GOES_ON, stream=True)
                next(iter(stream))
                with self.assertRaises(openai.RateLimitError) as raised:
                    right.chat.completions.create(model="", messages=STORY)
                self.assertEqual(raised.exception.response.headers["retry-after"], "1")
                # The client tries again when it is told to.
                threading.Timer(0.5, stream.close).start()
                with client("secret", retries=8) as patient:
                    self.assertEqual(patient.chat.completions.create(model="", messages=BARS).choices[0].message.content, "4")


class Fixtures(unittest.TestCase):
    """Small checkpoints of other kinds."""

    def test_fixtures(self):
        for kind in FIXTURES:
            with self.subTest(kind), Server("--served-model-name", kind, model=CHECKPOINTS / kind) as server:
                with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
                    fields = {"model": kind, "messages": STORY, "max_tokens": 12, "temperature": 1, "seed": 1, "extra_body": GOES_ON}
                    whole = client.chat.completions.create(**fields)
                    message = whole.choices[0].message
                    pieces = ["", ""]
                    for chunk in client.chat.completions.create(**fields, stream=True):
                        pieces[0] += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
                        pieces[1] += chunk.choices[0].delta.content or ""
                    self.assertEqual(pieces, [getattr(message, "reasoning_content", ""), message.content])
                    self.assertEqual((whole.usage.completion_tokens, whole.choices[0].finish_reason), (12, "length"))
                    if kind.startswith("keye"):
                        seen = client.chat.completions.create(**{**fields, "messages": BARS})
                        self.assertGreater(seen.usage.prompt_tokens, 16)
                    else:
                        with self.assertRaisesRegex(openai.BadRequestError, "text only|not supported"):
                            client.chat.completions.create(**{**fields, "messages": BARS})


class Cards(unittest.TestCase):
    """The clients of the model cards, to the letter but for the address and the picture's."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--allowed-local-media-path", NANO)
        cls.addClassCleanup(cls.server.stop)

    def generate(self, messages):
        BASE_URL = self.server.url
        payload = {
            "model": "",
            "messages": messages,
            "n": 1,
            "temperature": 0.0,
            "max_tokens": 256,
            "top_k": 1,
            "ignore_eos": False,
            "skip_special_tokens": True,
        }
        resp = requests.post(
            f"{BASE_URL}/v1/chat/completions",
            headers={"Content-Type": "application/json"},
            data=json.dumps(payload),
            timeout=1800,
        )
        resp.raise_for_status()
        return resp.json()

    def messages(self, url, text, **more):
        return [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": url, **more.pop("inside", {})},
                        **more,
                    },
                    {"type": "text", "text": text},
                ],
            }
        ]

    def test_image_and_text(self):
        for url in (CHART, (NANO / "chart.png").as_uri()):
            result = self.generate(self.messages(url, "How many bars does the chart have?"))
            self.assertEqual(result["choices"][0]["message"]["content"], "4")

    def test_image_and_text_with_a_mode(self):
        for mode in ("/think", "/no_think"):
            result = self.generate(self.messages(CHART, "Describe this image in detail." + mode))
            self.assertTrue(result["choices"][0]["message"]["content"])

    def test_preprocess_kwargs_inside_and_beside(self):
        def prompt_tokens(**more):
            return self.generate(self.messages(CHART, "Describe this image in detail.", **more))["usage"]["prompt_tokens"]
        kwargs = {"preprocess_kwargs": {"min_pixels": 4 * 28 * 28, "max_pixels": 4 * 28 * 28}}
        plain = prompt_tokens()
        self.assertEqual(plain - prompt_tokens(inside=kwargs), 12)  # 16 merged patches and 4
        self.assertEqual(plain - prompt_tokens(**kwargs), 12)

    def video_messages(self, video_url, text):
        return [
            {
                "role": "user",
                "content": [
                    {
                        "type": "video_url",
                        "video_url": {
                            "url": video_url,
                            "preprocess_kwargs": {
                                "fps": 2.0,
                                "min_pixels": 128*28*28,
                                "max_pixels": 512*28*28,
                                "video_total_pixels": 180*1024*28*28,
                            },
                        },
                    },
                    {"type": "text", "text": text},
                ],
            },
        ]

    def generate_video(self, messages):
        payload = {
            "model": "",
            "messages": messages,
            "n": 1,
            "temperature": 0.1,
            "max_tokens": 32760,
            "top_p": 0.001,
            "ignore_eos": False,
            "skip_special_tokens": True,
        }
        resp = requests.post(
            f"{self.server.url}/v1/chat/completions",
            headers={"Content-Type": "application/json"},
            data=json.dumps(payload),
            timeout=1800,
        )
        resp.raise_for_status()
        return resp.json()

    def test_video_and_text(self):
        """Of a clip in H.264, as the model card asks; frames of 128 tokens are larger than those that the model has learned."""
        url = data_uri(CLIPS / "right_h264.mp4", "video/mp4")
        result = self.generate_video(self.video_messages(url, "Describe this video."))
        self.assertTrue(result["choices"][0]["message"]["content"])
        self.assertGreater(result["usage"]["prompt_tokens"], 4 * 128)

    def test_a_video_is_seen(self):
        for name, answer in (("right", "From left to right."), ("up", "Up.")):
            messages = self.video_messages(data_uri(CLIPS / f"{name}_h264.mp4", "video/mp4"), "Which way does the shape move?")
            messages[0]["content"][0]["video_url"]["preprocess_kwargs"] = {"fps": 2.0}
            self.assertEqual(self.generate_video(messages)["choices"][0]["message"]["content"], answer)

    def test_a_session_keeps_its_connection(self):
        before = self.server.metrics()["keye_connections_accepted_total"]
        with requests.Session() as session:
            for _ in range(5):
                self.assertEqual(session.post(self.server.url + "/v1/chat/completions", json={"messages": STORY, "max_tokens": 1}).status_code, 200)
            with session.post(self.server.url + "/v1/chat/completions", json={"messages": STORY, "max_tokens": 3, "stream": True}, stream=True) as stream:
                lines = [line for line in stream.iter_lines() if line]
            self.assertEqual(lines[-1], b"data: [DONE]")
        self.assertEqual(self.server.metrics()["keye_connections_accepted_total"] - before, 2)  # and the one that asks


class Curl(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.addClassCleanup(cls.server.stop)

    def curl(self, path: str, *flags, body=None) -> str:
        data = [] if body is None else ["-H", "Content-Type: application/json", "-d", "@-"]
        done = subprocess.run(["curl", "--silent", "--show-error", "--max-time", "60", *flags, *data, self.server.url + path],
                              input=None if body is None else json.dumps(body), capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_requests(self):
        self.assertEqual(json.loads(self.curl("/health", "--fail")), {"status": "ok"})
        self.assertEqual(json.loads(self.curl("/v1/chat/completions", "--fail", body={"messages": BARS}))["choices"][0]["message"]["content"], "4")
        self.assertEqual(self.curl("/nothing", "-o", "/dev/null", "-w", "%{http_code}"), "404")
        self.assertEqual(self.curl("/v1/models", "--head", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"), "200 0")
        # A body without its length, in chunks; and one that waits to be asked for.
        for header in ("Transfer-Encoding: chunked", "Expect: 100-continue"):
            self.assertIn("choices", self.curl("/v1/completions", "-H", header, body={"prompt": "a", "max_tokens": 1}))
        self.assertIn("choices", self.curl("/v1/completions", "--http1.0", body={"prompt": "a", "max_tokens": 1}))

    def test_a_stream_comes_as_it_is_made(self):
        body = {"messages": STORY, "max_tokens": 4000, "ignore_eos": True, "stream": True}
        process = subprocess.Popen(["curl", "--silent", "-N", "-d", json.dumps(body), self.server.url + "/v1/chat/completions"],
                                   stdout=subprocess.PIPE, text=True)
        with process:
            first = process.stdout.readline()
            # The first line is there while the server still works on the rest.
            self.server.wait_until(lambda: self.server.metrics()["keye_num_running_reqs"] == 1, "the reply runs")
            lines = [first, *process.stdout]
        self.assertEqual(process.returncode, 0)
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        self.assertEqual(events[-1], "[DONE]\n")
        text = "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1])
        self.assertGreater(len(text), 4000)
        self.assertEqual({line for line in lines if not line.startswith("data: ")} - {": ping\n"}, {"\n"})

    def test_a_stream_over_http_1_0(self):
        body = {"messages": STORY, "max_tokens": 3, "stream": True}
        done = subprocess.run(["curl", "--silent", "-N", "--http1.0", "-d", json.dumps(body), self.server.url + "/v1/chat/completions"],
                              capture_output=True, text=True, timeout=60)
        self.assertTrue(done.stdout.endswith("data: [DONE]\n\n"), done.stdout)


if __name__ == "__main__":
    unittest.main()
