"""`keye run`: answers of the model that comes with the program, sampling flags, conversations, Ctrl-C."""

import json
import signal
import subprocess
import time
import unittest

from program import CHECKPOINTS, NANO, PROGRAM, ROOT, Case, data_uri, golden, golden_messages

SCENES = ["scene_0_describe", "scene_1_count", "scene_2_number", "scene_3_word", "scene_4_tallest", "scene_5_color",
          "scene_6_describe", "scene_7_order"]


def question(name: str) -> tuple[str, str, str]:
    """Picture, question and true answer of a golden scene."""
    picture, text = golden_messages("keye-nano", name)[0]["content"]
    return picture["image_url"]["url"], text["text"], golden("keye-nano", name)["case"]["truth"]


class Answers(Case):
    def test_the_scenes_are_answered_right(self):
        for dtype in ("bf16", "f32"):
            for name in SCENES:
                picture, text, truth = question(name)
                done = self.run_ok("run", "--image", picture, "--prompt", text, "--dtype", dtype)
                self.assertEqual(done.out, truth + "\n", f"{name}, {dtype}")
                self.assertEqual(done.err, "")

    def test_the_greedy_tokens_of_the_goldens(self):
        for name in SCENES[:4]:
            picture, text, _ = question(name)
            tokens = golden("keye-nano", name)["greedy"]["tokens"]
            expected = self.run_ok("detokenize", "--model", NANO, "--ids", json.dumps(tokens)).out
            done = self.run_ok("run", "--image", picture, "--prompt", text, "--dtype", "f32", "--ignore-eos", "--show-special-tokens",
                               "--max-tokens", len(tokens))
            self.assertEqual(done.out, expected + "\n")

    def test_the_pictures_that_come_with_the_model(self):
        done = self.run_ok("run", "--image", NANO / "chart.png", "--prompt", "How many bars does the chart have?")
        self.assertEqual(done.out, "4\n")

    def test_json(self):
        picture, text, truth = question("scene_3_word")
        done = self.run_ok("run", "--image", picture, "--prompt", text, "--json")
        self.assertEqual(done.out.count("\n"), 1)
        answer = done.json
        self.assertEqual(answer["text"], truth)
        self.assertEqual(answer["finish_reason"], "stop")
        self.assertEqual(answer["prompt_tokens"], len(golden("keye-nano", "scene_3_word")["input_ids"]))
        self.assertEqual(answer["completion_tokens"], 2)  # the word and the end
        self.assertEqual(set(answer["timings"]), {"load_s", "vision_s", "prefill_s", "decode_s"})
        for seconds in answer["timings"].values():
            self.assertGreaterEqual(seconds, 0)
        self.assertEqual(set(answer), {"text", "finish_reason", "prompt_tokens", "completion_tokens", "timings"})

    def test_forms_of_a_picture(self):
        picture, text, truth = question("scene_0_describe")
        for form in (picture, "file://" + picture, data_uri(picture)):
            self.assertEqual(self.run_ok("run", "--image", form, "--prompt", text).out, truth + "\n")

    def test_messages(self):
        messages = self.write_json("m.json", golden_messages("keye-nano", "scene_7_order"))
        self.assertEqual(self.run_ok("run", "--messages", messages).out, question("scene_7_order")[2] + "\n")

    def test_two_pictures_and_a_system_message_reach_the_prompt(self):
        picture = question("scene_0_describe")[0]
        one = self.run_ok("run", "--image", picture, "--prompt", "hi", "--json", "--max-tokens", 1).json["prompt_tokens"]
        two = self.run_ok("run", "--image", picture, "--image", picture, "--prompt", "hi", "--json", "--max-tokens", 1).json["prompt_tokens"]
        self.assertEqual(two - one, 18)  # 16 merged patches between two markers
        said = self.run_ok("run", "--image", picture, "--system", "hi", "--prompt", "hi", "--json", "--max-tokens", 1).json["prompt_tokens"]
        self.assertEqual(said - one, 6)  # <|im_start|> "system" "\n" "hi" <|im_end|> "\n"

    def test_other_checkpoints(self):
        for kind in ("qwen3-text", "qwen3-moe-text", "keye-1_5", "keye-2_0"):
            answer = self.run_ok("run", "--model", CHECKPOINTS / kind, "--prompt", "Hello", "--max-tokens", 4, "--temperature", 0, "--ignore-eos",
                                 "--json").json
            self.assertEqual((answer["completion_tokens"], answer["finish_reason"]), (4, "length"))


