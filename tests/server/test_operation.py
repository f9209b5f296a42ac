"""test_operation: what operators rely on: the start-up block, the log (ids and timings, no prompts),
the service manager's messages, SIGTERM, SIGHUP with new keys and a new certificate, a hung engine,
addresses and keys, and the files for systemd and Kubernetes."""
import ctypes
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/server"))
from serving import SLOW, SLUICE, Server  # noqa: E402

try:
    import yaml
except ImportError:
    yaml = None

LONG = {"prompt": "Once upon a time", "max_tokens": 900, "ignore_eos": True, "stream": True}
SECRET = "the xylophone of Professor Quibble"


def until(condition, what, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


class Stream:
    """A streamed completion that is read when the test wants."""

    def __init__(self, server, context=None, key=None, **more):
        make = http.client.HTTPConnection
        options = {}
        if context:
            make, options = http.client.HTTPSConnection, {"context": context}
        self.connection = make("127.0.0.1", server.port, timeout=600, **options)
        headers = {"authorization": "Bearer " + key} if key else {}
        self.connection.request("POST", "/v1/completions", json.dumps({**LONG, **more}), headers)
        self.reply = self.connection.getresponse()
        self.status = self.reply.status
        self.first = self.reply.readline()

    def rest(self):
        text = self.reply.read().decode()
        self.connection.close()
        return text


def cleaned(test, server):
    test.addCleanup(lambda: server.process.poll() is None and server.stop())
    return server


class Notify:
    """A service manager's socket."""

    def __init__(self, test):
        folder = tempfile.mkdtemp(prefix="sluice-notify-")
        test.addCleanup(shutil.rmtree, folder)
        self.path = os.path.join(folder, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(120)
        test.addCleanup(self.socket.close)

    def next(self):
        return self.socket.recv(4096).decode()


class Operation(unittest.TestCase):
    def serve(self, *arguments):
        if "--max-seqs" not in arguments:
            arguments += ("--max-seqs", "4")
        return cleaned(self, Server(*arguments))

    def file(self, text, name="file"):
        folder = tempfile.mkdtemp(prefix="sluice-operation-")
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, name)
        pathlib.Path(path).write_text(text)
        return path

    def refused(self, *arguments):
        done = subprocess.run([SLUICE, "serve", "--port", "0", "-q", *arguments], text=True,
                              capture_output=True, timeout=600, check=False)
        return done.returncode, done.stderr

    # ---- starting ----

    def test_start_up_block(self):
        server = self.serve("--max-seqs", "3")
        text = "".join(server.log)
        for line in (r"^model +fable-28m .*parameters", r"^memory +[\d.]+ MB in all.*KV",
                     r"^context .*holds \d+ tokens in \d+ blocks", r"^limits +3 sequences",
                     r"^compute +[\w]+, \d+ threads", r"^address +http://127\.0\.0\.1:\d+.*no API key",
                     r"^ready in \d+ ms"):
            self.assertRegex(text, re.compile(line, re.M))

    def test_open_doors_are_meant(self):
        code, text = self.refused("--host", "0.0.0.0")
        self.assertEqual(code, 2)
        self.assertIn("--api-key-file", text)
        server = self.serve("--host", "0.0.0.0", "--insecure-no-auth")
        self.assertIn("everybody who reaches 0.0.0.0 may ask", "".join(server.log))
        server = self.serve("--host", "0.0.0.0", "--api-key-file", self.file("k-1\n"))
        self.assertNotIn("everybody", "".join(server.log))
        self.assertIn("API key wanted", "".join(server.log))

    def test_what_cannot_be(self):
        for arguments, wanted in ((["--api-key-file", "/nonexistent"], "/nonexistent"),
                                  (["--api-key-file", self.file("# none\n\n")], "holds no key"),
                                  (["--tls-cert", self.file("x")], "go together"),
                                  (["--tls-cert", self.file("x"), "--tls-key", self.file("y")],
                                   "certificate"),
                                  (["--log-level", "loud"], "--log-level")):
            code, text = self.refused(*arguments)
            self.assertIn(code, (1, 2))
            self.assertIn(wanted, text)

    # ---- the log ----

    def test_log(self):
        server = self.serve("--log-period", "0.5", "--api-key-file", self.file("key-of-quibble\n"))
        key = {"authorization": "Bearer key-of-quibble", "x-request-id": "my-id-7"}
        body = {"prompt": SECRET, "max_tokens": 4, "ignore_eos": True}
        self.assertEqual(server.request("POST", "/v1/completions", body, key)[0], 200)
        self.assertEqual(server.request("POST", "/v1/completions", {"prompt": SECRET, "n": SECRET}, key)[0], 400)
        self.assertEqual(server.request("POST", "/v1/completions?" + SECRET.replace(" ", "+"), body)[0], 401)
        server.request("GET", "/health")
        threads = [threading.Thread(target=lambda: Stream(server, key="key-of-quibble").rest())
                   for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        throughput = re.compile(
            r"info engine prompt throughput: [\d.]+ tokens/s, generation throughput: [1-9][\d.]* "
            r"tokens/s, running: \d+ reqs, waiting: \d+ reqs, KV cache usage: [\d.]+%, prefix cache "
            r"hit rate: [\d.]+%")
        until(lambda: throughput.search("".join(server.log)), "the line on throughput")
        self.assertEqual(server.stop(), 0)
        log = "".join(server.log)
        self.assertRegex(log, r"info request my-id-7 cmpl-\w+ tenant=\w{8} prompt=\d+ cached=0 "
                              r"output=4 finish=length queue_ms=[\d.]+ ttft_ms=[\d.]+ ms=[\d.]+")
        self.assertRegex(log, r'info http my-id-7 "POST /v1/completions" 200 peer=127\.0\.0\.1 ms=')
        self.assertRegex(log, r'"POST /v1/completions" 401 ')
        self.assertNotIn("/health", log)
        for word in ("Quibble", "xylophone", "key-of-quibble"):
            self.assertNotIn(word, log)

    def test_log_of_content_is_asked_for(self):
        server = self.serve("--log-content")
        reply = server.post("/v1/completions", {"prompt": SECRET, "max_tokens": 8,
                                                "temperature": 0})
        self.assertEqual(server.stop(), 0)
        log = "".join(server.log)
        self.assertIn(SECRET, log)
        said = re.search(r"info content req-\w+ answered: (.*)", log).group(1)
        self.assertEqual(said, reply["choices"][0]["text"].replace("\n", "\\x0a"))

    # ---- the service manager ----

    def test_notify(self):
        manager = Notify(self)
        os.environ["NOTIFY_SOCKET"] = manager.path
        try:
            server = self.serve()
        finally:
            del os.environ["NOTIFY_SOCKET"]
        self.assertEqual(manager.next(), "READY=1")
        self.assertEqual([manager.next() for _ in range(3)], ["WATCHDOG=1"] * 3)
        self.assertEqual(server.stop(), 0)
        last = manager.next()
        while last == "WATCHDOG=1":
            last = manager.next()
        self.assertEqual(last, "STOPPING=1")

    def hold_engine(self, server):
        """Stops the engine's thread, as a debugger would. Returns what lets it go."""
        tasks = f"/proc/{server.process.pid}/task"

        def named():
            return [int(t) for t in os.listdir(tasks)
                    if pathlib.Path(tasks, t, "comm").read_text().strip() == "engine"]
        until(named, "the engine's thread gives itself its name")
        engine, = named()
        libc = ctypes.CDLL(None, use_errno=True)
        seize, interrupt, detach, wall = 0x4206, 0x4207, 17, 0x40000000
        if libc.ptrace(seize, engine, None, None) != 0:
            self.skipTest("threads cannot be held here")
        self.assertEqual(libc.ptrace(interrupt, engine, None, None), 0)
        os.waitpid(engine, wall)
        return lambda: libc.ptrace(detach, engine, None, None), engine, wall

    def test_hung_engine(self):
        server = self.serve("--watchdog", "45")  # /health fails after 1.5 s, /ready after 9 s
        let_go, _, _ = self.hold_engine(server)
        until(lambda: server.request("GET", "/health")[0] == 503, "/health fails")
        self.assertEqual(server.request("GET", "/ready")[0], 200)
        until(lambda: server.metric("sluice_watchdog_warnings_total") > 0, "it is counted")
        let_go()
        until(lambda: server.request("GET", "/health")[0] == 200, "/health recovers")
        until(lambda: "the engine moves again" in "".join(server.log), "the log tells")
        self.assertEqual(server.stop(), 0)

    def test_hung_engine_ends(self):
        server = self.serve("--watchdog", "10")  # eight seconds between the two
        _, engine, wall = self.hold_engine(server)
        until(lambda: server.request("GET", "/ready")[0] == 503, "/ready fails")
        until(lambda: "this is the end" in "".join(server.log), "the watchdog bites")
        os.waitpid(engine, wall)  # its end is ours to see
        self.assertEqual(server.process.wait(120), -signal.SIGABRT)
        server.reader.join()
        server.process.stderr.close()
        log = "".join(server.log)
        self.assertGreater(len(re.findall(r"^thread \d+, ", log, re.M)), 3)
        self.assertIn(f"thread {engine} does not answer", log)

    # ---- ending ----

    def test_drain(self):
        server = self.serve(*SLOW, "--drain-timeout", "600")
        streams = [Stream(server, max_tokens=50) for _ in range(4)]
        self.assertEqual({s.status for s in streams}, {200})
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "draining" in "".join(server.log), "it drains")

        def refused():
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=600).close()
                return False
            except ConnectionRefusedError:
                return True
        until(refused, "new connections are refused")
        for stream in streams:
            self.assertTrue(stream.rest().rstrip().endswith("data: [DONE]"))
        self.assertEqual(server.stop(), 0)

    def test_drain_has_an_end(self):
        server = self.serve(*SLOW, "--drain-timeout", "0", "--max-seqs", "1")
        stream = Stream(server)
        self.assertEqual(server.stop(), 0)
        try:
            text = stream.rest()
        except (http.client.IncompleteRead, ConnectionError):
            text = ""
        stream.connection.close()
        self.assertNotIn("[DONE]", text)

    # ---- SIGHUP ----

    def certificate(self, name):
        folder = tempfile.mkdtemp(prefix="sluice-tls-")
        self.addCleanup(shutil.rmtree, folder)
        cert, key = os.path.join(folder, "cert"), os.path.join(folder, "key")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key,
                        "-out", cert, "-subj", f"/CN={name}"], check=True, capture_output=True)
        return cert, key

    def test_reload_keys(self):
        keys = self.file("old-key\nsecond-key\n")
        server = self.serve("--api-key-file", keys)

        def status(key):
            return server.request("GET", "/v1/models", None, {"x-api-key": key})[0]
        self.assertEqual([status(k) for k in ("old-key", "second-key", "new-key", "")],
                         [200, 200, 401, 401])
        stream = Stream(server, key="old-key")
        pathlib.Path(keys).write_text("new-key\nsecond-key\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: status("new-key") == 200, "the new key is known")
        self.assertEqual([status(k) for k in ("old-key", "second-key")], [401, 200])
        self.assertIn("[DONE]", stream.rest())  # what was begun goes on
        pathlib.Path(keys).write_text("# no key at all\n")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "nothing changes: " in "".join(server.log), "a bad file is refused")
        self.assertEqual([status(k) for k in ("new-key", "")], [200, 401])
        self.assertEqual(server.stop(), 0)
        self.assertIn("read again: 2 keys", "".join(server.log))
        self.assertNotIn("second-key", "".join(server.log))

    @unittest.skipUnless(shutil.which("openssl"), "needs openssl")
    def test_reload_certificate(self):
        old, new = self.certificate("old.example"), self.certificate("new.example")
        other = self.certificate("other.example")
        folder = os.path.dirname(old[0])
        cert, key = os.path.join(folder, "live-cert"), os.path.join(folder, "live-key")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def install(pair):
            shutil.copy(pair[0], cert)
            shutil.copy(pair[1], key)

        def shown():
            with socket.create_connection(("127.0.0.1", server.port), 30) as plain:
                with context.wrap_socket(plain) as tls:
                    self.assertIn(tls.version(), ("TLSv1.2", "TLSv1.3"))
                    return ssl.DER_cert_to_PEM_cert(tls.getpeercert(True)).split()
        install(old)
        server = self.serve("--tls-cert", cert, "--tls-key", key)
        self.assertIn("https://127.0.0.1", "".join(server.log))
        self.assertEqual(shown(), pathlib.Path(old[0]).read_text().split())
        stream = Stream(server, context)
        install(new)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: shown() == pathlib.Path(new[0]).read_text().split(), "the new one is shown")
        self.assertIn("[DONE]", stream.rest())
        install((new[0], other[1]))  # a pair that is none
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "do not belong together" in "".join(server.log), "it is refused")
        self.assertEqual(shown(), pathlib.Path(new[0]).read_text().split())
        self.assertIn("[DONE]", Stream(server, context, max_tokens=3).rest())
        self.assertEqual(server.stop(), 0)

    # ---- files ----

    def test_unit(self):
        text = (ROOT / "etc/systemd/sluice.service.in").read_text()
        for line in ("Type=notify", "ExecReload=/bin/kill -HUP $MAINPID", "DynamicUser=yes",
                     "ProtectSystem=strict", "NoNewPrivileges=yes", "Restart=on-failure",
                     "LimitNOFILE=65536"):
            self.assertIn("\n" + line + "\n", text)
        if not shutil.which("systemd-analyze"):
            self.skipTest("needs systemd-analyze")
        path = self.file(text.replace("@bindir@", "/bin").replace("/bin/sluice", "/bin/true")
                         .replace("Documentation=", "# "), "sluice.service")
        done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True,
                              check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    @unittest.skipUnless(yaml, "needs PyYAML")
    def test_manifest(self):
        documents = list(yaml.safe_load_all((ROOT / "etc/kubernetes/sluice.yaml").read_text()))
        self.assertEqual([d["kind"] for d in documents], ["Deployment", "Service"])
        pod = documents[0]["spec"]["template"]
        self.assertEqual(documents[0]["spec"]["selector"]["matchLabels"].items()
                         - pod["metadata"]["labels"].items(), set())
        self.assertGreater(pod["spec"]["terminationGracePeriodSeconds"], 30)  # --drain-timeout
        container, = pod["spec"]["containers"]
        for probe, path in (("startupProbe", "/ready"), ("readinessProbe", "/ready"),
                            ("livenessProbe", "/health")):
            self.assertEqual(container[probe]["httpGet"]["path"], path)
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        self.assertEqual(documents[1]["spec"]["ports"][0]["targetPort"], "http")
        # The options are ours, and the program takes them.
        server = self.serve(*[a.replace("/keys/keys", self.file("k\n")) for a in container["args"]
                              if not a.startswith("--port")])
        self.assertIn(f"--port={ports['http']}", container["args"])
        self.assertEqual(server.request("GET", "/ready")[0], 200)
        mounts = {m["name"] for m in container["volumeMounts"]}
        self.assertEqual(mounts, {v["name"] for v in pod["spec"]["volumes"]})


if __name__ == "__main__":
    unittest.main()
