"""test_threads: all that the server's threads do at once, on a small scale, so that it can be run
under ThreadSanitizer too (tests/run_tsan): streams, clients that leave, looks at the figures, new
keys, and the end while streams are open."""
import http.client
import json
import os
import pathlib
import random
import signal
import socket
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402

KEY = {"authorization": "Bearer the-key"}
LOOKS = ["/metrics", "/v1/models", "/dashboard/data", "/health", "/ready", "/version"]


def body(n_tokens, **more):
    return json.dumps({"prompt": "Once upon a time", "max_tokens": n_tokens, "ignore_eos": True,
                       "stream": True, **more})


class Threads(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.keys = pathlib.Path(folder.name, "keys")
        self.keys.write_text("the-key\n")
        self.server = Server("--api-key-file", str(self.keys), "--max-seqs", "8",
                             "--drain-timeout", "600", "--receipts", folder.name)

    def streams(self):
        for i in range(3):
            status, _, data = self.server.request("POST", "/v1/completions", body(12, n=1 + i % 2),
                                                  KEY)
            self.assertEqual(200, status, data)
            self.assertTrue(data.endswith(b"data: [DONE]\n\n"))

    def leaves(self):
        rng = random.Random(7)
        for _ in range(12):
            text = body(200)
            data = (f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer the-key\r\n"
                    f"Content-Length: {len(text)}\r\n\r\n{text}").encode()
            with socket.create_connection(("127.0.0.1", self.server.port)) as connection:
                connection.sendall(data[:rng.choice([40, len(data), len(data)])])
                if rng.random() < 0.5:
                    connection.settimeout(0.05)
                    try:
                        connection.recv(100)
                    except TimeoutError:
                        pass

    def looks(self):
        for i in range(30):
            status = self.server.request("GET", LOOKS[i % len(LOOKS)], headers=KEY)[0]
            self.assertEqual(200, status)

    def keys_change(self):
        for i in range(5):
            other = self.keys.with_suffix(".new")
            other.write_text(f"the-key\nanother-{i}\n")
            other.rename(self.keys)
            self.server.process.send_signal(signal.SIGHUP)
            while self.server.request("GET", "/v1/models",
                                      headers={"x-api-key": f"another-{i}"})[0] != 200:
                pass

    def test_at_once(self):
        failed = []

        def run(work):
            try:
                work()
            except Exception as error:  # pylint: disable=broad-except
                failed.append((work.__name__, error))
        threads = [threading.Thread(target=run, args=(work,)) for work in
                   (self.streams, self.streams, self.leaves, self.leaves, self.looks,
                    self.keys_change)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual([], failed)
        open_streams = []
        for _ in range(4):
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=600)
            connection.request("POST", "/v1/completions", body(24), KEY)
            reply = connection.getresponse()
            reply.readline()
            open_streams.append((connection, reply))
        self.server.process.send_signal(signal.SIGTERM)
        for connection, reply in open_streams:
            self.assertTrue(reply.read().endswith(b"data: [DONE]\n\n"))
            connection.close()
        self.assertEqual(0, self.server.stop(), "".join(self.server.log))


if __name__ == "__main__":
    unittest.main()
