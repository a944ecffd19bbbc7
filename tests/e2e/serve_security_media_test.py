"""Pictures as attackers send them to `keye serve`: from addresses that are nobody's business, out of files elsewhere, and
larger, more or other than they say. docs/security.md says which advisory each test stands for."""

import os
import socket
import tempfile
import threading
import time
import unittest
from pathlib import Path

from hostile import (Attacked, MediaServer, bmp_of_size, data_uri_of, endless, gif_of_size, picture_message, png, png_chunk, png_of_size)
from program import GOLDEN, NANO

PICTURE = png(56, 56)


class Addresses(Attacked):
    """No domains are allowed: any public host may be asked, and this machine and its network may not."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.media = MediaServer({"/p.png": (200, {}, PICTURE)})
        cls.addClassCleanup(cls.media.close)

    def refused(self, url, *parts, status: int = 400):
        return self.assert_refused(self.chat(picture_message(url)), "messages[0].content[0]", *parts, status=status)

    def test_CVE_2025_6242_private_addresses_are_not_connected_to(self):
        hosts = ["127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "[::1]", "[::]",
                 "[fe80::1]", "[fc00::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
                 "[::ffff:169.254.169.254]", "localhost", "LOCALHOST", "localhost."]
        for host in hosts:
            self.refused(self.media.url("/p.png", host))
        self.assertEqual(self.media.asked, [])

    def test_CVE_2025_6242_numbers_that_resolvers_read_as_addresses(self):
        for host in ("2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1", "127.0.0.1.", "0127.0.0.1",
                     "00000127.0.0.1", "127.0.0.0x1", "0", "[::ffff:0x7f.0.0.1]", "[::1%25lo]", "[::1%lo]", "①②⑦.0.0.1", "127。0。0。1"):
            self.refused(self.media.url("/p.png", host))
        self.assertEqual(self.media.asked, [])

    def test_CVE_2026_24779_backslashes_user_names_and_odd_separators(self):
        port = self.media.port
        for url in (f"http://127.0.0.1:{port}\\@example.com/p.png", f"http://example.com\\@127.0.0.1:{port}/p.png",
                    f"http://example.com@127.0.0.1:{port}/p.png", f"http://127.0.0.1:{port}#@example.com/p.png",
                    f"http://example.com:80@127.0.0.1:{port}/p.png", f"http:\\\\127.0.0.1:{port}/p.png", f"http:/127.0.0.1:{port}/p.png",
                    f"http:127.0.0.1:{port}/p.png", f"http:///127.0.0.1:{port}/p.png", f"http://127.0.0.1:{port}\t/p.png",
                    f"http://127.0.0.1:{port}/p.png\r\nX: y", f"http://127.0.0.1\x00.example.com:{port}/p.png", f"http://127%2e0.0.1:{port}/p.png",
                    f"http://[::ffff:127.0.0.1]:{port}\\/p.png", f" http://127.0.0.1:{port}/p.png", "http://", "http://:80/", "https://[/",
                    f"http://127.0.0.1:{port}:80/p.png", "http://127.0.0.1:99999/p.png", "http://127.0.0.1:-1/"):
            self.refused(url)
        self.assertEqual(self.media.asked, [])

    def test_other_schemes(self):
        for url in ("ftp://127.0.0.1/p.png", "gopher://127.0.0.1:70/_x", "dict://127.0.0.1:11211/stat", "ldap://127.0.0.1/", "smb://127.0.0.1/c$",
                    "scp://127.0.0.1/p", "jar:http://127.0.0.1!/p", "http+unix://%2Fvar%2Frun%2Fdocker.sock/info", "javascript:alert(1)", "blob:x",
                    "/etc/passwd", "etc/passwd", "../../etc/passwd", "\\\\127.0.0.1\\share\\p.png", "//127.0.0.1/p.png", "", "picture"):
            self.refused(url)

    def test_CVE_2026_25960_every_way_in_is_guarded(self):
        url = self.media.url("/p.png")
        image = {"type": "image_url", "image_url": {"url": url}}
        text = {"type": "text", "text": "x"}
        for messages in ([{"role": "user", "content": [text, {"type": "image_url", "image_url": url}]}],
                         [{"role": "system", "content": [image, text]}, {"role": "user", "content": "x"}],
                         [{"role": "user", "content": "x"}, {"role": "assistant", "content": [image]}, {"role": "user", "content": "x"}],
                         [{"role": "developer", "content": [image]}, {"role": "user", "content": "x"}],
                         [{"role": "user", "content": [{"type": "image", "image": url}, text]}],
                         [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}, "image": url}, text]}],
                         [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": url}}]}],
                         [{"role": "user", "content": [{"type": "file", "file": {"file_url": url}}]}],
                         [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"url": url}}]}]):
            self.assert_refused(self.chat(messages))
        self.assert_refused(self.post("/generate", {"text": "x", "image_data": url}), "image_data")
        self.assert_refused(self.post("/v1/completions", {"prompt": "x", "file_url": url}), "file_url")
        self.assertEqual(self.media.asked, [])

    def test_errors_do_not_tell_what_answers_inside(self):
        """Open and closed ports of this machine look alike."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            closed = free.getsockname()[1]
        said = {self.refused(f"http://127.0.0.1:{port}/p.png")["message"].replace(str(port), "PORT") for port in (self.media.port, closed, 22)}
        self.assertEqual(len(said), 1, said)


