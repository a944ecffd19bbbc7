"""`keye serve` over several processes: the replies of one, nodes that do not fit, and ranks that are lost."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import unittest

from program import CHECKPOINTS, NANO, Case, data_uri, keye, user
from serving import SANITIZE, Server
from streams import CHAT, Stream

TOKEN = "a secret of all the nodes of this test"
ENVIRONMENT = {"KEYE_DIST_TOKEN": TOKEN}
TALK = {"messages": user("Tell me all that you know."), "max_tokens": 3000, "ignore_eos": True}
TIMEOUT_S = 60 if SANITIZE else 6
PICTURE = NANO.parents[1] / "tests/golden/images"
ERROR = "a part of the model is lost; the server is ending"


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens at."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = first.getsockname()[1]
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for other in range(port, port + count):
                stack.enter_context(socket.create_server(("127.0.0.1", other)))
            return port


def ranks_of(server: Server) -> list[int]:
    """The processes that this one has started, in the order of their ranks."""
    children = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            stat = open(f"/proc/{int(name)}/stat").read()
            if int(stat.rsplit(")", 1)[1].split()[1]) == server.process.pid and b"rank" in open(f"/proc/{name}/cmdline", "rb").read():
                children.append(int(name))
    return sorted(children)


def answers(server: Server) -> list:
    """Replies with their logarithms of probability: equal only where all bits are."""
    asked = [user("What is 3 + 4?"), user("Who are you?"), user("a " * 150)]
    return [server.chat(messages, max_tokens=12, temperature=0.8, seed=5, logprobs=True, top_logprobs=2, ignore_eos=True)["choices"]
            for messages in asked]


def texts(choices: list) -> list[str]:
    return [reply[0]["message"]["content"] for reply in choices]


def lost_line(server: Server) -> str:
    """Why the run is over: one line, the same of all of a node's ranks."""
    lines = {re.sub(r"^\S+ error ", "", line).split(" rank=")[0] for line in server.log if " error " in line}
    assert len(lines) == 1, server.log
    return lines.pop()


