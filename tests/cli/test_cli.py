"""test_cli: the program as people use it: help, mistakes, text in and out, the chat in a terminal.

What the model writes is checked elsewhere; here it must be the same by every road."""
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time
import unittest

SLUICE = os.environ.get("SLUICE", "build/sluice")
COMMANDS = ["run", "serve", "inspect", "tokenize", "detokenize", "render", "eval", "bench",
            "bench-serve", "simulate", "convert", "completion", "man"]


def sluice(*arguments, text=None, env=None, code=0):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
    environment.update(XDG_CONFIG_HOME="/nonexistent", **(env or {}))
    done = subprocess.run([SLUICE, *arguments], input=text, capture_output=True, text=True,
                          env=environment, timeout=600)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done


class Help(unittest.TestCase):
    def test_list(self):
        out = sluice("help").stdout
        for command in COMMANDS:
            self.assertRegex(out, rf"(?m)^  {command} ")

    def test_no_command_is_usage(self):
        self.assertIn("usage", sluice(code=2).stderr)

    def test_each_command_within_80_columns(self):
        for command in COMMANDS:
            out = sluice(command, "--help").stdout
            self.assertTrue(out.startswith(f"usage: sluice {command}"), out[:80])
            for line in out.splitlines():
                self.assertLessEqual(len(line), 80, line)

    def test_manual_page(self):
        page = sluice("man").stdout
        if shutil.which("man") is None:
            self.skipTest("no man here")
        done = subprocess.run(["man", "--warnings", "-l", "-"], input=page, capture_output=True,
                              text=True, env=dict(os.environ, MANWIDTH="80"))
        self.assertEqual(done.stderr, "")
        for command in COMMANDS:
            self.assertIn(f"sluice {command}", done.stdout)

    def test_bash_completion(self):
        with tempfile.NamedTemporaryFile("w", suffix=".bash") as script:
            script.write(sluice("completion", "bash").stdout)
            script.flush()
            out = subprocess.run(
                ["bash", "-c", f"source {script.name}; COMP_WORDS=(sluice run --tem); COMP_CWORD=2;"
                 " _sluice; echo ${COMPREPLY[@]}"], capture_output=True, text=True, check=True)
        self.assertEqual(out.stdout.strip(), "--temperature")

    def test_version(self):
        self.assertRegex(sluice("--version").stdout, r"^sluice \d+\.\d+\.\d+$")


class Mistakes(unittest.TestCase):
    def test_usage(self):
        for arguments, part in [
                (["frobnicate"], "unknown command 'frobnicate'"),
                (["run", "--frob"], "unknown option --frob"),
                (["run", "-Z"], "unknown option -Z"),
                (["run", "--max-tokens"], "--max-tokens wants N"),
                (["run", "--max-tokens", "x"], "wanted a whole number"),
                (["run", "-s", "9223372036854775808"], "from 0 to 9223372036854775807"),
                (["run", "--temperature", "nan"], "wanted a number from 0 to 100"),
                (["run", "--top-p", "1.5"], "wanted a number from 0 to 1"),
                (["run", "a", "b"], "[MODEL]"),
                (["completion"], "SHELL"),
        ]:
            self.assertIn(part, sluice(*arguments, code=2).stderr)

    def test_failures(self):
        """2 where the command line is at fault, 1 where the world is; nothing on standard output."""
        for code, arguments, part in [
                (1, ["run", "/nonexistent", "-p", "x"], "/nonexistent"),
                (1, ["run", "-f", "/nonexistent/file"], "/nonexistent/file"),
                (1, ["run", "-f", "/"], "/"),
                (2, ["run", "-p", "x", "--level", "z80"], "z80"),
                (2, ["run", "-p", "x", "--kv-dtype", "q3"], "q3"),
                (2, ["run", "-p", "x", "--block-tokens", "7"], "7"),
                (2, ["completion", "tcsh"], "tcsh"),
                (1, ["serve", "--dry-run", "--kv-dir", "/nonexistent/a/b"], "/nonexistent/a/b"),
                (1, ["serve", "--dry-run", "--kv-dir", "/dev/null"], "not a folder"),
                (2, ["serve", "--dry-run", "--kv-dir-mb", "9"], "kv_dir"),
                (2, ["bench", "-o", "yaml"], "yaml"),
                (2, ["bench", "--shape", "llama-9z"], "llama-3.1-8b"),
                (2, ["bench", "--shape", "llama-1.1b", "--type", "q9"], "q9"),
                (2, ["bench", "--type", "q4_0"], "--shape"),
                (2, ["eval"], "--ppl"),
                (2, ["render", "models/fable-28m.gguf"], "--messages"),
        ]:
            done = sluice(*arguments, code=code)
            self.assertIn(part, done.stderr)
            self.assertEqual(done.stdout, "")


