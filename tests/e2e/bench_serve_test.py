"""`keye bench serve` against servers with known delays and faults."""

import asyncio
import json
import resource
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import threading
import time
import unittest

from fake_server import FakeServer
from program import NANO, PROGRAM, ROOT, Case, keye

# How much later than the server's delays something may be seen on a machine with other work.
LATE_MS = 400


class ServeCase(Case):
    def bench(self, server, *arguments, code=0):
        """The JSON report of a run that ends with `code`."""
        url = server if isinstance(server, str) else server.url
        arguments = [*arguments] if "--prompt-tokens" in arguments else [*arguments, "--prompt-words", "10"]
        done = keye("bench", "serve", "--base-url", url, "--json", *arguments)
        self.assertEqual(done.code, code, done.err)
        return done.json

    def assert_close(self, milliseconds, expected):
        self.assertGreaterEqual(milliseconds, expected - 2)
        self.assertLessEqual(milliseconds, expected + LATE_MS)


class ClosedLoop(ServeCase):
    def test_counts_and_times(self):
        with FakeServer(first_s=0.1, gap_s=0.05, chunks=5) as server:
            report = self.bench(server, "--concurrency", "3", "--requests", "9", "--generate", "32", "--ignore-eos")
            self.assertEqual(server.under_way_max, 3)
            self.assertLessEqual(server.connections, 4)  # kept alive
            bodies = server.requests
        self.assertEqual(report["requests"] | {"in_flight_max": 0},
                         {"ok": 9, "failed": 0, "empty": 0, "in_flight_max": 0, "interrupted": False})
        self.assertEqual(report["requests"]["in_flight_max"], 3)
        self.assertEqual(report["errors"], {})
        self.assert_close(report["ttft_ms"]["p50"], 100)
        self.assert_close(report["itl_ms"]["p50"], 50)
        self.assert_close(report["e2e_ms"]["p50"], 300)
        self.assert_close(report["tpot_ms"]["p50"], 200 / 9)
        self.assertEqual(report["ttft_ms"]["samples"], 9)
        self.assertEqual(report["itl_ms"]["samples"], 36)
        for name in ("ttft_ms", "itl_ms", "tpot_ms", "e2e_ms"):
            figures = [report[name][key] for key in ("p50", "p90", "p95", "p99", "max")]
            self.assertEqual(figures, sorted(figures))
        self.assertEqual(report["tokens"], {"output": 90, "prompt": 9 * 32, "cached": 63, "chunks": 45, "replies_with_usage": 9})
        self.assertGreaterEqual(report["duration_s"], 0.9)
        self.assertAlmostEqual(report["output_tokens_per_s"], 90 / report["duration_s"], delta=0.2)
        self.assertAlmostEqual(report["input_tokens_per_s"], 288 / report["duration_s"], delta=0.5)
        self.assertAlmostEqual(report["requests_per_s"], 9 / report["duration_s"], delta=0.05)
        self.assertEqual(report["config"]["model"], "fake-model")
        self.assertEqual(report["config"]["concurrency"], 3)
        for body in bodies:
            self.assertEqual(set(body), {"model", "messages", "max_tokens", "temperature", "ignore_eos", "stream", "stream_options"})
            self.assertEqual((body["model"], body["max_tokens"], body["stream"], body["ignore_eos"]), ("fake-model", 32, True, True))

    def test_completions_without_usage(self):
        with FakeServer(lambda _: "no_usage") as server:
            report = self.bench(server, "--endpoint", "completions", "--concurrency", "2", "--requests", "4", "--model", "m")
            for body in server.requests:
                self.assertEqual(len(body["prompt"].split()), 10)
        self.assertEqual(report["tokens"], {"output": 16, "prompt": None, "cached": None, "chunks": 16, "replies_with_usage": 0})
        self.assertIsNone(report["input_tokens_per_s"])

    def test_replies_without_text(self):
        with FakeServer(lambda _: "empty") as server:
            report = self.bench(server, "--concurrency", "1", "--requests", "2")
        self.assertEqual((report["requests"]["ok"], report["requests"]["empty"]), (2, 2))
        self.assertEqual((report["ttft_ms"]["samples"], report["e2e_ms"]["samples"]), (0, 2))

    def test_the_duration_ends_it(self):
        with FakeServer(first_s=0.1, chunks=1) as server:
            start = time.monotonic()
            report = self.bench(server, "--concurrency", "2", "--duration", "0.75")
            self.assertLess(time.monotonic() - start, 5)
            self.assertEqual(len(server.requests), report["requests"]["ok"])
        self.assertGreaterEqual(report["requests"]["ok"], 4)
        self.assertLessEqual(report["requests"]["ok"], 16)

    def test_warmup_is_not_measured(self):
        with FakeServer() as server:
            report = self.bench(server, "--concurrency", "2", "--requests", "4", "--warmup", "3")
            self.assertEqual(len(server.requests), 7)
            self.assertEqual(len({json.dumps(body) for body in server.requests}), 7)
        self.assertEqual(report["requests"]["ok"], 4)

    def test_a_table(self):
        with FakeServer(lambda number: "429" if number == 1 else "ok") as server:
            done = self.run_ok("bench", "serve", "--base-url", server.url, "--concurrency", "1", "--requests", "4", "--prompt-words", "5")
        for part in (server.url, "model fake-model", "closed loop, 1 at a time: 3 ok, 1 failed in", "first chunk (TTFT)",
                     "between chunks (ITL)", "per token (TPOT)", "whole reply (E2E)", "1 x http_429:", "refused with 429"):
            self.assertIn(part, done.out)


