"""What the tests of `keye serve` share: starting it, asking it, and looking at its descriptors and memory."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from program import NANO, PROGRAM, ROOT

SANITIZE = os.environ.get("KEYE_SANITIZE", "")  # what the program was built with
START_S = 60


class Server:
    """A running `keye serve` on a port of its own. As a context manager it is ended with SIGTERM, and must end well."""

    def __init__(self, *flags, model: Path = NANO, wait: bool = True, env: dict | None = None):
        command = [PROGRAM, "serve", "--model-path", str(model), "--port", "0", *map(str, flags)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT, text=True,
                                        env={**os.environ, **(env or {})})
        self.log: list[str] = []
        self._new_line = threading.Condition()
        threading.Thread(target=self._read_log, daemon=True).start()
        listening = self.wait_for_log(r"listening at (https?)://.*:(\d+)")
        self.scheme, self.port = listening[1], int(listening[2])
        self.url = f"{self.scheme}://127.0.0.1:{self.port}"
        if wait:
            self.wait_for_log(r"serving ")

    def _read_log(self):
        for line in self.process.stderr:
            with self._new_line:
                self.log.append(line.rstrip("\n"))
                self._new_line.notify_all()
        with self._new_line:
            self._new_line.notify_all()

    def wait_for_log(self, pattern: str, timeout: float = START_S) -> re.Match:
        deadline = time.monotonic() + timeout
        with self._new_line:
            while True:
                for line in self.log:
                    if found := re.search(pattern, line):
                        return found
                left = deadline - time.monotonic()
                ended = self.process.poll() is not None
                if left <= 0 or ended:
                    raise AssertionError(f"no line like {pattern!r} (exit code {self.process.poll()}):\n" + "\n".join(self.log))
                self._new_line.wait(min(left, 0.2))

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.stop(check=kind is None)

    def stop(self, check: bool = True, timeout: float = 30):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("keye serve did not end:\n" + "\n".join(self.log)) from None
        if check and self.process.returncode != 0:
            raise AssertionError(f"keye serve ended with {self.process.returncode}:\n" + "\n".join(self.log))

    # -- asking ---------------------------------------------------------------

    def request(self, method: str, path: str, body=None, headers: dict | None = None, timeout: float = 120):
        """(status, headers, body as text)"""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()
        finally:
            connection.close()

    def get(self, path: str, **options):
        return self.request("GET", path, **options)

    def post(self, path: str, body, **options):
        """(status, JSON)"""
        status, _, text = self.request("POST", path, body, **options)
        return status, json.loads(text)

    def post_ok(self, path: str, body, **options):
        """The JSON (or the text) of a response that must be a success."""
        status, headers, text = self.request("POST", path, body, **options)
        assert status == 200, (path, status, text)
        return json.loads(text) if headers["Content-Type"].startswith("application/json") else text

    def chat(self, text_or_messages, **fields) -> dict:
        """The response to a chat request that must succeed."""
        messages = text_or_messages
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        status, reply = self.post("/v1/chat/completions", {"messages": messages, **fields})
        assert status == 200, (status, reply)
        return reply

    def stream(self, path: str, body: dict, headers: dict | None = None) -> list:
        """All events of a stream, parsed; the last must be [DONE], which is left out."""
        request = urllib.request.Request(self.url + path, json.dumps({**body, "stream": True}).encode(),
                                         {"Content-Type": "application/json", **(headers or {})})
        events = []
        with urllib.request.urlopen(request, timeout=120) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            text = response.read().decode()
        for block in text.split("\n\n"):
            if not block or block.startswith(":"):
                continue
            assert block.startswith("data: "), block
            events.append(block.removeprefix("data: "))
        assert events and events[-1] == "[DONE]", events[-3:]
        return [json.loads(event) for event in events[:-1]]

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        return connection

    # -- looking at it ---------------------------------------------------------

    def metrics(self, headers: dict | None = None) -> dict[str, float]:
        """Sums over labels, by name."""
        status, _, text = self.get("/metrics", headers=headers)
        assert status == 200
        values: dict[str, float] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, value = re.sub(r"\{.*\}", "", line).split()[:2]
                values[name] = values.get(name, 0) + float(value)
        return values

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def wait_until(self, condition, what: str, timeout: float = 180 if SANITIZE else 30):
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not in {timeout} s: {what}")
            time.sleep(0.02)

    def wait_until_idle(self):
        """Nothing is running, waiting or being prepared, and no page is held."""
        def idle():
            now = self.metrics()
            names = ("keye_num_running_reqs", "keye_num_queue_reqs", "keye_num_preparing_reqs", "keye_kv_pages_used")
            return all(now[name] == 0 for name in names)
        self.wait_until(idle, "the server is idle")


def sse_request(path: str, body: dict, headers: str = "") -> bytes:
    """The bytes of a streaming request, for a socket."""
    data = json.dumps({**body, "stream": True}).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
            f"Content-Length: {len(data)}\r\n\r\n").encode() + data
