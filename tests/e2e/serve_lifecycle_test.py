"""Starting, draining and ending; aborts at every stage; limits and priorities: whatever happens to a request, it ends once,
and all that it held comes back."""

import json
import os
import random
import signal
import socket
import struct
import threading
import time
import unittest

from program import NANO, Case, data_uri, user
from serving import Server
from streams import CHAT, LONG, TALKATIVE, WORDY, InBackground, SlowPictures, Stream, token_ids


# -- starting ----------------------------------------------------------------


class Starting(Case):
    def folder_that_waits(self):
        """A checkpoint whose config.json is a pipe: loading waits until finish() writes it."""
        folder = self.checkpoint(NANO, config__json=None)
        os.mkfifo(folder / "config.json")
        def finish():
            (folder / "config.json").write_bytes((NANO / "config.json").read_bytes())
        return folder, finish

    def test_not_ready_while_loading(self):
        folder, finish = self.folder_that_waits()
        server = Server("--served-model-name", "nano", model=folder, wait=False)
        try:
            for _ in range(3):
                status, _, text = server.get("/health")
                self.assertEqual((status, json.loads(text)), (503, {"status": "loading"}))
            for path, body in ((CHAT, LONG), ("/v1/completions", {"prompt": "a"}), ("/generate", {"text": "a"}), ("/tokenize", {"prompt": "a"})):
                status, headers, text = server.request("POST", path, body)
                self.assertEqual((status, headers["Retry-After"]), (503, "5"), path)
                self.assertIn("being loaded", json.loads(text)["error"]["message"])
            self.assertEqual(server.get("/v1/models")[0], 503)
            self.assertEqual(server.get("/health_generate")[0], 503)
            self.assertEqual(server.get("/get_server_info")[0], 200)
            self.assertEqual(server.get("/metrics")[0], 200)
        finally:
            finish()
        server.wait_for_log("serving nano")
        self.assertEqual(server.get("/health")[0], 200)
        self.assertEqual(server.get("/health_generate")[0], 200)
        server.chat("Who are you?", max_tokens=2)
        server.stop()

    def test_a_signal_while_loading_ends_it(self):
        folder, _ = self.folder_that_waits()
        server = Server(model=folder, wait=False)
        self.assertEqual(server.get("/health")[0], 503)
        start = time.monotonic()
        server.stop(timeout=10)
        self.assertLess(time.monotonic() - start, 5)
        server.wait_for_log("stopped while loading", timeout=5)

    def test_what_cannot_be_served(self):
        self.assert_fails(["serve", "--port", 0, "--model-path", self.folder / "nothing"], self.folder / "nothing")
        self.assert_fails(["serve", "--port", 0, "--model-path", self.folder], "config.json")
        for name, content in (("config.json", b"{"), ("tokenizer.json", b"[]"), ("model.safetensors", b"short")):
            folder = self.checkpoint(NANO, **{name.replace(".", "__"): content})
            self.assert_fails(["serve", "--port", 0, "--model-path", folder], folder / name)
        folder = self.checkpoint(NANO, model__safetensors=None)
        (folder / "model.safetensors").mkdir()
        self.assert_fails(["serve", "--port", 0, "--model-path", folder], folder / "model.safetensors")
        if os.getuid() != 0:  # whom no mode keeps out
            folder = self.checkpoint(NANO, config__json=(NANO / "config.json").read_bytes())
            (folder / "config.json").chmod(0)
            self.assert_fails(["serve", "--port", 0, "--model-path", folder], folder / "config.json", "Permission denied")
        self.assert_fails(["serve", "--port", 0, "--max-total-tokens", 64, "--mem-fraction-static", 2], code=2)

    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.assert_fails(["serve", "--port", port], f"127.0.0.1:{port}", "Address already in use")


# -- ending ------------------------------------------------------------------