class OneNode(Case):
    def test_replies_are_those_of_one_process(self):
        with Server("--dtype", "f32") as server:
            whole = texts(answers(server))
        replies = []
        for _ in range(2):
            with Server("--dtype", "f32", "--tp-size", 2) as server:
                self.assertEqual(len(ranks_of(server)), 1)
                replies.append(answers(server))
                # And beside others, at the same time.
                with contextlib.ExitStack() as others:
                    for _ in range(3):
                        others.enter_context(Stream(server, {**TALK, "max_tokens": 200}))
                    server.post_ok("/flush_cache", {})
                    self.assertEqual(answers(server), replies[0])
                info = json.loads(server.get("/get_server_info")[2])["flags"]
                self.assertEqual((info["tp_size"], info["ep_size"], info["nnodes"]), (2, 1, 1))
        self.assertEqual(texts(replies[0]), whole)
        self.assertEqual(replies[0], replies[1])

    def test_pictures_are_shared_among_ranks(self):
        parts = [{"type": "image_url", "image_url": {"url": data_uri(path)}} for path in sorted(PICTURE.glob("*.png"))[:3]]
        self.assertEqual(len(parts), 3)
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "What do you see?"}]}]
        replies = []
        for flags in ([], ["--tp-size", 2]):
            with Server("--dtype", "f32", *flags) as server:
                replies.append(server.chat(messages, max_tokens=12, temperature=0, ignore_eos=True)["choices"])
        self.assertEqual(replies[0], replies[1])

    def test_experts_in_groups(self):
        replies = []
        for flags in ([], ["--tp-size", 4], ["--tp-size", 2, "--ep-size", 2], ["--tp-size", 4, "--ep-size", 2]):
            with Server("--dtype", "f32", *flags, model=CHECKPOINTS / "qwen3-moe-text") as server:
                replies.append(texts(answers(server)))
        self.assertEqual(replies, [replies[0]] * 4)

    def test_an_abort_leaves_all_ranks_in_step(self):
        with Server("--tp-size", 2) as server:
            expected = answers(server)
            for _ in range(20):
                with Stream(server, {**TALK, "messages": user("word " * 3000)}):
                    time.sleep(0.02)
            server.wait_until_idle()
            server.post_ok("/flush_cache", {})
            self.assertEqual(answers(server), expected)

    def test_a_rank_that_is_killed_ends_all_and_is_named(self):
        server = Server("--tp-size", 2, "--dist-timeout", TIMEOUT_S)
        self.addCleanup(server.process.kill)
        rank = ranks_of(server)[0]
        with Stream(server, TALK) as stream:
            stream.wait_for_token()
            os.kill(rank, signal.SIGKILL)
            start = time.monotonic()
            self.assertEqual(stream.read_all()[-1]["error"]["message"], ERROR)
        self.assertEqual(server.process.wait(TIMEOUT_S), 1)
        self.assertLess(time.monotonic() - start, TIMEOUT_S)
        self.assertEqual(lost_line(server), "rank 1 is gone: its process was ended by signal 9")

    def test_a_rank_that_hangs_is_named(self):
        server = Server("--tp-size", 2, "--dist-timeout", TIMEOUT_S)
        self.addCleanup(server.process.kill)
        rank = ranks_of(server)[0]
        self.addCleanup(subprocess.run, ["kill", "-KILL", str(rank)], capture_output=True)
        os.kill(rank, signal.SIGSTOP)  # nobody asks anything at the time
        start = time.monotonic()
        self.assertEqual(server.process.wait(2 * TIMEOUT_S), 1)
        self.assertLess(time.monotonic() - start, TIMEOUT_S)
        self.assertRegex(lost_line(server), r"^rank 1 has not been heard of for \d+\.\d s$")

    def test_the_other_ranks_end_with_the_first(self):
        server = Server("--tp-size", 2, "--dist-timeout", TIMEOUT_S)
        rank = ranks_of(server)[0]
        server.process.kill()
        server.process.wait()
        server.wait_until(lambda: not os.path.exists(f"/proc/{rank}"), "rank 1 has ended", timeout=TIMEOUT_S)

    def test_what_cannot_be_split_is_refused_by_name(self):
        for model, flags, parts in [
                (NANO, ["--tp-size", 3], ["--tp-size", "3 ranks cannot share", "these can: 1, 2, 6"]),
                (CHECKPOINTS / "keye-1_5", ["--tp-size", 2, "--ep-size", 2], ["--ep-size", "no experts"]),
                (CHECKPOINTS / "qwen3-moe-text", ["--tp-size", 4, "--ep-size", 3], ["--ep-size", "divide"]),
                (NANO, ["--tp-size", 3, "--nnodes", 2], ["--tp-size", "evenly"]),
                (NANO, ["--tp-size", 2, "--nnodes", 2], ["--dist-init-addr"]),
                (NANO, ["--tp-size", 2, "--nnodes", 2, "--node-rank", 2], ["--node-rank"]),
                (NANO, ["--tp-size", 2, "--device", "cuda"], ["--device", "CPUs only"]),
                (NANO, ["--tp-size", 2, "--nnodes", 2, "--dist-init-addr", "127.0.0.1:1"], ["KEYE_DIST_TOKEN", "--dist-token-file"]),
                (NANO, ["--tp-size", 2, "--nnodes", 2, "--dist-init-addr", "here"], ["KEYE_DIST_TOKEN"])]:
            with self.subTest(flags):
                self.assert_fails(["serve", "--port", 0, "--model-path", model, *flags], *parts)

    def test_the_recipe_for_four_nodes_is_refused_by_name(self):
        for flags in (["--dp-size", 32], ["--enable-dp-attention"], ["--enable-dp-lm-head"], ["--moe-a2a-backend", "deepep"],
                      ["--enable-two-batch-overlap"], ["--tp-size", 2, "--moe-dense-tp-size", 1]):
            with self.subTest(flags):
                name = next(flag for flag in reversed(flags) if str(flag).startswith("--"))
                self.assert_fails(["serve", "--port", 0, *flags], name, "not supported", "leave it out")

    def test_a_rank_is_not_started_by_hand(self):
        for arguments in (["rank"], ["rank", "serve", "--channel", 3], ["rank", "serve", "--channel", "x"]):
            self.assertNotEqual(keye(*arguments).code, 0, arguments)


