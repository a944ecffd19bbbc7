"""What `keye serve` does for those who have no key, send no HTTP, or send it too slowly, too long or twice. Pictures are
serve_security_media_test.py's, the fields of requests serve_security_requests_test.py's; docs/security.md has the list."""

import os
import socket
import ssl
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from hostile import Attacked, Wire, http_bytes, post_json
from program import NANO, PROGRAM
from serving import Server

KEY, OTHER_KEY, ADMIN_KEY = "key-one-7f3a", "key-two-99c1", "admin-5d20"
SECRET_TEXT = "the-tulip-is-blue"


class Keys(Attacked):
    key, admin_key = KEY, ADMIN_KEY
    flags = ("--api-key", OTHER_KEY, "--log-requests")

    def status(self, method: str, path: str, headers: dict | None = None, body=None) -> int:
        return self.server.request(method, path, body, headers=headers or {})[0]

    def test_usage_security_md_every_path_but_health_needs_a_key(self):
        paths = self.server.get("/openapi.json", headers=self.headers)[2]
        self.assertIn("/flush_cache", paths)
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"):
            for path in ["/v1/chat/completions", "/v1/completions", "/generate", "/v1/models", "/v1/models/keye-nano", "/tokenize",
                         "/detokenize", "/health_generate", "/get_model_info", "/get_server_info", "/model_info", "/server_info",
                         "/abort_request", "/flush_cache", "/metrics", "/openapi.json",
                         # what others leave open, and ways around a comparison of paths
                         "/", "/docs", "/invocations", "/pooling", "/pause", "/update_weights_from_disk", "/load", "/ping",
                         "/health/", "//health", "/health/../metrics", "/health%2f..%2fmetrics", "/HEALTH", "/health;x", "/%2e/metrics",
                         "/metrics?x=/health", "/health%00"]:
                got = self.status(method, path)
                self.assertIn(got, (401,) if path != "/health%00" else (400,), f"{method} {path}")
        for path in ("/health", "/%68ealth", "/health?x=1"):
            self.assertEqual(self.status("GET", path), 200, path)

    def test_every_path_of_the_document_needs_a_key(self):
        import json
        paths = json.loads(self.server.get("/openapi.json", headers=self.headers)[2])["paths"]
        self.assertGreater(len(paths), 10)
        for path, methods in paths.items():
            for method in methods:
                expected = 200 if path == "/health" else 401
                self.assertEqual(self.status(method.upper(), path.replace("{model}", "x")), expected, f"{method} {path}")

    def test_CVE_2025_59425_nearly_right_keys(self):
        for wrong in (KEY[:-1], KEY + "x", KEY.upper(), KEY[1:], " " + KEY, KEY + " " + KEY, f"{KEY},{OTHER_KEY}", f'"{KEY}"', "", "x" * 10000,
                      KEY[:-1] + "\x00"):
            for headers in ({"Authorization": f"Bearer {wrong}"}, {"X-API-Key": wrong}):
                if wrong == " " + KEY:
                    continue  # spaces around a header's value are no part of it
                with Wire(self.server.port) as wire:
                    wire.send(http_bytes("GET", "/v1/models", headers))
                    self.assertIn(wire.response().status, (400, 401), wrong)
        for scheme in ("Basic", "Token", "Bearer:", "Bearer\t"):
            self.assertEqual(self.status("GET", "/v1/models", {"Authorization": f"{scheme} {KEY}"}), 401)
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {OTHER_KEY}"}, {"X-API-Key": KEY},
                        {"Authorization": f"Bearer {ADMIN_KEY}"}):
            self.assertEqual(self.status("GET", "/v1/models", headers), 200)

    def test_a_key_twice_or_in_a_query_is_no_key(self):
        twice = http_bytes("GET", "/v1/models").replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {KEY}\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        with Wire(self.server.port) as wire:
            wire.send(twice)
            self.assertEqual(wire.response().status, 401)
        for path in (f"/v1/models?api_key={KEY}", f"/v1/models?key={KEY}", f"/v1/models?Authorization=Bearer%20{KEY}"):
            self.assertEqual(self.status("GET", path), 401)

    def test_admin_paths_need_the_admin_key(self):
        for method in ("GET", "POST"):
            self.assertEqual(self.status(method, "/flush_cache", self.headers), 401)
            self.assertEqual(self.status(method, "/flush_cache", {"Authorization": f"Bearer {ADMIN_KEY}"}), 200)
        self.assert_refused(self.post("/abort_request", {"abort_all": True}), "admin", status=401)

    def test_one_key_does_not_end_another_ones_requests(self):
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20000, "ignore_eos": True, "stream": True, "rid": "mine"}
        with Wire(self.server.port) as wire:
            wire.send(post_json("/v1/chat/completions", body, {"Authorization": f"Bearer {OTHER_KEY}"}))
            while b"data: " not in wire.received:
                self.assertTrue(wire._more())
            self.assertEqual(self.post("/abort_request", {"rid": "mine"}), (200, {"aborted": 0}))
            self.assertEqual(self.server.post("/abort_request", {"rid": "mine"}, headers={"Authorization": f"Bearer {OTHER_KEY}"}),
                             (200, {"aborted": 1}))
            response = wire.response()
        self.assertIn(b'"finish_reason":"abort"', response.body)

    def test_the_body_of_who_has_no_key_is_not_read(self):
        with Wire(self.server.port) as wire:
            wire.send(http_bytes("POST", "/v1/chat/completions", {"Content-Length": str(200 << 20)}))
            self.assertEqual(wire.response().status, 401)
            self.assertIsNone(wire.response())

    def test_pages_of_other_origins_are_not_let_in(self):
        headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        status, answered, _ = self.server.request("OPTIONS", "/v1/chat/completions", headers=headers)
        self.assertEqual(status, 405)
        self.assertFalse([name for name in answered if name.lower().startswith("access-control")])
        status, answered, _ = self.server.get("/v1/models", headers={**self.headers, **headers})
        self.assertFalse([name for name in answered if name.lower().startswith("access-control")])

    def test_the_log_has_neither_keys_nor_contents(self):
        self.assertEqual(self.chat(SECRET_TEXT)[0], 200)
        self.assertEqual(self.post("/v1/completions", {"prompt": SECRET_TEXT, "max_tokens": 1})[0], 200)
        self.assert_refused(self.chat([{"role": SECRET_TEXT, "content": "x"}]))
        self.assert_refused(self.post("/v1/chat/completions", f'{{"{SECRET_TEXT}": '.encode()))
        self.assertEqual(self.status("GET", f"/v1/models?secret={SECRET_TEXT}", self.headers), 200)
        self.assertEqual(self.status("GET", "/log-ends-here", self.headers), 404)
        self.server.wait_for_log("log-ends-here")
        log = "\n".join(self.server.log)
        self.assertIn("path=/v1/chat/completions", log)
        for secret in (KEY, OTHER_KEY, ADMIN_KEY, SECRET_TEXT):
            self.assertNotIn(secret, log)
        info = self.server.get("/get_server_info", headers=self.headers)[2]
        for secret in (KEY, OTHER_KEY, ADMIN_KEY):
            self.assertNotIn(secret, info)

    def test_a_path_cannot_write_the_log(self):
        forged = "/x%0a2026-01-01T00:00:00.000Z%20error%20forged%0d%1b%5b2J%c2%9b2J%ff"
        with Wire(self.server.port) as wire:
            wire.send(http_bytes("GET", forged, {**self.headers, "X-Request-Id": "a\tb status=200"}))
            self.assertEqual(wire.response().status, 404)
        with Wire(self.server.port) as wire:
            wire.send(http_bytes("GET", "/y%20status=200%20%22z", self.headers))
            self.assertEqual(wire.response().status, 404)
        self.server.wait_for_log(r'path="/y status=200 \\"z" status=404')
        line = self.server.wait_for_log(r"path=.*forged").string
        self.assertRegex(line, r'id=req-[0-9a-f]{32} method=GET path="/x\\x0a2026-01-01T00:00:00\.000Z error forged\\x0d\\x1b\[2J\\x\S+2J\\xff" status=404')
        self.assertTrue(all(c.isprintable() for c in line), line)


