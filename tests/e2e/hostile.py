"""What the security tests share: bytes on a socket as no client would send them, a media server that lies, and pictures
that are not what they say."""

import base64
import http.server
import json
import socket
import struct
import threading
import unittest
import zlib
from dataclasses import dataclass, field

from serving import Server

# -- bytes on a socket ------------------------------------------------------------------------------------------------


@dataclass
class Response:
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


def http_bytes(method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A well-formed request. `headers` replace the usual ones; one whose value is None is left out."""
    usual = {"Host": "localhost", "Content-Length": str(len(body))} if body else {"Host": "localhost"}
    lines = [f"{name}: {value}" for name, value in {**usual, **(headers or {})}.items() if value is not None]
    return ("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])).encode("latin-1") + body


def post_json(path: str, value, headers: dict[str, str] | None = None) -> bytes:
    return http_bytes("POST", path, headers, value if isinstance(value, bytes) else json.dumps(value).encode())


class Wire:
    """A connection on which anything may be sent, and whose responses are read one by one."""

    def __init__(self, port: int, timeout: float = 30, tls=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """False: the server does not take it any more."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def _more(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            raise
        except OSError:
            return False
        self.received += data
        return bool(data)

    def _line(self) -> bytes | None:
        while b"\r\n" not in self.received:
            if not self._more():
                return None
        line, _, self.received = self.received.partition(b"\r\n")
        return line

    def _exactly(self, count: int) -> bytes:
        while len(self.received) < count:
            if not self._more():
                raise AssertionError(f"{len(self.received)} bytes of {count}")
        data, self.received = self.received[:count], self.received[count:]
        return data

    def response(self) -> Response | None:
        """The next one; None at the end of the connection."""
        first = self._line()
        if first is None:
            return None
        assert first.startswith(b"HTTP/1.1 "), first
        headers = {}
        while line := self._line():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = b""
        if "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(self._line() or b"0", 16):
                body += self._exactly(size)
                self._exactly(2)
            self._exactly(2)
        return Response(int(first.split()[1]), headers, body)

    def responses(self) -> list[Response]:
        """All until the server ends the connection."""
        found = []
        while (response := self.response()) is not None:
            found.append(response)
        return found

    def is_closed(self) -> bool:
        """Whether the server ends the connection, without another byte, before the socket's timeout."""
        try:
            return not self._more()
        except TimeoutError:
            return False


# -- a media server ---------------------------------------------------------------------------------------------------


@dataclass
class MediaServer:
    """Answers on 127.0.0.1 what it is told: `answers` maps paths to (status, headers, body) or to a function of the
    handler. Notes what it is asked."""

    answers: dict = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self):
        media = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                media.asked.append(self.path)
                answer = media.answers.get(self.path, (404, {}, b"not here"))
                try:
                    if callable(answer):
                        return answer(self)
                    status, headers, body = answer
                    self.send_response(status)
                    for name, value in {"Content-Length": str(len(body)), **headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the client has had enough

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def endless(handler) -> None:
    """Bytes until the client goes away, of a file that says nothing about its size."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"\x00" * 65536)


# -- pictures ---------------------------------------------------------------------------------------------------------


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, color=(200, 30, 30), rows: int | None = None) -> bytes:
    """One color; `rows` fewer or more than the header says make it a lie."""
    count = height if rows is None else rows
    data = zlib.compress((b"\x00" + bytes(color) * width) * count if count else b"", 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes that claim a size."""
    return png(width, height, rows=0)


def gif_of_size(width: int, height: int) -> bytes:
    return (b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\x00\x00\x00\x00\x00\xff\xff\xff"
            + b"\x2c\x00\x00\x00\x00" + struct.pack("<HH", width, height) + b"\x00\x02\x02\x44\x01\x00\x3b")


def bmp_of_size(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 58, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + b"\0\0\0\0"


def data_uri_of(picture: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(picture).decode()


def picture_message(url, text: str = "What is this?") -> list:
    """`url`: a string, or a whole image_url object."""
    image = {"url": url} if isinstance(url, str) else url
    return [{"role": "user", "content": [{"type": "image_url", "image_url": image}, {"type": "text", "text": text}]}]


# -- a server under attack --------------------------------------------------------------------------------------------


class Attacked(unittest.TestCase):
    """One `keye serve` for all tests of a class. After each of them it must be well: alive, ready, and holding nothing."""

    flags: tuple = ()
    key: str | None = None
    admin_key: str | None = None
    maxDiff = 2000

    @classmethod
    def server_flags(cls) -> list:
        keys = ["--api-key", cls.key] if cls.key else []
        return [*keys, *(["--admin-api-key", cls.admin_key] if cls.admin_key else []), *cls.flags]

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.server_flags())
        cls.addClassCleanup(cls.server.stop)
        cls.headers = {"Authorization": f"Bearer {cls.key}"} if cls.key else {}

    def tearDown(self):
        self.assertIsNone(self.server.process.poll(), "\n".join(self.server.log[-50:]))
        self.assertEqual(self.server.get("/health")[0], 200)
        names = ("keye_num_running_reqs", "keye_num_queue_reqs", "keye_num_preparing_reqs", "keye_kv_pages_used")
        self.server.wait_until(lambda: all(self.server.metrics(self.headers)[name] == 0 for name in names), "the server is idle")

    def post(self, path: str, body, **headers):
        """(status, JSON)"""
        return self.server.post(path, body, headers={**self.headers, **headers})

    def chat(self, text_or_messages, **fields):
        messages = text_or_messages
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return self.post("/v1/chat/completions", {"messages": messages, "max_tokens": 4, **fields})

    def assert_answers(self, text_or_messages, **fields) -> dict:
        status, reply = self.chat(text_or_messages, **fields)
        self.assertEqual(status, 200, reply)
        return reply

    def assert_refused(self, answer, *parts: str, status: int = 400) -> dict:
        """An error as the API has it, short, with every part in its message, and without anything of this machine."""
        got, reply = answer
        shown = str(reply)[:1500]
        self.assertEqual(got, status, shown)
        self.assertEqual(set(reply), {"error"}, shown)
        error = reply["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"}, shown)
        self.assertLess(len(error["message"]), 1500, shown)
        self.assertNotRegex(error["message"], r"0x[0-9a-f]{9,}|std::|json\.exception|/usr/|/src/|\.cc\b|Traceback")
        for part in parts:
            self.assertIn(part, error["message"], shown)
        return error