class OpenLoop(ServeCase):
    def test_a_slow_server_does_not_hold_up_the_schedule(self):
        # One at a time, 0.1 s each, asked 50 times a second: the last of 20 is due after 0.38 s and done after 2 s.
        with FakeServer(first_s=0.1, chunks=1, at_once=1) as server:
            report = self.bench(server, "--rate", "50", "--requests", "20")
            arrivals = sorted(server.arrivals)
        self.assertEqual(report["requests"]["ok"], 20)
        self.assertLess(arrivals[-1] - arrivals[0], 0.38 + LATE_MS / 1e3)
        self.assertGreater(arrivals[-1] - arrivals[0], 0.3)
        self.assertGreater(report["requests"]["in_flight_max"], 10)
        self.assert_close(report["e2e_ms"]["max"], 1620)
        self.assert_close(report["ttft_ms"]["p50"], 0.1e3 + 9 * 80)

    def test_poisson_arrivals(self):
        with FakeServer(chunks=1) as server:
            self.bench(server, "--rate", "100", "--poisson", "--requests", "100", "--seed", "5")
            arrivals = sorted(server.arrivals)
        gaps = [after - before for before, after in zip(arrivals, arrivals[1:])]
        self.assertGreater(statistics.pstdev(gaps), 0.4 * statistics.mean(gaps))

    def test_the_duration_ends_it(self):
        with FakeServer() as server:
            report = self.bench(server, "--rate", "40", "--duration", "0.49")
        self.assertEqual(report["requests"]["ok"], 20)


class Prompts(ServeCase):
    def texts(self, *arguments):
        with FakeServer(chunks=1) as server:
            report = self.bench(server, "--concurrency", "1", "--requests", "5", *arguments)
            return [body["messages"][0]["content"] for body in server.requests], report

    def test_a_seed_decides(self):
        first, _ = self.texts("--seed", "3")
        again, _ = self.texts("--seed", "3")
        other, _ = self.texts("--seed", "4")
        self.assertEqual(first, again)
        self.assertEqual(len(set(first + other)), 10)
        self.assertEqual(len({" ".join(text.split()[:4]) for text in first + other}), 10)

    def test_a_shared_prefix(self):
        texts, _ = self.texts("--shared-prefix", "6")
        self.assertEqual(len({" ".join(text.split()[:6]) for text in texts}), 1)
        self.assertEqual(len({" ".join(text.split()[6:]) for text in texts}), 5)

    def test_tokens_as_the_server_counts(self):
        texts, report = self.texts("--prompt-tokens", "512")  # the server: 12 and 2 a word
        self.assertEqual(report["tokens"]["prompt"], 5 * 512)
        self.assertEqual(report["config"]["prompt_words"], 250)
        self.assertEqual(len(texts), 7)  # two of them to ask

    def test_pictures(self):
        words = self.folder / "words.png"
        words.write_text("no picture")
        with FakeServer(chunks=1) as server:
            report = self.bench(server, "--concurrency", "4", "--requests", "40", "--image", NANO / "demo.png", "--image",
                                NANO / "chart.png", "--image-share", "0.5")
            contents = [body["messages"][0]["content"] for body in server.requests]
            done = keye("bench", "serve", "--base-url", server.url, "--concurrency", "1", "--requests", "1", "--image", words)
        self.assertEqual((done.code, done.out), (1, ""))
        self.assertIn(str(words), done.err)
        self.assertEqual(report["requests"]["ok"], 40)
        urls = [content[1]["image_url"]["url"] for content in contents if isinstance(content, list)]
        self.assertTrue(10 <= len(urls) <= 30, len(urls))
        self.assertEqual(len(set(urls)), 2)
        self.assertTrue(all(url.startswith("data:image/png;base64,iVBOR") for url in urls))

    def test_the_key_is_sent_and_not_shown(self):
        with FakeServer(chunks=1) as server:
            report = self.bench(server, "--concurrency", "1", "--requests", "1", "--api-key", "secret-7")
            self.assertEqual(server.headers[0]["Authorization"], "Bearer secret-7")
        self.assertNotIn("secret-7", json.dumps(report))


