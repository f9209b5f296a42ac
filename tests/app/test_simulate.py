#!/usr/bin/env python3
"""sluice simulate: the load is played whole, what it says agrees with arithmetic, in every form."""
import json
import os
import subprocess
import tempfile
import unittest

SLUICE = os.environ.get("SLUICE", "build/sluice")
MACHINE = ["--prefill-speed", "1000", "--decode-speed", "100"]


def simulate(*arguments, code=0):
    done = subprocess.run([SLUICE, "simulate", *MACHINE, *arguments], capture_output=True,
                          text=True, timeout=600)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def simulate_json(*arguments):
    return json.loads(simulate("-o", "json", *arguments))


class Simulate(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name, text):
        path = os.path.join(self.folder.name, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def mooncake(self, n, seconds):
        """n prompts of two blocks of 512 tokens; the first block is everybody's."""
        return self.path("trace.jsonl", "".join(json.dumps(
            {"timestamp": 1000 * seconds * i, "input_length": 1024, "output_length": 10,
             "hash_ids": [0, i + 1]}) + "\n" for i in range(n)))

    def test_one_request_takes_what_the_machine_says(self):
        r = simulate_json("--requests", "1", "--input-len", "500", "--output-len", "101",
                          "--chunk", "512")
        self.assertAlmostEqual(r["median_ttft_ms"], 500, delta=25)
        self.assertAlmostEqual(r["median_itl_ms"], 10, delta=1)
        self.assertAlmostEqual(r["duration"], 1.5, delta=0.1)

    def test_a_trace_is_played_whole(self):
        trace = self.mooncake(150, 3)
        self.assertEqual(simulate_json("--trace", trace)["completed"], 150)
        self.assertEqual(simulate_json("--trace", trace, "--requests", "20")["completed"], 20)

    def test_hits_against_an_endless_cache(self):
        trace = self.mooncake(40, 3)
        r = simulate_json("--trace", trace)
        self.assertEqual(r["prompt_tokens"], 40 * 1024)
        self.assertEqual(r["ideal_hit_tokens"], 39 * 512)
        self.assertEqual(r["hit_tokens"], 39 * 512)
        self.assertEqual(simulate_json("--trace", trace, "--no-prefix-cache")["hit_tokens"], 0)
        # Two in turn: each computes the shared block once.
        two = simulate_json("--trace", trace, "--replicas", "2", "--route", "round-robin")
        self.assertEqual(two["hit_tokens"], 38 * 512)

    def test_azure(self):
        trace = self.path("azure.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
            f"2023-11-16 18:15:{10 + i}.5,{100 + i},20\n" for i in range(40)))
        r = simulate_json("--trace", trace)
        self.assertEqual(r["completed"], 40)
        self.assertEqual(r["total_input_tokens"], sum(100 + i for i in range(40)))
        self.assertAlmostEqual(r["duration"], 39.3, delta=0.3)

    def test_the_fewest_machines(self):
        """Each request takes 0.5 s of prefill alone; four a second need more than two machines."""
        load = ["--rate", "4", "--requests", "200", "--input-len", "500", "--output-len", "2",
                "--seed", "1", "--slo-ttft", "1500", "--slo-share", "0.9"]
        r = simulate_json(*load, "--replicas", "0")
        self.assertGreater(r["replicas"], 1)
        fewer = simulate_json(*load, "--replicas", str(r["replicas"] - 1))
        self.assertGreaterEqual(r["request_goodput"] * r["duration"], 0.9 * 200 - 1e-6)
        self.assertLess(fewer["request_goodput"] * fewer["duration"], 0.9 * 200)

    def test_forms(self):
        load = ["--requests", "30", "--rate", "3", "--input-len", "64", "--slo-ttft", "1000"]
        header, row = simulate(*load, "-o", "csv").splitlines()
        csv = dict(zip(header.split(","), row.split(",")))
        r = simulate_json(*load)
        self.assertEqual(int(csv["requests"]), r["completed"])
        self.assertAlmostEqual(float(csv["ttft_median_ms"]), r["median_ttft_ms"], delta=0.06)
        self.assertAlmostEqual(float(csv["goodput_per_s"]), r["request_goodput"], delta=0.001)
        self.assertIn("| 1 | 30 | 0 |", simulate(*load))
        self.assertIn("wanted md, csv or json", simulate(*load, "-o", "xml", code=2))
        svg = os.path.join(self.folder.name, "kv.svg")
        simulate(*load, "--svg", svg, "--replicas", "1000")
        with open(svg) as file:
            self.assertIn("KV blocks in use", file.read())


if __name__ == "__main__":
    unittest.main()
