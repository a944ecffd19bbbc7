"""Help, wrong usage, and what is said of files that are missing, broken or of the wrong kind."""

import json
import unittest

from program import CHECKPOINTS, NANO, Case, join_safetensors, keye, split_safetensors, user

COMMANDS = ["run", "info", "tokenize", "detokenize", "render", "preprocess", "logits", "bench"]
TEXT = CHECKPOINTS / "qwen3-text"


class Help(Case):
    def test_the_program_lists_its_commands(self):
        for flag in ("--help", "-h", "help"):
            done = self.run_ok(flag)
            for command in COMMANDS:
                self.assertRegex(done.out, rf"(?m)^  {command} +\w")
        self.assertRegex(self.run_ok("--version").out, r"^keye \d+\.\d+\.\d+\n$")

    def test_every_command_has_help(self):
        for command in COMMANDS:
            done = self.run_ok(command, "--help")
            self.assertIn("--help", done.out)
            self.assertIn("keye " + command, done.out)
            self.assertEqual(done.err, "")

    def test_no_command(self):
        done = keye()
        self.assertEqual((done.code, done.out), (2, ""))
        self.assertIn("Usage: keye COMMAND", done.err)

    def test_unknown_command(self):
        done = keye("chat")
        self.assertEqual((done.code, done.out), (2, ""))
        self.assertIn('"chat"', done.err)
        self.assertIn("keye --help", done.err)


class WrongUsage(Case):
    def test_unknown_flag(self):
        needed = {"preprocess": ["--image", "x.png", "--out", "o"], "logits": ["--ids", "i.json", "--out", "o"],
                  "render": ["--messages", "m.json"], "detokenize": ["--ids", "[1]"], "bench": []}
        for command in COMMANDS:
            arguments = [command, "--model", NANO, *needed.get(command, []), "--no-such-flag", "7"]
            self.assert_fails(arguments, "--no-such-flag", f"Try 'keye {command} --help'", code=2)

    def test_bad_values_of_flags(self):
        for arguments, part in [
            (["run", "--prompt", "hi", "--max-tokens", "many"], "--max-tokens"),
            (["run", "--prompt", "hi", "--dtype", "int4"], "--dtype"),
            (["run", "--prompt", "hi", "--threads", "-1"], "--threads"),
            (["run", "--prompt", "hi", "--messages", "m.json"], "--messages"),
            (["run", "--messages", "m.json", "--image", "x.png"], "--image"),
            (["run", "--json"], "--prompt"),
            (["logits", "--out", "o.safetensors"], "--ids"),
            (["logits", "--ids", "i.json"], "--out"),
            (["logits", "--ids", "i.json", "--out", "o.safetensors", "--chunk", "0"], "--chunk"),
            (["tokenize", "--model", "m", "--tokenizer", "t.json", "--text", "hi"], "tokenizer"),
            (["bench"], "--shape"),
            (["bench", "--shape", "keye-vision", "--image", "large"], "--image"),
        ]:
            self.assert_fails(arguments, part, code=2)

    def test_refused_requests(self):
        run = ["run", "--prompt", "hi"]
        for arguments, parts in [
            ([*run, "--temperature", "-1"], ["temperature", "-1"]),
            ([*run, "--top-p", "1.5"], ["top_p", "1.5"]),
            ([*run, "--top-k", "-2"], ["top_k", "-2"]),
            ([*run, "--max-tokens", "0"], ["max_tokens", "0"]),
            ([*run, "--n", "0"], ["n", "0"]),
            ([*run, "--logit-bias", "5"], ["--logit-bias", "TOKEN_ID=BIAS", "5"]),
            ([*run, "--logit-bias", "99999=1"], ["logit_bias", "99999", "768"]),
            ([*run, "--isa", "sse9"], ["isa", "sse9", "avx2"]),
            (["bench", "--shape", "qwen3-9b"], ["qwen3-9b", "qwen3-0.6b", "qwen3-8b"]),
            (["bench", "--model", TEXT, "--image", "112x112"], ["image", "Qwen3ForCausalLM"]),
            (["bench", "--model", NANO, "--prompt", "40000"], ["40000", "32768"]),
        ]:
            self.assert_fails(arguments, *parts)


