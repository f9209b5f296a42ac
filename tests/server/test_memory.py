"""A server's memory is what --dry-run said, from before its first request."""
import re
import subprocess
import tempfile
import unittest

from serving import SLUICE, Server


def resident(process):
    with open(f"/proc/{process.pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read()).group(1)) * 1024


class Memory(unittest.TestCase):
    def test_dry_run(self):
        self.compare()

    def test_with_a_file(self):
        """The second server restores what the first one wrote."""
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(2):
                self.compare("--kv-dir", folder)

    def compare(self, *more):
        options = ["--kv-mb", "200", "--max-seqs", "32", "--threads", "2", *more]
        plan = subprocess.run([SLUICE, "serve", "--dry-run", "-q", *options], check=True,
                              capture_output=True, text=True).stdout
        said = int(re.search(r"total +(\d+)", plan).group(1))
        server = Server(*options)
        try:
            before = resident(server.process)
            self.assertLess(abs(before - said), 0.03 * said, f"{before} bytes, {said} predicted")
            for _ in range(8):
                server.post("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 100,
                                                "n": 4, "ignore_eos": True})
            after = resident(server.process)
            self.assertLess(abs(after - said), 0.03 * said, f"{after} bytes, {said} predicted")
        finally:
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main()