class Options(unittest.TestCase):
    def config(self, *arguments, **options):
        out = sluice("run", *arguments, "--print-config", **options).stdout
        return dict(re.findall(r"(?m)^(\S+) = (.*)$", out))

    def test_precedence(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "sluice.conf")
            file.write_text("# a remark\n\nmax-tokens = 3\ntop-k = 4\nseed = 5\nport = 99\n")
            env = {"SLUICE_TOP_K": "40", "SLUICE_SEED": "50"}
            values = self.config("--config", str(file), "--seed", "500", env=env)
            self.assertEqual(values["max-tokens"], "3  # file")
            self.assertEqual(values["top-k"], "40  # environment")
            self.assertEqual(values["seed"], "500  # command line")
            self.assertEqual(values["min-p"], "0  # default")
            file.write_text("frob = 3\n")
            done = sluice("run", "--config", str(file), code=2)
            self.assertIn("sluice.conf:1", done.stderr)

    def test_spellings(self):
        for arguments in (["-n", "7"], ["-n7"], ["--max-tokens=7"], ["--max-tokens", "7"]):
            self.assertEqual(self.config(*arguments)["max-tokens"], "7  # command line")
        self.assertEqual(self.config("--stop", "a", "--stop=b")["stop"], "a, b  # command line")