class Files(Case):
    def test_missing_files_are_named(self):
        gone = self.folder / "gone"
        out = self.folder / "out.safetensors"
        for arguments in [
            ["run", "--model", gone, "--prompt", "hi"],
            ["run", "--image", gone, "--prompt", "hi"],
            ["run", "--messages", gone],
            ["info", "--model", gone],
            ["tokenize", "--model", gone, "--text", "hi"],
            ["tokenize", "--tokenizer", gone, "--text", "hi"],
            ["detokenize", "--model", gone, "--ids", "[1]"],
            ["render", "--model", gone, "--messages", self.write_json("m.json", user("hi"))],
            ["render", "--model", NANO, "--messages", gone],
            ["preprocess", "--model", NANO, "--image", gone, "--out", out],
            ["logits", "--model", NANO, "--ids", gone, "--out", out],
            ["logits", "--model", NANO, "--messages", gone, "--out", out],
            ["bench", "--model", gone],
        ]:
            self.assert_fails(arguments, gone)
        self.assertFalse(out.exists())

    def test_a_place_that_cannot_be_written(self):
        out = self.folder / "no/such/folder/out.safetensors"
        ids = self.write_json("ids.json", [1, 2])
        self.assert_fails(["logits", "--ids", ids, "--out", out], out)
        self.assert_fails(["preprocess", "--model", NANO, "--image", NANO / "demo.png", "--out", out], out)

    def test_broken_pictures(self):
        words = self.folder / "words.png"
        words.write_text("this is no picture")
        self.assert_fails(["run", "--image", words, "--prompt", "hi"], words)
        cut = self.folder / "cut.png"
        cut.write_bytes((NANO / "demo.png").read_bytes()[:200])
        self.assert_fails(["run", "--image", cut, "--prompt", "hi"], cut)
        empty = self.folder / "empty.png"
        empty.touch()
        self.assert_fails(["preprocess", "--model", NANO, "--image", empty, "--out", self.folder / "o"], empty)
        self.assert_fails(["run", "--image", "data:image/png;base64,!!!", "--prompt", "hi"], "base64", "alphabet")

    def test_a_picture_for_a_text_model(self):
        self.assert_fails(["run", "--model", TEXT, "--image", NANO / "demo.png", "--prompt", "hi"], "picture")
        self.assert_fails(["preprocess", "--model", TEXT, "--image", NANO / "demo.png", "--out", self.folder / "o"])

    def test_broken_messages(self):
        text = self.folder / "text.json"
        text.write_text('[{"role": "user", "content": "hi"}')
        self.assert_fails(["run", "--messages", text], text)
        for name, value in [("number.json", 5), ("numbers.json", [5]), ("object.json", {"messages": "hi"}), ("empty.json", {})]:
            path = self.write_json(name, value)
            self.assert_fails(["run", "--messages", path], path)

    def test_broken_ids(self):
        for name, value, part in [("text.json", ["a"], '"a"'), ("large.json", [768], "768"), ("minus.json", [-1], "-1"),
                                  ("none.json", [], "array"), ("object.json", {}, "array")]:
            path = self.write_json(name, value)
            self.assert_fails(["logits", "--ids", path, "--out", self.folder / "o"], path, part)

    def test_an_unknown_chat_template(self):
        template = self.folder / "t.jinja"
        template.write_text("line one\n{% include 'x' %}\n")
        messages = self.write_json("m.json", user("hi"))
        self.assert_fails(["render", "--model", NANO, "--messages", messages, "--template", template], template, "2:", "include")
        template.write_text("{{ raise_exception('no such role') }}")
        self.assert_fails(["render", "--model", NANO, "--messages", messages, "--template", template], "no such role")