class Draining(unittest.TestCase):
    def terminate(self, server: Server):
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("draining")

    def test_what_runs_finishes_and_nothing_new_begins(self):
        with Server("--drain-timeout", 120) as server:
            idle = server.connect()
            body = {**TALKATIVE, "max_tokens": 3000}
            # It cannot be over before it is read: that is more than sockets and server hold.
            running = Stream(server, body, receive_bytes=4096)
            running.wait_for_token()
            whole = InBackground(server.chat, "Who are you?", ignore_eos=True, max_tokens=300)
            server.wait_until(lambda: server.metrics()["keye_num_running_reqs"] == 2, "both run")
            self.terminate(server)
            self.assertEqual(idle.recv(1), b"")
            status, headers, text = server.get("/health")
            self.assertEqual((status, json.loads(text)["status"]), (503, "draining"))
            for path, new in ((CHAT, LONG), ("/v1/completions", {"prompt": "a"})):
                status, headers, text = server.request("POST", path, new)
                self.assertEqual((status, headers["Retry-After"], headers["Connection"]), (503, "1", "close"))
                self.assertIn("shutting down", json.loads(text)["error"]["message"])
            self.assertEqual(whole.result()["usage"]["completion_tokens"], 300)
            events = running.read_all()
            self.assertEqual(len(token_ids(events)), 3000)
            self.assertEqual(events[-1]["choices"][0]["finish_reason"], "length")
            self.assertEqual(server.process.wait(20), 0)
            self.assertIn("stopped", server.log[-1])

    def check_cut(self, server: Server, end):
        """What runs, waits or is prepared when `end` is called says why it ends."""
        with SlowPictures() as pictures:
            streams = [Stream(server, LONG) for _ in range(2)]
            for stream in streams:
                stream.wait_for_token()
            waiting = InBackground(server.post, CHAT, LONG)
            fetching = [InBackground(server.post, CHAT, {**LONG, "messages": pictures.message()}) for _ in range(2)]
            server.wait_until(lambda: pictures.held == 1 and server.metrics()["keye_num_queue_reqs"] == 1, "all are under way")
            end()
            for stream in streams:
                events = stream.read_all()
                self.assertEqual((events[-1]["error"]["message"], events[-1]["error"]["code"]),
                                 ("the server is shutting down", "unavailable"))
                for event in events[:-1]:
                    self.assertIsNone(event["choices"][0]["finish_reason"])
            for call in (waiting, *fetching):
                status, reply = call.result()
                self.assertEqual((status, reply["error"]["message"]), (503, "the server is shutting down"))
            self.assertEqual(server.process.wait(20), 0)

    SMALL = ["--max-running-requests", 2, "--allowed-media-domains", "127.0.0.1", "--mm-max-concurrent-calls", 1]

    def test_the_time_to_drain_is_limited(self):
        with Server("--drain-timeout", 0.3, *self.SMALL) as server:
            self.check_cut(server, lambda: self.terminate(server))

    def test_a_second_signal_ends_it_now(self):
        def end():
            self.terminate(server)
            server.process.send_signal(signal.SIGTERM)
        with Server("--drain-timeout", 600, *self.SMALL) as server:
            self.check_cut(server, end)


# -- aborts ------------------------------------------------------------------


