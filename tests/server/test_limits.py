"""test_limits: every limit of the server below it, at it and above it: the counts as they are by
default or made small by their options, the times made short by them."""
import http.client
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import SLOW, Server  # noqa: E402


def chat(n, parts=0):
    """A chat of n messages whose contents have `parts` parts in all."""
    messages = [{"role": "user", "content": "a"} for _ in range(n)]
    if parts > 0:
        messages[0]["content"] = [{"type": "text", "text": "a"}] * (parts // 2)
        messages[1]["content"] = [{"type": "text", "text": "a"}] * (parts - parts // 2)
    return {"messages": messages, "max_tokens": 1}


def fill(n):
    """A body for /tokenize of n bytes."""
    body = '{"prompt":"a"'
    return body + " " * (n - len(body) - 1) + "}"


class Counts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-url-bytes", "200", "--max-headers", "10", "--max-header-bytes",
                            "400", "--max-body-bytes", "30000", "--max-json-depth", "8",
                            "--max-json-values", "700", "--max-messages", "20", "--max-parts", "30",
                            "--max-logprobs", "240")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def check(self, limit, code, ask, word):
        """ask(n) replies 200 up to the limit, then `code` with a sentence that has the word."""
        for n in (limit - 1, limit, limit + 1):
            status, _, data = ask(n)
            self.assertEqual(200 if n <= limit else code, status, (n, data))
            if n > limit:
                self.assertIn(word, json.loads(data)["error"]["message"])
        self.assertEqual(200, self.server.request("GET", "/health")[0])

    def test_url(self):
        self.check(200, 414, lambda n: self.server.request("GET", "/version?" + "a" * (n - 9)),
                   "200 bytes")

    def test_headers(self):
        # http.client adds two: host and accept-encoding.
        self.check(10, 431, lambda n: self.server.request(
            "GET", "/version", None, {"h%d" % i: "x" for i in range(n - 2)}), "10 headers")

    def test_header_bytes(self):
        fixed = len("Host: 127.0.0.1:%d\r\nAccept-Encoding: identity\r\na: \r\n" % self.server.port)
        self.check(400, 431, lambda n: self.server.request(
            "GET", "/version", None, {"a": "x" * (n - fixed)}), "400 bytes")

    def test_body(self):
        self.check(30000, 413, lambda n: self.server.request("POST", "/tokenize", fill(n)),
                   "too large")

    def test_json_depth(self):
        # The object is a level of its own.
        self.check(8, 400, lambda n: self.server.request(
            "POST", "/tokenize", '{"prompt":"a","x":' + "[" * (n - 1) + "]" * (n - 1) + "}"),
            "8 levels")

    def test_json_values(self):
        # The body, the object, the list, and a value for each comma.
        self.check(700, 400, lambda n: self.server.request(
            "POST", "/tokenize", '{"prompt":"a","x":[' + ",".join("1" * (n - 3)) + "]}"),
            "700 values")

    def test_messages(self):
        self.check(20, 400, lambda n: self.server.request(
            "POST", "/v1/chat/completions", chat(n)), "20 are allowed")

    def test_parts(self):
        self.check(30, 400, lambda n: self.server.request(
            "POST", "/v1/chat/completions", chat(2, n)), "30 are allowed")


    def test_logprobs(self):
        """Figures: of each token of each answer itself and its likeliest, and of the prompts."""
        for fields, tokens in ({"logprobs": 0}, 1), ({"logprobs": 0, "prompt": ["a"] * 4}, 4), \
                ({"logprobs": 1, "n": 2}, 4), ({"logprobs": 2, "stream": True}, 3):
            for n in (240 // tokens - 1, 240 // tokens, 240 // tokens + 1):
                body = {"prompt": "a", "ignore_eos": True, **fields, "max_tokens": n}
                status, _, data = self.server.request("POST", "/v1/completions", body)
                self.assertEqual(200 if n * tokens <= 240 else 400, status, (fields, n, data))
            self.assertIn("%d figures" % (n * tokens), json.loads(data)["error"]["message"])
            self.assertIn("240 are allowed", json.loads(data)["error"]["message"])
        ids = self.server.post("/tokenize", {"prompt": "a b c d e f"})["tokens"]
        for n in (100, 120, 121):
            body = {"prompt": (ids * 121)[:n], "prompt_logprobs": 1, "max_tokens": 1}
            self.assertEqual(200 if n <= 120 else 400,
                             self.server.request("POST", "/v1/completions", body)[0])
            body.update(logprobs=0, max_tokens=240 - 2 * n + 1)  # prompt and answer together
            self.assertEqual(400, self.server.request("POST", "/v1/completions", body)[0])
        # A chat that names no length ends where its figures do.
        reply = self.server.post("/v1/chat/completions", {
            "messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True, "logprobs": True,
            "top_logprobs": 4})
        self.assertEqual(("length", 48), (reply["choices"][0]["finish_reason"],
                                          reply["usage"]["completion_tokens"]))


class Defaults(unittest.TestCase):
    """The same where the default is what is promised; URL and headers are in test_malformed."""

    def test_defaults(self):
        server = Server()

        def code(path, body):
            return server.request("POST", path, body)[0]
        try:
            for n in (-1, 0, 1):
                want = 200 if n <= 0 else 400
                self.assertEqual(200 if n <= 0 else 413,
                                 code("/tokenize", fill((16 << 20) + n)), n)
                depth = 63 + n
                self.assertEqual(want, code("/tokenize", '{"prompt":"a","x":' + "[" * depth +
                                            "]" * depth + "}"), n)
                values = ",".join("1" * (999997 + n))
                self.assertEqual(want, code("/tokenize", '{"prompt":"a","x":[' + values + "]}"), n)
                # Longer than the context: refused by that, not by the count.
                for key, body in (("messages", chat(4096 + n)), ("parts", chat(2, 8192 + n))):
                    status, _, data = server.request("POST", "/v1/chat/completions", body)
                    self.assertEqual(400, status)
                    self.assertEqual(n > 0, b"are allowed" in data, (key, n, data))
        finally:
            self.assertEqual(0, server.stop())


LONG = {"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": True}


class Queue(unittest.TestCase):
    """One sequence runs, two wait."""

    def start(self, *arguments):
        server = self.server = Server(*SLOW, "--max-seqs", "1", "--max-queue", "2",
                                      *(arguments or ("--queue-timeout", "600")))
        self.addCleanup(lambda: self.assertEqual(0, server.stop()))

    def hold(self, gauge, n):
        """The connection of a long request; returns when the gauge says that it is in."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps(LONG))
        self.addCleanup(connection.close)
        self.wait(gauge, n)
        return connection

    def wait(self, gauge, n):
        end = time.monotonic() + 120
        while self.server.metric("vllm:" + gauge) != n:
            self.assertLess(time.monotonic(), end, f"{gauge} is not {n}")
            time.sleep(0.005)

    def refused(self, word):
        status, headers, data = self.server.request("POST", "/v1/completions", {"prompt": "Once"})
        self.assertEqual(429, status, data)
        self.assertRegex(headers["retry-after"], r"^[1-9]\d*$")
        self.assertIn(word, json.loads(data)["error"]["message"])

    def test_length(self):
        self.start()
        self.hold("num_requests_running", 1)
        self.hold("num_requests_waiting", 1)  # below the limit
        self.hold("num_requests_waiting", 2)  # at it
        self.refused("full")

    def test_sequences(self):
        self.start()
        for n, beam, want in ((1, False, 200), (2, False, 400), (1, True, 200), (2, True, 400)):
            status, _, data = self.server.request("POST", "/v1/completions", {
                "prompt": "Once", "max_tokens": 2, "n": n, "use_beam_search": beam})
            self.assertEqual(want, status, data)
            if want == 400:
                self.assertEqual("n", json.loads(data)["error"]["param"])

    def test_priority(self):
        """With that policy who waits longer lets the lower number go first. The log has them in the
        order of their ends."""
        paths = {"/v1/completions": {**LONG, "stream": False, "max_tokens": 5},
                 "/v1/embeddings": {"input": [5] * 50}}
        for policy, path in itertools.product(("fcfs", "priority"), paths):
            self.start("--policy", policy)
            held = self.hold("num_requests_running", 1)
            threads, statuses = [], []
            for n, priority in enumerate((5, -5)):
                ask = ("POST", path, {**paths[path], "priority": priority},
                       {"x-request-id": f"priority:{priority}"})
                threads.append(threading.Thread(
                    target=lambda ask=ask: statuses.append(self.server.request(*ask)[0])))
                threads[n].start()
                self.wait("num_requests_waiting", n + 1)
            held.close()
            for thread in threads:
                thread.join()
            self.assertEqual([200, 200], statuses)
            self.assertEqual(0, self.server.stop())
            ended = re.findall(r"info request priority:(\S+) ", "".join(self.server.log))
            self.assertEqual(["5", "-5"] if policy == "fcfs" else ["-5", "5"], ended)

    def test_time(self):
        self.start("--queue-timeout", "1")
        held = self.hold("num_requests_running", 1)
        reply = held.getresponse()
        self.refused("queue")
        self.assertEqual(1, self.server.metric("vllm:num_requests_running"))
        self.assertTrue(reply.readline())  # who runs is not hurt by others' time
        reply.close()
        held.close()
        self.wait("num_requests_running", 0)
        status, _, data = self.server.request("POST", "/v1/completions", {
            "prompt": "Once", "max_tokens": 1})
        self.assertEqual(200, status, data)


class Times(unittest.TestCase):
    def test_request_time(self):
        """A request that takes longer than it may ends with 503; streams with an error event."""
        server = Server(*SLOW, "--request-timeout", "3")
        body = {"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "n": 8}
        try:
            status, headers, data = server.request("POST", "/v1/completions", body)
            self.assertEqual(503, status, data)
            self.assertIn("longer than it may", json.loads(data)["error"]["message"])
            self.assertIn("retry-after", headers)
            status, _, data = server.request("POST", "/v1/completions", dict(body, stream=True))
            self.assertEqual(200, status)
            last = data.decode().strip().split("\n\n")[-1]
            self.assertIn("longer than it may", json.loads(last[6:])["error"]["message"])
            self.assertEqual(200, server.request("POST", "/v1/completions",
                                                 {"prompt": "Once", "max_tokens": 1})[0])
        finally:
            self.assertEqual(0, server.stop())

    def test_silence(self):
        """A stream that is silent while its prompt is read gets comments, which are no events; none
        before the queue's time is over, when its status may still be a refusal."""
        body = {"prompt": [7] * 1000, "max_tokens": 3, "temperature": 0, "stream": True}
        replies = []
        for arguments in (("--ping-interval", "0.01", "--queue-timeout", "0.01"),
                          ("--ping-interval", "0.01"), ("--ping-interval", "0")):
            server = Server("--chunk", "1", *arguments)  # a long prefill, and nobody else
            try:
                for path, more in (("/v1/completions", {}),
                                   ("/v1/messages", {"messages": [{"role": "user", "content":
                                                                   "word " * 400}]})):
                    status, _, data = server.request("POST", path, {**body, **more})
                    # Its turn comes at once, but a busy machine may take longer to notice.
                    while status == 429 and "--queue-timeout" in arguments:
                        status, _, data = server.request("POST", path, {**body, **more})
                    self.assertEqual(200, status, data)
                    frames = data.decode().split("\n\n")
                    silent = [i for i, frame in enumerate(frames) if frame == ": keep-alive"]
                    self.assertEqual(len(arguments) == 4, silent[:1] == [0], (arguments, frames))
                    said = "".join(re.findall(r'"text":"(.*?)"', data.decode()))
                    replies.append((path, said, frames[-2].split("\n")[-1]))
            finally:
                self.assertEqual(0, server.stop())
        self.assertEqual(replies[:2], replies[2:4])
        self.assertEqual(replies[:2], replies[4:])

    def test_slow_clients(self):
        """Slow in the header, the body, between requests: cut not before the limit, and long before
        that of a server that is told none; a neighbour is answered all the time."""
        server = Server("--header-timeout", "1", "--idle-timeout", "2", "--body-rate", "1000")

        def closes(*sends):
            """Seconds until the server closes after sending these, half a second apart."""
            start = time.monotonic()
            with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
                try:
                    for data in sends:
                        connection.sendall(data)
                        time.sleep(0.5)
                    while connection.recv(65536):
                        pass
                except ConnectionError:
                    pass
                return time.monotonic() - start

        head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n"
        get = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
        cases = {"header": [b"GET /ver"] + [b"a"] * 6, "body": [head] + [b"a"] * 6,
                 "idle": [get], "nothing": [b""]}
        seconds = {}

        def run(name, sends):
            seconds[name] = closes(*sends)
        threads = [threading.Thread(target=run, args=case) for case in cases.items()]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.assertEqual(200, server.request("GET", "/version")[0])
            time.sleep(0.05)
        self.assertEqual(0, server.stop())
        self.assertEqual(set(cases), set(seconds))
        for name, took in seconds.items():
            limit, default = (2, 75) if name == "idle" else (1, 10)
            self.assertGreaterEqual(took, limit, name)
            self.assertLess(took, default * 0.9, name)


if __name__ == "__main__":
    unittest.main()
