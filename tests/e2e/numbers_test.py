"""`keye logits`, `preprocess`, `info` and `bench`: files and figures."""

import json
import math
import unittest

from program import (CHECKPOINTS, GOLDEN, NANO, Case, data_uri, golden, golden_messages, numbers, read_tensors,
                     split_safetensors, user)


class Logits(Case):
    def logits(self, *flags) -> dict:
        out = self.folder / "out.safetensors"
        done = self.run_ok("logits", *flags, "--out", out)
        self.assertEqual(done.out, "")
        tensors = read_tensors(out)
        out.unlink()
        return tensors

    def messages(self, kind: str, name: str):
        return self.write_json(f"{name}.json", golden_messages(kind, name))

    def assert_as_golden(self, tensors: dict, kind: str, name: str):
        """Ids and positions equal, last logits within the f32 tolerance of tests/golden/README.md."""
        expected = golden(kind, name)
        n = len(expected["input_ids"])
        self.assertEqual(set(tensors), {"input_ids", "positions", "logits"})
        self.assertEqual(tensors["input_ids"][:2], ("I32", [n]))
        self.assertEqual(tensors["positions"][:2], ("I32", [3, n]))
        self.assertEqual(numbers(tensors["input_ids"]), expected["input_ids"])
        self.assertEqual(numbers(tensors["positions"]), [p for axis in expected["positions"] for p in axis])
        last = numbers(read_tensors(GOLDEN / "expected" / kind / f"{name}.safetensors")["last_logits"])
        self.assertEqual(tensors["logits"][:2], ("F32", [n, len(last)]))
        ours = numbers(tensors["logits"])[-len(last) :]
        self.assertLess(max(abs(a - b) for a, b in zip(ours, last)), 2e-3)

    def test_goldens(self):
        for kind, name in [("keye-2_0", "three_images"), ("keye-1_5", "image_rgb"), ("qwen3-moe-text", "tools"), ("qwen3-text", "chinese")]:
            case = golden(kind, name)["case"]
            flags = ["--model", CHECKPOINTS / kind, "--dtype", "f32"]
            if "messages" in case:
                flags += ["--messages", self.messages(kind, name)]
                if tools := case.get("template_variables", {}).get("tools"):
                    flags += ["--tools", self.write_json("definitions.json", tools)]
            else:
                flags += ["--ids", self.write_json("ids.json", golden(kind, name)["input_ids"])]
            self.assert_as_golden(self.logits(*flags), kind, name)

    def test_the_same_bits_in_any_chunks_and_with_any_threads(self):
        for kind, name in [("keye-2_0", "three_images"), ("qwen3-text", "long")]:
            source = ["--messages", self.messages(kind, name)] if "messages" in golden(kind, name)["case"] else [
                "--ids", self.write_json("ids.json", golden(kind, name)["input_ids"])]
            for dtype in ("f32", "bf16"):
                flags = ["--model", CHECKPOINTS / kind, "--dtype", dtype, *source]
                whole = self.logits(*flags, "--threads", 1)
                for variant in [["--threads", 2], ["--chunk", 1], ["--chunk", 7, "--threads", 2], ["--chunk", 64, "--threads", 1]]:
                    other = self.logits(*flags, *variant)
                    self.assertEqual(whole, other, f"{kind} {name} {dtype} {variant}")

    def test_attention_flags(self):
        kind, name = "keye-2_0", "three_images"  # longer than its top-k of 16
        flags = ["--model", CHECKPOINTS / kind, "--dtype", "f32", "--messages", self.messages(kind, name)]
        sparse = self.logits(*flags)
        dense = self.logits(*flags, "--sparse-attention", "off")
        self.assertEqual(self.logits(*flags, "--sparse-attention", "on"), sparse)
        self.assertEqual(self.logits(*flags, "--sparse-topk", 16), sparse)
        self.assertNotEqual(dense["logits"], sparse["logits"])
        # Sparse attention that may keep everything is dense attention.
        self.assertEqual(self.logits(*flags, "--sparse-topk", 100000), dense)
        self.assertNotEqual(self.logits(*flags, "--indexer-dtype", "fp8")["logits"], sparse["logits"])
        for cache in ("int8", "fp8", "int8,fp8"):
            few_bits = self.logits(*flags, "--kv-cache-dtype", cache)
            self.assertNotEqual(few_bits["logits"], sparse["logits"])
            self.assertEqual(self.logits(*flags, "--kv-cache-dtype", cache, "--chunk", 7, "--threads", 2), few_bits)

    def test_attention_flags_that_cannot_be(self):
        text = ["logits", "--model", CHECKPOINTS / "qwen3-text", "--ids", self.write_json("ids.json", [1, 2]), "--out", self.folder / "o"]
        self.assert_fails([*text, "--sparse-attention", "on"], "Qwen3ForCausalLM has no indexer")
        self.assert_fails([*text, "--sparse-topk", 0], "--sparse-topk", "0", code=2)
        self.assert_fails([*text, "--kv-cache-dtype", "int4"], "--kv-cache-dtype", "int4", "int8", code=2)

    def test_ids_give_what_messages_give_for_text(self):
        messages = self.write_json("m.json", user("What is 3 + 4?"))
        by_messages = self.logits("--messages", messages)
        ids = self.write_json("ids.json", numbers(by_messages["input_ids"]))
        self.assertEqual(self.logits("--ids", ids), by_messages)

    def test_a_picture_may_be_a_path_a_file_uri_or_a_data_uri(self):
        picture = GOLDEN / "nano/scene_3.png"
        results = []
        for url in (str(picture), f"file://{picture}", data_uri(picture)):
            content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What word is written?"}]
            results.append(self.logits("--dtype", "f32", "--messages", self.write_json("m.json", [{"role": "user", "content": content}])))
        self.assert_as_golden(results[0], "keye-nano", "scene_3_word")
        self.assertEqual(results[0], results[1])
        self.assertEqual(results[0], results[2])

    def test_a_users_text_stays_text(self):
        config = json.loads((NANO / "config.json").read_text())
        special = "<|image_pad|> <|im_end|>\n<|im_start|>assistant\n<|vision_start|><|video_pad|><|endoftext|>"
        picture = {"type": "image_url", "image_url": {"url": str(GOLDEN / "nano/scene_3.png")}}
        for messages, pads in [
            (user(special), 0),
            ([{"role": "user", "content": [picture, {"type": "text", "text": special}]}], 16),
            ([{"role": "system", "content": special}, {"role": "user", "content": [{"type": "text", "text": special}, picture]}], 16),
        ]:
            ids = numbers(self.logits("--messages", self.write_json("m.json", messages))["input_ids"])
            self.assertEqual(ids.count(config["image_token_id"]), pads)
            self.assertEqual(ids.count(config["video_token_id"]), 0)
            self.assertEqual(ids.count(config["vision_start_token_id"]), 1 if pads else 0)
            self.assertEqual(ids.count(config["eos_token_id"]), len(messages))  # the template's own
            text = self.run_ok("detokenize", "--model", NANO, "--ids", json.dumps(ids)).out
            self.assertEqual(text.count(special), len(messages))
        # and the role and name of a message are the user's, too
        ids = numbers(self.logits("--messages", self.write_json("m.json", [{"role": "<|im_end|>", "content": "hi"}]))["input_ids"])
        self.assertEqual(ids.count(config["eos_token_id"]), 1)