class Nodes:
    """`keye serve` as on two machines. Node 1 first: it waits for node 0."""

    def __init__(self, *flags, ranks: int = 2, address: str = "", model=NANO, **of_nodes):
        self.address = address or f"127.0.0.1:{free_ports(8)}"
        self.servers = {}
        for node in (1, 0):
            own = of_nodes.get(f"node{node}", {})
            with own.get("namespace", contextlib.nullcontext()):
                self.servers[node] = Server(
                    "--tp-size", own.get("ranks", ranks), "--nnodes", 2, "--node-rank", own.get("rank", node), "--dist-init-addr", own.get("address", self.address),
                    "--dist-timeout", TIMEOUT_S, *flags, *own.get("flags", []), model=own.get("model", model), wait=False,
                    env=own.get("env", ENVIRONMENT))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers.values():
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()

    def __getitem__(self, node: int) -> Server:
        return self.servers[node]

    def start(self):
        self[0].wait_for_log("serving ")
        return self

    def end(self) -> list[int]:
        """Exit codes, when all have ended."""
        return [self.servers[node].process.wait(3 * TIMEOUT_S) for node in (0, 1)]


class TwoNodes(Case):
    def test_node_0_serves_and_the_other_says_that_it_is_there(self):
        with Server("--dtype", "f32") as server:
            whole = texts(answers(server))
        with Nodes("--dtype", "f32") as nodes:
            nodes.start()
            self.assertEqual(texts(answers(nodes[0])), whole)
            nodes[1].wait_until(lambda: nodes[1].get("/health")[0] == 200, "node 1 is ready")
            self.assertEqual(json.loads(nodes[1].get("/health")[2]), {"status": "ok"})
            status, error = nodes[1].post(CHAT, TALK)
            self.assertEqual(status, 503)
            self.assertIn(f"node 0 ({nodes.address}) answers requests", error["error"]["message"])
            nodes[0].stop()
            self.assertEqual(nodes.end(), [0, 0])

    def refused(self, expected: str, **of_nodes):
        """Node 1 is refused with this line, and node 0 goes on waiting for the right one."""
        with Nodes(**of_nodes) as nodes:
            self.assertEqual(nodes[1].process.wait(3 * TIMEOUT_S), 1)
            time.sleep(0.2)
            self.assertRegex("\n".join(nodes[1].log), expected)
            self.assertIsNone(nodes[0].process.poll())
            right = Server("--tp-size", 2, "--nnodes", 2, "--node-rank", 1, "--dist-init-addr", nodes.address, "--dist-timeout", TIMEOUT_S,
                           wait=False, env=ENVIRONMENT)
            nodes.servers[1] = right
            nodes.start()
            nodes[0].chat("Who are you?", max_tokens=2)

    def test_another_token(self):
        self.refused("does not greet as one with the same token", node1={"env": {"KEYE_DIST_TOKEN": "b" + TOKEN[1:]}})

    def test_another_model(self):
        self.refused(r'refused this node: model is "[0-9a-f]{16}" at node 1 and "[0-9a-f]{16}" at node 0',
                     node1={"model": CHECKPOINTS / "keye-1_5"})

    def test_other_flags(self):
        self.refused('--dtype is "f32" at node 1 and "bf16" at node 0', node1={"flags": ["--dtype", "f32"]})

    def test_another_instruction_set(self):
        self.refused(r'instruction set \(--isa\) is "scalar" at node 1 and "\w+" at node 0', node1={"flags": ["--isa", "scalar"]})

    def test_another_number_of_ranks(self):
        self.refused("--tp-size is 4 at node 1 and 2 at node 0", node1={"ranks": 4, "model": CHECKPOINTS / "qwen3-text"})

    def test_a_node_rank_that_is_taken(self):
        flags = ["--tp-size", 6, "--nnodes", 3, "--dist-init-addr", f"127.0.0.1:{free_ports(8)}", "--dist-timeout", TIMEOUT_S]

        def node(rank: int) -> Server:
            server = Server(*flags, "--node-rank", rank, wait=False, env=ENVIRONMENT)
            self.addCleanup(server.process.kill)
            return server

        first, second = node(0), node(1)
        first.wait_for_log("node 1 is here")
        other = node(1)
        self.assertEqual(other.process.wait(TIMEOUT_S), 1)
        self.assertRegex("\n".join(other.log), r"refused this node: node rank 1 is already taken by 127\.0\.0\.1:\d+")
        third = node(2)
        first.wait_for_log("serving ")
        first.chat("Who are you?", max_tokens=2)
        first.stop()
        self.assertEqual([second.process.wait(TIMEOUT_S), third.process.wait(TIMEOUT_S)], [0, 0])

    def test_a_secret_in_a_file(self):
        file = self.folder / "token"
        file.write_text(TOKEN + "\n")
        with Nodes("--dist-token-file", file, node0={"env": {}}, node1={"env": {}}) as nodes:
            nodes.start()
            for node in (0, 1):
                command = open(f"/proc/{nodes[node].process.pid}/cmdline", "rb").read()
                self.assertNotIn(TOKEN.encode(), command)
        file.write_text("short\n")
        self.assert_fails(["serve", "--port", 0, "--tp-size", 2, "--nnodes", 2, "--dist-init-addr", "127.0.0.1:1", "--dist-token-file", file],
                          "at least 16 bytes", "got 5")

    def test_junk_at_the_door(self):
        address = f"127.0.0.1:{free_ports(8)}"
        port = int(address.split(":")[1])
        node0 = Server("--tp-size", 2, "--nnodes", 2, "--dist-init-addr", address, "--dist-timeout", TIMEOUT_S, wait=False, env=ENVIRONMENT)
        self.addCleanup(node0.process.kill)
        node0.wait_for_log("waiting at")
        held = []
        for i in range(600):
            knocking = socket.create_connection(("127.0.0.1", port))
            if i % 3 == 1:
                with contextlib.suppress(OSError):
                    knocking.sendall(os.urandom(200))
            elif i % 3 == 2:
                knocking.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # the beginning of a greeting
            held.append(knocking)
        node1 = Server("--tp-size", 2, "--nnodes", 2, "--node-rank", 1, "--dist-init-addr", address, "--dist-timeout", TIMEOUT_S, wait=False,
                       env=ENVIRONMENT)
        self.addCleanup(node1.process.kill)
        node0.wait_for_log("serving ")
        for knocking in held:
            knocking.close()
        node0.chat("Who are you?", max_tokens=2)
        node0.stop()
        self.assertEqual(node1.process.wait(TIMEOUT_S), 0)

    def test_a_node_that_cannot_load_ends_all_and_says_why(self):
        with Nodes(node1={"flags": ["--mem-fraction-static", 0.01]}) as nodes:
            self.assertEqual(nodes.end(), [1, 1])
            self.assertRegex(lost_line(nodes[0]), r"^rank 1 \(node 1\) gave up: --mem-fraction-static: 1 % of .*; raise it$")
            nodes[0].wait_for_log(r"^keye serve: rank 1 \(node 1\) gave up")  # said, not thrown

    def test_a_node_that_gives_up_says_why(self):
        with Nodes() as nodes:
            nodes.start()
            nodes[1].process.send_signal(signal.SIGTERM)
            self.assertEqual(nodes[1].process.wait(TIMEOUT_S), 0)
            self.assertEqual(nodes[0].process.wait(TIMEOUT_S), 1)
            self.assertEqual(lost_line(nodes[0]), "rank 1 (node 1) gave up: it was told to stop")


