"""test_bench_serve: the load generator against a server of a few lines whose delays are known: what
it sends and when, and that every figure of the report follows from the times of the requests."""
import http.server
import json
import os
import pathlib
import shutil
import ssl
import statistics
import subprocess
import tempfile
import threading
import time
import unittest
import xml.dom.minidom

SLUICE = os.environ.get("SLUICE", "build/sluice")
FIRST_S, GAP_S, PIECES = 0.12, 0.02, 5


class Fake(http.server.BaseHTTPRequestHandler):
    """An OpenAI server that writes PIECES pieces; the model's name says what else it does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.keys.append(self.headers["authorization"])
        self.reply(200, {"object": "list", "data": [{"id": "the-model"}]})

    def chunk(self, text):
        space = "" if self.path.endswith("tight") else " "
        data = f"data:{space}{text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            n = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["authorization"])
            self.server.came.append(time.monotonic())
            if n + 1 >= self.server.crowd:
                self.server.crowded.set()
        self.server.crowded.wait(60)
        if body["model"] == "busy" and n % 3 == 0:
            self.reply(429, {"error": {"message": "too many"}})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        chat = "chat" in self.path
        for i in range(PIECES):
            time.sleep(GAP_S if i else FIRST_S)
            choice = {"delta": {"content": "x"}} if chat else {"text": "x"}
            self.chunk(json.dumps({"choices": [choice]}))
            if body["model"] == "broken" and i == 2:
                self.close_connection = True
                return
        self.chunk(json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5,
                                                        "prompt_tokens_details": {"cached_tokens": 3}}}))
        self.chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")
        self.server.ended.append(time.monotonic())


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


class BenchServe(unittest.TestCase):
    def setUp(self):
        self.server = Server(("127.0.0.1", 0), Fake)
        self.server.bodies, self.server.came, self.server.ended, self.server.keys = [], [], [], []
        self.server.lock = threading.Lock()
        self.server.crowd, self.server.crowded = 0, threading.Event()  # who comes before any answer
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        self.addCleanup(lambda: (self.server.shutdown(), thread.join(), self.server.server_close()))
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def file(self, name, text):
        path = os.path.join(self.folder.name, name)
        pathlib.Path(path).write_text(text)
        return path

    def run_load(self, *arguments, code=0):
        """(the report as text, the saved JSON, standard error)"""
        saved = os.path.join(self.folder.name, "result.json")
        done = subprocess.run(
            [SLUICE, "bench-serve", "--url", f"http://127.0.0.1:{self.server.server_port}", "--seed",
             "5", "--save-result", saved, *arguments],
            capture_output=True, text=True, timeout=600, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        result = json.loads(pathlib.Path(saved).read_text()) if os.path.exists(saved) else None
        return done.stdout, result, done.stderr

    def test_portable(self):
        """What every server knows: words, and no field of vLLM's."""
        known = {"model", "stream", "stream_options", "temperature", "max_tokens", "prompt"}
        self.run_load("--requests", "3", "--portable", "--input-len", "9")
        for body in self.server.bodies:
            self.assertEqual(set(body), known)
            self.assertEqual(len(body["prompt"].split()), 9)
        self.server.bodies.clear()
        self.run_load("--requests", "1", "--input-len", "9")
        self.assertEqual(set(self.server.bodies[0]), known | {"ignore_eos"})
        self.assertEqual(len(self.server.bodies[0]["prompt"]), 9)
        # An event's data may stand without a blank.
        _, result, _ = self.run_load("--requests", "2", "--endpoint", "/v1/completions/tight")
        self.assertEqual((result["completed"], result["total_output_tokens"]), (2, 10))

    def test_figures(self):
        svg = os.path.join(self.folder.name, "load.svg")
        text, result, _ = self.run_load("--requests", "20", "--rate", "40", "--svg", svg,
                                        "--slo-ttft", "100000", "--slo-tpot", "100000")
        rows = result["requests"]
        self.assertEqual((result["completed"], result["failed"], len(rows)), (20, 0, 20))
        self.assertEqual((result["total_input_tokens"], result["total_output_tokens"],
                          result["cached_tokens"]), (140, 100, 60))
        ttft = [(r["first_us"] - r["sent_us"]) / 1e3 for r in rows]
        tpot = [(r["last_us"] - r["first_us"]) / 1e3 / 4 for r in rows]
        e2el = [(r["last_us"] - r["sent_us"]) / 1e3 for r in rows]
        self.assertGreaterEqual(min(ttft), FIRST_S * 1e3)
        self.assertGreaterEqual(min(e2el), (FIRST_S + GAP_S * (PIECES - 1)) * 1e3)
        # Who reads the first piece late has a shorter time left for the others.
        self.assertGreaterEqual(max(tpot), GAP_S * 1e3 * 0.9)
        for name, values in (("ttft", ttft), ("tpot", tpot), ("e2el", e2el)):
            self.assertAlmostEqual(result[f"mean_{name}_ms"], statistics.mean(values), 2)
            self.assertAlmostEqual(result[f"median_{name}_ms"], statistics.median(values), 2)
            self.assertLessEqual(result[f"p99_{name}_ms"], max(values) + 0.01)
            self.assertGreaterEqual(result[f"p99_{name}_ms"], sorted(values)[-2] - 0.01)
        # All gaps between pieces, of all requests: their mean is that of the requests' means.
        self.assertAlmostEqual(result["mean_itl_ms"], statistics.mean(tpot), 2)
        seconds = result["duration"]
        self.assertGreaterEqual(seconds + 1e-4, max(r["last_us"] for r in rows) / 1e6)
        self.assertAlmostEqual(result["request_throughput"], 20 / seconds, 3)
        self.assertAlmostEqual(result["output_throughput"], 100 / seconds, 3)
        self.assertAlmostEqual(result["total_token_throughput"], 240 / seconds, 3)
        self.assertAlmostEqual(result["request_goodput"], 20 / seconds, 3)
        for line in ("Serving Benchmark Result", "Successful requests: ", "Benchmark duration (s): ",
                     "Total input tokens: ", "Total generated tokens: ", "Request throughput (req/s): ",
                     "Request goodput (req/s): ", "Output token throughput (tok/s): ",
                     "Time to First Token", "Time per Output Token (excl. 1st token)",
                     "Inter-token Latency", "Mean TTFT (ms): ", "Median TPOT (ms): ", "P99 ITL (ms): "):
            self.assertIn(line, text)
        self.assertEqual({len(line) for line in text.splitlines()}, {50})
        picture = xml.dom.minidom.parse(svg)
        self.assertGreaterEqual(len(picture.getElementsByTagName("rect")), 40)

    def test_goodput_of_a_bound_that_nobody_keeps(self):
        _, result, _ = self.run_load("--requests", "4", "--slo-ttft", str(FIRST_S * 900))
        self.assertEqual((result["completed"], result["request_goodput"]), (4, 0))

    def test_open_loop(self):
        """Requests leave at their times, whether or not others are answered."""
        self.server.crowd = 40
        self.run_load("--requests", "40", "--rate", "1000")
        self.assertLess(max(self.server.came), min(self.server.ended))
        self.assertEqual({b["model"] for b in self.server.bodies}, {"the-model"})

    def test_closed_loop(self):
        _, result, _ = self.run_load("--requests", "8", "--concurrency", "2")
        spans = [(r["sent_us"], r["last_us"]) for r in result["requests"]]
        most = max(sum(a <= t < b for a, b in spans) for t, _ in spans)
        self.assertEqual(most, 2)

    def due(self, result):
        """When each request was to leave, in seconds; none left before, nor all long after."""
        rows = result["requests"]
        late = [r["sent_us"] - r["due_us"] for r in rows]
        self.assertGreaterEqual(min(late), 0)
        self.assertLess(min(late), 10000)
        return [r["due_us"] / 1e6 for r in rows]

    def test_poisson_and_bursts(self):
        due = self.due(self.run_load("--requests", "150", "--rate", "100")[1])
        gaps = [b - a for a, b in zip(due, due[1:])]
        mean = statistics.mean(gaps)
        self.assertAlmostEqual(mean, 0.01, delta=0.004)
        self.assertAlmostEqual(sum(g < mean for g in gaps) / len(gaps), 0.632, delta=0.13)
        due = self.due(self.run_load("--requests", "50", "--rate", "100", "--burst", "10")[1])
        self.assertEqual([len(set(due[i:i + 10])) for i in range(0, 50, 10)], [1] * 5)
        self.assertEqual(len(set(due)), 5)
        self.assertAlmostEqual(due[-1], 0.4, delta=0.3)

    def test_lengths_and_shared_prefix(self):
        self.run_load("--requests", "3", "--input-len", "30", "--shared-prefix", "12",
                      "--output-len", "9", "--api-key", "the-key")
        prompts = [b["prompt"] for b in self.server.bodies]
        self.assertEqual({len(p) for p in prompts}, {30})
        self.assertEqual(len({tuple(p[:12]) for p in prompts}), 1)
        self.assertEqual(len({p[12] for p in prompts}), 3)
        self.assertEqual({(b["max_tokens"], b["ignore_eos"]) for b in self.server.bodies}, {(9, True)})
        self.assertEqual(set(self.server.keys), {"Bearer the-key"})

    def test_prompts_and_chat(self):
        path = self.file("prompts", 'What is "rain"?\n\nTell me of ships.\n')
        self.run_load("--prompts", path, "--endpoint", "/v1/chat/completions", "--model-name", "m")
        self.assertEqual(sorted(b["messages"][0]["content"] for b in self.server.bodies),
                         ["Tell me of ships.", 'What is "rain"?'])
        self.assertEqual({b["model"] for b in self.server.bodies}, {"m"})
        self.server.bodies.clear()
        self.run_load("--requests", "2", "--endpoint", "/v1/chat/completions", "--input-len", "40")
        self.assertEqual({len(b["messages"][0]["content"].split()) for b in self.server.bodies}, {40})

    def test_trace(self):
        rows = [{"timestamp": 2000, "input_length": 600, "output_length": 4, "hash_ids": [1, 3]},
                {"timestamp": 1000, "input_length": 1024, "output_length": 6, "hash_ids": [1, 2]}]
        path = self.file("trace.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
        _, result, _ = self.run_load("--trace", path, "--speedup", "10")
        first, second = sorted(self.server.bodies, key=lambda b: -len(b["prompt"]))
        self.assertEqual((len(first["prompt"]), len(second["prompt"])), (1024, 600))
        self.assertEqual(first["prompt"][:512], second["prompt"][:512])
        self.assertNotEqual(first["prompt"][512:600], second["prompt"][512:])
        self.assertEqual((first["max_tokens"], second["max_tokens"]), (6, 4))
        self.assertEqual(self.due(result), [0, 0.1])

    def test_failures(self):
        text, result, errors = self.run_load("--requests", "9", "--model-name", "busy")
        self.assertEqual((result["completed"], result["failed"], result["refused"]), (6, 3, 3))
        self.assertIn("of these refused", text)
        self.assertIn('the first failure: HTTP 429 {"error": {"message": "too many"}}', errors)
        _, result, errors = self.run_load("--requests", "2", "--model-name", "broken", code=1)
        self.assertEqual(result["completed"], 0)
        self.assertIn("broke off", errors)
        self.assertIn("no request got its whole answer", errors)

    def certificate(self, *names):
        cert, key = (os.path.join(self.folder.name, n) for n in ("cert.pem", "key.pem"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-keyout", key,
                        "-out", cert, "-subj", "/CN=load", "-addext",
                        "subjectAltName=" + ",".join(names)], check=True, capture_output=True)
        return cert, key

    def serve_tls(self, *names):
        """The server speaks TLS from now on; returns its certificate."""
        cert, key = self.certificate(*names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        # Each connection shakes hands in its own thread.
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True,
                                                 do_handshake_on_connect=False)
        return cert

    @unittest.skipUnless(shutil.which("openssl"), "needs openssl")
    def test_https(self):
        cert = self.serve_tls("DNS:localhost", "IP:127.0.0.1")
        for host in ("localhost", "127.0.0.1"):
            url = f"https://{host}:{self.server.server_port}/"
            _, result, _ = self.run_load("--url", url, "--tls-ca", cert, "--requests", "12",
                                         "--input-len", "60000", "--rate", "100")
            self.assertEqual((result["completed"], result["total_output_tokens"]), (12, 60))
        self.assertEqual({len(b["prompt"]) for b in self.server.bodies}, {60000})

    @unittest.skipUnless(shutil.which("openssl"), "needs openssl")
    def test_https_that_is_not_to_trust(self):
        cert = self.serve_tls("DNS:other.example")
        url = f"https://127.0.0.1:{self.server.server_port}"
        for more in ([], ["--tls-ca", cert]):  # by nobody known; of another name
            _, _, errors = self.run_load("--url", url, "--model-name", "m", *more, code=1)
            self.assertIn("its certificate is not one to trust", errors)
        _, _, errors = self.run_load("--url", url, "--tls-ca", "/nonexistent", code=1)
        self.assertIn("cannot read certificates from '/nonexistent'", errors)
        self.assertEqual([], self.server.bodies)

    def test_urls(self):
        """Any of a name's addresses; what is no URL of a server is told."""
        self.run_load("--url", f"http://localhost:{self.server.server_port}", "--requests", "1")
        for url, word in (("ftp://x", "http:// or https://"), ("http://", "HOST"),
                          ("http://[::1:80", "']'"), ("http://x/v1", "HOST")):
            _, _, errors = self.run_load("--url", url, code=2)
            self.assertIn(word, errors)

    def test_nobody_there(self):
        done = subprocess.run([SLUICE, "bench-serve", "--url", "http://127.0.0.1:1"], text=True,
                              capture_output=True, timeout=600, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("cannot reach '127.0.0.1:1': Connection refused", done.stderr)


if __name__ == "__main__":
    unittest.main()
