"""Requests to `keye serve` whose ends and readers a test holds in its hands."""

import json
import socket
import struct
import threading

from program import user
from serving import Server, sse_request

CHAT = "/v1/chat/completions"
LONG = {"messages": user("Who are you?"), "ignore_eos": True, "max_tokens": 30000}
WORDY = {"messages": user("the red circle is on the left " * 500), "ignore_eos": True, "max_tokens": 8}  # a long prompt
TALKATIVE = {**LONG, "logprobs": True, "top_logprobs": 20, "return_token_ids": True}  # kilobytes for each token


class Stream:
    """A stream on a socket of its own, read when the test wants."""

    def __init__(self, server: Server, body: dict, receive_bytes: int = 0, path: str = CHAT):
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.sendall(sse_request(path, body))
        self.raw = b""
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def read_until(self, done) -> bytes:
        """Reads until done(raw), or the end."""
        while not done(self.raw) and not self.ended:
            block = self.socket.recv(1 << 16)
            self.ended = not block
            self.raw += block
        return self.raw

    def wait_for_token(self):
        self.read_until(lambda raw: raw.count(b"data: ") >= 2)
        assert not self.ended, self.raw

    def read_all(self) -> list:
        """All events up to [DONE], which must be there."""
        self.read_until(lambda raw: raw.endswith(b"0\r\n\r\n"))
        head, _, rest = self.raw.partition(b"\r\n\r\n")
        assert b" 200 OK" in head and b"chunked" in head, self.raw[:500]
        body = b""
        while not rest.startswith(b"0\r\n"):
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16)
            body, rest = body + rest[:length], rest[length + 2:]
        events = [block.removeprefix("data: ") for block in body.decode().split("\n\n") if block.startswith("data: ")]
        assert events[-1] == "[DONE]", events[-2:]
        return [json.loads(event) for event in events[:-1]]

    def status(self) -> int:
        self.read_until(lambda raw: b"\r\n" in raw)
        return int(self.raw.split(b" ")[1])

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self):
        self.socket.close()


def token_ids(events: list) -> list:
    return [token for event in events for part in event.get("choices", []) for token in part.get("token_ids", [])]


class InBackground:
    """A call in a thread of its own."""

    def __init__(self, call, *arguments, **options):
        self.value = self.error = None
        def run():
            try:
                self.value = call(*arguments, **options)
            except BaseException as error:  # is raised where the result is wanted
                self.error = error
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def result(self, timeout: float = 60):
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "no response"
        if self.error:
            raise self.error
        return self.value


class SlowPictures:
    """A server of pictures that never come. `held` counts those who wait for one."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/picture.png"
        self.held = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._hold, args=(connection,), daemon=True).start()

    def _hold(self, connection):
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n\x89PNG")
        self._count(1)
        try:
            connection.recv(1)  # until the other side closes
        except OSError:
            pass
        self._count(-1)
        connection.close()

    def _count(self, by: int):
        with self._lock:
            self.held += by

    def message(self) -> list:
        return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": self.url}}]}]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
