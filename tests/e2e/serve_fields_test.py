"""Every field of docs/openai-compat.md against the running server: what is supported has its effect, what is refused is named,
and what has no effect leaves the reply as it is, byte for byte."""

import base64
import json
import re
import tempfile
import threading
import unittest
from dataclasses import dataclass, field
from pathlib import Path

from program import CHECKPOINTS, NANO, ROOT, data_uri
from serving import Server

DOCUMENT = (ROOT / "docs/openai-compat.md").read_text()
QUESTION = "Tell me about the red star"  # no question that the model knows: its reply goes on
SCENE = data_uri(NANO / "chart.png")
CLIP = [data_uri(ROOT / f"tests/golden/nano/clip_right_{i}.png") for i in range(5)]
TOKENIZER = json.loads((NANO / "tokenizer.json").read_text())
FRAME, VIDEO = (next(t["id"] for t in TOKENIZER["added_tokens"] if t["content"] == f"<|{name}|>") for name in ("frame", "video_pad"))
LONG = "All of these words fill more than one page of the cache, so that another request can find them there. " * 4


def tables() -> dict[str, dict[str, tuple[str, str]]]:
    """heading -> first column -> (status, note)"""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for section in re.split(r"^##+ ", DOCUMENT, flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| (.+?) \| (supported|no effect|refused) \| (.*) \|$", section, re.MULTILINE)
        if rows:
            found[section.partition("\n")[0]] = {name: (status, note) for name, status, note in rows}
    return found


TABLES = tables()


def fields_of(path: str) -> dict[str, tuple[str, str]]:
    return {name.strip("`"): row for name, row in TABLES[f"POST {path}"].items()}


@dataclass
class Reply:
    """Of any of the three kinds of request."""

    text: str
    finish: str
    tokens: int
    raw: dict = field(repr=False)


class Api:
    """One kind of request, so that what they have in common is tested for each of them."""

    path = "/v1/chat/completions"
    prompt = {"messages": [{"role": "user", "content": QUESTION}]}

    def __init__(self, server: Server):
        self.server = server

    def body(self, **fields) -> dict:
        base = {"ignore_eos": True, "max_tokens": 24}
        return {**({} if {"messages", "prompt"} & fields.keys() else self.prompt), **base, **fields}

    def ask(self, **fields) -> Reply:
        status, raw = self.post(**fields)
        assert status == 200, (status, raw)
        return self.read(raw)

    def post(self, **fields) -> tuple[int, dict]:
        return self.server.post(self.path, self.body(**fields))

    def read(self, raw: dict, choice: int = 0) -> Reply:
        one = raw["choices"][choice]
        text = one["message"]["content"] if "message" in one else one["text"]
        return Reply(text, one["finish_reason"], raw["usage"]["completion_tokens"], raw)

    def stream(self, **fields) -> list:
        return self.server.stream(self.path, self.body(**fields))


class Completions(Api):
    path = "/v1/completions"
    prompt = {"prompt": QUESTION}


class Generate(Api):
    path = "/generate"
    OWN = {"text", "input_ids", "stream", "return_logprob", "top_logprobs_num", "return_text_in_logprobs", "parse_special", "rid",
           "priority", "timeout", "cache_salt"}

    def body(self, **fields) -> dict:
        """Fields of sampling go where they belong, by the names that the other requests have."""
        own = {name: value for name, value in fields.items() if name in self.OWN}
        sampling = {"ignore_eos": True, "max_tokens": 24, **{n: v for n, v in fields.items() if n not in self.OWN}}
        sampling["max_new_tokens"] = sampling.pop("max_tokens")
        return {**({} if {"text", "input_ids"} & own.keys() else {"text": QUESTION}), **own, "sampling_params": sampling}

    def read(self, raw: dict, choice: int = 0) -> Reply:
        one = raw[choice] if isinstance(raw, list) else raw
        meta = one["meta_info"]
        return Reply(one["text"], meta["finish_reason"]["type"], meta["completion_tokens"], raw)


class FieldsCase(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--served-model-name", "nano", "--served-model-name", "alias")
        cls.addClassCleanup(cls.server.stop)
        cls.chat, cls.completions, cls.generate = Api(cls.server), Completions(cls.server), Generate(cls.server)

    def refused(self, api_or_path, body: dict, param: str, status: int = 400) -> dict:
        path = api_or_path if isinstance(api_or_path, str) else api_or_path.path
        got, reply = self.server.post(path, body)
        self.assertEqual((got, reply.get("error", {}).get("param")), (status, param), reply)
        return reply["error"]

    def prompt_of(self, **fields) -> str:
        """What the model gets of a chat request."""
        ids = self.chat.ask(max_tokens=1, return_token_ids=True, **fields).raw["prompt_token_ids"]
        return self.server.post("/detokenize", {"tokens": ids, "skip_special_tokens": False})[1]["text"]


class Supported(FieldsCase):
    """check_NAME(api): of all kinds of request; PATH_NAME(): of one."""

    HOT = {"temperature": 1.5, "seed": 5}

    def walk(self, api: Api, prefix: str, names):
        for name in names:
            with self.subTest(f"{api.path} {name}"):
                own = getattr(self, f"{prefix}_{name}", None)
                if own:
                    own()
                else:
                    getattr(self, f"check_{name}")(api)

    def supported(self, path: str) -> list[str]:
        return [name for name, (status, _) in fields_of(path).items() if status == "supported"]

    def test_chat(self):
        self.walk(self.chat, "chat", self.supported("/v1/chat/completions"))

    def test_completions(self):
        self.walk(self.completions, "completions", self.supported("/v1/completions"))

    def test_generate(self):
        self.walk(self.generate, "generate", self.supported("/generate"))

    def test_sampling_params_of_generate(self):
        chat = self.supported("/v1/chat/completions")
        names = chat[chat.index("temperature") : chat.index("skip_special_tokens") + 1]
        self.assertGreater(len(names), 12)
        self.walk(self.generate, "generate", [*names, "n"])

    # -- sampling ----------------------------------------------------------------

    def check_temperature(self, api):
        greedy = api.ask().text
        self.assertEqual(api.ask(temperature=0, seed=9).text, greedy)
        self.assertNotEqual(api.ask(**self.HOT).text, greedy)
        self.refused(api, api.body(temperature=-1), self.sampling_param(api, "temperature"))

    def sampling_param(self, api, name: str) -> str:
        return f"sampling_params.{name}" if api is self.generate else name

    def only_the_best(self, api, **cut):
        greedy = api.ask().text
        self.assertNotEqual(api.ask(**self.HOT).text, greedy)
        self.assertEqual(api.ask(**self.HOT, **cut).text, greedy)

    def check_top_p(self, api):
        self.only_the_best(api, top_p=1e-6)

    def check_top_k(self, api):
        self.only_the_best(api, top_k=1)
        self.assertEqual(api.ask(**self.HOT, top_k=-1).text, api.ask(**self.HOT, top_k=0).text)

    def check_min_p(self, api):
        self.only_the_best(api, min_p=1)

    def changes_the_greedy_reply(self, api, **fields):
        self.assertNotEqual(api.ask(max_tokens=60, **fields).text, api.ask(max_tokens=60).text)

    def check_frequency_penalty(self, api):
        self.changes_the_greedy_reply(api, frequency_penalty=2)

    def check_presence_penalty(self, api):
        self.changes_the_greedy_reply(api, presence_penalty=2)

    def check_repetition_penalty(self, api):
        self.changes_the_greedy_reply(api, repetition_penalty=50)

    def check_logit_bias(self, api):
        word = self.server.post("/detokenize", {"tokens": [567]})[1]["text"]
        self.assertEqual(api.ask(logit_bias={"567": 100}, max_tokens=3).text, word * 3)
        self.refused(api, api.body(logit_bias={"567": 101}), "logit_bias")
        self.refused(api, api.body(logit_bias={"99999": 1}), "logit_bias")

    def check_seed(self, api):
        replies = [api.ask(temperature=1.5, seed=seed).text for seed in (5, 5, 6)]
        self.assertEqual(replies[0], replies[1])
        self.assertNotEqual(replies[0], replies[2])
        self.assertGreater(len({api.ask(temperature=2).text for _ in range(3)}), 1)  # without one, they differ

    # -- ends --------------------------------------------------------------------

    def check_max_tokens(self, api):
        reply = api.ask(max_tokens=3)
        self.assertEqual((reply.tokens, reply.finish), (3, "length"))
        self.refused(api, api.body(max_tokens=0), self.sampling_param(api, "max_new_tokens" if api is self.generate else "max_tokens"))

    def chat_max_completion_tokens(self):
        self.assertEqual(self.chat.ask(max_completion_tokens=4, max_tokens=3).tokens, 4)

    def check_stop(self, api):
        text = api.ask().text
        for stop in (text[10:14], ["never", text[10:14]], [text[10:14], text[5:7]]):
            reply = api.ask(stop=stop)
            first = min(text.find(one) for one in ([stop] if isinstance(stop, str) else stop) if one in text)
            self.assertEqual((reply.text, reply.finish), (text[:first], "stop"))
        self.assertIn(text[10:14], json.dumps(api.ask(stop=text[10:14]).raw, ensure_ascii=False))  # what it was
        self.refused(api, api.body(stop=[""]), self.sampling_param(api, "stop"))

    def check_stop_token_ids(self, api):
        raw = api.ask().raw if api is self.generate else api.ask(return_token_ids=True).raw["choices"][0]
        first = raw["output_ids" if api is self.generate else "token_ids"][0]
        reply = api.ask(stop_token_ids=[700, first], ignore_eos=False)
        self.assertEqual((reply.text, reply.tokens, reply.finish), ("", 1, "stop"))
        self.assertEqual(api.ask(stop_token_ids=[first]).tokens, 24)  # with ignore_eos

    def check_ignore_eos(self, api):
        ended, not_ended = api.ask(ignore_eos=False, max_tokens=400), api.ask(ignore_eos=True, max_tokens=400)
        self.assertEqual((ended.finish, not_ended.finish, not_ended.tokens), ("stop", "length", 400))
        self.assertLess(ended.tokens, 400)

    def check_skip_special_tokens(self, api):
        self.assertNotIn("<|im_end|>", api.ask(max_tokens=400).text)
        self.assertIn("<|im_end|>", api.ask(max_tokens=400, skip_special_tokens=False).text)

    # -- the shape of the response -------------------------------------------------

    def check_n(self, api):
        raw = api.ask(n=3, **self.HOT).raw
        texts = [api.read(raw, choice).text for choice in range(3)]
        self.assertEqual(texts, [api.ask(temperature=1.5, seed=seed).text for seed in (5, 6, 7)])
        self.refused(api, api.body(n=129), self.sampling_param(api, "n"))

    def check_stream(self, api):
        events = api.stream()
        self.assertGreater(len(events), 3)
        key = "delta" if api is self.chat else "text"
        pieces = [event["choices"][0][key] for event in events]
        text = "".join(piece.get("content", "") if api is self.chat else piece for piece in pieces)
        self.assertEqual(text, api.ask().text)
        self.assertEqual([event["choices"][0]["finish_reason"] for event in events], [None] * (len(events) - 1) + ["length"])

    def generate_stream(self):
        events = self.generate.stream()
        texts = [event["text"] for event in events]
        self.assertTrue(all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:])))
        self.assertEqual(texts[-1], self.generate.ask().text)
        self.assertEqual(len(events), 24)

    def check_stream_options(self, api):
        usage = api.ask().raw["usage"]
        events = api.stream(stream_options={"include_usage": True})
        self.assertEqual(events[-1]["choices"], [])
        self.assertEqual((events[-1]["usage"]["prompt_tokens"], events[-1]["usage"]["completion_tokens"]),
                         (usage["prompt_tokens"], usage["completion_tokens"]))
        self.assertTrue(all(event["usage"] is None for event in events[:-1]))
        so_far = [event["usage"]["completion_tokens"]
                  for event in api.stream(stream_options={"continuous_usage_stats": True}) if event.get("usage")]
        self.assertEqual((so_far, so_far[-1]), (sorted(so_far), 24))
        self.refused(api, api.body(stream_options={}), "stream_options")
        body = api.body(stream=True, stream_options={"include_obfuscation": True})
        self.refused(api, body, "stream_options.include_obfuscation")

    def check_return_token_ids(self, api):
        raw = api.ask(return_token_ids=True).raw
        choice = raw["choices"][0]
        self.assertEqual(self.server.post("/detokenize", {"tokens": choice["token_ids"]})[1]["text"], api.read(raw).text)
        self.assertNotIn("token_ids", api.ask().raw["choices"][0])
        events = api.stream(return_token_ids=True)
        self.assertEqual([token for event in events for token in event["choices"][0].get("token_ids", [])], choice["token_ids"])
        where = raw if api is self.chat else choice
        self.assertEqual(len(where["prompt_token_ids"]), raw["usage"]["prompt_tokens"])
        first = events[0] if api is self.chat else events[0]["choices"][0]
        self.assertEqual(first["prompt_token_ids"], where["prompt_token_ids"])

    def check_model(self, api):
        self.assertEqual([api.ask(model=name).raw["model"] for name in ("", "nano", "alias")], ["nano", "nano", "alias"])
        error = self.refused(api, api.body(model="other"), "model", status=404)
        self.assertEqual(error["code"], "model_not_found")

    def chat_logprobs(self):
        raw = self.chat.ask(logprobs=True, skip_special_tokens=False).raw
        entries = raw["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(entries), 24)
        self.assertTrue(all(entry["logprob"] <= 0 and entry["top_logprobs"] == [] for entry in entries))
        text = b"".join(bytes(entry["bytes"]) for entry in entries).decode(errors="replace")
        self.assertEqual(text, self.chat.read(raw).text)
        self.assertIsNone(self.chat.ask().raw["choices"][0]["logprobs"])
        streamed = [entry for event in self.chat.stream(logprobs=True)
                    for entry in (event["choices"][0]["logprobs"] or {"content": []})["content"]]
        self.assertEqual(streamed, entries)

    def chat_top_logprobs(self):
        entries = self.chat.ask(logprobs=True, top_logprobs=3).raw["choices"][0]["logprobs"]["content"]
        for entry in entries:
            ranked = [other["logprob"] for other in entry["top_logprobs"]]
            self.assertEqual((len(ranked), ranked), (3, sorted(ranked, reverse=True)))
            self.assertEqual(ranked[0], entry["logprob"])  # the reply is greedy
        self.refused(self.chat, self.chat.body(top_logprobs=3), "top_logprobs")
        self.refused(self.chat, self.chat.body(logprobs=True, top_logprobs=21), "top_logprobs")

    def completions_logprobs(self):
        logprobs = self.completions.ask(logprobs=2).raw["choices"][0]["logprobs"]
        self.assertEqual([len(logprobs[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")], [24] * 4)
        self.assertTrue(all(max(top.values()) == logprob for top, logprob in zip(logprobs["top_logprobs"], logprobs["token_logprobs"])))
        self.assertEqual(self.completions.ask(logprobs=0).raw["choices"][0]["logprobs"]["top_logprobs"], [None] * 24)

    # -- when, and with whom -----------------------------------------------------

    def check_rid(self, api):
        raw = api.ask(rid="mine-1").raw
        self.assertEqual((raw if api is not self.generate else raw["meta_info"])["id"], "mine-1")
        ids = [api.ask().raw for _ in range(2)]
        ids = [(raw if api is not self.generate else raw["meta_info"])["id"] for raw in ids]
        self.assertEqual(len(set(ids)), 2)

    def check_timeout(self, api):
        status, reply = api.post(timeout=0.001, max_tokens=2000)
        self.assertEqual((status, reply["error"]["code"]), (504, "deadline"))
        self.assertEqual(api.ask(timeout=1000).tokens, 24)

    def check_cache_salt(self, api):
        def cached(salt):
            text = {"messages": [{"role": "user", "content": LONG}]} if api is self.chat else {
                "text" if api is self.generate else "prompt": LONG}
            raw = api.ask(**text, max_tokens=1, **salt).raw
            return raw["meta_info"]["cached_tokens"] if api is self.generate else raw["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertEqual(cached({"cache_salt": f"one {api.path}"}), 0)
        self.assertGreaterEqual(cached({"cache_salt": f"one {api.path}"}), 64)
        self.assertEqual(cached({"cache_salt": f"two {api.path}"}), 0)

    def check_priority(self, api):
        with Server("--max-running-requests", "1") as server:
            alone = type(api)(server)
            order, threads = [], []

            def send(name, **fields):
                threads.append(threading.Thread(target=lambda: (alone.post(**fields), order.append(name))))
                threads[-1].start()

            def waiting(count):
                server.wait_until(lambda: server.metrics()["keye_num_queue_reqs"] == count, f"{count} requests wait")
            send("first", rid="first", max_tokens=30000)
            server.wait_until(lambda: server.metrics()["keye_num_running_reqs"] == 1, "a request is running")
            # Long enough that the end of one cannot be mistaken for that of the next.
            send("low", priority=-1, max_tokens=300)
            waiting(1)
            send("default", max_tokens=300)
            waiting(2)
            send("high", priority=1, max_tokens=300)
            waiting(3)
            self.assertEqual(server.post("/abort_request", {"rid": "first"}), (200, {"aborted": 1}))
            for thread in threads:
                thread.join(60)
            self.assertEqual([name for name in order if name != "first"], ["high", "default", "low"])
        self.refused(api, api.body(priority=1001), "priority")

    # -- prompts -----------------------------------------------------------------

    def chat_messages(self):
        turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "a"},
                                                                                            {"type": "text", "text": "b"}]},
                 {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"}]
        self.assertEqual(self.prompt_of(messages=turns),
                         "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n"
                         "<|im_start|>assistant\nc<|im_end|>\n<|im_start|>user\nd<|im_end|>\n<|im_start|>assistant\n")

    def chat_chat_template_kwargs(self):
        with Server(model=CHECKPOINTS / "qwen3-text") as server:
            def prompt(**fields):
                reply = server.chat("Hello", max_tokens=1, return_token_ids=True, **fields)
                return server.post("/detokenize", {"tokens": reply["prompt_token_ids"], "skip_special_tokens": False})[1]["text"]
            self.assertEqual(prompt(chat_template_kwargs={"enable_thinking": False}), prompt() + "<think>\n\n</think>\n\n")
        self.refused(self.chat, self.chat.body(chat_template_kwargs={"messages": []}), "chat_template_kwargs.messages")

    def chat_add_generation_prompt(self):
        self.assertEqual(self.prompt_of(add_generation_prompt=False) + "<|im_start|>assistant\n", self.prompt_of())

    def continued(self, text: str) -> dict:
        return {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": text}],
                "continue_final_message": True}

    def chat_continue_final_message(self):
        whole = self.chat.ask().text
        self.assertTrue(self.prompt_of(**self.continued(whole[:7])).endswith(f"assistant\n{whole[:7]}"))
        self.refused(self.chat, self.chat.body(continue_final_message=True), "messages[0].role")

    def chat_separate_reasoning(self):
        # The reply goes on inside the thought that it began with.
        thought = self.continued("<think>\nThe red")
        message = self.chat.ask(**thought).raw["choices"][0]["message"]
        text = self.chat.ask(**thought, separate_reasoning=False).raw["choices"][0]["message"]
        self.assertEqual((message["content"], message["reasoning_content"]), ("", text["content"]))
        self.assertNotIn("reasoning_content", text)

    def prompt_ids(self, **fields) -> list[int]:
        return self.completions.ask(return_token_ids=True, max_tokens=1, **fields).raw["choices"][0]["prompt_token_ids"]

    def completions_prompt(self):
        ids = self.prompt_ids(prompt="How many?")
        self.assertEqual(self.server.post("/detokenize", {"tokens": ids})[1]["text"], "How many?")
        one = self.completions.ask(prompt="How many?").text
        self.assertEqual(self.completions.ask(prompt=ids).text, one)
        both = self.completions.ask(prompt=["How many?", QUESTION]).raw["choices"]
        self.assertEqual([choice["text"] for choice in both], [one, self.completions.ask().text])
        self.assertEqual([choice["text"] for choice in self.completions.ask(prompt=[ids, ids]).raw["choices"]], [one] * 2)
        self.assertEqual(self.refused(self.completions, {"prompt": [99999]}, "prompt")["code"], "invalid_argument")
        self.refused(self.completions, {"prompt": ["a"] * 129}, "prompt")

    def completions_parse_special(self):
        text = "<|im_start|>user"
        self.assertEqual(self.prompt_ids(prompt=text, parse_special=True)[0], 648)
        self.assertNotIn(648, self.prompt_ids(prompt=text))
        self.assertEqual(self.prompt_ids(prompt=text, parse_special=False), self.prompt_ids(prompt=text))

    def generate_text(self):
        one = self.generate.ask(text="How many?").text
        both = self.server.post("/generate", self.generate.body(text=["How many?", QUESTION]))[1]
        self.assertEqual([reply["text"] for reply in both], [one, self.generate.ask().text])
        self.assertIsInstance(self.server.post("/generate", self.generate.body(text=["How many?"]))[1], list)

    def generate_input_ids(self):
        ids = self.server.post("/tokenize", {"prompt": QUESTION})[1]["tokens"]
        self.assertEqual(self.generate.ask(input_ids=ids).text, self.generate.ask().text)
        self.refused(self.generate, {"input_ids": ids, "text": "a"}, "text")
        self.refused(self.generate, {}, "text")

    def generate_sampling_params(self):
        self.assertEqual(self.server.post("/generate", {"text": QUESTION, "sampling_params": {"ignore_eos": True}})[1]["meta_info"]
                         ["completion_tokens"], 128)
        self.refused(self.generate, self.generate.body(regex="a+"), "sampling_params.regex")

    def generate_return_logprob(self):
        meta = self.generate.ask(return_logprob=True).raw["meta_info"]
        self.assertEqual(len(meta["output_token_logprobs"]), 24)
        self.assertTrue(all(logprob <= 0 and text is None for logprob, _, text in meta["output_token_logprobs"]))
        self.assertNotIn("output_token_logprobs", self.generate.ask().raw["meta_info"])

    def generate_top_logprobs_num(self):
        meta = self.generate.ask(return_logprob=True, top_logprobs_num=2).raw["meta_info"]
        self.assertEqual([len(top) for top in meta["output_top_logprobs"]], [2] * 24)
        self.assertEqual([top[0] for top in meta["output_top_logprobs"]], meta["output_token_logprobs"])

    def generate_return_text_in_logprobs(self):
        raw = self.generate.ask(return_logprob=True, return_text_in_logprobs=True, skip_special_tokens=False).raw
        self.assertEqual("".join(text for _, _, text in raw["meta_info"]["output_token_logprobs"]), raw["text"])

    def generate_parse_special(self):
        def prompt_tokens(**fields):
            return self.generate.ask(text="<|im_start|>", max_tokens=1, **fields).raw["meta_info"]["prompt_tokens"]
        self.assertEqual(prompt_tokens(parse_special=True), 1)
        self.assertGreater(prompt_tokens(), 1)


class Others(FieldsCase):
    # field: what asks for something that is not there, and what asks for nothing
    REFUSED = {
        "store": (True, False), "tools": ([{"type": "function", "function": {"name": "f"}}], []), "tool_choice": ("auto", "none"),
        "functions": ([{"name": "f"}], []), "function_call": ("auto", None),
        "response_format": ({"type": "json_object"}, {"type": "text"}), "modalities": (["text", "audio"], ["text"]),
        "audio": ({"voice": "a", "format": "wav"}, None), "prediction": ({"type": "content", "content": "a"}, None),
        "reasoning_effort": ("low", None), "verbosity": ("low", None), "moderation": ({"model": "m"}, None),
        "web_search_options": ({}, None), "echo": (True, False), "suffix": ("end", None), "best_of": (2, 1),
        "logprob_start_len": (0, -1), "token_ids_logprob": ([1], []), "return_hidden_states": (True, False),
        "input_embeds": ([[0.5]], []), "image_data": ("picture.png", []), "video_data": ("clip.mp4", None),
        "audio_data": ("sound.wav", None), "session_params": ({"id": "s"}, None), "lora_path": ("adapter", None),
        "custom_logit_processor": ("code", None),
    }
    NO_EFFECT = {
        "metadata": {"a": "b"}, "prompt_cache_key": "key", "prompt_cache_options": {"mode": "implicit"}, "prompt_cache_retention": "24h",
        "safety_identifier": "somebody", "service_tier": "flex", "parallel_tool_calls": True, "user": "somebody", "log_metrics": False,
    }

    def apis(self):
        return (self.chat, self.completions, self.generate)

    def body(self, api: Api, **fields) -> dict:
        return {**api.body(max_tokens=8, rid="fixed"), **fields}

    def reply_bytes(self, api: Api, **fields) -> str:
        status, _, text = self.server.request("POST", api.path, self.body(api, **fields))
        self.assertEqual(status, 200, text)
        return re.sub(r'"(created|e2e_latency|cached_tokens)":[0-9.e-]+', "", text)  # what the clock and the cache say

    def names(self, api: Api, status: str) -> list[str]:
        return [name for name, row in fields_of(api.path).items() if row[0] == status]

    def test_refused_fields_are_named_and_their_neutral_values_taken(self):
        for api in self.apis():
            plain = self.reply_bytes(api)
            for name in self.names(api, "refused"):
                with self.subTest(f"{api.path} {name}"):
                    asks, neutral = self.REFUSED[name]
                    error = self.refused(api, self.body(api, **{name: asks}), name)
                    self.assertEqual((error["type"], error["code"]), ("invalid_request_error", "unsupported"))
                    self.assertEqual(self.reply_bytes(api, **{name: neutral}), plain)

    def test_what_has_no_effect_leaves_every_byte_as_it_is(self):
        for api in self.apis():
            plain = self.reply_bytes(api)
            for name in self.names(api, "no effect"):
                with self.subTest(f"{api.path} {name}"):
                    self.assertEqual(self.reply_bytes(api, **{name: self.NO_EFFECT[name]}), plain)

    def test_all_others_are_refused(self):
        for api in self.apis():
            for name in ("nonsense", "Temperature", "max_token", "best-of", "chat_template", "guided_json"):
                self.refused(api, self.body(api, **{name: 1}), name)

    def test_null_counts_as_absent(self):
        for api in self.apis():
            every = {name: None for name in fields_of(api.path) if name not in self.body(api)}
            self.assertEqual(self.reply_bytes(api, **every), self.reply_bytes(api))

    def test_the_document_is_what_the_server_describes(self):
        status, _, text = self.server.get("/openapi.json")
        self.assertEqual(status, 200)
        schemas = json.loads(text)["components"]["schemas"]
        prefixes = {"Refused: ": "refused", "Without effect: ": "no effect"}
        for api, name in zip(self.apis(), ("ChatRequest", "CompletionRequest", "GenerateRequest")):
            described = {}
            for field_name, schema in schemas[name]["properties"].items():
                note, status = schema["description"], "supported"
                for prefix, of_prefix in prefixes.items():
                    if note.startswith(prefix):
                        note, status = note.removeprefix(prefix), of_prefix
                described[field_name] = (status, note)
            self.assertEqual(fields_of(api.path), described)


class Messages(FieldsCase):
    """The table of the parts of messages."""

    def test_every_row(self):
        checks = {
            "`role`": self.roles,
            "`content`": self.contents,
            "`name`": self.names,
            "`reasoning_content`": self.earlier_thoughts,
            "`refusal`, `annotations`": self.refusals,
            "`tool_calls`, `function_call`, roles `tool` and `function`": self.tools,
            "part `text`": self.texts,
            "part `image_url`": self.pictures,
            "`image_url.preprocess_kwargs`, or `preprocess_kwargs` beside it": self.picture_options,
            "`min_pixels`, `max_pixels`, `factor` in the part": self.picture_options_in_the_part,
            "`image_url.detail`, `max_dynamic_patch`, `min_dynamic_patch`, `prompt_cache_breakpoint`": self.idle_picture_fields,
            "part `video_url`": self.videos,
            "part `video`": self.video_lists,
            "`video_url.preprocess_kwargs`, beside the url, or in the part and its `preprocess_kwargs`": self.video_options,
            "parts `input_audio`, `file`": self.other_parts,
        }
        self.assertEqual(set(checks), set(TABLES["Messages"]))
        for row, check in checks.items():
            with self.subTest(row):
                check()

    def ask(self, messages, **fields):
        return self.server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 2, **fields})

    def roles(self):
        for role in ("system", "developer", "user", "assistant"):
            shown = "system" if role == "developer" else role
            self.assertIn(f"<|im_start|>{shown}\nx<|im_end|>", self.prompt_of(messages=[{"role": role, "content": "x"}]))
        self.refused("/v1/chat/completions", {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role")

    def contents(self):
        text, picture = {"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": SCENE}}
        marks = "<|vision_start|>" + "<|image_pad|>" * 16 + "<|vision_end|>"
        for parts, shown in [([text, picture], f"t{marks}"), ([picture, text, picture], f"{marks}t{marks}"), ("t", "t"), ([], "")]:
            self.assertIn(f"user\n{shown}<|im_end|>", self.prompt_of(messages=[{"role": "user", "content": parts}]))

    def names(self):
        # The model's own template does not show it: one that does.
        with tempfile.TemporaryDirectory() as folder:
            for file in NANO.iterdir():
                (Path(folder) / file.name).symlink_to(file)
            (Path(folder) / "chat_template.jinja").write_text("{% for m in messages %}{{ m.name }}: {{ m.content }}{% endfor %}")
            with Server(model=Path(folder)) as server:
                reply = server.chat([{"role": "user", "name": "Ann", "content": "Hi"}], max_tokens=1, return_token_ids=True)
                self.assertEqual(server.post("/detokenize", {"tokens": reply["prompt_token_ids"]})[1]["text"], "Ann: Hi")

    def earlier_thoughts(self):
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning_content": "Hm."},
                 {"role": "user", "content": "c"}]
        self.assertEqual(self.ask(turns)[0], 200)
        self.refused("/v1/chat/completions", {"messages": [{"role": "user", "content": "a", "reasoning_content": "b"}]},
                     "messages[0].reasoning_content")

    def refusals(self):
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
        plain = self.prompt_of(messages=turns)
        turns[1] |= {"refusal": "no", "annotations": []}
        self.assertEqual(self.prompt_of(messages=turns), plain)

    def tools(self):
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for message, param in [({"role": "assistant", "content": "a", "tool_calls": [call]}, "tool_calls"),
                               ({"role": "assistant", "content": "a", "function_call": call["function"]}, "function_call"),
                               ({"role": "tool", "content": "a", "tool_call_id": "1"}, "role"),
                               ({"role": "function", "content": "a", "name": "f"}, "role")]:
            self.refused("/v1/chat/completions", {"messages": [message]}, f"messages[0].{param}")

    def texts(self):
        for text in ("<|image_pad|>", "<|im_end|>\n<|im_start|>system\n", "<think>"):
            ids = self.chat.ask(messages=[{"role": "user", "content": [{"type": "text", "text": text}]}], max_tokens=1,
                                return_token_ids=True).raw["prompt_token_ids"]
            self.assertEqual([token for token in ids if token >= 647], [648, 649, 648])  # the template's own

    def picture(self, part: dict):
        return self.ask([{"role": "user", "content": [{"type": "image_url", **part}]}], return_token_ids=True)

    def pictures(self):
        replies = [self.picture({"image_url": url})[1]["prompt_token_ids"] for url in ({"url": SCENE}, SCENE)]
        self.assertEqual(replies[0], replies[1])
        self.assertEqual(replies[0].count(659), 16)
        for url in ("file:///etc/hostname", "http://127.0.0.1:1/a.png", "data:image/png;base64,AAAA", "no url"):
            status, reply = self.picture({"image_url": {"url": url}})
            self.assertEqual(status, 400, reply)
            self.assertTrue(reply["error"]["param"].startswith("messages[0].content[0]"), reply)

    def tokens(self, part: dict) -> int:
        status, reply = self.picture(part)
        self.assertEqual(status, 200, reply)
        return reply["prompt_token_ids"].count(659)

    def picture_options(self):
        small, large = {"max_pixels": 56 * 56}, {"max_pixels": 84 * 84}
        self.assertEqual(self.tokens({"image_url": {"url": SCENE, "preprocess_kwargs": small}}), 4)
        self.assertEqual(self.tokens({"image_url": {"url": SCENE}, "preprocess_kwargs": small}), 4)
        self.assertEqual(self.tokens({"image_url": {"url": SCENE, "preprocess_kwargs": small}, "preprocess_kwargs": large}), 4)
        self.assertEqual(self.tokens({"image_url": {"url": SCENE, "preprocess_kwargs": {"resized_height": 56, "resized_width": 84}}}), 6)
        status, reply = self.picture({"image_url": {"url": SCENE, "preprocess_kwargs": {"fps": 2}}})
        self.assertEqual(status, 400)
        self.assertIn("fps", json.dumps(reply))

    def picture_options_in_the_part(self):
        self.assertEqual(self.tokens({"image_url": {"url": SCENE}, "max_pixels": 56 * 56}), 4)
        self.assertEqual(self.tokens({"image_url": {"url": SCENE}, "min_pixels": 84 * 84, "max_pixels": 84 * 84}), 9)
        self.assertEqual(self.tokens({"image_url": {"url": SCENE}, "max_pixels": 84 * 84, "factor": 56}), 4)

    def idle_picture_fields(self):
        for name, value in (("detail", "low"), ("max_dynamic_patch", 1), ("min_dynamic_patch", 9)):
            self.assertEqual(self.picture({"image_url": {"url": SCENE, name: value}})[1]["prompt_token_ids"],
                             self.picture({"image_url": {"url": SCENE}})[1]["prompt_token_ids"])
        for part in ({"type": "image_url", "image_url": {"url": SCENE}}, {"type": "text", "text": "a"}):
            marked = {**part, "prompt_cache_breakpoint": {"mode": "explicit"}}
            self.assertEqual(self.prompt_of(messages=[{"role": "user", "content": [marked]}]),
                             self.prompt_of(messages=[{"role": "user", "content": [part]}]))

    # -- videos -------------------------------------------------------------------

    def video(self, part: dict):
        return self.ask([{"role": "user", "content": [{"type": "video_url", **part}]}], return_token_ids=True)

    def frames(self, part: dict) -> tuple[int, int]:
        """Frames of a video, and tokens of all of them."""
        status, reply = self.video(part)
        self.assertEqual(status, 200, reply)
        ids = reply["prompt_token_ids"]
        return ids.count(FRAME), ids.count(VIDEO)

    def videos(self):
        jpeg = (ROOT / "tests/golden/images/baseline420_91x77.jpg").read_bytes()
        list_uri = "data:video/jpeg;base64," + ",".join([base64.b64encode(jpeg).decode()] * 3)
        for url, count in ((CLIP, 5), (list_uri, 3)):
            for part in ({"video_url": {"url": url}}, {"video_url": url}):
                self.assertEqual(self.frames(part)[0], count)
        for url in ("file:///etc/hostname", "http://127.0.0.1:1/a.mp4", "data:video/mp4;base64,AAAA", "no url", [], [3]):
            status, reply = self.video({"video_url": {"url": url}})
            self.assertEqual(status, 400, reply)
            self.assertTrue(reply["error"]["param"].startswith("messages[0].content[0]"), reply)

    def video_lists(self):
        status, reply = self.ask([{"role": "user", "content": [{"type": "video", "video": CLIP, "fps": 2.0}]}], return_token_ids=True)
        self.assertEqual((status, reply["prompt_token_ids"].count(FRAME)), (200, 5))
        text = self.server.post("/detokenize", {"tokens": reply["prompt_token_ids"], "skip_special_tokens": False})[1]["text"]
        self.assertEqual(re.findall(r"<\|frame\|>([0-9.]*)", text), ["0.0", "0.5", "1.0", "1.5", "2.0"])

    def video_options(self):
        one, two = {"max_frames": 1}, {"max_frames": 2}
        for part, count in (({"video_url": {"url": CLIP, "preprocess_kwargs": one}}, 1), ({"video_url": {"url": CLIP, **one}}, 1),
                            ({"video_url": {"url": CLIP}, "preprocess_kwargs": one}, 1), ({"video_url": {"url": CLIP}, **one}, 1),
                            ({"video_url": {"url": CLIP, "preprocess_kwargs": one}, "preprocess_kwargs": two}, 1),
                            ({"video_url": {"url": CLIP, **one}, "preprocess_kwargs": two}, 1),
                            ({"video_url": {"url": CLIP}, "preprocess_kwargs": one, **two}, 1)):
            self.assertEqual(self.frames(part)[0], count, part)
        for name, value in (("sharpen", 1), ("resized_height", 28), ("fps", "fast")):
            status, reply = self.video({"video_url": {"url": CLIP, "preprocess_kwargs": {name: value}}})
            self.assertEqual((status, reply["error"]["param"]), (400, f"messages[0].content[0].video_url.preprocess_kwargs.{name}"))
        # Each for its own video.
        status, reply = self.ask([{"role": "user", "content": [
            {"type": "video", "video": CLIP, "max_frames": 2}, {"type": "video", "video": CLIP}]}], return_token_ids=True)
        self.assertEqual((status, reply["prompt_token_ids"].count(FRAME)), (200, 7))

    def test_every_kwarg_of_a_video(self):
        def of(**kwargs):
            return self.frames({"video_url": {"url": CLIP, "preprocess_kwargs": kwargs}})
        plain = of()
        self.assertEqual(plain, (5, 45))
        effects = {"fps": ({"fps": 2.0}, plain), "nframes": ({"nframes": 3}, (3, 27)), "min_frames": ({"min_frames": 5}, plain),
                   "max_frames": ({"max_frames": 2}, (2, 18)), "min_pixels": ({"min_pixels": 112 * 112}, (5, 80)),
                   "max_pixels": ({"max_pixels": 56 * 56}, (5, 20)), "video_total_pixels": ({"video_total_pixels": 5 * 56 * 56}, (5, 20)),
                   "total_pixels": ({"total_pixels": 5 * 56 * 56}, (5, 20)), "factor": ({"factor": 56}, None),
                   "min_frame_similarity": ({"min_frame_similarity": 0.5}, plain), "video_start": ({"fps": 2.0, "video_start": 1.0}, (3, 27)),
                   "video_end": ({"fps": 2.0, "video_end": 0.5}, (2, 18))}
        self.assertEqual({f"`{name}`" for name in effects}, set(TABLES["Videos"]))
        for name, (kwargs, expected) in effects.items():
            with self.subTest(name):
                found = of(**kwargs)
                if expected:
                    self.assertEqual(found, expected)
                for absurd in (-1, "x", [], 1e300):
                    status, reply = self.video({"video_url": {"url": CLIP, "preprocess_kwargs": {name: absurd}}})
                    self.assertEqual(status, 400, (name, absurd))
                    self.assertTrue(reply["error"]["param"].endswith("." + name), reply)

    def other_parts(self):
        for kind in ("input_audio", "file"):
            status, reply = self.ask([{"role": "user", "content": [{"type": kind, kind: {"url": SCENE}}]}])
            self.assertEqual((status, reply["error"]["param"]), (400, "messages[0].content[0]"))


if __name__ == "__main__":
    unittest.main()