class Run(unittest.TestCase):
    GREEDY = ["-n", "24", "--temperature", "0", "-q"]

    def test_same_text_by_every_road(self):
        prompt = "Once upon a time there was a little"
        want = sluice("run", "-p", prompt, *self.GREEDY).stdout
        self.assertGreater(len(want), 20)
        self.assertEqual(sluice("run", *self.GREEDY, text=prompt).stdout, want)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(prompt)
            file.flush()
            self.assertEqual(sluice("run", "-f", file.name, *self.GREEDY).stdout, want)
            pipe = ["bash", "-c", '"$0" run -f <(printf %s "$1") "${@:2}"', SLUICE, prompt]
            done = subprocess.run(pipe + self.GREEDY, capture_output=True, text=True)
            self.assertEqual(done.stdout, want, done.stderr)
        for more in (["-t", "1"], ["--chunk", "3"], ["--block-tokens", "1"]):
            self.assertEqual(sluice("run", "-p", prompt, *self.GREEDY, *more).stdout, want, more)

    def test_seed(self):
        draw = ["run", "-p", "The king", "-n", "24", "--temperature", "1", "-q"]
        one = sluice(*draw, "--seed", "1").stdout
        self.assertEqual(sluice(*draw, "--seed", "1", "-t", "1").stdout, one)
        self.assertNotEqual(sluice(*draw, "--seed", "2").stdout, one)

    def test_stop(self):
        ask = ["run", "-p", "Once upon a time", "-n", "40", "--temperature", "0", "-q"]
        text = sluice(*ask).stdout
        stop = text[len(text) // 2:len(text) // 2 + 5]
        cut = sluice(*ask, "--stop", stop).stdout
        self.assertEqual(cut, text[:text.index(stop)])

    def test_logprobs(self):
        out = sluice("run", "-p", "Once", "-n", "3", "--temperature", "0", "--logprobs", "2",
                     "-q").stdout
        lines = out.strip().splitlines()
        self.assertEqual(len(lines), 3)
        for line in lines:
            numbers = [float(x) for x in re.findall(r"\s(-?\d+\.\d+) '", line)]
            self.assertEqual(len(numbers), 3)
            self.assertEqual(numbers[0], numbers[1])  # greedy: the chosen one is the likeliest
            self.assertLessEqual(numbers[2], numbers[1])

    def test_chat_uses_the_template(self):
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump({"messages": [{"role": "user", "content": "Hello!"}]}, file)
            file.flush()
            model = str(pathlib.Path("models/fable-28m.gguf"))
            rendered = sluice("render", model, "--messages", file.name).stdout
        self.assertIn("Hello!", rendered)
        by_hand = sluice("run", "-p", rendered, "--special", *self.GREEDY).stdout
        self.assertEqual(sluice("run", "-p", "Hello!", "--chat", *self.GREEDY).stdout.strip(),
                         by_hand.replace("<|im_end|>", "").strip())

    def test_dry_run(self):
        out = sluice("run", "--dry-run", "-q").stdout
        parts = r"(?m)^(?:weights|kv cache|activations|other)\s+(\d+)"
        sizes = [int(x) for x in re.findall(parts, out)]
        total = int(re.search(r"(?m)^total\s+(\d+)", out).group(1))
        self.assertEqual(sum(sizes), total)

    def test_timings(self):
        err = sluice("run", "-p", "Once", "-n", "4", "-v", "-q", "--seed", "3").stderr
        self.assertRegex(err, r"prompt \d+ tokens .*first token after .* ms.*seed 3")


class Terminal:
    """The program in a pseudo-terminal."""

    def __init__(self, *arguments):
        self.home = tempfile.TemporaryDirectory()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(HOME=self.home.name, XDG_CONFIG_HOME="/nonexistent", TERM="xterm",
                              LC_ALL="C.UTF-8", COLUMNS="200", LINES="50")
            os.execv(SLUICE, [SLUICE, *arguments])
        self.seen, self.closed = "", False

    def read(self, seconds):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if not ready:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def wait_for(self, pattern, seconds=60):
        """Reads until the pattern is seen; returns the text up to its end, and forgets it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            match = re.search(pattern, self.seen)
            if match:
                text, self.seen = self.seen[:match.end()], self.seen[match.end():]
                return text
            self.read(0.2)
        raise AssertionError(f"no {pattern!r} in {self.seen!r}")

    def write(self, text):
        os.write(self.fd, text.encode())

    def type(self, keys, seconds=60):
        """Writes keys for the line editor, which shows its prompt before it takes the terminal:
        until then the terminal itself would show them, a second time."""
        end = time.monotonic() + seconds
        while termios.tcgetattr(self.fd)[3] & termios.ICANON:
            if time.monotonic() > end:
                raise AssertionError("the line editor did not take the terminal")
            time.sleep(0.001)
        self.write(keys)

    def close(self, seconds=60):
        """The exit status; kills what does not end by itself."""
        end, ended = time.monotonic() + seconds, os.WEXITED | os.WNOHANG | os.WNOWAIT
        while os.waitid(os.P_PID, self.pid, ended) is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                break
            if not self.read(0.1):  # at once where the terminal was closed a moment before the end
                time.sleep(0.001)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        self.home.cleanup()
        self.closed = True
        return os.waitstatus_to_exitcode(status)


class Vanishing(unittest.TestCase):
    def test_file_cut_short_while_in_use(self):
        golden = os.path.join(os.path.dirname(__file__), "..", "golden", "llama")
        with tempfile.TemporaryDirectory() as folder:
            for name in ("config.json", "model.safetensors"):
                shutil.copy(os.path.join(golden, name), folder)
            model = os.path.join(folder, "model.safetensors")
            process = subprocess.Popen([SLUICE, "bench", folder, "-q", "--level", "ref", "-r", "1000",
                                        "--n-prompt", "200,200,200,200", "--n-gen", "0"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            maps = pathlib.Path(f"/proc/{process.pid}/maps")
            while model not in maps.read_text():
                self.assertIsNone(process.poll())
            time.sleep(0.3)  # it computes, or loads still; the end is minutes away
            os.truncate(model, 4096)
            _, said = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 1)
        self.assertIn("cut short", said)


class Chat(unittest.TestCase):
    def setUp(self):
        try:
            self.terminal = Terminal("run", "--temperature", "0", "-n", "30")
        except OSError as error:
            self.skipTest(f"no pseudo-terminals here: {error}")
        self.terminal.wait_for(r">>> ")

    def tearDown(self):
        if not self.terminal.closed:
            self.terminal.close(0)

    def say(self, text, *, until=r"\n>>> "):
        self.terminal.type(text + "\r")
        return self.terminal.wait_for(until)

    def test_answers_and_leaves(self):
        self.assertGreater(len(self.say("Hello!")), 20)
        self.assertIn("/clear", self.say("/help"))
        self.assertRegex(self.say("/show"), r"messages +2")
        self.say("/clear")
        self.assertRegex(self.say("/show"), r"messages +0")
        self.assertIn("unknown command", self.say("/frob"))
        self.terminal.type("/bye\r")
        self.assertEqual(self.terminal.close(), 0)

    def test_ctrl_c_stops_the_answer_only(self):
        self.terminal.type("/bye\r")
        self.assertEqual(self.terminal.close(), 0)
        # The slowest level: a fast machine would end the answer before the key arrives.
        self.terminal = Terminal("run", "--ignore-eos", "--level", "ref", "--temperature", "0")
        self.terminal.wait_for(r">>> ")
        self.terminal.type("Tell me a very long story about a dragon.\r")
        self.terminal.wait_for(r"dragon\.\r\n.{8}", 60)
        self.terminal.write("\x03")
        self.terminal.wait_for(r"(?s)\(stopped\).*\n>>> ")
        self.assertRegex(self.say("/show"), r"model")

    def test_ctrl_c_empties_the_line(self):
        self.terminal.type("half a line\x03")
        self.assertRegex(self.say("/show"), r"messages +0")

    def test_several_lines(self):
        self.terminal.type('"""one\r')
        self.terminal.wait_for(r"\.\.\. ")
        self.terminal.type("two\r")
        self.terminal.wait_for(r"\.\.\. ")
        self.say('three"""')
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "talk.json")
            self.assertIn("2 messages saved", self.say(f"/save {file}"))
            with open(file) as stream:
                messages = json.load(stream)
            self.assertEqual(messages[0], {"role": "user", "content": "one\ntwo\nthree"})
            self.assertEqual(messages[1]["role"], "assistant")
            self.say("/clear")
            self.assertIn("2 messages loaded", self.say(f"/load {file}"))
            self.assertRegex(self.say("/show"), r"messages +2")
        self.assertIn("/nonexistent", self.say("/load /nonexistent"))

    def test_system_prompt_survives_clear(self):
        self.say("/set system You are a pirate.")
        self.assertRegex(self.say("/show"), r"messages +1")
        self.say("/clear")
        self.assertRegex(self.say("/show"), r"messages +1")
        self.say("/set system")
        self.assertRegex(self.say("/show"), r"messages +0")
        self.terminal.type("\x04")
        self.assertEqual(self.terminal.close(), 0)


if __name__ == "__main__":
    unittest.main()