class Sampling(Case):
    RUN = ["run", "--prompt", "Tell me about the red star", "--ignore-eos", "--max-tokens", "24", "--json"]

    def text(self, *flags) -> str:
        return self.run_ok(*self.RUN, *flags).json["text"]

    def test_a_seed_gives_the_same_reply_again(self):
        hot = ["--temperature", "1.5"]
        replies = [self.text(*hot, "--seed", seed) for seed in (1, 2, 3)]
        self.assertEqual(len(set(replies)), 3)
        self.assertEqual(replies[0], self.text(*hot, "--seed", "1"))
        self.assertEqual(replies[0], self.text(*hot, "--seed", "1", "--threads", "1"))

    def test_without_a_seed_replies_differ(self):
        self.assertGreater(len({self.text("--temperature", "2") for _ in range(3)}), 1)

    def test_temperature_zero_is_the_default_of_this_model(self):
        greedy = self.text()
        self.assertEqual(greedy, self.text("--temperature", "0"))
        self.assertEqual(greedy, self.text("--temperature", "0", "--seed", "9"))
        self.assertEqual(greedy, self.text("--temperature", "1.5", "--top-k", "1", "--seed", "9"))
        self.assertEqual(greedy, self.text("--temperature", "1.5", "--top-p", "0.000001", "--seed", "9"))
        self.assertEqual(greedy, self.text("--temperature", "1.5", "--min-p", "1", "--seed", "9"))

    def test_penalties_and_bias_change_the_reply(self):
        greedy = self.text()
        for flags in (["--repetition-penalty", "50"], ["--presence-penalty", "2"], ["--frequency-penalty", "2"]):
            self.assertNotEqual(greedy, self.text(*flags), flags)
        word = self.run_ok("detokenize", "--model", NANO, "--ids", "[567]").out
        self.assertEqual(self.text("--logit-bias", "567=100"), word * 24)

    def test_n(self):
        flags = ["--temperature", "1.5", "--seed", "5"]
        answer = self.run_ok(*self.RUN, *flags, "--n", "3").json
        self.assertEqual([choice["completion_tokens"] for choice in answer["choices"]], [24] * 3)
        self.assertEqual(answer["completion_tokens"], 72)
        self.assertEqual([choice["text"] for choice in answer["choices"]],
                         [self.text("--temperature", "1.5", "--seed", seed) for seed in (5, 6, 7)])
        self.assertEqual(answer["text"], answer["choices"][0]["text"])
        printed = self.run_ok(*[flag for flag in self.RUN if flag != "--json"], *flags, "--n", "3").out
        self.assertEqual(printed, "".join(f"[{i}] {choice['text']}\n" for i, choice in enumerate(answer["choices"], 1)))