class Framing(Attacked):
    """Requests that two programs could read in two ways are refused, and nothing behind them is answered."""

    def assert_one_refusal(self, data: bytes, statuses=(400,)):
        with Wire(self.server.port, timeout=20) as wire:
            wire.send(data)
            found = wire.responses()
        self.assertEqual(len(found), 1, (data[:200], found))
        self.assertIn(found[0].status, statuses, data[:200])
        self.assertEqual(found[0].headers.get("connection"), "close")

    def test_smuggling(self):
        hidden = http_bytes("GET", "/health")
        start = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
        for head in (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                     b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding : chunked\r\n",
                     b"Transfer-Encoding:\x0bchunked\r\n", b"X: y\r\n Transfer-Encoding: chunked\r\n", b"X: y\nTransfer-Encoding: chunked\r\n",
                     b"Content-Length: 0\r\nContent-Length: 44\r\n", b"Content-Length: +0\r\n", b"Content-Length: 0x0\r\n",
                     b"Host: b\r\n", b"X: a\x00b\r\n", b"X: a\rb\r\n", b"\x00: a\r\n", b"X y\r\n"):
            self.assert_one_refusal(start + head + b"\r\n0\r\n\r\n" + hidden)
        self.assert_one_refusal(b"GET /health HTTP/1.1\r\n\r\n" + hidden)
        self.assert_one_refusal(b"GET /health HTTP/1.1\nHost: a\n\n" + hidden)
        self.assert_one_refusal(b"POST /generate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden)

    def test_chunks(self):
        start = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        for body in (b"5\nhello\r\n0\r\n\r\n", b"-1\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloX", b"zz\r\n", b"1" * 17 + b"\r\n"):
            self.assert_one_refusal(start + body + http_bytes("GET", "/health"), (400, 413))
        self.assert_one_refusal(start + b"7" + b"f" * 15 + b"\r\n", (413,))
        self.assert_one_refusal(start + b"1;" + b"x" * 100000, (431,))
        self.assert_one_refusal(start + (b"1;" + b"x" * 1000 + b"\r\n\x20\r\n") * 100, (431,))
        self.assert_one_refusal(start + b"0\r\n" + b"X: y\r\n" * 20000, (431, 400))

    def test_a_request_in_single_bytes_is_read(self):
        body = b'{"prompt": "hi", "max_tokens": 1}'
        chunked = (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x;a=b\r\n" % len(body) + body
                   + b"\r\n0\r\nX-Trailer: 1\r\n\r\n")
        with Wire(self.server.port) as wire:
            for data in (http_bytes("POST", "/v1/completions", body=body), chunked):
                for i in range(len(data)):
                    wire.send(data[i:i + 1])
                self.assertEqual(wire.response().status, 200)

    def test_half_a_request_keeps_nobody_waiting(self):
        halves = [b"GET /heal", b"GET /health HTTP/1.1\r\nHost", http_bytes("GET", "/health")[:-1],
                  b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;half",
                  b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHalf: "]
        wires = [Wire(self.server.port) for _ in halves]
        for wire, half in zip(wires, halves):
            wire.send(half)
        begin = time.monotonic()
        for _ in range(20):
            self.assertEqual(self.server.get("/health", timeout=5)[0], 200)
        self.assertLess(time.monotonic() - begin, 5)
        cpu = self.cpu_seconds()
        time.sleep(0.5)
        self.assertLess(self.cpu_seconds() - cpu, 0.25, "an idle server burns no processor time")
        for wire in wires:
            wire.socket.close()

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_CVE_2025_48956_giant_headers(self):
        before = self.server.resident_mb()
        for data in (b"GET /" + b"a" * (1 << 20), http_bytes("GET", "/health", {"X": "a" * (1 << 20)}),
                     b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200000, b"A" * (1 << 20),
                     http_bytes("GET", "/health", {"Cookie": "a" * (64 << 20)})):
            self.assert_one_refusal(data, (400, 431))
        self.assertLess(self.server.resident_mb() - before, 40)

    def test_not_http(self):
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n" * 100 + b"x",
                     b"GET /health HTTP/3.0\r\nHost: localhost\r\n\r\n", b"GET http://a/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
                     b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x00" * 1000, b"\xff\xf4\xff\xfd\x06" * 10 + b"\r\n\r\n"):
            self.assert_one_refusal(data)

    def test_pipelined_requests_are_answered_in_their_order(self):
        with Wire(self.server.port) as wire:
            for i in range(50):
                wire.send(http_bytes("GET", "/health" if i % 2 else "/nothing"))
            self.assertEqual([wire.response().status for _ in range(50)], [200 if i % 2 else 404 for i in range(50)])

    def test_an_expectation_that_is_not_known(self):
        with Wire(self.server.port) as wire:
            wire.send(http_bytes("POST", "/generate", {"Expect": "something", "Content-Length": "5"}))
            self.assertEqual(wire.response().status, 417)


class Local(Attacked):
    """Without a key, a server for this machine alone: pages in its browsers are strangers, too."""

    def test_a_name_that_was_bent_to_this_machine_is_not_served(self):
        for host in ("evil.example", "evil.example:30000", "localhost.evil.example", "127.0.0.1.evil.example", ""):
            status, _, body = self.server.get("/v1/models", headers={"Host": host})
            self.assertIn(status, (400, 403), host)
        for host in ("localhost", f"localhost:{self.server.port}", "127.0.0.1:1", "[::1]:30000", "LOCALHOST", "keye.localhost"):
            self.assertEqual(self.server.get("/v1/models", headers={"Host": host})[0], 200, host)

    def test_one_port_and_no_other(self):
        """CVE-2025-32444, -47277, -29783, -30165, CVE-2026-3059, -3060: there is no inter-node port to speak pickle to."""
        inodes = {os.readlink(f"/proc/{self.server.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{self.server.process.pid}/fd")}
        listening = []
        for table in ("tcp", "tcp6", "udp", "udp6", "unix"):
            for line in Path(f"/proc/{self.server.process.pid}/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                inode = fields[6] if table == "unix" else fields[9]
                if f"socket:[{inode}]" in inodes and (table.startswith("u") or fields[3] == "0A"):
                    listening.append((table, fields[1]))
        self.assertEqual(listening, [("tcp", f"0100007F:{self.server.port:04X}")])


class Open(unittest.TestCase):
    def test_a_server_for_others_without_a_key_says_so(self):
        with Server("--host", "0.0.0.0") as server:
            server.wait_for_log("warning there is no API key")
            self.assertEqual(server.get("/health", headers={"Host": "any.example"})[0], 200)
        with Server("--host", "0.0.0.0", "--api-key", KEY) as server:
            self.assertNotIn("no API key", "\n".join(server.log))


class Patience(unittest.TestCase):
    """Servers with little of it."""

    def test_CVE_2025_48956_slow_headers_and_idle_connections_end(self):
        with Server("--idle-timeout", "1", "--header-timeout", "1", "--body-timeout", "1") as server:
            with Wire(server.port) as idle, Wire(server.port) as dripping, Wire(server.port) as late, Wire(server.port) as answered:
                begin = time.monotonic()
                late.send(http_bytes("POST", "/generate", {"Content-Length": "100"}) + b'{"text"')
                answered.send(http_bytes("GET", "/health"))
                self.assertEqual(answered.response().status, 200)
                for byte in http_bytes("GET", "/health", {"X": "y" * 40}):
                    if not dripping.send(bytes([byte])) or time.monotonic() - begin > 4:
                        break
                    time.sleep(0.1)
                self.assertLess(time.monotonic() - begin, 8)
                self.assertEqual(dripping.response().status, 408)
                self.assertEqual(late.response().status, 408)
                self.assertTrue(idle.is_closed() and answered.is_closed())
            server.wait_until(lambda: server.metrics()["keye_connections"] <= 1, "all connections are closed")

    def test_too_many_connections(self):
        with Server("--max-connections", "20", "--idle-timeout", "60") as server:
            wires = [Wire(server.port) for _ in range(20)]
            for wire in wires:
                wire.send(http_bytes("GET", "/health"))
                self.assertEqual(wire.response().status, 200)
            with Wire(server.port) as over:
                over.send(http_bytes("GET", "/health"))
                self.assertIsNone(over.response())
            self.assertLess(server.descriptors(), 60)
            wires.pop().socket.close()
            server.wait_until(lambda: self.can_ask(server), "there is room again")
            for wire in wires:
                wire.send(http_bytes("GET", "/health"))
                self.assertEqual(wire.response().status, 200, "those who came first are served")
                wire.socket.close()

    @staticmethod
    def can_ask(server) -> bool:
        try:
            return server.get("/health")[0] == 200
        except OSError:
            return False

    def test_CVE_2026_9540_clients_that_go_away(self):
        with Server("--max-running-requests", "8") as server:
            self.assertEqual(server.chat("warm up", max_tokens=2)["choices"][0]["finish_reason"] != "", True)
            server.wait_until_idle()
            server.wait_until(lambda: server.metrics()["keye_connections"] <= 1, "only this connection")
            descriptors = server.descriptors()
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 30000, "ignore_eos": True}
            for i in range(200):
                wire = Wire(server.port)
                data = post_json("/v1/chat/completions", {**body, "stream": i % 2 == 0})
                wire.send(data[:len(data) * (i % 5 + 1) // 5])
                if i % 3 == 0:
                    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # a reset
                wire.socket.close()
            server.wait_until_idle()
            server.wait_until(lambda: server.descriptors() <= descriptors, "descriptors come back")
            self.assertEqual(server.chat("still there?", max_tokens=2)["usage"]["completion_tokens"] > 0, True)


class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="keye-tls-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        for name in ("server", "client", "stranger"):
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                            "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", f"{name}.key", "-out", f"{name}.crt"],
                           cwd=cls.folder, check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-aes256", "-passout", "pass:s3same", "-in", "server.key", "-out", "locked.key"], cwd=cls.folder,
                       check=True, capture_output=True)

    def client(self, certificate: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.folder / "server.crt"))
        if certificate:
            context.load_cert_chain(self.folder / f"{certificate}.crt", self.folder / f"{certificate}.key")
        return context

    def ask(self, port: int, context: ssl.SSLContext) -> int:
        with Wire(port, tls=context) as wire:
            wire.send(http_bytes("GET", "/health"))
            return wire.response().status

    def test_old_versions_plain_text_and_half_a_greeting(self):
        with Server("--ssl-certfile", self.folder / "server.crt", "--ssl-keyfile", self.folder / "locked.key", "--ssl-keyfile-password",
                    "s3same", "--header-timeout", "1") as server:
            self.assertEqual(self.ask(server.port, self.client()), 200)
            for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
                old = self.client()
                old.set_ciphers("ALL:@SECLEVEL=0")
                old.minimum_version = ssl.TLSVersion.TLSv1
                old.maximum_version = version
                with self.assertRaises(OSError):
                    self.ask(server.port, old)
            with Wire(server.port) as plain, Wire(server.port) as half, Wire(server.port) as silent:
                plain.send(http_bytes("GET", "/health"))
                half.send(b"\x16\x03\x01\x02\x00\x01")
                while plain._more():
                    pass
                self.assertNotIn(b"HTTP/1.1 200", plain.received)
                self.assertTrue(half.is_closed() and silent.is_closed(), "a greeting has a time limit")
            self.assertEqual(self.ask(server.port, self.client()), 200)
            self.assertNotIn("s3same", "\n".join(server.log))

    def test_clients_must_show_a_certificate_where_asked(self):
        with Server("--ssl-certfile", self.folder / "server.crt", "--ssl-keyfile", self.folder / "server.key", "--ssl-ca-certs",
                    self.folder / "client.crt") as server:
            self.assertEqual(self.ask(server.port, self.client("client")), 200)
            for certificate in (None, "stranger"):
                with self.assertRaises((OSError, AttributeError)):  # TLS 1.3 says so only after the greeting
                    self.ask(server.port, self.client(certificate))

    def test_a_key_of_another_certificate_is_refused_at_the_start(self):
        done = subprocess.run([PROGRAM, "serve", "--model-path", str(NANO), "--port", "0", "--ssl-certfile", str(self.folder / "server.crt"),
                               "--ssl-keyfile", str(self.folder / "stranger.key")], capture_output=True, text=True, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("--ssl-keyfile", done.stderr)


if __name__ == "__main__":
    unittest.main()
