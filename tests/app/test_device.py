"""test_device: `--device`: the one sentence where a GPU, its driver or the plugin is missing or not the
one that is wanted; on a GPU the edges of what may be asked of it."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "server"))
from serving import SLUICE, Server  # noqa: E402

PLUGIN = pathlib.Path(SLUICE).resolve().parent / "libsluice_cuda.so"
MODEL = os.path.abspath("models/fable-28m.gguf")
MISSING = ("there is no NVIDIA driver here", "there is no NVIDIA GPU here", "the NVIDIA driver is for",
           "wanted 8.0 or later")


def sluice(*arguments, program=SLUICE):
    """(exit status, standard output, the last line of standard error)"""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout, (done.stderr.splitlines() or [""])[-1]


def run(*arguments, program=SLUICE):
    return sluice("run", MODEL, "-q", "-n", "2", "-p", "Once", "--temperature", "0", *arguments,
                  program=program)


def has_gpu():
    return PLUGIN.exists() and run("--device", "cuda")[0] == 0


class Device(unittest.TestCase):
    def refused(self, done, text):
        code, out, error = done
        self.assertNotEqual(code, 0)
        self.assertEqual(out, "")
        self.assertIn(text, error)

    def test_names(self):
        for name in ("", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda: 3", "cuda:1x", "cuda:100",
                     "cudax"):
            self.refused(run("--device", name),
                         f"device is '{name}', expected cpu, cuda or cuda:N")
        self.assertEqual(run("--device", "cpu")[0], 0)

    def test_what_lies_in_the_plugins_place(self):
        with tempfile.TemporaryDirectory() as folder:
            program = shutil.copy(SLUICE, folder)
            place = pathlib.Path(folder) / "libsluice_cuda.so"
            refused = lambda text: self.refused(run("--device", "cuda", program=program), text)
            refused("device cuda: there is no libsluice_cuda.so beside the program")
            place.write_bytes(b"not a library\n")
            refused("device cuda: " + str(place))
            library = next(pathlib.Path(SLUICE).resolve().parent.glob("libsluice.so.*"))
            shutil.copy(library, place)
            refused("libsluice_cuda.so is no plugin of this program")

    def test_what_lies_where_libraries_are(self):
        with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as libraries:
            program = shutil.copy(SLUICE, own)
            place = pathlib.Path(libraries) / "libsluice_cuda.so"
            with unittest.mock.patch.dict(os.environ, {"LD_LIBRARY_PATH": libraries}):
                refused = lambda text: self.refused(run("--device", "cuda", program=program), text)
                refused("device cuda: there is no libsluice_cuda.so beside the program")
                place.write_bytes(b"not a library\n")
                refused("device cuda: " + str(place))

    @unittest.skipUnless(PLUGIN.exists() and not has_gpu(), "there is no plugin, or a GPU")
    def test_no_gpu(self):
        for name in ("cuda", "cuda:7"):
            code, _, error = run("--device", name)
            self.assertNotEqual(code, 0)
            self.assertTrue(any(text in error for text in MISSING), error)


@unittest.skipUnless(has_gpu(), "there is no GPU")
class Gpu(unittest.TestCase):
    def plan(self, *arguments):
        """The lines of a dry run: name to bytes."""
        code, out, error = sluice("serve", "--dry-run", MODEL, "-q", "--device", "cuda", *arguments)
        self.assertEqual(code, 0, error)
        return {name.strip(): int(size) for name, size in re.findall(r"^(.{14}) +(\d+)", out, re.M)}

    def test_one_that_is_not_there(self):
        code, _, error = run("--device", "cuda:99")
        self.assertNotEqual(code, 0)
        self.assertRegex(error, r"device cuda:99 is not there, the last of the GPUs is cuda:\d")

    def test_shares_of_the_memory(self):
        whole = self.plan("--gpu-memory", "1")
        most = self.plan("--gpu-memory", "1e15")
        self.assertLess(abs(most["of the GPU's"] - whole["of the GPU's"]), 1e8)
        half = self.plan("--gpu-memory", "0.5")
        self.assertLess(abs(whole["of the GPU's"] / 2 - half["of the GPU's"]), 1e8)
        self.assertLess(abs(self.plan("--gpu-memory", "4e9")["of the GPU's"] - 4e9), 1e8)
        for little in ("0.001", "2"):
            code, _, error = sluice("serve", "--dry-run", MODEL, "-q", "--device", "cuda",
                                    "--gpu-memory", little)
            self.assertNotEqual(code, 0)
            self.assertIn("gpu_memory allows", error)

    def test_as_much_as_planned_is_in_use(self):
        server = Server(MODEL, "--device", "cuda", "--gpu-memory", "0.5")
        used, planned = map(float, re.search(r"^GPU +([0-9.]+) of .* in use, ([0-9.]+) planned",
                                             "".join(server.log), re.M).groups())
        self.assertEqual(server.stop(), 0)
        self.assertLess(abs(used - planned), 150)

    def test_formats_of_keys_and_values(self):
        code, out, error = run("--device", "cuda", "--kv-dtype", "int8")
        self.assertNotEqual(code, 0)
        self.assertIn("kv_dtype is 'int8', which the CPU has", error)
        want = run("--device", "cuda")[1]
        for dtype in ("f32", "f16", "bf16"):
            code, out, error = run("--device", "cuda", "--kv-dtype", dtype)
            self.assertEqual((code, out), (0, want), error)


if __name__ == "__main__":
    unittest.main()
