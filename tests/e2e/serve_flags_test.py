"""The flags of `keye serve`: those of the model cards' launch commands as they are printed there, and what ours do."""

import http.client
import json
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import unittest

from program import NANO, ROOT, Case, keye
from serving import Server

# As printed in the cards, without "python3 -m sglang.launch_server" and with their shell variables filled in.
CARD_30B = "--model-path={model} --tp-size={ranks} --trust-remote-code --mem-fraction-static=0.8"
CARD_671B = """--model-path {model} --host 0.0.0.0 --port {port} --tp-size {ranks} --nnodes {nodes} --node-rank {rank}
    --dist-init-addr 192.168.1.100:29500 --trust-remote-code --mm-attention-backend fa3 --attention-backend fa3
    --disable-radix-cache --mem-fraction-static 0.8 --cuda-graph-max-bs 64
    --model-loader-extra-config '{{"enable_multithread_load": true, "num_threads": 32}}'"""
# With one line at the start that says why.
WITHOUT_EFFECT = ["--trust-remote-code", "--attention-backend", "--mm-attention-backend", "--cuda-graph-max-bs",
                  "--model-loader-extra-config", "--dist-init-addr"]
WORDS = "These words fill a page of the cache. " * 20


def serve_card(card: str, **values) -> Server:
    """The card's command, of one rank and on a free port."""
    words = shlex.split(card.format(model=NANO, port=0, ranks=1, nodes=1, rank=0, **values))
    flags = [word for word in words if not word.startswith("--model-path")]
    if str(NANO) in flags:
        flags.remove(str(NANO))
    if "--port" in flags:  # the fixture gives it
        at = flags.index("--port")
        del flags[at : at + 2]
    return Server(*flags)