class Aborts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-running-requests", 1, "--chunked-prefill-size", 1, "--allowed-media-domains", "127.0.0.1",
                            "--mm-max-concurrent-calls", 1)
        cls.server.chat("Who are you?", max_tokens=1)  # all threads and pools are there
        cls.pictures = SlowPictures().__enter__()

    @classmethod
    def tearDownClass(cls):
        cls.pictures.__exit__()
        cls.server.stop()

    def setUp(self):
        self.server.wait_until_idle()
        self.server.wait_until(lambda: self.server.metrics()["keye_connections"] == 1, "nobody else is connected")
        self.descriptors = self.server.descriptors()

    def all_is_back(self):
        self.server.wait_until_idle()
        self.server.wait_until(lambda: self.pictures.held == 0, "no picture is waited for")
        self.server.wait_until(lambda: self.server.descriptors() <= self.descriptors, "descriptors are as before")

    def stages(self):
        """Name, body, and what shows that a request with the body has come that far."""
        def is_preparing(count):
            return lambda: self.server.metrics()["keye_num_preparing_reqs"] == count
        yield "prefill", WORDY, lambda: self.server.metrics()["keye_num_running_reqs"] == 1
        yield "decode", LONG, lambda: self.server.metrics()["keye_num_running_reqs"] == 1 and self.tokens_come()
        yield "fetch", {**LONG, "messages": self.pictures.message()}, lambda: self.pictures.held == 1
        with Stream(self.server, LONG) as running:
            running.wait_for_token()
            yield "queued", {**LONG, "n": 3}, lambda: self.server.metrics()["keye_num_queue_reqs"] == 3
        with Stream(self.server, {**LONG, "messages": self.pictures.message()}):
            self.server.wait_until(lambda: self.pictures.held == 1, "the only fetching thread is taken")
            yield "waiting for a fetch", {**LONG, "messages": self.pictures.message()}, is_preparing(2)

    def tokens_come(self) -> bool:
        before = self.server.metrics()["keye_engine_generated_tokens_total"]
        time.sleep(0.05)
        return self.server.metrics()["keye_engine_generated_tokens_total"] > before

    def test_by_disconnect(self):
        for stream in (True, False):
            for hard in (True, False):
                for stage, body, arrived in self.stages():
                    with self.subTest(stage=stage, stream=stream, hard=hard):
                        before = self.server.metrics()
                        client = Stream(self.server, body)
                        if not stream:
                            client.close()
                            client = self.server.connect()
                            data = json.dumps(body).encode()
                            client.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
                        self.server.wait_until(arrived, stage)
                        if hard:
                            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)) if not stream else client.reset()
                        client.close()
                        # What it held is free while others still run.
                        others = 1 if stage in ("queued", "waiting for a fetch") else 0
                        def gone():
                            now = self.server.metrics()
                            busy = sum(now[f"keye_num_{kind}_reqs"] for kind in ("running", "queue", "preparing"))
                            return busy == others and now["keye_request_errors_total"] > before.get("keye_request_errors_total", 0)
                        self.server.wait_until(gone, f"the request is gone: {stage}")
                self.all_is_back()

    def test_by_request(self):
        for stream in (True, False):
            for stage, body, arrived in self.stages():
                with self.subTest(stage=stage, stream=stream):
                    body = {**body, "rid": f"mine-{stage}"}
                    if stream:
                        client = Stream(self.server, body)
                    else:
                        call = InBackground(self.server.post, CHAT, body)
                    self.server.wait_until(arrived, stage)
                    self.assertEqual(self.server.post_ok("/abort_request", {"rid": "another"}), {"aborted": 0})
                    self.assertEqual(self.server.post_ok("/abort_request", {"rid": f"mine-{stage}"}), {"aborted": 1})
                    if "fetch" in stage:  # there is no reply yet: it is refused
                        status = client.status() if stream else call.result()[0]
                        self.assertEqual(status, 499)
                    elif stream:
                        self.check_aborted_once(client.read_all(), body.get("n", 1))
                    else:
                        status, reply = call.result()
                        self.assertEqual(status, 200)
                        self.assertEqual([choice["finish_reason"] for choice in reply["choices"]], ["abort"] * body.get("n", 1))
                        if stage in ("queued", "prefill"):
                            self.assertEqual(reply["usage"]["completion_tokens"], 0)
                        else:
                            self.assertGreater(len(reply["choices"][0]["message"]["content"]), 0)
                    if stream:
                        client.close()
                    self.assertEqual(self.server.post_ok("/abort_request", {"rid": f"mine-{stage}"}), {"aborted": 0})
            self.all_is_back()

    def check_aborted_once(self, events: list, replies: int):
        ends = [(part["index"], part["finish_reason"]) for event in events for part in event["choices"] if part["finish_reason"]]
        self.assertEqual(sorted(ends), [(i, "abort") for i in range(replies)])

    def test_all(self):
        with Stream(self.server, LONG) as running:
            running.wait_for_token()
            calls = [InBackground(self.server.post, CHAT, LONG) for _ in range(5)]
            self.server.wait_until(lambda: self.server.metrics()["keye_num_queue_reqs"] == 5, "they wait")
            self.assertEqual(self.server.post_ok("/abort_request", {"abort_all": True}), {"aborted": 6})
            self.check_aborted_once(running.read_all(), 1)
            for call in calls:
                self.assertEqual(call.result()[1]["choices"][0]["finish_reason"], "abort")
        self.all_is_back()


