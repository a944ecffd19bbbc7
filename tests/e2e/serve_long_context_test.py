#!/usr/bin/env python3
"""A conversation as long as the model's context, through the server. KEYE_LONG_CONTEXT says how many tokens that are; with
262144 and -v it is what docs/reliability.md reports."""

import json
import os
import sys
import tempfile
import time
import unittest
from pathlib import Path

from program import NANO, user
from serving import SANITIZE, Server
from streams import Stream

CONTEXT = int(os.environ.get("KEYE_LONG_CONTEXT", 6144 if SANITIZE else 16384))
SENTENCE = "the red circle is on the left. "
ABORT_S = 0.1
SLACK_S = 5.0 if SANITIZE else 0.4  # that a busy machine needs to notice


def report(text: str) -> None:
    if "-v" in sys.argv:
        print(text, file=sys.stderr, flush=True)


class LongContext(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="keye-e2e-")
        cls.addClassCleanup(folder.cleanup)
        model = Path(folder.name)
        for file in NANO.iterdir():
            (model / file.name).symlink_to(file)
        config = json.loads((NANO / "config.json").read_text())
        (model / "config.json").unlink()
        (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": CONTEXT}))
        cls.server = Server("--max-total-tokens", CONTEXT + 4096, "--ping-interval", 0.2, model=model)
        cls.addClassCleanup(cls.server.stop)
        one, two = (cls.tokens_of(SENTENCE * count) for count in (100, 200))
        cls.per_sentence = (two - one) / 100

    @classmethod
    def tokens_of(cls, text: str) -> int:
        return cls.server.post_ok("/tokenize", {"prompt": text})["count"]

    def text(self, begin: str, tokens: int) -> str:
        """Begins differently each time: nothing of it is in the cache."""
        return begin + SENTENCE * int(tokens / self.per_sentence)

    def ask(self, messages: list, **fields):
        """(events, seconds to the first token, pings before it)"""
        body = {"messages": messages, "ignore_eos": True, "temperature": 0, "stream_options": {"include_usage": True}, **fields}
        begin = time.monotonic()
        with Stream(self.server, body) as stream:
            stream.socket.settimeout(3600)
            stream.wait_for_token()
            seconds = time.monotonic() - begin
            pings = stream.raw.partition(b"data:")[0].count(b": ping\n\n")
            return stream.read_all(), seconds, pings

    def test_a_prompt_that_fills_it_and_a_question_that_follows(self):
        messages = user(self.text("First. ", CONTEXT - 600))
        events, first_s, pings = self.ask(messages, max_tokens=16)
        prompt = events[-1]["usage"]["prompt_tokens"]
        self.assertGreater(prompt, CONTEXT - 900)
        self.assertGreaterEqual(pings, 1)
        answer = "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
        follow_up = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": "And what is blue?"}]
        events, next_s, _ = self.ask(follow_up, max_tokens=16)
        usage = events[-1]["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(usage["prompt_tokens"], prompt)
        self.assertGreater(cached, prompt - 64 - 16)  # whole pages, up to the words that only ask for the answer
        self.assertLess(next_s, first_s / 2)
        report(f"{prompt} tokens: first token after {first_s:.2f} s, {pings} pings; a follow-up of {usage['prompt_tokens'] - cached} "
               f"new tokens: {next_s:.2f} s; resident {self.server.resident_mb():.0f} MB")

    def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(self):
        text = self.text("Long. ", CONTEXT + 200)
        status, reply = self.server.post("/v1/chat/completions", {"messages": user(text), "max_tokens": 1})
        self.assertEqual((status, reply["error"]["code"]), (400, "context_length_exceeded"))
        message = reply["error"]["message"]
        self.assertIn(str(CONTEXT), message)
        numbers = [int(word) for word in message.replace(",", " ").split() if word.isdigit()]
        self.assertTrue(any(CONTEXT < number < CONTEXT + 600 for number in numbers), message)

    def test_leaving_within_the_prefill_frees_everything_at_once(self):
        with Stream(self.server, {"messages": user(self.text("Other. ", CONTEXT - 600)), "max_tokens": 1}) as stream:
            stream.read_until(lambda raw: b": ping\n\n" in raw)
            self.server.wait_until(lambda: self.server.metrics()["keye_num_running_reqs"] == 1, "it is being prefilled")
            self.assertNotIn(b"data:", stream.raw)
            stream.reset()
            begin = time.monotonic()
            self.server.wait_until_idle()
        seconds = time.monotonic() - begin
        self.assertLess(seconds, ABORT_S + SLACK_S)
        report(f"left in the prefill: everything free after {1000 * seconds:.0f} ms")


if __name__ == "__main__":
    unittest.main()
