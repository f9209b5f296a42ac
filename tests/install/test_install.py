"""test_install: what `make install` puts where, the names that the libraries show, sluice.pc, and
uninstalling without a trace."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

BUILD = os.environ.get("SLUICE_BUILD", "build/release")
CC = os.environ.get("CC", "gcc").split()
CONFIG = pathlib.Path(BUILD).name.removesuffix("-clang")
MODEL = "models/fable-28m.gguf"
SANITIZE = {"asan": ["-fsanitize=address,undefined"], "tsan": ["-fsanitize=thread"],
            "cov": ["--coverage"]}.get(CONFIG, [])


def run(*command, **options):
    """What the command prints; its errors are the failure's text."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-4000:]}")
    return done.stdout


def make(*arguments):
    run("make", "-s", f"config={CONFIG}", "CC=" + " ".join(CC), *arguments)


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path(tempfile.mkdtemp(prefix="sluice-install-"))
        make("install", f"DESTDIR={cls.root}", "prefix=/usr")
        cls.environment = dict(os.environ,
                               PKG_CONFIG_PATH=f"{cls.root}/usr/lib/pkgconfig",
                               PKG_CONFIG_SYSROOT_DIR="")

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.root)

    def pkg_config(self, *arguments):
        return run("pkg-config", f"--define-variable=prefix={self.root}/usr",
                   f"--define-variable=libdir={self.root}/usr/lib",
                   f"--define-variable=includedir={self.root}/usr/include", *arguments, "sluice",
                   env=self.environment).split()

    def test_files(self):
        for name in ("bin/sluice", "include/sluice.h", "lib/libsluice.a", "lib/libsluice.so",
                     "lib/pkgconfig/sluice.pc", "share/man/man1/sluice.1",
                     "share/bash-completion/completions/sluice",
                     "share/zsh/site-functions/_sluice",
                     "share/fish/vendor_completions.d/sluice.fish"):
            path = self.root / "usr" / name
            self.assertTrue(path.exists(), name)
            self.assertGreater(path.stat().st_size, 100, name)
        self.assertEqual(os.readlink(self.root / "usr/lib/libsluice.so"), "libsluice.so.0")

    def test_public_names_only(self):
        header = pathlib.Path("include/sluice.h").read_text(encoding="utf-8")
        declared = set(re.findall(r"SLUICE_API [^;]*?\b(sluice_\w+)\(", header))
        self.assertGreater(len(declared), 15)
        shared = run("nm", "-D", "--defined-only", str(self.root / "usr/lib/libsluice.so"))
        static = run("nm", "-g", "--defined-only", str(self.root / "usr/lib/libsluice.a"))
        for text in (shared, static):
            names = set(re.findall(r"^\w+ [TDBRVW] (\w+)", text, re.M))
            if CONFIG == "release":
                self.assertEqual(names - declared, set(), "names that sluice.h does not declare")
            self.assertIn("sluice_version", names)

    def embed(self, *flags):
        """Builds the example as a user would and runs it."""
        program = str(self.root / "embed")
        run(*CC, "-std=c17", "-Wall", "-Wextra", "-Werror", "examples/embed.c", "-o", program,
            *self.pkg_config("--cflags"), "-pthread", *flags, *SANITIZE)
        environment = dict(os.environ, LD_LIBRARY_PATH=f"{self.root}/usr/lib")
        return run(program, MODEL, "Once upon a time", "The old house", env=environment)

    def test_example(self):
        if not pathlib.Path(MODEL).exists():
            self.skipTest("no model")
        shared = self.embed(*self.pkg_config("--libs"))
        static = self.embed(str(self.root / "usr/lib/libsluice.a"),
                            *self.pkg_config("--libs", "--static"))
        self.assertEqual(shared.count("(32 tokens)"), 2, shared)
        self.assertTrue(shared.startswith("Once upon a time|"))
        self.assertEqual(shared, static)

    def test_soname(self):
        text = run("readelf", "-d", str(self.root / "usr/lib/libsluice.so"))
        self.assertIn("[libsluice.so.0]", text)

    def test_hardening(self):
        if CONFIG != "release":
            self.skipTest("of the release build")
        binary = str(self.root / "usr/bin/sluice")
        self.assertIn("DYN", run("readelf", "-h", binary))
        self.assertIn("GNU_RELRO", run("readelf", "-lW", binary))
        self.assertIn("NOW", run("readelf", "-d", binary))

    def test_version_agrees(self):
        version = self.pkg_config("--modversion")[0]
        self.assertEqual(run(str(self.root / "usr/bin/sluice"), "--version"), f"sluice {version}\n")
        numbers = re.findall(r"#define SLUICE_VERSION_\w+\s+(\d+)",
                             pathlib.Path("include/sluice.h").read_text(encoding="utf-8"))
        self.assertEqual(".".join(numbers), version)

    def test_manual_page_renders(self):
        if shutil.which("man") is None:
            self.skipTest("no man")
        text = run("man", "--warnings", "-l", str(self.root / "usr/share/man/man1/sluice.1"))
        self.assertIn("sluice", text)

    def test_uninstall_leaves_no_file(self):
        root = pathlib.Path(tempfile.mkdtemp(prefix="sluice-uninstall-"))
        self.addCleanup(shutil.rmtree, root)
        make("install", f"DESTDIR={root}", "prefix=/opt/x", "libdir=/opt/x/lib64")
        self.assertTrue((root / "opt/x/lib64/libsluice.a").exists())
        make("uninstall", f"DESTDIR={root}", "prefix=/opt/x", "libdir=/opt/x/lib64")
        self.assertEqual([p for p in root.rglob("*") if not p.is_dir()], [])


if __name__ == "__main__":
    os.chdir(pathlib.Path(__file__).resolve().parent.parent.parent)
    unittest.main()
