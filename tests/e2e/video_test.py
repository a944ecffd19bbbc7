"""Videos as a user has them: `keye run`, `preprocess`, `logits` and `video-plan` on clips and lists of frames, and the server."""

import array
import base64
import json
import re
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from program import CHECKPOINTS, GOLDEN, NANO, Case, data_uri, make_clip, read_tensors
from serving import Server

CLIPS = {name: GOLDEN / f"nano/clips/{name}_h264.mp4" for name in ("right", "up")}
ANSWERS = {"right": "From left to right.", "up": "Up."}
QUESTION = "Which way does the shape move?"
LISTS = {name: [GOLDEN / f"nano/clip_{name}_{i}.png" for i in range(5)] for name in CLIPS}
LONG = [GOLDEN / f"frames/clip_{i:02d}.png" for i in range(8)]


def clip_uri(name: str) -> str:
    return data_uri(CLIPS[name], "video/mp4")


@dataclass
class Values:
    shape: list
    values: list


def tensors_of(path) -> dict[str, Values]:
    codes = {"I64": "q", "I32": "i", "F32": "f"}
    return {name: Values(shape, list(array.array(codes[dtype], data))) for name, (dtype, shape, data) in read_tensors(path).items()}


def message(*parts, text: str = QUESTION) -> list:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


class Commands(Case):
    def test_a_clip_is_seen(self):
        for name, answer in ANSWERS.items():
            done = self.run_ok("run", "--video", CLIPS[name], "--prompt", QUESTION, "--temperature", 0)
            self.assertEqual(done.out, answer + "\n")

    def test_a_list_of_frames_is_seen(self):
        for name, answer in ANSWERS.items():
            done = self.run_ok("run", "--frames", *LISTS[name], "--fps", 2, "--prompt", QUESTION, "--temperature", 0)
            self.assertEqual(done.out, answer + "\n")

    def test_preprocess_writes_frames(self):
        out = self.folder / "video.safetensors"
        model = CHECKPOINTS / "keye-1_5"
        done = self.run_ok("preprocess", "--model", model, "--frames", *LONG, "--fps", 2, "--out", out)
        self.assertIn("8 of 8 frames of 168 x 252 resized to 168 x 252 (height x width), 6 fast ones to 140 x 224, 348 tokens", done.out)
        tensors = tensors_of(out)
        golden = next(row for row in json.loads((GOLDEN / "preprocess/videos.json").read_text())["videos"]
                      if row["name"] == "slowfast.frames_clip_2fps")
        self.assertEqual(tensors["video_frame_types"].values, golden["frame_types"])
        self.assertEqual(tensors["video_timestamps"].values, [i / 2 for i in range(8)])
        self.assertEqual(tensors["video_frame_indices"].values, golden["frame_indices"])
        self.assertEqual(tensors["video_frames"].values, [8])
        self.assertEqual(tensors["video_grid_thw"].values, [n for row in golden["grid_thw_per_frame"] for n in row])
        self.assertEqual(tensors["pixel_values_videos"].shape, [348 * 4, 3, 14, 14])

    def test_preprocess_of_a_clip(self):
        out = self.folder / "video.safetensors"
        self.run_ok("preprocess", "--video", CLIPS["right"], "--video-start", 1, "--nframes", 3, "--out", out)
        tensors = tensors_of(out)
        self.assertEqual(tensors["video_frame_indices"].values, [25, 43, 60])
        self.assertEqual([round(t, 3) for t in tensors["video_timestamps"].values], [1.0, 1.72, 2.4])
        self.assertEqual(tensors["video_frame_types"].values, [0, 0, 0])

    def test_logits_of_messages_with_videos(self):
        messages = self.folder / "messages.json"
        part = {"type": "video", "video": [str(frame) for frame in LISTS["up"]], "fps": 2.0}
        messages.write_text(json.dumps(message(part)))
        out = self.folder / "logits.safetensors"
        self.run_ok("logits", "--messages", messages, "--out", out)
        expected = json.loads((GOLDEN / "expected/keye-nano/clip_up.json").read_text())
        self.assertEqual(tensors_of(out)["input_ids"].values, expected["input_ids"])

    def test_the_plan_is_what_happens(self):
        for flags, frames in ((("--fps", 4), 9), (("--nframes", 7), 7), (("--video-end", 1), 2), ((), 4)):
            plan = self.run_ok("video-plan", "--video", CLIPS["up"], "--json", *flags).json[0]
            self.assertEqual((plan["frames"], plan["tokens_per_frame"], plan["fits_context"]), (frames, 9, True))
            done = self.run_ok("run", "--video", CLIPS["up"], *flags, "--prompt", "x", "--max-tokens", 1, "--json")
            # The turns' own tokens come to it.
            self.assertLess(abs(done.json["prompt_tokens"] - plan["tokens"]), 40)
        self.assertEqual(plan["clip"]["frames"], 61)
        text = self.run_ok("video-plan", "--video", CLIPS["up"]).out
        self.assertIn("84 x 84 (height x width), 9 tokens", text)

    def test_wrong_videos_are_refused_by_name(self):
        self.assert_fails(["run", "--video", NANO / "config.json", "--prompt", "x"], "config.json")
        self.assert_fails(["run", "--video", "/nowhere.mp4", "--prompt", "x"], "/nowhere.mp4")
        self.assert_fails(["run", "--video", CLIPS["up"], "--fps", "0", "--prompt", "x"], "fps", "0")
        self.assert_fails(["video-plan", "--video", CLIPS["up"], "--model", CHECKPOINTS / "keye-8b"], "takes no videos")
        self.assert_fails(["preprocess", "--video", CLIPS["up"], "--video-start", "99", "--out", self.folder / "x"], "video_start",
                          "no frame is left")


