"""Thoughts and answers, split by the server: every golden reply, in pieces and as a whole."""

import json
import tempfile
import unittest
from pathlib import Path

from parrot import Parrot
from program import GOLDEN
from serving import Server

CASES = json.loads((GOLDEN / "replies/replies.json").read_text())["cases"]
# Checkpoints whose replies have these styles.
SOURCES = {"auto_think": "keye-1_5", "think": "qwen3-text"}


class Thinking(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="keye-e2e-")
        cls.addClassCleanup(folder.cleanup)
        cls.parrots, cls.servers, cls.cases = {}, {}, {}
        for style, source in SOURCES.items():
            cases = {case["name"]: case for case in CASES if case["style"] == style}
            parrot = Parrot(Path(folder.name) / style, source,
                            {name: (case["inside"] == "think", case["reply"]) for name, case in cases.items()})
            cls.parrots[style] = parrot
            cls.cases[style] = {name: cases[name] for name in parrot.pieces}
            cls.servers[style] = Server(model=parrot.folder)
            cls.addClassCleanup(cls.servers[style].stop)

    def each(self, check):
        """check(server, name, case) for every case"""
        for style, cases in self.cases.items():
            for name, case in cases.items():
                with self.subTest(name):
                    check(self.servers[style], name, case)

    def stream(self, server: Server, name: str, **fields) -> tuple[str, str, list]:
        """Reasoning, content, and all deltas."""
        events = server.stream("/v1/chat/completions", {"messages": [{"role": "user", "content": name}], **fields})
        deltas = [event["choices"][0]["delta"] for event in events]
        return ("".join(delta.get("reasoning_content", "") for delta in deltas),
                "".join(delta.get("content", "") for delta in deltas), deltas)

    def test_nearly_all_golden_replies_are_said(self):
        self.assertGreaterEqual(len(self.cases["auto_think"]), 135)
        self.assertGreaterEqual(len(self.cases["think"]), 52)
        pieces = [piece for parrot in self.parrots.values() for reply in parrot.pieces.values() for piece in reply]
        self.assertGreater(len(pieces), 400)

    def test_whole_replies(self):
        def check(server, name, case):
            message = server.chat(name)["choices"][0]["message"]
            self.assertEqual((message.get("reasoning_content", ""), message["content"]), (case["reasoning"], case["content"]))
        self.each(check)

    def test_streams(self):
        def check(server, name, case):
            reasoning, content, deltas = self.stream(server, name)
            self.assertEqual((reasoning, content), (case["reasoning"], case["content"]))
            # Thoughts come before the answer.
            kinds = [kind for delta in deltas for kind in ("reasoning_content", "content") if delta.get(kind)]
            self.assertEqual(kinds, sorted(kinds, reverse=True))
        self.each(check)

    def test_unseparated_replies(self):
        def check(server, name, case):
            reply = server.chat(name, separate_reasoning=False)
            self.assertEqual(reply["choices"][0]["message"], {"role": "assistant", "content": case["reply"]})
            self.assertEqual(reply["usage"]["completion_tokens_details"]["reasoning_tokens"], 0)
            self.assertEqual(self.stream(server, name, separate_reasoning=False)[:2], ("", case["reply"]))
        self.each(check)

    def test_completions_and_generate_do_not_split(self):
        server, name = self.servers["think"], "think_think"
        prompt = server.chat(name, return_token_ids=True)["prompt_token_ids"]
        reply = self.cases["think"][name]["reply"]
        self.assertEqual(server.post("/v1/completions", {"prompt": prompt})[1]["choices"][0]["text"], reply)
        self.assertEqual(server.post("/generate", {"input_ids": prompt})[1]["text"], reply)

    def test_a_stream_shows_thoughts_as_they_come(self):
        server, name = self.servers["think"], "think_think"
        _, _, deltas = self.stream(server, name)
        thoughts = [delta["reasoning_content"] for delta in deltas if delta.get("reasoning_content")]
        self.assertGreater(len(thoughts), 1, self.parrots["think"].pieces[name])

    def test_usage_counts_thoughts(self):
        server, name = self.servers["think"], "think_think"
        pieces = self.parrots["think"].pieces[name]
        usage = server.chat(name)["usage"]
        self.assertEqual(usage["completion_tokens"], len(pieces) + 1)
        self.assertGreater(usage["completion_tokens_details"]["reasoning_tokens"], 0)
        self.assertLess(usage["completion_tokens_details"]["reasoning_tokens"], len(pieces))

    def test_stop_strings_are_seen_in_thoughts_too(self):
        server, name = self.servers["think"], "think_think"  # <think>\nIt has two wheels.\n</think>\n\nA bicycle.
        choice = server.chat(name, stop=["two"])["choices"][0]
        self.assertEqual((choice["message"]["reasoning_content"], choice["message"]["content"]), ("\nIt has ", ""))
        self.assertEqual((choice["finish_reason"], choice["matched_stop"]), ("stop", "two"))


class Modes(unittest.TestCase):
    """`/think` and `/no_think` at the end of a message, and neither: the server leaves them to the model."""

    REPLIES = {
        "How many?/think": (False, "<think>One, two.</think><answer>Two.</answer>"),
        "How many?/no_think": (False, "2, that is all."),
        "How many?": (False, "<analysis>Easy, so /no_think it is.</analysis>Two!"),
        "How many of them?": (False, "<analysis>Hard: /think about it.</analysis><think>1 + 1 = 2</think><answer>It is 2.</answer>"),
    }

    def test_modes(self):
        with tempfile.TemporaryDirectory(prefix="keye-e2e-") as folder:
            parrot = Parrot(Path(folder) / "modes", "keye-1_5", self.REPLIES)
            self.assertEqual(parrot.pieces.keys(), self.REPLIES.keys())
            with Server(model=parrot.folder) as server:
                expected = {
                    "How many?/think": ("One, two.", "Two."),
                    "How many?/no_think": ("", "2, that is all."),
                    "How many?": ("Easy, so /no_think it is.", "Two!"),
                    "How many of them?": ("Hard: /think about it.\n1 + 1 = 2", "It is 2."),
                }
                for question, (reasoning, content) in expected.items():
                    reply = server.chat(question, return_token_ids=True)
                    message = reply["choices"][0]["message"]
                    self.assertEqual((message.get("reasoning_content", ""), message["content"]), (reasoning, content))
                    prompt = server.post("/detokenize", {"tokens": reply["prompt_token_ids"], "skip_special_tokens": False})[1]["text"]
                    self.assertIn(f"<|im_start|>user\n{question}<|im_end|>\n", prompt)


if __name__ == "__main__":
    unittest.main()