class BrokenCheckpoints(Case):
    """Of qwen3-text, by `info` and `run`: both read the configuration and the headers of the weights."""

    def setUp(self):
        super().setUp()
        self.config = json.loads((TEXT / "config.json").read_text())
        self.weights = (TEXT / "model.safetensors").read_bytes()

    def assert_refused(self, folder, *parts):
        message = self.assert_fails(["info", "--model", folder], *parts)
        self.assert_fails(["run", "--model", folder, "--prompt", "hi"], *parts)
        return message

    def test_config(self):
        broken = self.checkpoint(TEXT, config__json=b'{"architectures": [')
        self.assert_refused(broken, broken / "config.json")
        self.assert_refused(self.checkpoint(TEXT, config__json=None), "config.json")
        for key, value, parts in [
            ("architectures", ["LlamaForCausalLM"], ["LlamaForCausalLM", "Qwen3ForCausalLM"]),
            ("hidden_size", -64, ["hidden_size", "-64"]),
            ("hidden_size", "wide", ["hidden_size", "wide"]),
            ("num_hidden_layers", None, ["num_hidden_layers"]),
            ("hidden_act", "relu", ["hidden_act", "relu", "silu"]),
        ]:
            folder = self.checkpoint(TEXT, config__json={**self.config, key: value})
            self.assert_refused(folder, folder / "config.json", *parts)

    def test_a_vocabulary_that_does_not_fit_the_weights(self):
        folder = self.checkpoint(TEXT, config__json={**self.config, "vocab_size": 4096})
        self.assert_refused(folder, "model.embed_tokens.weight", "4096", "2048")

    def test_truncated_weights(self):
        for size in (0, 7, 100, len(self.weights) // 2, len(self.weights) - 1):
            folder = self.checkpoint(TEXT, model__safetensors=self.weights[:size])
            self.assert_refused(folder, folder / "model.safetensors")

    def test_a_header_that_lies(self):
        header, data = split_safetensors(self.weights)
        name = "model.norm.weight"
        begin, end = header[name]["data_offsets"]
        for entry in [
            {"data_offsets": [begin, end + 4]},
            {"data_offsets": [len(data), len(data) + end - begin]},
            {"data_offsets": [end, begin]},
            {"data_offsets": [-4, end]},
            {"dtype": "F33"},
            {"shape": [2**62, 2**62]},
        ]:
            lie = {**header, name: {**header[name], **entry}}
            folder = self.checkpoint(TEXT, model__safetensors=join_safetensors(lie, data))
            self.assert_refused(folder, folder / "model.safetensors", name)
        for giant in (len(self.weights), 2**63, 2**64 - 1):
            folder = self.checkpoint(TEXT, model__safetensors=giant.to_bytes(8, "little") + self.weights[8:])
            self.assert_refused(folder, folder / "model.safetensors")

    def test_wrong_dtype(self):
        header, data = split_safetensors(self.weights)
        header["model.norm.weight"]["dtype"] = "I32"
        folder = self.checkpoint(TEXT, model__safetensors=join_safetensors(header, data))
        self.assert_refused(folder, "model.norm.weight", "i32", "bf16")

    def test_missing_unexpected_and_misshapen_tensors_are_told_together(self):
        header, data = split_safetensors(self.weights)
        header["model.nurm.weight"] = header.pop("model.norm.weight")
        shape = header["model.layers.0.mlp.up_proj.weight"]["shape"]
        header["model.layers.0.mlp.up_proj.weight"]["shape"] = shape[::-1]
        folder = self.checkpoint(TEXT, model__safetensors=join_safetensors(header, data))
        parts = ["model.norm.weight", "model.nurm.weight", "model.layers.0.mlp.up_proj.weight"]
        self.assert_refused(folder, *parts, *map(str, shape), "missing", "not expected")

    def test_a_shard_that_is_not_there(self):
        source = CHECKPOINTS / "qwen3-moe-text"
        folder = self.checkpoint(source)
        shard = folder / "model-00002-of-00002.safetensors"
        shard.unlink()
        self.assert_refused(folder, shard)

    def test_broken_tokenizer(self):
        folder = self.checkpoint(TEXT, tokenizer__json=b"{}")
        self.assert_fails(["run", "--model", folder, "--prompt", "hi"], folder / "tokenizer.json")
        self.assert_fails(["tokenize", "--model", folder, "--text", "hi"], folder / "tokenizer.json")


if __name__ == "__main__":
    unittest.main()
