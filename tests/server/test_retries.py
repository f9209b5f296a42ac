"""test_retries: clients that are told 429 with Retry-After wait it out and get their answer.

The queue is full of streams that the test holds; when the log has the client's refusal they are
let go, so that the next try is answered."""
import http.client
import json
import os
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clients import anthropic, langchain_openai, litellm, openai  # noqa: E402
from serving import Server  # noqa: E402

MODEL = "fable-28m"
ASK = {"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": "Hello"}]}
TRIES = 30  # of a client; each is a second or more after the one before
HELD = {"prompt": "Once", "max_tokens": 1000, "ignore_eos": True, "stream": True}


class Retries(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-seqs", "1", "--max-queue", "1", "--request-timeout", "600")
        cls.url = f"http://127.0.0.1:{cls.server.port}"

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def hold(self, stop):
        """A stream that begins again until it is let go."""
        while not stop.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=600)
            connection.request("POST", "/v1/completions", json.dumps(HELD))
            reply = connection.getresponse()
            while not stop.is_set() and reply.readline():
                pass
            connection.close()

    def refusals(self, path):
        return sum(f'"POST {path}" 429' in line for line in list(self.server.log))

    def retried(self, path):
        return any(f'"POST {path}" 200' in line and " retry=" in line
                   for line in list(self.server.log))

    def check(self, path, ask, counted=True):
        """ask() is refused at first, and has its answer after Retry-After."""
        before, stop = self.refusals(path), threading.Event()
        answers = []
        holders = [threading.Thread(target=self.hold, args=(stop,)) for _ in range(4)]
        for holder in holders:
            holder.start()
        while self.refusals("/v1/completions") == 0:  # the queue has been full
            time.sleep(0.005)
        while self.refusals(path) == before:
            answers.clear()  # it came between two streams, if there was one
            start = time.monotonic()
            asker = threading.Thread(target=lambda: answers.append(ask()))
            asker.start()
            while self.refusals(path) == before and asker.is_alive():
                time.sleep(0.005)
        stop.set()
        for thread in (*holders, asker):
            thread.join()
        self.assertEqual(1, len(answers))
        self.assertTrue(answers[0])
        self.assertGreater(self.refusals(path), before)
        self.assertGreaterEqual(time.monotonic() - start, 0.9)  # what Retry-After says at least
        if counted:  # the log has which try it was, soon
            deadline = time.monotonic() + 120
            while not self.retried(path) and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertTrue(self.retried(path))

    @unittest.skipIf(openai is None, "the openai package is not installed")
    def test_openai(self):
        with openai.OpenAI(base_url=self.url + "/v1", api_key="x",
                           max_retries=TRIES) as client:
            self.check("/v1/chat/completions",
                       lambda: client.chat.completions.create(**ASK).choices[0].message.content)

    @unittest.skipIf(anthropic is None, "the anthropic package is not installed")
    def test_anthropic(self):
        with anthropic.Anthropic(base_url=self.url, api_key="x", max_retries=TRIES) as client:
            self.check("/v1/messages", lambda: client.messages.create(**ASK).content[0].text)

    @unittest.skipIf(litellm is None, "the litellm package is not installed")
    def test_litellm(self):
        ask = {**ASK, "model": "openai/" + MODEL, "api_base": self.url + "/v1", "api_key": "x"}
        self.check("/v1/chat/completions", lambda: litellm.completion(
            **ask, num_retries=TRIES).choices[0].message.content, counted=False)

    @unittest.skipIf(langchain_openai is None, "the langchain-openai package is not installed")
    def test_langchain(self):
        chat = langchain_openai.ChatOpenAI(model=MODEL, base_url=self.url + "/v1", api_key="x",
                                           max_tokens=3, max_retries=TRIES)
        self.check("/v1/chat/completions", lambda: chat.invoke("Hello").content)


if __name__ == "__main__":
    unittest.main()