class Cards(Case):
    def test_of_30b(self):
        with serve_card(CARD_30B) as server:
            lines = [line for line in server.log if "no effect" in line]
            self.assertEqual(len(lines), 1, server.log)
            self.assertIn("--trust-remote-code has no effect: no code of a checkpoint is ever run", lines[0])
            self.assertEqual(json.loads(server.get("/get_server_info")[2])["flags"]["mem_fraction_static"], 0.8)

    def test_of_671b(self):
        with serve_card(CARD_671B) as server:
            lines = [line for line in server.log if "no effect" in line]
            self.assertEqual(len(lines), len(WITHOUT_EFFECT), server.log)
            for flag in WITHOUT_EFFECT:
                self.assertEqual(len([line for line in lines if re.search(rf" {flag} .*has no effect", line)]), 1, flag)
            flags = json.loads(server.get("/get_server_info")[2])["flags"]
            self.assertEqual((flags["host"], flags["disable_radix_cache"], flags["mem_fraction_static"]), ("0.0.0.0", True, 0.8))
            for _ in range(2):  # --disable-radix-cache does what it says
                self.assertEqual(server.chat(WORDS, max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"], 0)

    def test_ranks_and_nodes_that_do_not_fit_are_refused_by_name(self):
        # More of them than the model has heads to share, fewer than nodes, no such node; what fits: serve_ranks_test.py.
        for card, values, name in [(CARD_30B, {"ranks": 4}, "--tp-size"),
                                   (CARD_671B, {"ranks": 16, "nodes": 2, "rank": 0}, "--tp-size"),
                                   (CARD_671B, {"ranks": 1, "nodes": 2, "rank": 1}, "--tp-size"),
                                   (CARD_671B, {"ranks": 1, "nodes": 1, "rank": 1}, "--node-rank")]:
            words = shlex.split(card.format(model=NANO, port=0, **values))
            done = keye("serve", *words)
            self.assertEqual((done.code, done.out), (1, ""))
            self.assertIn(f"keye serve: {name}: ", done.err)

    def test_every_flag_of_the_documents_is_known(self):
        known = set(re.findall(r"--[a-z][a-z-]+", self.run_ok("serve", "--help").out))
        for document in ("docs/from-sglang.md", "deploy/keye.service", "deploy/Dockerfile"):
            text = (ROOT / document).read_text()
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - {"--format", "--no-install-recommends", "--preset", "--build"}
            if document.startswith("docs"):
                self.assertEqual(named - known, set(), document)
        config = re.findall(r"^#? ?([a-z-]+) = ", (ROOT / "deploy/keye.toml").read_text(), re.MULTILINE)
        self.assertTrue(config)
        self.assertEqual({f"--{name}" for name in config} - known, set())

    def test_a_loaders_configuration_is_looked_at(self):
        for value, part in [("[]", "JSON object"), ("{", "--model-loader-extra-config"), ('{"magic": 1}', "magic")]:
            self.assert_fails(["serve", "--model-loader-extra-config", value, "--port", "0"], "--model-loader-extra-config", part)


class Ours(Case):
    def test_names(self):
        with Server("--served-model-name", "one", "two") as server:
            self.assertEqual([model["id"] for model in json.loads(server.get("/v1/models")[2])["data"]], ["one", "two"])
            self.assertEqual(server.chat("a", max_tokens=1)["model"], "one")
            self.assertEqual(server.chat("a", max_tokens=1, model="two")["model"], "two")
            self.assertEqual(server.post("/v1/completions", {"prompt": "a", "model": "keye-nano"})[0], 404)

    def test_context_length(self):
        with Server("--context-length", "128") as server:
            self.assertEqual(json.loads(server.get("/v1/models")[2])["data"][0]["max_model_len"], 128)
            reply = server.chat("a", ignore_eos=True)
            self.assertEqual((reply["usage"]["total_tokens"], reply["choices"][0]["finish_reason"]), (128, "length"))
            status, error = server.post("/v1/completions", {"prompt": WORDS})
            self.assertEqual((status, error["error"]["code"]), (400, "context_length_exceeded"))

    def test_tokens_of_the_cache(self):
        with Server("--max-total-tokens", "640", "--max-running-requests", "3") as server:
            info = json.loads(server.get("/get_server_info")[2])
            self.assertEqual((info["max_total_num_tokens"], info["context_length"]), (640, 640))
            self.assertEqual(info["flags"]["max_running_requests"], 3)

    def test_chunks_and_types_do_not_change_replies(self):
        # All sums of one type are made in the same order, however a prompt is cut.
        replies = {}
        for flags in (["--dtype", "float32"], ["--dtype", "float32", "--chunked-prefill-size", "7"], ["--threads", "1", "--dtype", "f32"]):
            with Server(*flags) as server:
                replies[tuple(flags)] = server.chat(WORDS, max_tokens=30, ignore_eos=True)["choices"][0]["message"]["content"]
        self.assertEqual(len(set(replies.values())), 1, replies)

    def test_a_file_of_flags(self):
        file = self.folder / "keye.toml"
        file.write_text('served-model-name = ["from-file"]\nmax-running-requests = 5\nmax-queued-requests = 6\ndisable-radix-cache = true\n')
        with Server("--config", file, "--max-running-requests", "7") as server:
            info = json.loads(server.get("/get_server_info")[2])["flags"]
            self.assertEqual((info["max_running_requests"], info["max_queued_requests"], info["disable_radix_cache"]), (7, 6, True))
            self.assertEqual(server.chat("a", max_tokens=1)["model"], "from-file")
        file.write_text("no-such-flag = 1\n")
        done = keye("serve", "--config", file)
        self.assertEqual(done.code, 2)
        self.assertIn("no-such-flag", done.err)
        self.assertEqual(keye("serve", "--config", self.folder / "missing.toml").code, 2)

    def test_keys_from_a_file(self):
        file = self.folder / "keys"
        file.write_text("first\r\n\nsecond \n")
        with Server("--api-key-file", file) as server:
            for key, status in (("first", 200), ("second", 200), ("third", 401), ("", 401)):
                self.assertEqual(server.get("/v1/models", headers={"Authorization": f"Bearer {key}"})[0], status)
            for secret in ("first", "second"):  # keys are not shown
                info = server.get("/get_server_info", headers={"Authorization": "Bearer first"})[2]
                self.assertNotIn(secret, info)
        file.write_text("\n")
        self.assert_fails(["serve", "--api-key-file", file, "--port", "0"], "has no key")

    def test_a_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.assert_fails(["serve", "--port", taken.getsockname()[1]], "cannot listen")

    def test_wrong_usage(self):
        for flags, part in [(["--no-such-flag"], "--no-such-flag"), (["--port", "70000"], "--port"), (["--dtype", "int4"], "--dtype"),
                            (["--mem-fraction-static", "1.5"], "--mem-fraction-static"), (["--tp-size", "0"], "--tp-size"),
                            (["--max-running-requests", "0"], "--max-running-requests"), (["--log-format", "xml"], "--log-format"),
                            (["--allowed-local-media-path", "/no/such/folder"], "--allowed-local-media-path")]:
            done = keye("serve", *flags)
            self.assertEqual((done.code, done.out), (2, ""), flags)
            self.assertIn(part, done.err)


class Logs(Case):
    SECRET = "pomegranate"

    def ask(self, server: Server):
        server.request("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": self.SECRET}], "max_tokens": 2},
                       headers={"X-Request-Id": "known-1"})
        server.get("/nothing?key=" + self.SECRET, headers={"X-Request-Id": "known-2"})

    def test_json(self):
        with Server("--log-requests", "--log-format", "json", wait=False) as server:
            server.wait_for_log('"message":"serving ')
            self.ask(server)
            server.wait_for_log("known-2")
        records = [json.loads(line) for line in server.log]
        self.assertTrue(all({"time", "level", "message"} <= set(record) for record in records))
        requests = {record["id"]: record for record in records if record["message"] == "request"}
        first, second = requests["known-1"], requests["known-2"]
        self.assertEqual((first["method"], first["path"], first["status"], first["complete"]), ("POST", "/v1/chat/completions", "200", "yes"))
        self.assertEqual((second["path"], second["status"]), ("/nothing", "404"))
        self.assertGreater(float(first["ms"]), 0)
        self.assertNotIn(self.SECRET, "\n".join(server.log))

    def test_text(self):
        with Server("--log-requests") as server:
            self.ask(server)
            server.wait_for_log(r"info request id=known-1 method=POST path=/v1/chat/completions status=200 bytes=\d+ ms=[\d.]+ complete=yes")
            server.wait_for_log(r"info request id=known-2 .*status=404")
            self.assertNotIn(self.SECRET, "\n".join(server.log))

    def test_silent_by_default(self):
        with Server() as server:
            self.ask(server)
        self.assertNotIn("known-1", "\n".join(server.log))


