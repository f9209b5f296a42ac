"""test_inspect: inspect and convert as programs: what they print, that JSON is JSON, that failures
say what failed with an exit status and leave nothing behind."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

SLUICE = os.environ.get("SLUICE", "build/release/sluice")
MODEL = "models/fable-28m.gguf"


def run(*args):
    done = subprocess.run([SLUICE, *args], capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, done.stderr


class Inspect(unittest.TestCase):
    def test_summary(self):
        code, out, _ = run("inspect", MODEL)
        self.assertEqual(code, 0)
        for part in ("llama", "27.8 M", "29.6 MB", "1024 tokens", "gpt2", "q8_0"):
            self.assertIn(part, out)
        self.assertLessEqual(max(map(len, out.splitlines())), 80)

    def test_default_model(self):
        self.assertIn("27.8 M", run("inspect")[1])

    def test_tensors(self):
        out = run("inspect", MODEL, "--tensors")[1]
        rows = [line for line in out.splitlines() if line.startswith("blk.")]
        self.assertEqual(len(rows), 72)
        self.assertTrue(any("blk.7.ffn_down.weight" in r and "[512, 1408]" in r for r in rows))

    def test_metadata_and_template(self):
        self.assertRegex(run("inspect", MODEL, "--metadata")[1], r"llama\.block_count +u32 +8\n")
        self.assertIn("<|im_start|>", run("inspect", MODEL, "--template")[1])
        self.assertIn("\"hidden_size\": 48",
                      run("inspect", "tests/golden/llama", "--metadata")[1])

    def test_json(self):
        code, out, _ = run("inspect", MODEL, "--json", "--tensors", "--metadata")
        self.assertEqual(code, 0)
        got = json.loads(out)
        self.assertEqual(got["config"]["layers"], 8)
        self.assertEqual(got["parameters"], sum(t["parameters"] for t in got["types"].values()))
        self.assertEqual(got["bytes"], sum(t["bytes"] for t in got["tensor_list"]))
        self.assertEqual(got["metadata"]["llama.block_count"], 8)
        self.assertEqual(got["metadata"]["tokenizer.ggml.tokens"]["length"], 8192)

    def test_dry_run(self):
        code, out, err = run("inspect", MODEL, "--dry-run", "--context", "256")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("would allocate", out)
        plan = json.loads(run("inspect", MODEL, "--dry-run", "--json", "--kv-dtype", "f32")[1])
        plan = plan["plan"]
        self.assertEqual(plan["total_bytes"], sum(plan[part + "_bytes"] for part in
                                                  ("weight", "kv", "activation", "other")))
        # f32 K and V of 4 heads of 64 in 8 layers
        self.assertEqual(plan["kv_bytes"] // plan["kv_tokens"], 2 * 4 * 64 * 8 * 4)
        plan = json.loads(run("inspect", MODEL, "--dry-run", "--json", "--kv-dtype", "int8")[1])
        self.assertEqual(plan["plan"]["kv_dtype"], "int8")
        # a byte each, and an f32 scale for each head
        self.assertEqual(plan["plan"]["kv_bytes"] // plan["plan"]["kv_tokens"],
                         2 * 4 * (64 + 4) * 8)
        code, _, err = run("inspect", MODEL, "--dry-run", "--kv-dtype", "i8")
        self.assertNotEqual(code, 0)
        self.assertIn("kv_dtype", err)

    def test_each_family(self):
        for family in sorted(os.listdir("tests/golden")):
            if not os.path.isdir("tests/golden/" + family):
                continue
            code, out, err = run("inspect", "tests/golden/" + family, "--json")
            self.assertEqual((code, err), (0, ""), family)
            self.assertIn("config", json.loads(out), family)

    def test_failures(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "x.gguf")
            with open(MODEL, "rb") as model, open(path, "wb") as cut:
                cut.write(model.read(1 << 20))
            for args, part in (((path,), "ends at byte"), (("/nonexistent",), "cannot open"),
                               ((folder,), "config.json"), (("Makefile",), "neither")):
                code, out, err = run("inspect", *args)
                self.assertNotEqual(code, 0)
                self.assertEqual(out, "")
                self.assertIn(part, err)

    def test_unknown_family_is_shown(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy("tests/golden/llama/model.safetensors", folder)
            with open(os.path.join(folder, "config.json"), "w") as config:
                json.dump({"model_type": "martian"}, config)
            code, out, err = run("inspect", folder)
            self.assertEqual(code, 0)
            self.assertIn("tensors", out)
            self.assertIn("martian", err)


class Convert(unittest.TestCase):
    def test_failure_leaves_the_target(self):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "x.gguf")
            with open(out, "w") as old:
                old.write("old")
            code, _, err = run("convert", "tests/golden/llama", out)  # it has no tokenizer
            self.assertNotEqual(code, 0)
            self.assertIn("tokenizer.json", err)
            self.assertEqual(os.listdir(folder), ["x.gguf"])
            with open(out) as old:
                self.assertEqual(old.read(), "old")

    def test_bad_type(self):
        code, _, err = run("convert", "tests/golden/llama", "/tmp/x.gguf", "--type", "q6_k")
        self.assertNotEqual(code, 0)
        self.assertIn("q6_k", err)


if __name__ == "__main__":
    unittest.main()