# -- namespaces ----------------------------------------------------------------


def run_ip(*words: str):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Namespace:
    """A network namespace. Inside `with`, the thread and what it starts are in it."""

    def __init__(self, name: str):
        self.name = name
        run_ip("netns", "add", name)

    def __enter__(self):
        self.before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.enter(f"/run/netns/{self.name}")

    def __exit__(self, *_):
        self.enter(f"/proc/self/fd/{self.before}")
        os.close(self.before)

    @staticmethod
    def enter(path: str):
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if libc.setns(descriptor, 0) != 0:
                raise OSError(ctypes.get_errno(), path)
        finally:
            os.close(descriptor)


class Relay:
    """Passes on what comes to these ports, later by a delay: kernels without netem have no other way."""

    def __init__(self, host: str, ports: range, to: int, delay_s: float):
        self.delay_s = delay_s
        self.sockets = [socket.create_server((host, port)) for port in ports]
        for listener, port in zip(self.sockets, ports):
            threading.Thread(target=self.accept, args=(listener, (host, to + port - ports[0])), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def accept(self, listener: socket.socket, target: tuple):
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(target)
                except OSError:  # nobody is there yet
                    near.close()
                    continue
                for end in (near, far):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.sockets.append(end)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=(source, sink), daemon=True).start()

    def carry(self, source: socket.socket, sink: socket.socket):
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 20):
                time.sleep(self.delay_s)
                sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)


def why_no_namespaces() -> str:
    name = f"keye-try-{os.getpid()}"
    try:
        Namespace(name)
        run_ip("netns", "delete", name)
    except FileNotFoundError:
        return "there is no `ip` (iproute2)"
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed: {error.stderr.strip()}"
    return ""