# -- limits ------------------------------------------------------------------


class Queue(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-running-requests", 1, "--max-queued-requests", 2, "--ping-interval", 0.05,
                            "--chunked-prefill-size", 16, "--allowed-media-domains", "127.0.0.1")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def setUp(self):
        self.server.wait_until_idle()

    def queue_is(self, count: int):
        self.server.wait_until(lambda: self.server.metrics()["keye_num_queue_reqs"] == count, f"{count} wait")

    def test_the_queue_has_an_end(self):
        with Stream(self.server, LONG) as running:
            running.wait_for_token()
            with Stream(self.server, LONG), Stream(self.server, LONG):
                self.queue_is(2)
                for body in (LONG, {**LONG, "stream": True}, {**LONG, "n": 2}):
                    status, headers, text = self.server.request("POST", CHAT, body)
                    self.assertEqual((status, headers["Retry-After"]), (429, "1"))
                    self.assertEqual(json.loads(text)["error"]["type"], "rate_limit_error")
                status, reply = self.server.post("/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 1})
                self.assertEqual(status, 429)
                self.assertEqual(self.server.metrics()["keye_num_queue_reqs"], 2)
                self.assertEqual(self.server.get("/health")[0], 200)
        self.server.wait_until_idle()
        self.server.chat("Who are you?", max_tokens=1)

    def test_higher_priorities_first_then_as_they_came(self):
        order = []
        lock = threading.Lock()
        with Server("--max-running-requests", 1) as server:
            def ask(name, priority):
                with Stream(server, {**LONG, "max_tokens": 100, "priority": priority}) as stream:
                    stream.wait_for_token()
                    with lock:
                        order.append(name)
                    stream.read_all()
            with Stream(server, LONG) as running:
                running.wait_for_token()
                calls = []
                for name, priority in [("low", -5), ("first", 0), ("second", 0), ("high", 7), ("lowest", -9)]:
                    calls.append(InBackground(ask, name, priority))
                    server.wait_until(lambda: server.metrics()["keye_num_queue_reqs"] == len(calls), "it waits")
            for call in calls:
                call.result()
        self.assertEqual(order, ["high", "first", "second", "low", "lowest"])

    def test_a_request_has_a_time(self):
        timed = {**LONG, "timeout": 0.3}
        status, reply = self.server.post(CHAT, timed)
        self.assertEqual((status, reply["error"]["code"]), (504, "deadline"))
        with Stream(self.server, timed) as stream:
            events = stream.read_all()
            self.assertGreater(len(events), 2)
            self.assertEqual(events[-1]["error"]["code"], "deadline")
        with Stream(self.server, LONG) as running:  # while it waits, too
            running.wait_for_token()
            status, reply = self.server.post(CHAT, timed)
            self.assertEqual((status, reply["error"]["code"]), (504, "deadline"))
        with SlowPictures() as pictures:  # and while a picture is fetched
            start = time.monotonic()
            status, reply = self.server.post(CHAT, {**timed, "messages": pictures.message()})
            self.assertEqual((status, reply["error"]["code"]), (504, "deadline"))
            self.assertLess(time.monotonic() - start, 10)
            self.server.wait_until(lambda: pictures.held == 0, "the fetch has ended")
        self.server.wait_until_idle()

    def test_the_server_may_set_the_time(self):
        with Server("--request-timeout", 0.3) as server:
            self.assertEqual(server.post(CHAT, LONG)[0], 504)
            server.chat("Who are you?", max_tokens=1)
            with Stream(server, {**LONG, "timeout": 1000}) as longer:  # unless a request names its own
                longer.wait_for_token()
                time.sleep(0.6)
                events = longer.raw.count(b"data: ")
                longer.read_until(lambda raw: raw.count(b"data: ") > events + 2)
                self.assertNotIn(b"error", longer.raw)

    def test_pings_while_nothing_can_be_said(self):
        def pings(stream):
            stream.read_until(lambda raw: raw.count(b": ping\n\n") >= 2)
            self.assertNotIn(b"data:", stream.raw)
        with Stream(self.server, {**LONG, "rid": "first"}) as running:
            running.wait_for_token()
            with Stream(self.server, {**LONG, "max_tokens": 1}) as waiting:
                pings(waiting)
                self.server.post_ok("/abort_request", {"rid": "first"})
                self.assertEqual(waiting.read_all()[-1]["choices"][0]["finish_reason"], "length")
        with Stream(self.server, WORDY | {"max_tokens": 1}) as prefilling:
            events = prefilling.read_all()
            self.assertGreaterEqual(prefilling.raw.count(b": ping\n\n"), 1)
            self.assertEqual(events[-1]["choices"][0]["finish_reason"], "length")

    def test_a_picture_that_does_not_come_holds_up_nobody_else(self):
        with SlowPictures() as pictures, Server("--allowed-media-domains", "127.0.0.1", "--mm-max-concurrent-calls", 2) as server:
            stuck = [Stream(server, {**LONG, "messages": pictures.message()}) for _ in range(5)]
            server.wait_until(lambda: server.metrics()["keye_num_preparing_reqs"] == 5, "they wait for their pictures")
            server.wait_until(lambda: pictures.held == 2, "two at a time")
            server.chat("Who are you?", max_tokens=1)
            picture = {"type": "image_url", "image_url": {"url": data_uri(NANO / "demo.png")}}
            server.chat([{"role": "user", "content": [picture]}], max_tokens=1)
            for stream in stuck:
                stream.close()
            server.wait_until(lambda: server.metrics()["keye_num_preparing_reqs"] == 0, "they are gone")


class Once(unittest.TestCase):
    def test_every_reply_ends_once(self):
        """Replies that stop, run into their limits, are aborted or late, many at once: one end each."""
        random_ = random.Random(5)
        with Server("--max-running-requests", 8, "--max-total-tokens", 2048) as server:
            def ask(i):
                body = {**LONG, "messages": user(f"Who are you? {i} " * random_.choice((1, 1, 30))), "rid": f"r{i}",
                        "temperature": 1, "seed": i, "n": random_.choice((1, 2, 3)), "ignore_eos": random_.random() < 0.5,
                        "max_tokens": random_.choice((1, 30, 300)), "stop": ["e"] if random_.random() < 0.2 else None}
                if random_.random() < 0.2:
                    body["timeout"] = 0.001 + random_.random() ** 4  # some that no machine is fast enough for
                with Stream(server, body) as stream:
                    if i % 5 == 0:
                        stream.read_until(lambda raw: b"\r\n\r\n" in raw)
                        server.post_ok("/abort_request", {"rid": f"r{i}"})
                    if stream.status() == 504:  # before there was anything to say
                        assert "timeout" in body
                        return "deadline"
                    events = stream.read_all()
                ends: dict[int, list] = {index: [] for index in range(body["n"])}
                errors = [event["error"]["code"] for event in events if "error" in event]
                for event in events:
                    for part in event.get("choices", []):
                        assert not ends[part["index"]], (part, ends)  # nothing comes behind the end
                        if part["finish_reason"]:
                            ends[part["index"]].append(part["finish_reason"])
                if errors:
                    assert errors == ["deadline"] and "timeout" in body, errors
                    assert not all(ends.values()), ends
                    return "deadline"
                assert all(len(end) == 1 for end in ends.values()), ends
                return ends[0][0]
            calls = [InBackground(ask, i) for i in range(80)]
            ways = [call.result(120) for call in calls]
            for way in ("stop", "length", "abort", "deadline"):
                self.assertIn(way, ways)
            server.wait_until_idle()


if __name__ == "__main__":
    unittest.main()
