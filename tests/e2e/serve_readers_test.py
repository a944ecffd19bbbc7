"""Slow readers, readers that are gone, and a machine without descriptors: nobody else's reply suffers, nothing is kept."""

import resource
import socket
import subprocess
import time
import unittest

from program import PROGRAM, ROOT
from serving import SANITIZE, Server
from streams import CHAT, TALKATIVE, Stream, token_ids


class Readers(unittest.TestCase):
    def test_a_slow_reader_stops_its_reply_and_nobody_elses(self):
        with Server("--write-timeout", 600) as server:
            body = {**TALKATIVE, "max_tokens": 3000, "temperature": 1, "seed": 3}
            expected = token_ids(server.stream(CHAT, body))
            slow = Stream(server, body, receive_bytes=4096)
            def generated():
                return server.metrics()["keye_engine_generated_tokens_total"]
            def stands_still():
                before = generated()
                time.sleep(0.2)
                return generated() == before
            server.wait_until(stands_still, "the slow reader's reply stands still")
            self.assertLess(generated(), 3000 + 2500)  # far from its end
            memory = server.resident_mb()
            replies = [server.chat(f"Who are you, number {i}?", max_tokens=20, ignore_eos=True) for i in range(20)]
            self.assertEqual([reply["usage"]["completion_tokens"] for reply in replies], [20] * 20)
            self.assertLess(server.resident_mb() - memory, 20)
            self.assertEqual(token_ids(slow.read_all()), expected)  # and nothing of it is lost
            slow.close()
            server.wait_until_idle()

    def test_a_reader_that_reads_nothing_is_given_up(self):
        with Server("--write-timeout", 0.5) as server:
            before = server.descriptors()
            stuck = [Stream(server, TALKATIVE, receive_bytes=4096) for _ in range(4)]
            for stream in stuck:
                stream.wait_for_token()
            server.wait_until_idle()
            server.wait_until(lambda: server.descriptors() <= before, "their connections are closed")
            for stream in stuck:
                stream.close()

    def test_resets_and_half_closed_connections(self):
        with Server() as server:
            before = server.descriptors()
            for i in range(20):
                stream = Stream(server, TALKATIVE)
                if i % 4:
                    stream.wait_for_token()
                if i % 2:
                    stream.reset()
                else:
                    stream.socket.shutdown(socket.SHUT_WR)  # as somebody does who is gone
                    stream.read_until(lambda raw: False)
                    self.assertNotIn(b"[DONE]", stream.raw)
                    stream.close()
            server.wait_until_idle()
            server.wait_until(lambda: server.descriptors() <= before, "descriptors are as before")
            quick = server.connect()  # what can be answered at once is
            quick.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            quick.shutdown(socket.SHUT_WR)
            self.assertIn(b'{"status":"ok"}', quick.recv(4096))
            quick.close()

    def test_a_log_that_nobody_reads(self):
        process = subprocess.Popen([PROGRAM, "serve", "--port", "0", "--log-requests"], stderr=subprocess.PIPE, cwd=ROOT)
        self.addCleanup(process.kill)
        for line in process.stderr:
            if b"listening at" in line:
                port = int(line.split(b"127.0.0.1:")[1].split(b";")[0])
            if b"serving" in line:
                break
        process.stderr.close()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
                client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                self.assertTrue(client.recv(100).startswith(b"HTTP/1.1 200"))
        process.terminate()
        self.assertEqual(process.wait(20), 0)

    @unittest.skipIf("undefined" in SANITIZE, "UBSan's check of an object's type opens a pipe")
    def test_too_few_descriptors(self):
        server = Server()
        try:
            used = server.descriptors()
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 8, used + 8))
            clients = [server.connect() for _ in range(40)]
            server.wait_for_log("cannot accept a connection")
            for client in clients:
                client.close()
            server.wait_until(lambda: server.descriptors() == used, "descriptors are as before")
            server.chat("Who are you?", max_tokens=1)
        finally:
            server.stop()


if __name__ == "__main__":
    unittest.main()
