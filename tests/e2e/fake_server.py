"""A server that speaks as much of OpenAI's API as a load test needs, with delays and faults that a test chooses."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FakeServer(ThreadingHTTPServer):
    """Used in a with statement; serves until its end.

    behaviour(number) names what the number-th completion request meets:
      ok          a role chunk, `chunks` words after first_s and then every gap_s, a finish reason, usage, [DONE]
      no_usage    the same without usage
      empty       no words
      429, 500    that status and an error object
      cut         the connection closes after two words
      half        the body ends, as HTTP allows, after two words
      garbage     a chunk that is no JSON
      refused     an error object in the stream
      plain       an answer that is no event stream
      hang        two words and then nothing
    """

    daemon_threads = True
    request_queue_size = 2048

    def __init__(self, behaviour=lambda number: "ok", *, first_s=0.0, gap_s=0.0, chunks=4, at_once=None, tls=None,
                 protocol="HTTP/1.1", hidden_close=False):
        super().__init__(("127.0.0.1", 0), type("Handler", (Handler,), {"protocol_version": protocol}))
        self.behaviour, self.first_s, self.gap_s, self.chunks = behaviour, first_s, gap_s, chunks
        self.slots = threading.Semaphore(at_once) if at_once else None
        self.hidden_close = hidden_close  # connections end after a reply without the reply saying so
        self.lock = threading.Lock()
        self.requests = []  # bodies
        self.headers = []
        self.arrivals = []
        self.connections = self.under_way = self.under_way_max = 0
        self.over = threading.Event()
        self.scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # clients that leave early are part of the tests


class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": "fake-model"}, {"id": "other"}]})
        else:
            self.answer(404, {"error": {"message": "no such path"}})

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.requests)
            server.requests.append(body)
            server.headers.append(dict(self.headers))
            server.arrivals.append(time.monotonic())
            server.under_way += 1
            server.under_way_max = max(server.under_way_max, server.under_way)
        try:
            if server.slots:
                with server.slots:
                    self.reply(server.behaviour(number), body)
            else:
                self.reply(server.behaviour(number), body)
        finally:
            with server.lock:
                server.under_way -= 1
        if server.hidden_close:
            self.close_connection = True

    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def reply(self, kind, body):
        if kind in ("429", "500"):
            return self.answer(int(kind), {"error": {"message": f"refused with {kind}"}})
        if kind == "plain":
            return self.answer(200, {"choices": [{"message": {"content": "all at once"}}]})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.chunked = self.protocol_version == "HTTP/1.1"
        if self.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.stream(kind, body) and self.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def stream(self, kind, body):
        """Writes the events; whether the HTTP message shall end well."""
        server = self.server
        chat = "messages" in body
        words = {"empty": 0, "cut": 2, "half": 2, "hang": 2}.get(kind, min(server.chunks, body["max_tokens"]))
        if chat:
            self.event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for i in range(words):
            server.over.wait(server.gap_s if i else server.first_s)
            self.event({"choices": [{"delta": {"content": "word "}} if chat else {"text": "word "}]})
        if kind == "cut":
            self.close_connection = True
            return False
        if kind == "half":
            return True
        if kind == "hang":
            server.over.wait(60)
            return False
        if kind == "garbage":
            self.write(b'data: {"choices": [\n\n')
        if kind == "refused":
            self.event({"error": {"message": "out of memory", "code": 500}})
        self.event({"choices": [{"delta": {}, "text": "", "finish_reason": "length"}]})
        if kind != "no_usage" and body.get("stream_options", {}).get("include_usage"):
            text = body["messages"][0]["content"] if chat else body["prompt"]
            text = text if isinstance(text, str) else text[0]["text"]
            self.event({"choices": [], "usage": {"prompt_tokens": 12 + 2 * len(text.split()), "completion_tokens": 2 * words,
                                                 "prompt_tokens_details": {"cached_tokens": 7}}})
        self.write(b"data: [DONE]\n\n")
        return True

    def event(self, value):
        self.write(b"data: " + json.dumps(value).encode() + b"\n\n")

    def write(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if self.chunked else data)