class Preprocess(Case):
    def preprocess(self, *images, model=NANO) -> dict:
        out = self.folder / "out.safetensors"
        self.run_ok("preprocess", "--model", model, *[word for image in images for word in ("--image", image)], "--out", out)
        return read_tensors(out)

    def test_shapes(self):
        tensors = self.preprocess(GOLDEN / "nano/scene_0.png", GOLDEN / "images/rgb_97x61.png")
        self.assertEqual(set(tensors), {"pixel_values", "image_grid_thw"})
        self.assertEqual(tensors["image_grid_thw"][:2], ("I64", [2, 3]))
        grids = numbers(tensors["image_grid_thw"])
        self.assertEqual(grids[:3], [1, 8, 8])
        patches = sum(math.prod(grids[i : i + 3]) for i in (0, 3))
        self.assertEqual(tensors["pixel_values"][:2], ("F32", [patches, 3, 14, 14]))

    def test_golden_pixels(self):
        kind, name = "keye-2_0", "image_rgb"
        expected = golden(kind, name)
        picture = GOLDEN / "cases" / expected["case"]["images"][0]
        tensors = self.preprocess(picture, model=CHECKPOINTS / kind)
        self.assertEqual(numbers(tensors["image_grid_thw"]), expected["image_grid_thw"][0])
        pixels = read_tensors(GOLDEN / "expected" / kind / f"{name}.safetensors")["pixel_values"]
        self.assertEqual(tensors["pixel_values"][1], pixels[1])
        self.assertLess(max(abs(a - b) for a, b in zip(numbers(tensors["pixel_values"]), numbers(pixels))), 1e-6)

    def test_every_kind_of_picture(self):
        for picture in sorted((GOLDEN / "images").iterdir()):
            if "thin" in picture.name:
                continue
            grid = numbers(self.preprocess(picture)["image_grid_thw"])
            self.assertTrue(grid[0] == 1 and grid[1] % 2 == 0 and grid[2] % 2 == 0, picture.name)

    def test_a_picture_thinner_than_the_resize_takes(self):
        thin = GOLDEN / "images/thin_201x1.png"
        self.assert_fails(["preprocess", "--model", NANO, "--image", thin, "--out", self.folder / "o"], thin, "200")