class Faults(ServeCase):
    def test_statuses(self):
        kinds = ["ok", "429", "ok", "500", "429"]
        with FakeServer(lambda number: kinds[number % 5]) as server:
            report = self.bench(server, "--concurrency", "2", "--requests", "20")
            self.assertLessEqual(server.connections, 3)  # refusals leave connections usable
        self.assertEqual((report["requests"]["ok"], report["requests"]["failed"]), (8, 12))
        self.assertEqual(report["errors"], {"http_429": 8, "http_500": 4})
        self.assertIn("refused with 429", report["error_examples"]["http_429"])
        self.assertEqual(report["e2e_ms"]["samples"], 8)

    def test_broken_replies(self):
        for kind, error in [("cut", "disconnected"), ("half", "disconnected"), ("garbage", "malformed_stream"),
                            ("refused", "server_error"), ("plain", "malformed_stream"), ("hang", "timeout")]:
            with FakeServer(lambda number: kind if number % 2 else "ok") as server:
                report = self.bench(server, "--concurrency", "1", "--requests", "6", "--timeout", "2" if kind == "hang" else "60")
            self.assertEqual(report["errors"], {error: 3}, kind)
            self.assertEqual((report["requests"]["ok"], report["requests"]["failed"]), (3, 3), kind)

    def test_all_failed(self):
        with FakeServer(lambda _: "500") as server:
            report = self.bench(server, "--concurrency", "2", "--requests", "4", code=1)
        self.assertEqual((report["requests"]["ok"], report["errors"]), (0, {"http_500": 4}))

    def test_nobody_listens(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        report = self.bench(f"http://127.0.0.1:{port}", "--concurrency", "2", "--requests", "6", "--prompt-tokens", "30", code=1)
        self.assertEqual((report["requests"]["ok"], report["errors"]), (0, {"connect": 6}))

    def test_a_name_without_an_address(self):
        done = keye("bench", "serve", "--base-url", "http://no-such-host.invalid", "--concurrency", "1", "--requests", "1")
        self.assertEqual((done.code, done.out), (1, ""))
        self.assertIn("no-such-host.invalid", done.err)

    def test_connections_that_end_without_a_word(self):
        with FakeServer(hidden_close=True) as server:
            report = self.bench(server, "--concurrency", "2", "--requests", "10")
        self.assertEqual((report["requests"]["ok"], report["errors"]), (10, {}))

    def test_http_1_0(self):
        with FakeServer(protocol="HTTP/1.0") as server:
            report = self.bench(server, "--concurrency", "2", "--requests", "6")
        self.assertEqual((report["requests"]["ok"], report["errors"]), (6, {}))
        with FakeServer(lambda _: "cut", protocol="HTTP/1.0") as server:
            report = self.bench(server, "--concurrency", "2", "--requests", "6", code=1)
        self.assertEqual(report["errors"], {"disconnected": 6})


class Tls(ServeCase):
    def certificate(self):
        if not shutil.which("openssl"):
            self.skipTest("the openssl program makes the certificate")
        key, certificate = self.folder / "key.pem", self.folder / "certificate.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
                        "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
                       check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context, certificate

    def test_https(self):
        context, certificate = self.certificate()
        with FakeServer(tls=context) as server:
            arguments = ["bench", "serve", "--base-url", server.url, "--concurrency", "2", "--requests", "6", "--prompt-words", "5", "--json"]
            trusting = subprocess.run([PROGRAM, *arguments], capture_output=True, timeout=60, env={"SSL_CERT_FILE": str(certificate)})
            wary = keye(*arguments)
        self.assertEqual(trusting.returncode, 0, trusting.stderr)
        report = json.loads(trusting.stdout)
        self.assertEqual((report["requests"]["ok"], report["errors"]), (6, {}))
        self.assertEqual((wary.code, wary.json["errors"]), (1, {"connect": 6}))
        self.assertIn("certificate", wary.json["error_examples"]["connect"])


class Stopped(ServeCase):
    def test_an_interrupt_reports_what_was_measured(self):
        with FakeServer(lambda number: "hang" if number >= 4 else "ok") as server:
            process = subprocess.Popen([PROGRAM, "bench", "serve", "--base-url", server.url, "--concurrency", "3", "--requests", "50",
                                        "--prompt-words", "5", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
            while len(server.requests) < 7:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 0, err)
        report = json.loads(out)
        self.assertEqual((report["requests"]["ok"], report["requests"]["failed"]), (4, 0))
        self.assertTrue(report["requests"]["interrupted"])


    def test_an_interrupt_before_anything_was_measured(self):
        with FakeServer(lambda _: "hang") as server:
            process = subprocess.Popen([PROGRAM, "bench", "serve", "--base-url", server.url, "--concurrency", "2", "--requests", "5",
                                        "--warmup", "2", "--prompt-words", "5"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
            while len(server.requests) < 2:
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        self.assertEqual((process.returncode, out), (1, b""))
        self.assertIn(b"stopped before", err)


class ManyStreams(ServeCase):
    STREAMS = 1000

    async def serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        size = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
        await reader.readexactly(size)
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while self.under_way_max < self.STREAMS:  # all at the same time, or none gets a word
            await asyncio.sleep(0.02)
        for _ in range(3):
            writer.write(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n')
            await asyncio.sleep(0.05)
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()

    def test_more_connections_than_files_may_be_open(self):
        arguments = ["--base-url", "http://127.0.0.1:9", "--concurrency", "100", "--requests", "100"]
        done = subprocess.run([PROGRAM, "bench", "serve", *arguments], capture_output=True, timeout=60,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"128 files", done.stderr)

    def test_the_soft_limit_of_files_is_raised(self):
        with FakeServer() as server:
            done = subprocess.run([PROGRAM, "bench", "serve", "--base-url", server.url, "--concurrency", "100", "--requests", "100"],
                                  capture_output=True, timeout=60,
                                  preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (32, 512)))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(b"100 ok, 0 failed", done.stdout)

    def test_a_thousand_at_a_time(self):
        self.under_way = self.under_way_max = 0
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=2048))
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        try:
            port = server.sockets[0].getsockname()[1]
            report = self.bench(f"http://127.0.0.1:{port}", "--model", "m", "--concurrency", self.STREAMS, "--requests", self.STREAMS,
                                "--timeout", "120")
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            server.close()
            loop.run_until_complete(asyncio.sleep(0.1))
            loop.close()
        self.assertEqual((report["requests"]["ok"], report["errors"]), (self.STREAMS, {}))
        self.assertEqual(report["requests"]["in_flight_max"], self.STREAMS)
        self.assertEqual(report["tokens"]["output"], 3 * self.STREAMS)


class Usage(Case):
    def test_help(self):
        done = self.run_ok("bench", "serve", "--help")
        for part in ("keye bench serve", "--poisson", "TTFT", "open loop", "Exit code"):
            self.assertIn(part, done.out)
        self.assertIn("bench serve", self.run_ok("bench", "--help").out)

    def test_wrong_usage(self):
        good = ["--base-url", "http://127.0.0.1:9", "--concurrency", "1", "--requests", "1"]
        for arguments, part in [
            ([], "--base-url"),
            (["--base-url", "127.0.0.1:9", "--concurrency", "1", "--requests", "1"], "--base-url"),
            (good[:2], "--concurrency"),
            (good[:4], "--requests"),
            ([*good, "--no-such-flag"], "--no-such-flag"),
            ([*good, "--rate", "3"], "--rate"),
            ([*good, "--poisson"], "--poisson"),
            ([*good, "--concurrency", "0"], "--concurrency"),
            ([*good, "--prompt-words", "3", "--prompt-tokens", "3"], "--prompt-"),
            ([*good, "--prompt-words", "3", "--shared-prefix", "4"], "--shared-prefix"),
            ([*good, "--image-share", "2"], "--image-share"),
            ([*good, "--endpoint", "responses"], "--endpoint"),
            ([*good, "--endpoint", "completions", "--image", "a.png"], "--image"),
            ([*good, "--timeout", "0"], "--timeout"),
            ([*good, "--generate", "many"], "--generate"),
        ]:
            done = keye("bench", "serve", *arguments)
            self.assertEqual((done.code, done.out), (2, ""), arguments)
            self.assertIn(part, done.err)
            self.assertIn("Try 'keye bench serve --help'", done.err)


if __name__ == "__main__":
    unittest.main()
