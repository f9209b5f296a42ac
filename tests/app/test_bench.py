"""test_bench: the tables of `sluice bench`: the machine's limits by threads, and the speed that the
cost model predicts beside what was measured, with 1, 2 and 16 threads. No speed is asserted."""
import json
import os
import subprocess
import unittest

SLUICE = os.environ.get("SLUICE", "build/sluice")
MODEL = "models/fable-28m.gguf"


def sluice(*arguments):
    done = subprocess.run([SLUICE, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


class Bench(unittest.TestCase):
    def test_limits(self):
        lines = [line for line in sluice("bench", "--limits", "-t", "2").splitlines()
                 if line.startswith("|")]
        names = [cell.strip() for cell in lines[0].strip("|").split("|")]
        rows = [[float(cell) for cell in line.strip("|").split("|")] for line in lines[2:]]
        self.assertEqual([row[0] for row in rows], [1, 2])
        for row in rows:
            self.assertEqual(len(row), len(names))
            self.assertTrue(all(value > 0 for value in row[1:4]), row)  # memory is read
            self.assertTrue(all(value >= 0 for value in row[4:]), row)
        self.assertGreater(rows[1][names.index("run us")], 0)

    def test_predicted_beside_measured(self):
        for threads in (1, 2, 16):
            report = json.loads(sluice("bench", MODEL, "-q", "-o", "json", "-r", "1", "-t",
                                       str(threads), "--n-prompt", "32", "--n-gen", "4", "--batch",
                                       "1,3"))
            self.assertEqual(report["threads"], threads)
            self.assertEqual([test["test"] for test in report["tests"]], ["pp32", "tg4", "tg4x3"])
            for test in report["tests"]:
                self.assertGreater(test["tokens_per_s"], 0)
                if report["level"] != "ref":
                    self.assertGreater(test["predicted_tokens_per_s"], 0)

    def test_fast_is_for_a_gpu(self):
        for command in (["bench", MODEL], ["bench-engine", MODEL],
                        ["bench-engine", MODEL, "--requests", "1"],
                        ["run", MODEL, "-p", "a"], ["serve", MODEL]):
            done = subprocess.run([SLUICE, *command, "--fast"], capture_output=True, text=True,
                                  timeout=600)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("on the CPU sums have one order only", done.stderr)

    def test_same_text_with_any_threads(self):
        texts = {sluice("run", MODEL, "-q", "-t", str(threads), "-n", "12", "--temperature", "0",
                        "-p", "Once upon a time") for threads in (1, 2, 16)}
        self.assertEqual(len(texts), 1)


if __name__ == "__main__":
    unittest.main()
