"""test_receipts: what serve --receipts writes, replayed: the same tokens, or the first that differs."""
import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import steered  # noqa: E402
from serving import SLUICE, Server  # noqa: E402

ASKS = [
    ("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 1, "n": 3,
                         "seed": 3}),
    ("/v1/completions", {"prompt": ["The king", "A dog", [5, 6, 7]], "max_tokens": 9, "seed": 7}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 20, "temperature": 0, "stop": ["e", "a t"],
                         "include_stop_str_in_output": True, "logit_bias": {"300": 2.25}, "bad_words": ["the", "was"],
                         "allowed_token_ids": list(range(3000))}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 6, "n": 2, "use_beam_search": True,
                         "length_penalty": 0.5}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 16, "temperature": 0.7, "top_k": 40,
                         "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1, "min_tokens": 3,
                         "presence_penalty": 0.3, "frequency_penalty": -0.2, "ignore_eos": True,
                         "seed": -5, "stop_token_ids": [17], "logprobs": 2}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello!"}],
                              "max_tokens": 15}),
    ("/v1/responses", {"input": "Tell me about a fox.", "max_output_tokens": 8}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}),
]


def replay(*arguments):
    """(exit status, standard output, standard error)"""
    done = subprocess.run([SLUICE, "replay", "-q", *arguments], capture_output=True, text=True,
                          timeout=600)
    return done.returncode, done.stdout, done.stderr


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