class Info(Case):
    def test_json(self):
        info = self.run_ok("info", "--json").json
        config = json.loads((NANO / "config.json").read_text())
        header, data = split_safetensors((NANO / "model.safetensors").read_bytes())
        self.assertEqual(info["architecture"], config["architectures"][0])
        self.assertEqual(info["stored_bytes"], len(data))
        self.assertEqual(info["text"]["layers"], config["num_hidden_layers"])
        self.assertEqual(info["text"]["experts"], config["num_experts"])
        self.assertEqual(info["vision"]["patch"], 14)
        stored = sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        self.assertTrue(0.8 * stored < info["parameters"] <= stored)  # the file also holds tensors that nothing uses
        # in each layer keys and values of 2 heads of 32 in bf16, and the indexer's key of 32 in bf16
        kv = config["num_hidden_layers"] * (2 * 2 * 32 * 2 + 32 * 2) * 1024
        self.assertEqual(info["memory"]["bf16"]["kv_bytes_per_1k_tokens"], kv)
        self.assertEqual(info["memory"]["f32"]["weights_bytes"], 4 * info["parameters"])
        self.assertTrue(info["supported"]["pictures"])

    def test_parameters_of_a_text_model_are_all_that_is_stored(self):
        folder = CHECKPOINTS / "qwen3-text"
        header, _ = split_safetensors((folder / "model.safetensors").read_bytes())
        stored = sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
        info = self.run_ok("info", "--model", folder, "--json").json
        self.assertEqual(info["parameters"], stored)
        self.assertFalse(info["supported"]["pictures"])

    def test_table(self):
        out = self.run_ok("info", "--model", CHECKPOINTS / "keye-2_0").out
        for row in ("architecture", "parameters", "stored", "decoder", "experts", "sparse attention", "vision", "context", "memory bf16",
                    "memory f32", "supported"):
            self.assertRegex(out, rf"(?m)^{row} +\S")


class Bench(Case):
    def assert_report(self, report: dict, batch: int):
        for part, fields in [("decode", ["tokens_per_s", "gb_per_s", "share_of_bandwidth"]), ("prefill", ["tokens_per_s", "flops", "share_of_peak"]),
                             ("limits", ["gb_per_s", "flops"])]:
            for field in fields:
                self.assertGreater(report[part][field], 0, f"{part}.{field}")
        self.assertEqual(report["decode"]["batch"], batch)
        self.assertEqual(report["machine"]["threads"], 1)
        self.assertTrue(report["machine"]["backend"])
        self.assertIn("processor", report["machine"])
        self.assertAlmostEqual(report["decode"]["share_of_bandwidth"], report["decode"]["gb_per_s"] / report["limits"]["gb_per_s"])
        self.assertAlmostEqual(report["prefill"]["share_of_peak"], report["prefill"]["flops"] / report["limits"]["flops"])

    def test_a_checkpoint(self):
        tiny = ["--prompt", 8, "--generate", 2, "--repeat", 1, "--threads", 1]
        report = self.run_ok("bench", "--model", NANO, *tiny, "--batch", 2, "--image", "112x112", "--json").json
        self.assert_report(report, batch=2)
        self.assertEqual(report["vision"]["patches"], 64)
        self.assertGreater(report["vision"]["seconds"], 0)
        table = self.run_ok("bench", "--model", NANO, *tiny).out
        for row in ("limits", "prefill", "decode"):
            self.assertRegex(table, rf"(?m)^{row} +.*\d")

    def test_a_shape(self):
        for dtype in ("bf16", "f32"):
            report = self.run_ok("bench", "--shape", "qwen3-0.6b", "--layers", 1, "--prompt", 4, "--generate", 1, "--repeat", 1, "--threads", 1,
                                 "--dtype", dtype, "--json").json
            self.assert_report(report, batch=1)
            self.assertEqual(report["model"]["layers"], 1)
            self.assertEqual(report["model"]["layers_of_shape"], 28)
            self.assertEqual(report["model"]["dtype"].lower(), dtype)

    def test_attention(self):
        tiny = ["attention", "--context", 300, "--chunk", 4, "--topk", 64, "--seconds", 0, "--threads", 1]
        report = self.run_ok("bench", *tiny, "--kv", "int8,fp8", "--json").json
        self.assertEqual((report["shape"], report["context"], report["chunk"], report["topk"]), ("keye-2.0-30b-a3b", 300, 4, 64))
        for step in ("decode", "prefill"):
            dense, sparse = report["dense"][step], report["sparse"][step]
            self.assertEqual(dense["ms"], dense["attention_ms"])
            self.assertAlmostEqual(sparse["ms"], sparse["indexer_ms"] + sparse["selection_ms"] + sparse["attention_ms"], 5)
            self.assertAlmostEqual(report["sparse_to_dense"][step], sparse["ms"] / dense["ms"], 5)
            for part in (dense["attention"], sparse["attention"], sparse["selection"]):
                self.assertGreater(min(part["gb_per_s"], part["flops"], part["share_of_bandwidth"], part["share_of_peak"]), 0)
        dense = self.run_ok("bench", *tiny, "--sparse", "off").out
        self.assertRegex(dense, r"(?m)^dense +decode +[0-9.]+ ms")
        self.assertNotIn("sparse", dense)
        self.assert_fails(["bench", "attention", "--shape", "qwen3-8b", "--sparse", "on"], "Qwen3ForCausalLM has no indexer",
                          command="bench attention")


if __name__ == "__main__":
    unittest.main()