class Ends(Case):
    def describe(self, *flags) -> dict:
        picture, text, _ = question("scene_0_describe")  # "The image shows a green triangle at the bottom right."
        return self.run_ok("run", "--image", picture, "--prompt", text, "--json", *flags).json

    def test_stop_strings(self):
        for stops, text in [
            (["triangle"], "The image shows a green "),
            (["green triangle at"], "The image shows a "),  # over several tokens
            (["right", "imag"], "The "),                    # the first to come, in the middle of a token
            (["The"], ""),
        ]:
            answer = self.describe(*[word for stop in stops for word in ("--stop", stop)])
            self.assertEqual((answer["text"], answer["finish_reason"]), (text, "stop"))
        held = self.describe("--stop", "right. Or not")  # begins, and does not come
        self.assertEqual(held["text"], "The image shows a green triangle at the bottom right.")

    def test_stop_tokens(self):
        tokens = golden("keye-nano", "scene_0_describe")["greedy"]["tokens"]
        answer = self.describe("--stop-token-id", tokens[5])
        self.assertEqual(answer["text"], self.run_ok("detokenize", "--model", NANO, "--ids", json.dumps(tokens[:5])).out)
        self.assertEqual((answer["finish_reason"], answer["completion_tokens"]), ("stop", 6))

    def test_max_tokens(self):
        answer = self.describe("--max-tokens", "3")
        self.assertEqual((answer["text"], answer["finish_reason"], answer["completion_tokens"]), ("The image shows", "length", 3))

    def test_ignore_eos(self):
        answer = self.describe("--max-tokens", "20", "--ignore-eos")
        self.assertEqual((answer["finish_reason"], answer["completion_tokens"]), ("length", 20))
        self.assertNotIn("<|im_end|>", answer["text"])
        self.assertIn("<|im_end|>", self.describe("--max-tokens", "20", "--ignore-eos", "--show-special-tokens")["text"])

    def test_a_prompt_that_does_not_fit_the_context(self):
        self.assert_fails(["run", "--prompt", "word " * 300, "--context", "256"], "prompt", "256")

    def test_a_reply_ends_with_the_context(self):
        answer = self.run_ok("run", "--prompt", "hi", "--context", "128", "--max-tokens", "99999", "--ignore-eos", "--json").json
        self.assertEqual(answer["finish_reason"], "length")
        self.assertEqual(answer["prompt_tokens"] + answer["completion_tokens"], 128)


class Conversation(Case):
    def test_questions_from_standard_input(self):
        picture, text, truth = question("scene_0_describe")
        done = self.run_ok("run", "--image", picture, stdin=f"{text}\n{text}\n")
        lines = done.out.split("\n")
        self.assertEqual(lines[0], truth)
        self.assertEqual(len(lines), 3)
        # The second answer is that of the whole conversation so far.
        messages = golden_messages("keye-nano", "scene_0_describe")
        messages += [{"role": "assistant", "content": truth}, {"role": "user", "content": text}]
        self.assertEqual(self.run_ok("run", "--messages", self.write_json("m.json", messages)).out, lines[1] + "\n")

    def test_a_last_line_without_a_newline_counts_and_an_empty_one_ends(self):
        word = self.run_ok("run", "--prompt", "Who are you?").out
        self.assertEqual(self.run_ok("run", stdin="Who are you?").out, word)
        self.assertEqual(self.run_ok("run", stdin="Who are you?\n\nWho are you?\n").out, word)
        self.assertEqual(self.run_ok("run", stdin="").out, "")


class Interrupts(Case):
    def start(self, *flags) -> subprocess.Popen:
        process = subprocess.Popen([PROGRAM, "run", *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def assert_ends(self, process: subprocess.Popen, sent: signal.Signals) -> tuple[bytes, bytes]:
        start = time.monotonic()
        process.send_signal(sent)
        out, err = process.communicate(timeout=10)
        self.assertEqual(process.returncode, 1, err)
        self.assertLess(time.monotonic() - start, 2)
        return out, err

    LONG = ["--prompt", "Who are you?", "--ignore-eos", "--max-tokens", "32000"]

    def test_in_the_middle_of_a_reply(self):
        for sent in (signal.SIGINT, signal.SIGTERM):
            process = self.start(*self.LONG)
            self.assertTrue(process.stdout.read(20))  # it is writing
            out, err = self.assert_ends(process, sent)
            self.assertTrue(out.endswith(b"\n"))
            self.assertEqual(err, b"")

    def test_json_says_that_the_reply_was_cut(self):
        process = self.start(*self.LONG, "--json")
        time.sleep(2)
        answer = json.loads(self.assert_ends(process, signal.SIGINT)[0])
        self.assertEqual(answer["finish_reason"], "cancelled")
        self.assertGreater(answer["completion_tokens"], 0)

    def test_while_waiting_for_a_question(self):
        process = self.start()
        process.stdin.write(b"Who are you?\n")
        process.stdin.flush()
        self.assertTrue(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(timeout=10), 1)  # its standard input is still open: only the signal can end it

    def test_a_reader_that_goes_away(self):
        process = self.start(*self.LONG)
        process.stdout.read(20)
        process.stdout.close()
        self.assertEqual(process.wait(timeout=10), 1)


if __name__ == "__main__":
    unittest.main()