class Namespaces(Case):
    """Four ranks on two nodes, joined by a pair of virtual Ethernet devices."""

    def setUp(self):
        super().setUp()
        if why := why_no_namespaces():
            self.skipTest(why)
        self.spaces = []
        for node in range(2):
            self.spaces.append(Namespace(f"keye-{os.getpid()}-{node}"))
            self.addCleanup(run_ip, "netns", "delete", self.spaces[node].name)
        run_ip("link", "add", "keye0", "netns", self.spaces[0].name, "type", "veth", "peer", "name", "keye0", "netns", self.spaces[1].name)
        for node, space in enumerate(self.spaces):
            run_ip("-n", space.name, "address", "add", f"10.77.0.{node + 1}/24", "dev", "keye0")
            for device in ("lo", "keye0"):
                run_ip("-n", space.name, "link", "set", device, "up")

    def nodes(self, *flags, seen_by_node_1: str = "10.77.0.1:29500") -> Nodes:
        return Nodes(*flags, ranks=4, address="10.77.0.1:29500", model=CHECKPOINTS / "keye-1_5", node0={"namespace": self.spaces[0]},
                     node1={"namespace": self.spaces[1], "address": seen_by_node_1})

    def test_four_ranks_on_two_nodes(self):
        with Server("--dtype", "f32", model=CHECKPOINTS / "keye-1_5") as server:
            whole = texts(answers(server))
        replies = []
        for delayed in (False, True):
            with contextlib.ExitStack() as stack:
                if delayed:
                    with self.spaces[0]:
                        stack.enter_context(Relay("10.77.0.1", range(29600, 29606), to=29500, delay_s=0.001))
                nodes = stack.enter_context(self.nodes("--dtype", "f32", seen_by_node_1=f"10.77.0.1:{29600 if delayed else 29500}"))
                nodes.start()
                with self.spaces[0]:
                    start = time.monotonic()
                    replies.append(answers(nodes[0]))
                    if delayed:  # 3 x 12 tokens, each of which crosses at every half of a layer
                        self.assertGreater(time.monotonic() - start, 36 * 4 * 0.001)
                with self.spaces[1]:
                    self.assertEqual(nodes[1].get("/health")[0], 200)
                    listening = subprocess.run(["ss", "-tlnH"], capture_output=True, text=True).stdout
                    # The one server, at the address that it was given; ranks of the last node only knock at others.
                    self.assertEqual([line.split()[3] for line in listening.splitlines()], [f"127.0.0.1:{nodes[1].port}"])
                nodes[0].stop(timeout=60)
                self.assertEqual(nodes.end(), [0, 0])
        self.assertEqual(texts(replies[0]), whole)
        self.assertEqual(replies[0], replies[1])

    def test_a_link_that_is_cut_in_the_middle_of_a_reply(self):
        with self.nodes() as nodes:
            nodes.start()
            with self.spaces[0], Stream(nodes[0], TALK) as stream:
                stream.wait_for_token()
                run_ip("-n", self.spaces[1].name, "link", "set", "keye0", "down")
                start = time.monotonic()
                self.assertEqual(stream.read_all()[-1]["error"]["message"], ERROR)
                self.assertLess(time.monotonic() - start, TIMEOUT_S)
            self.assertEqual(nodes.end(), [1, 1])
            self.assertLess(time.monotonic() - start, TIMEOUT_S)
            self.assertRegex(lost_line(nodes[0]), r"^rank 2 \(node 1\) has not been heard of for \d+\.\d s$")
            self.assertRegex(lost_line(nodes[1]), r"^rank 0 \(node 0\) has not been heard of for \d+\.\d s$")

    def test_any_rank_that_is_killed_is_named_at_both_nodes(self):
        for node, rank, name in ((0, 1, "rank 1 (node 0)"), (1, 1, "rank 3 (node 1)")):
            with self.subTest(name), self.nodes() as nodes:
                nodes.start()
                with self.spaces[0], Stream(nodes[0], TALK) as stream:
                    stream.wait_for_token()
                    os.kill(ranks_of(nodes[node])[rank - 1], signal.SIGKILL)
                    self.assertEqual(stream.read_all()[-1]["error"]["message"], ERROR)
                self.assertEqual(nodes.end(), [1, 1])
                for server in nodes.servers.values():
                    self.assertEqual(lost_line(server), f"{name} is gone: its process was ended by signal 9")


if __name__ == "__main__":
    unittest.main()