@unittest.skipUnless(shutil.which("openssl"), "the openssl program makes the certificates")
class Tls(Case):
    def certificate(self, name: str, *flags) -> tuple:
        key, certificate = self.folder / f"{name}.key", self.folder / f"{name}.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-subj", f"/CN={name}", "-addext",
                        "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate, *(flags or ["-nodes"])],
                       check=True, capture_output=True)
        return key, certificate

    def get(self, server: Server, trusted, client=None) -> int:
        context = ssl.create_default_context(cafile=trusted)
        if client:
            context.load_cert_chain(client[1], client[0])
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=context)
        try:
            connection.request("GET", "/v1/models")
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def test_https(self):
        key, certificate = self.certificate("server", "-passout", "pass:secret")
        with Server("--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-keyfile-password", "secret") as server:
            self.assertEqual((server.scheme, self.get(server, certificate)), ("https", 200))
            with self.assertRaises(ssl.SSLCertVerificationError):
                self.get(server, None)
            # Plain HTTP on this port ends, and the server goes on.
            with self.assertRaises((http.client.HTTPException, ConnectionError)):
                server.get("/health")
            self.assertEqual(self.get(server, certificate), 200)

    def test_clients_show_a_certificate(self):
        server_files, client, stranger = (self.certificate(name) for name in ("server", "client", "stranger"))
        with Server("--ssl-certfile", server_files[1], "--ssl-keyfile", server_files[0], "--ssl-ca-certs", client[1]) as server:
            self.assertEqual(self.get(server, server_files[1], client), 200)
            for wrong in (None, stranger):
                with self.assertRaises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                    self.get(server, server_files[1], wrong)

    def test_files_that_do_not_fit(self):
        key, certificate = self.certificate("one", "-passout", "pass:secret")
        other, _ = self.certificate("two")
        for flags, part in [(["--ssl-certfile", certificate], "go together"), (["--ssl-keyfile", other], "go together"),
                            (["--ssl-ca-certs", certificate], "needs --ssl-certfile"),
                            (["--ssl-certfile", certificate, "--ssl-keyfile", other], "--ssl-keyfile"),
                            (["--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-keyfile-password", "wrong"], "--ssl-keyfile"),
                            (["--ssl-certfile", other, "--ssl-keyfile", other], "--ssl-certfile")]:
            self.assert_fails(["serve", "--port", "0", *flags], part)


if __name__ == "__main__":
    unittest.main()