class Redirects(Attacked):
    """Only 127.0.0.1 is allowed, and so may be this machine."""

    flags = ("--allowed-media-domains", "127.0.0.1", "--mm-per-request-timeout", "2", "--max-media-mib", "1", "--max-picture-pixels", "2000000")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.media = MediaServer({"/p.png": (200, {}, PICTURE), "/p": (200, {"Content-Type": "text/html"}, PICTURE)})
        cls.addClassCleanup(cls.media.close)

    def refused(self, url, *parts):
        return self.assert_refused(self.chat(picture_message(url)), "messages[0].content[0]", *parts)

    def test_the_allowed_host_is_asked(self):
        self.assert_answers(picture_message(self.media.url("/p.png")))

    def test_CVE_2026_25960_no_other_host(self):
        for host in ("localhost", "[::1]", "127.0.0.2", "127.0.0.1.evil.example", "evil-127.0.0.1", "[::ffff:7f00:2]", "1.1.1.1"):
            self.refused(self.media.url("/p.png", host))

    def test_CVE_2026_24779_redirects_are_judged_again(self):
        for i, to in enumerate((self.media.url("/p.png", "localhost"), self.media.url("/p.png", "[::1]"), "http://169.254.169.254/latest/meta-data",
                                f"http://127.0.0.1:{self.media.port}\\@evil.example/", "file:///etc/passwd", f"file://{NANO}/demo.png",
                                "data:image/png;base64,AAAA", "gopher://127.0.0.1/", f"//localhost:{self.media.port}/p.png",
                                f"http://2130706433:{self.media.port}/p.png", f"http://user@127.0.0.1:{self.media.port}/p.png", "")):
            self.media.answers[f"/to{i}"] = (302, {"Location": to}, b"")
            self.refused(self.media.url(f"/to{i}"))
        self.media.answers["/loop"] = (302, {"Location": "/loop"}, b"")
        self.refused(self.media.url("/loop"), "redirects")
        self.media.answers["/good"] = (302, {"Location": "/p.png"}, b"")
        self.assert_answers(picture_message(self.media.url("/good")))

    def test_what_comes_is_limited_in_bytes_and_time(self):
        self.media.answers["/endless"] = endless
        self.media.answers["/large"] = (200, {}, b"\x00" * (2 << 20))
        self.refused(self.media.url("/endless"), "1048576 bytes")
        self.refused(self.media.url("/large"), "1048576 bytes")
        gone = threading.Event()

        def stall(handler):
            handler.send_response(200)
            handler.end_headers()
            while not gone.wait(0.05):
                handler.wfile.write(b"\x89")

        self.media.answers["/drip"] = stall
        try:
            begin = time.monotonic()
            self.refused(self.media.url("/drip"), "2000 ms")
            self.assertLess(time.monotonic() - begin, 8)
        finally:
            gone.set()

    def test_a_slow_picture_keeps_nobody_else_waiting(self):
        gone = threading.Event()
        self.media.answers["/stall"] = lambda handler: gone.wait(20)
        # More requests, with more pictures each, than are prepared at a time.
        content = [{"type": "image_url", "image_url": {"url": self.media.url("/stall")}}] * 40
        results = []
        attack = [threading.Thread(target=lambda: results.append(self.chat([{"role": "user", "content": content}]))) for _ in range(12)]
        for thread in attack:
            thread.start()
        try:
            self.server.wait_until(lambda: self.server.metrics()["keye_num_preparing_reqs"] >= 12, "all are being prepared")
            begin = time.monotonic()
            self.assert_answers("Are you there?")
            self.assertLess(time.monotonic() - begin, 1.5)
        finally:
            for thread in attack:
                thread.join(30)
            gone.set()
        for result in results:
            self.assert_refused(result, "not done after")

    def test_status_pages_and_types(self):
        for status in (204, 206, 304, 401, 403, 404, 500):
            self.media.answers["/s"] = (status, {}, b"")
            self.refused(self.media.url("/s"))
        self.assert_answers(picture_message(self.media.url("/p")))  # what it is counts, not what it is called

    def test_nothing_of_the_server_goes_out(self):
        seen = []

        def look(handler):
            seen.append(dict(handler.headers))
            handler.send_response(404)
            handler.end_headers()

        self.media.answers["/look"] = look
        self.chat(picture_message(self.media.url("/look")))
        self.assertEqual(set(map(str.lower, seen[0])), {"host", "user-agent", "accept"})


