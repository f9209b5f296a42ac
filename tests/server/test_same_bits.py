"""test_same_bits: a hundred requests of every kind, each alone and then all at once among others,
give the same answers: text, tokens, log-probabilities to the last bit, and where they ended.

A float has nine digits at most, and nine are in the replies; so equality of the replies is that of
the bits."""
import concurrent.futures
import json
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402

WORDS = "once the old king had a daughter who sang to rivers and gave bread to every bird".split()


def request(rng, i):
    """(path, body)"""
    words = " ".join(rng.choice(WORDS) for _ in range(rng.choice([1, 5, 30, 120])))
    body = {"max_tokens": rng.randint(1, 12), "seed": i,
            "temperature": rng.choice([0, 0, 0.7, 1, 1.5])}
    if rng.random() < 0.3:
        body["top_p"] = 0.8
    if rng.random() < 0.2:
        body.update(top_k=20, repetition_penalty=1.2, presence_penalty=0.5)
    if rng.random() < 0.2:
        body["stop"] = ["e ", "."]
    if rng.random() < 0.1:
        body["bad_words"] = ["the", "a"]
    if i % 2 == 0:
        body.update(prompt=words, logprobs=rng.randint(0, 3), return_token_ids=True)
        body["n"] = rng.choice([1, 1, 1, 3])
        if rng.random() < 0.2:
            body["prompt_logprobs"] = 2
        return "/v1/completions", body
    body.update(messages=[{"role": "user", "content": words}], logprobs=True, top_logprobs=2,
                return_token_ids=True)
    return "/v1/chat/completions", body


class SameBits(unittest.TestCase):
    def test_alone_and_among_others(self):
        rng = random.Random(11)
        asks = [request(rng, i) for i in range(100)]
        server = Server("--max-seqs", "12", "--max-queue", "400", "--chunk", "64", "--kv-mb", "24")
        try:
            alone = [server.post(path, body)["choices"] for path, body in asks]
            order = list(range(100)) + [100] * 40
            rng.shuffle(order)

            def run(i):
                if i == 100:  # others: some long, some streamed
                    body = {"prompt": " ".join(rng.choices(WORDS, k=150)), "max_tokens": 8,
                            "stream": rng.random() < 0.5}
                    self.assertEqual(server.request("POST", "/v1/completions", body)[0], 200)
                    return None
                return server.post(*asks[i])["choices"]

            with concurrent.futures.ThreadPoolExecutor(24) as pool:
                among = list(pool.map(run, order))
            for i, choices in zip(order, among):
                if i < 100:
                    self.assertEqual(json.dumps(choices), json.dumps(alone[i]), asks[i])
        finally:
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main()