class Receipts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        """Asks everything at once, so that the requests run beside each other; then stops the
        server, which writes what waits."""
        cls.folder = tempfile.TemporaryDirectory()
        cls.dir = os.path.join(cls.folder.name, "receipts")
        server = Server("--receipts", cls.dir, "--max-seqs", "8")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(server.post, path, body) for path, body in ASKS]
            cls.replies = [a.result() for a in asked]
        cls.cancel(server)
        server.post("/v1/embeddings", {"input": "no tokens, no receipt"})
        assert server.stop() == 0
        cls.model = os.path.join(os.path.dirname(__file__), "../../models/fable-28m.gguf")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    @staticmethod
    def cancel(server):
        """A client that leaves in the middle of its stream."""
        body = json.dumps({"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True})
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
                        "\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)).encode())
        client.recv(2000)
        client.close()

    def path(self, i):
        return os.path.join(self.dir, self.replies[i]["id"] + ".json")

    def test_every_reply_has_one(self):
        names = set(os.listdir(self.dir))
        self.assertLessEqual({r["id"] + ".json" for r in self.replies}, names)
        self.assertEqual(len(names), len(ASKS) + 1)
        receipt = load(self.path(0))
        self.assertEqual(receipt["receipt"], 1)
        self.assertEqual(len(receipt["outputs"]), 3)
        n = sum(len(o["tokens"]) for o in receipt["outputs"])
        self.assertEqual(n, self.replies[0]["usage"]["completion_tokens"])
        self.assertEqual(load(self.path(4))["request"]["seed"], str(2**64 - 5))

    def test_the_same_tokens(self):
        for name in sorted(os.listdir(self.dir)):
            receipt = load(os.path.join(self.dir, name))
            code, out, err = replay(os.path.join(self.dir, name))
            n = sum(len(o["tokens"]) for o in receipt["outputs"])
            self.assertEqual((code, err), (0, ""))
            self.assertEqual(out, f"the same: {n} tokens of {len(receipt['outputs'])} sequences\n")

    def changed(self, change, i=0):
        receipt = load(self.path(i))
        change(receipt)
        path = os.path.join(self.folder.name, "changed.json")
        with open(path, "w") as f:
            json.dump(receipt, f)
        return replay(path)

    def test_the_first_difference(self):
        def fewer(receipt):
            receipt["outputs"][2]["tokens"].pop()

        # Three prompts with one sequence each: there are three outputs.
        def other(receipt):
            receipt["outputs"][1]["tokens"][5] += 1

        code, _, err = self.changed(other, 1)
        self.assertEqual(code, 1)
        self.assertIn("prompt 1, sequence 0, token 5 was", err)
        code, _, err = self.changed(fewer)
        self.assertEqual(code, 1)
        self.assertRegex(err, r"prompt 0, sequence 2, token \d+ was the end and is \d+ \"")

    def test_what_else_differs(self):
        def build(receipt):
            receipt["build"]["binary"] = "0123456789abcdef"
            receipt["build"]["version"] = "0.0.1"

        code, out, err = self.changed(build)
        self.assertEqual(code, 0)
        self.assertIn("the version differs: it was 0.0.1", err)
        self.assertIn("the build differs: the program's hash was 0123456789abcdef and is ", err)
        code, out, err = replay("--level", "ref", self.path(2))
        self.assertIn("the level differs", err)

    def test_another_model(self):
        """Two models whose weights differ in one successor."""
        paths = []
        for name, text in (("one", "abcdefgh ijklmnop"), ("two", "abcdefgh ijklmnop and on it goes")):
            paths.append(os.path.join(self.folder.name, name))
            os.mkdir(paths[-1])
            steered.write(paths[-1], "{{ messages[-1].content[-1] }}", {"1": text})
        receipts = os.path.join(self.folder.name, "steered")
        server = Server(paths[0], "--receipts", receipts)
        reply = server.post("/v1/completions", {"prompt": "1"})
        self.assertEqual(server.stop(), 0)
        receipt = os.path.join(receipts, reply["id"] + ".json")
        self.assertEqual(replay(receipt, paths[0])[0], 0)
        code, _, err = replay(receipt, paths[1])
        self.assertIn("the model differs: its hash was", err)
        os.remove(os.path.join(paths[0], "config.json"))
        code, _, err = replay(receipt)
        self.assertEqual(code, 1)

    def test_mistakes(self):
        path = os.path.join(self.folder.name, "bad.json")
        good = load(self.path(0))
        for sentence, change in (
                ("no receipt of format 1", {"receipt": 2}), ("'id'", {"id": 5}),
                ("'seed'", {"request": {}}), ("do not go together", {"outputs": []}),
                ("do not go together", {"prompts": []}), ("'prompts'", {"prompts": [["x"]]}),
                ("'tokens'", {"outputs": [{}, {}, {}]}), ("'hash'", {"model": {"path": "x"}}),
                ("'temperature'", {"request": {**good["request"], "temperature": "x"}}),
                ("'stop'", {"request": {**good["request"], "stop": 5}}),
                ("'bad'", {"request": {**good["request"], "bad": [5]}}),
                ("'bias'", {"request": {**good["request"], "bias": [[1]]}})):
            with open(path, "w") as f:
                json.dump({**good, **change}, f)
            code, out, err = replay(path)
            self.assertEqual((code, out), (1, ""), change)
            self.assertIn(sentence, err)
        for text in ("", "{", "[]", "5"):
            with open(path, "w") as f:
                f.write(text)
            self.assertEqual(replay(path)[0], 1)

    def test_the_folder_is_bounded(self):
        folder = os.path.join(self.folder.name, "few")
        for _ in range(2):
            server = Server("--receipts", folder, "--receipts-max", "3")
            replies = [server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
                       for _ in range(5)]
            self.assertEqual(server.stop(), 0)
            names = {r["id"] + ".json" for r in replies[2:]}
            self.assertEqual(set(os.listdir(folder)), names)

    def test_a_folder_that_cannot_be(self):
        with self.assertRaises(RuntimeError) as caught:
            Server("--receipts", "/proc/nothing")
        self.assertIn("/proc/nothing", str(caught.exception))

    def test_not_with_fast(self):
        with self.assertRaises(RuntimeError) as caught:
            Server("--receipts", self.dir, "--fast")
        self.assertIn("which --fast gives up", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