class Files(Attacked):
    """file:// below one folder."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="keye-media-")
        cls.addClassCleanup(folder.cleanup)
        cls.outside = Path(folder.name)
        cls.allowed = cls.outside / "allowed"
        (cls.allowed / "sub").mkdir(parents=True)
        (cls.outside / "allowed-not").mkdir()
        for path in ("secret.png", "allowed-not/secret.png", "allowed/p.png", "allowed/sub/p.png", "allowed/ä %.png"):
            (cls.outside / path).write_bytes(PICTURE)
        (cls.allowed / "link.png").symlink_to(cls.outside / "secret.png")
        (cls.allowed / "up").symlink_to("..")
        (cls.allowed / "inside.png").symlink_to("sub/p.png")
        os.mkfifo(cls.allowed / "fifo")
        cls.flags = ("--allowed-local-media-path", str(cls.allowed))
        super().setUpClass()

    def test_files_below_the_folder(self):
        for path in ("p.png", "sub/p.png", "sub/../p.png", "./p.png", "%70.png", "%C3%A4%20%25.png"):
            self.assert_answers(picture_message(f"file://{self.allowed}/{path}"))
        self.assert_answers(picture_message(f"file://localhost{self.allowed}/p.png"))

    def test_CVE_2025_6242_files_elsewhere(self):
        paths = [f"{self.outside}/secret.png", f"{self.allowed}/../secret.png", f"{self.allowed}/sub/../../secret.png", f"{self.allowed}/link.png",
                 f"{self.allowed}/up/secret.png", f"{self.outside}/allowed-not/secret.png", f"{self.allowed}/%2e%2e/secret.png",
                 f"{self.allowed}/..%2fsecret.png", f"{self.allowed}/p.png%00.png", "/etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/stdin",
                 f"{self.allowed}/fifo", f"{self.allowed}", f"{self.allowed}/", f"{self.allowed}/no.png", "/"]
        for path in paths:
            begin = time.monotonic()
            self.assert_refused(self.chat(picture_message(f"file://{path}")), "messages[0].content[0]")
            self.assertLess(time.monotonic() - begin, 5, path)
        for url in (f"file://evil.example{self.allowed}/p.png", f"file:{self.allowed}/../secret.png", "file://", "file:", "file:///", "FILE:///etc/passwd",
                    f"file://{self.allowed}\\..\\secret.png", f"{self.allowed}/p.png", "file:p.png", "file://127.0.0.1/etc/passwd"):
            self.assert_refused(self.chat(picture_message(url)), "messages[0].content[0]")

    def test_errors_do_not_tell_which_files_there_are(self):
        said = {self.assert_refused(self.chat(picture_message(f"file://{path}")))["message"].replace(path, "PATH")
                for path in (f"{self.outside}/secret.png", f"{self.outside}/no-such.png", "/etc/passwd", "/no/such", "/no/such/x")}
        self.assertEqual(len(said), 1, said)

    def test_a_link_is_followed_inside_or_refused(self):
        status, reply = self.chat(picture_message(f"file://{self.allowed}/inside.png"))
        self.assertIn(status, (200, 400), reply)


class NoFiles(Attacked):
    def test_CVE_2025_6242_no_files_unless_allowed(self):
        for url in (f"file://{NANO}/demo.png", "file:///etc/passwd", f"{NANO}/demo.png"):
            self.assert_refused(self.chat(picture_message(url)), "not read here")


class Pictures(Attacked):
    """Data that is not what it says."""

    flags = ("--max-pictures", "8")

    def refused(self, picture: bytes | str, *parts, **options):
        url = picture if isinstance(picture, str) else data_uri_of(picture)
        return self.assert_refused(self.chat(picture_message(url), **options), *parts)

    def test_CVE_2026_22773_the_smallest_and_the_longest(self):
        for width, height in ((1, 1), (1, 2), (2, 1), (1, 28), (28, 1), (27, 29), (1, 100), (100, 1), (1, 200), (200, 1)):
            reply = self.assert_answers(picture_message(data_uri_of(png(width, height))))
            self.assertGreater(reply["usage"]["prompt_tokens"], 4, (width, height))
        for width, height in ((1, 201), (1, 10000), (10000, 1), (1, 100000)):
            self.refused(png(width, height), "aspect ratio")
        self.refused(png(3, 500), "too long for max_pixels")  # of this small model
        for width, height in ((0, 0), (0, 1), (1, 0)):
            self.refused(png_of_size(width, height))

    def test_CVE_2026_34755_decompression_bombs(self):
        before = self.server.resident_mb()
        for picture in (png_of_size(65500, 65500), png_of_size(2**31 - 1, 2**31 - 1), png_of_size(2**32 - 1, 1), gif_of_size(65535, 65535),
                        bmp_of_size(2**31 - 1, -2**31), bmp_of_size(50000, 50000), png_of_size(1_000_001, 1), png_of_size(20000, 9000)):
            self.refused(picture)
        # A text chunk that grows a thousandfold, and rows beyond the height.
        import zlib
        bomb = PICTURE[:33] + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (64 << 20), 9)) + PICTURE[33:]
        status, reply = self.chat(picture_message(data_uri_of(bomb)))
        self.assertIn(status, (200, 400), reply)
        status, reply = self.chat(picture_message(data_uri_of(png(8, 8, rows=2_000_000))))
        self.assertIn(status, (200, 400), reply)
        self.assertLess(self.server.resident_mb() - before, 100)

    def test_CVE_2026_5497_frames_and_pictures_are_counted(self):
        frame = data_uri_of(PICTURE).split(",")[1]
        self.refused("data:video/jpeg;base64," + ",".join([frame] * 10000))
        self.refused("data:image/png;base64," + ",".join([frame] * 3))
        one = {"type": "image_url", "image_url": {"url": data_uri_of(PICTURE)}}
        self.assert_answers([{"role": "user", "content": [one] * 8}])
        for count in (9, 2000):
            error = self.assert_refused(self.chat([{"role": "user", "content": [one] * count}]), f"{count} pictures", "8")
            self.assertIn("content[8]", error["param"])
        many = [{"role": "user", "content": [one]}, {"role": "assistant", "content": "a"}] * 9
        self.assert_refused(self.chat(many[:-1]), "9 pictures")

    def test_CVE_2026_22778_errors_of_decoders_tell_nothing(self):
        """And JPEG 2000, where the overflow was, is no format here."""
        samples = sorted((GOLDEN / "pictures").glob("other_*"))
        self.assertTrue(any("jpeg2000" in sample.name for sample in samples))
        for sample in samples:
            self.refused(sample.read_bytes())
        for name in ("jpeg_02.jpeg", "png_13.png", "webp_05.webp", "gif_06.gif", "bmp_05.bmp", "tiff_10.tiff"):
            path = GOLDEN / "pictures" / name
            if not path.exists():
                continue
            whole = path.read_bytes()
            for damaged in (whole[:len(whole) // 2], whole[:40], whole[:20] + b"\xff" * 40 + whole[60:], b"\x00" * 16 + whole):
                status, reply = self.chat(picture_message(data_uri_of(damaged)))
                if status != 200:
                    self.assert_refused((status, reply), "messages[0].content[0]")
        for garbage in (b"", b"\x00", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF\xff\xff\xff\xffWEBP", b"II*\0\xff\xff\xff\xff",
                        b"%PDF-1.4", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", b"#!/bin/sh\n"):
            self.refused(garbage)

    def test_malformed_data_uris(self):
        good = data_uri_of(PICTURE)
        for uri in ("data:", "data:,", "data:;base64", "data:image/png;base64", "data:image/png;base64,", "data:image/png;base64,====",
                    "data:image/png;base64,A", good[:-5] + "!!!!!", good + "AAAA", good.replace("base64,", "base32,"), "data:image/png;base64,%",
                    "data:image/png;base64,%zz", "data:image/png,%89PNG", "data:text/html,<script>", "data" + good[4:].replace(":", "", 1),
                    "data:image/png;base64," + "\u00e9" * 100, "data:image/png;base64,\x00\x01"):
            error = self.refused(uri)
            self.assertLess(len(error["message"]), 400)

    def test_options_of_pictures(self):
        url = data_uri_of(PICTURE)
        for options in ({"min_pixels": -1}, {"max_pixels": 0}, {"max_pixels": 1}, {"factor": 0}, {"factor": 2**31}, {"resized_height": 10**9,
                         "resized_width": 10**9}, {"resized_height": 28}, {"min_pixels": 2**63}, {"min_pixels": 1e400}, {"max_pixels": "many"},
                        {"min_pixels": 10**6, "max_pixels": 10**5}, {"fps": 2}, {"__class__": 1}, {"resized_height": 28, "resized_width": 28 * 300}):
            self.refused_options(url, options)
        self.assert_answers(picture_message({"url": url, "preprocess_kwargs": {"max_pixels": 3136}}))

    def refused_options(self, url, options):
        body = {"messages": picture_message({"url": url, "preprocess_kwargs": options}), "max_tokens": 1}
        import json
        data = json.dumps(body).replace("Infinity", "1e400").encode()
        self.assert_refused(self.post("/v1/chat/completions", data))

    def test_pictures_larger_than_the_context_are_refused_before_they_are_computed(self):
        """Even small ones, many times."""
        content = [{"type": "image_url", "image_url": {"url": data_uri_of(png(112, 112))}}] * 8 + [{"type": "text", "text": "x" * 200_000}]
        self.assert_refused(self.chat([{"role": "user", "content": content}]))


if __name__ == "__main__":
    unittest.main()