class Served(unittest.TestCase):
    maxDiff = 2000

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--allowed-local-media-path", GOLDEN)
        cls.addClassCleanup(cls.server.stop)

    def answer(self, *parts, text: str = QUESTION, **fields) -> dict:
        return self.server.chat(message(*parts, text=text), temperature=0, **fields)

    def said(self, *parts, **fields) -> str:
        return self.answer(*parts, **fields)["choices"][0]["message"]["content"]

    def test_every_way_to_send_one(self):
        for name, answer in ANSWERS.items():
            frames = [data_uri(frame) for frame in LISTS[name]]
            for part in ({"type": "video_url", "video_url": {"url": clip_uri(name)}},
                         {"type": "video_url", "video_url": {"url": CLIPS[name].as_uri()}},
                         {"type": "video_url", "video_url": {"url": frames, "fps": 2.0}},
                         {"type": "video", "video": frames, "fps": 2.0},
                         {"type": "video", "video": [frame.as_uri() for frame in LISTS[name]], "fps": 2.0}):
                self.assertEqual(self.said(part), answer)

    def test_several_in_one_conversation(self):
        picture = {"type": "image_url", "image_url": {"url": data_uri(NANO / "chart.png")}}
        right, up = ({"type": "video_url", "video_url": {"url": clip_uri(name)}} for name in ("right", "up"))
        reply = self.answer(right, picture, up, return_token_ids=True)
        text = self.server.post("/detokenize", {"tokens": reply["prompt_token_ids"], "skip_special_tokens": False})[1]["text"]
        marks = re.findall(r"<\|vision_start\|>(<\|frame\|>|<\|image_pad\|>)", text)
        self.assertEqual(marks, ["<|frame|>", "<|image_pad|>", "<|frame|>"])

    def test_a_follow_up_question_computes_only_the_new_text(self):
        video = {"type": "video", "video": [data_uri(LONG[i % 8]) for i in range(120)], "fps": 2.0, "max_pixels": 7056}
        first = self.server.chat(message(video, text="Describe this video."), temperature=0, max_tokens=8)
        turns = message(video, text="Describe this video.") + [
            {"role": "assistant", "content": first["choices"][0]["message"]["content"]}, {"role": "user", "content": QUESTION}]
        usage = self.server.chat(turns, temperature=0, max_tokens=4)["usage"]
        self.assertGreater(first["usage"]["prompt_tokens"], 120 * 6)
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        # All whole pages (of 64 tokens) of the first turn.
        self.assertGreaterEqual(cached, first["usage"]["prompt_tokens"] // 64 * 64)

    def test_limits(self):
        frame = base64.b64encode(LONG[0].read_bytes()).decode()
        status, reply = self.server.post("/v1/chat/completions", {"messages": message(
            {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64," + ",".join([frame] * 5000)}})})
        self.assertEqual((status, reply["error"]["param"]), (400, "messages[0].content[0]"))
        self.assertIn("5000 pictures, at most 4096", reply["error"]["message"])
        one = {"type": "video", "video": [data_uri(LONG[0])]}
        status, reply = self.server.post("/v1/chat/completions", {"messages": message(*[one] * 17)})
        self.assertEqual((status, reply["error"]["param"]), (400, "messages[0].content[16]"))
        big = {"type": "video", "video": [data_uri(LONG[0])] * 200, "min_pixels": 504 * 504, "max_pixels": 504 * 504}
        status, reply = self.server.post("/v1/chat/completions", {"messages": message(big)})
        self.assertEqual(status, 400)
        self.assertIn("lower fps", reply["error"]["message"])

    def test_a_stream_tells_how_far_it_is(self):
        video = {"type": "video", "video": [data_uri(LONG[i % 8]) for i in range(300)], "fps": 2.0}
        started = time.monotonic()
        status, headers, text = self.server.request("POST", "/v1/chat/completions",
                                                    {"messages": message(video), "max_tokens": 2, "stream": True})
        self.assertEqual((status, headers["Content-Type"]), (200, "text/event-stream; charset=utf-8"))
        told = re.findall(r"^: (?:video|vision|prefill) \d+ of \d+$", text, re.MULTILINE)
        self.assertTrue(told or time.monotonic() - started < 2, text[:500])
        self.assertTrue(text.endswith("data: [DONE]\n\n"))

    def test_other_frames_of_a_list_are_named(self):
        part = {"type": "video", "video": [data_uri(LONG[0]), data_uri(NANO / "chart.png")]}
        status, reply = self.server.post("/v1/chat/completions", {"messages": message(part)})
        self.assertEqual((status, reply["error"]["param"]), (400, "messages[0].content[0]"))
        self.assertIn("frame 1", reply["error"]["message"])

    def test_a_broken_clip_costs_one_request(self):
        whole = CLIPS["up"].read_bytes()
        for clip in (whole[: len(whole) // 2], b"\0" * 100, whole[:64] + b"\xff" * 200 + whole[264:]):
            url = "data:video/mp4;base64," + base64.b64encode(clip).decode()
            status, reply = self.server.post("/v1/chat/completions", {
                "messages": message({"type": "video_url", "video_url": {"url": url}}), "max_tokens": 2})
            self.assertIn(status, (200, 400), reply)
        self.assertEqual(self.said({"type": "video_url", "video_url": {"url": clip_uri("up")}}), ANSWERS["up"])

    def test_an_abort_while_it_is_prepared(self):
        """The reader goes away, and what was prepared for it is given up."""
        video = {"type": "video", "video": [data_uri(LONG[i % 8]) for i in range(800)], "fps": 2.0}
        body = {"messages": message(video), "max_tokens": 2, "rid": "slow"}
        done = threading.Event()
        replies = []

        def ask():
            replies.append(self.server.post("/v1/chat/completions", body))
            done.set()
        threading.Thread(target=ask).start()
        deadline = time.monotonic() + 60
        while not done.is_set() and time.monotonic() < deadline:
            self.server.post("/abort_request", {"rid": "slow"})  # without effect before it has arrived
            time.sleep(0.01)
        self.assertTrue(done.wait(30))
        status, reply = replies[0]
        self.assertTrue(status == 499 or reply["choices"][0]["finish_reason"] == "abort", reply)
        self.assertEqual(self.said({"type": "video_url", "video_url": {"url": clip_uri("up")}}), ANSWERS["up"])


class Kept(unittest.TestCase):
    """What is kept of a clip: of the questions about it only the first decodes it."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="keye-e2e-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.server = Server("--allowed-local-media-path", cls.folder)
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        self.server.post_ok("/flush_cache", {})
        self.before = self.server.metrics()

    def since(self, *names) -> list[float]:
        """How much these counters have risen in this test."""
        now = self.server.metrics()
        return [now[f"keye_{name}_total"] - self.before[f"keye_{name}_total"] for name in names]

    def videos(self) -> list[float]:
        """Prepared, and found."""
        return self.since("videos_prepared", "videos_found")

    def ask(self, messages, **fields) -> dict:
        return self.server.chat(messages, temperature=0, max_tokens=8, **fields)

    def test_a_follow_up_question_on_ten_minutes(self):
        clip = make_clip(self.folder / "long.mp4", width=64, height=64, fps=2, frames=1200, gop=24, preset="ultrafast", crf=40)
        asked = message({"type": "video_url", "video_url": {"url": data_uri(clip, "video/mp4")}}, text="Describe this video.")
        first = self.ask(asked)
        self.assertEqual(self.since("videos_prepared", "videos_found", "pictures_encoded"), [1, 0, 1200])
        tokens = first["usage"]["prompt_tokens"]
        self.assertGreater(tokens, 1200 * 5)
        turns = asked + [{"role": "assistant", "content": first["choices"][0]["message"]["content"]},
                         {"role": "user", "content": QUESTION}]
        self.before = self.server.metrics()
        second = self.ask(turns)
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        # All whole pages (of 64 tokens) of the first turn.
        self.assertGreaterEqual(cached, tokens // 64 * 64)
        self.assertEqual(self.since("videos_prepared", "videos_found", "pictures_encoded", "engine_prompt_tokens"),
                         [0, 1, 0, second["usage"]["prompt_tokens"] - cached])
        # The answer is that of a server which has forgotten everything.
        self.server.post_ok("/flush_cache", {})
        cold = self.ask(turns)
        self.assertEqual(cold["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0), 0)
        self.assertEqual(self.videos(), [1, 1])
        self.assertEqual(cold["choices"][0]["message"], second["choices"][0]["message"])

    def test_what_else_is_the_same_video(self):
        clip = make_clip(self.folder / "short.mp4", width=64, height=64, frames=50)
        sent = {"type": "video_url", "video_url": {"url": data_uri(clip, "video/mp4")}}
        named = {"type": "video_url", "video_url": {"url": clip.as_uri()}}
        frames = {"type": "video", "video": [data_uri(frame) for frame in LISTS["up"]], "fps": 2.0}
        for part in (sent, named, frames):
            for counts in ([1, 0], [1, 1]):
                self.ask(message(part))
                self.assertEqual(self.videos(), counts)
            self.before = self.server.metrics()
        self.ask(message(sent, sent))
        self.assertEqual(self.videos(), [0, 2])
        self.ask(message({**sent, "fps": 1.0}))
        self.assertEqual(self.videos(), [1, 2])
        self.ask(message(sent), cache_salt="mine")  # nobody learns from the clock what others have shown
        self.assertEqual(self.videos(), [2, 2])
        # The same name, other bytes.
        make_clip(clip, width=64, height=64, frames=75)
        self.ask(message(named))
        self.assertEqual(self.videos(), [3, 2])

    def test_one_decodes_for_all_who_ask_at_the_same_time(self):
        part = {"type": "video_url", "video_url": {"url": clip_uri("up")}}
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda _: self.ask(message(part)), range(6)))
        self.assertEqual({reply["choices"][0]["message"]["content"] for reply in replies}, {ANSWERS["up"]})
        self.assertEqual(self.videos(), [1, 5])

    def test_it_can_be_turned_off(self):
        part = {"type": "video_url", "video_url": {"url": clip_uri("up")}}
        with Server("--video-cache-mib", 0) as server:
            for _ in range(2):
                self.assertEqual(server.chat(message(part), temperature=0)["choices"][0]["message"]["content"], ANSWERS["up"])
            now = server.metrics()
        self.assertEqual((now["keye_videos_prepared_total"], now["keye_videos_found_total"], now["keye_video_cache_bytes"]), (2, 0, 0))


if __name__ == "__main__":
    unittest.main()
