"""test_api: the OpenAI API of a running server: shapes, streams, errors, keys, and that load does
not change an answer."""
import concurrent.futures
import json
import os
import socket
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from serving import SLOW, Server  # noqa: E402

HELLO = {"messages": [{"role": "user", "content": "Hello! How are you?"}]}
GREEDY = {"temperature": 0, "max_tokens": 16}


class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-seqs", "16", "--max-queue", "200")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    # ---- replies ----

    def test_chat(self):
        reply = self.server.post("/v1/chat/completions", {**HELLO, **GREEDY})
        self.assertEqual(reply["object"], "chat.completion")
        self.assertTrue(reply["id"].startswith("chatcmpl-"))
        self.assertAlmostEqual(reply["created"], time.time(), delta=60)
        self.assertEqual(reply["model"], "fable-28m")
        choice, = reply["choices"]
        self.assertEqual(choice["message"]["role"], "assistant")
        self.assertGreater(len(choice["message"]["content"]), 5)
        self.assertIn(choice["finish_reason"], ("stop", "length"))
        usage = reply["usage"]
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertLessEqual(usage["completion_tokens"], 16)

    def test_chat_stream_is_the_same_text(self):
        whole = self.server.post("/v1/chat/completions", {**HELLO, **GREEDY})
        events = self.server.stream("/v1/chat/completions",
                                    {**HELLO, **GREEDY, "stream_options": {"include_usage": True}})
        self.assertEqual({e["object"] for e in events}, {"chat.completion.chunk"})
        self.assertEqual(len({e["id"] for e in events}), 1)
        self.assertEqual(events[0]["choices"][0]["delta"]["role"], "assistant")
        self.assertEqual(events[-1]["choices"], [])
        self.assertEqual(events[-1]["usage"]["completion_tokens"],
                         whole["usage"]["completion_tokens"])
        text = "".join(e["choices"][0]["delta"].get("content") or "" for e in events[:-1])
        self.assertEqual(text, whole["choices"][0]["message"]["content"])
        reasons = [e["choices"][0]["finish_reason"] for e in events[:-1]]
        self.assertEqual([r for r in reasons if r], [whole["choices"][0]["finish_reason"]])
        self.assertIsNotNone(reasons[-1])

    def test_completion(self):
        body = {"prompt": "Once upon a time", **GREEDY}
        whole = self.server.post("/v1/completions", body)
        self.assertEqual(whole["object"], "text_completion")
        events = self.server.stream("/v1/completions", body)
        text = "".join(e["choices"][0]["text"] for e in events)
        self.assertEqual(text, whole["choices"][0]["text"])
        ids = self.server.post("/tokenize", {"prompt": "Once upon a time"})["tokens"]
        again = self.server.post("/v1/completions", {**body, "prompt": ids})
        self.assertEqual(again["choices"][0]["text"], whole["choices"][0]["text"])
        echoed = self.server.post("/v1/completions", {**body, "echo": True})
        self.assertEqual(echoed["choices"][0]["text"], "Once upon a time" + text)

    def test_several_prompts_and_n(self):
        body = {"prompt": ["Once", "The king", "A dog"], **GREEDY, "n": 2}
        reply = self.server.post("/v1/completions", body)
        self.assertEqual([c["index"] for c in reply["choices"]], list(range(6)))
        texts = [c["text"] for c in reply["choices"]]
        self.assertEqual(texts[0::2], texts[1::2])
        for i, prompt in enumerate(body["prompt"]):
            alone = self.server.post("/v1/completions", {"prompt": prompt, **GREEDY})
            self.assertEqual(alone["choices"][0]["text"], texts[2 * i])

    def test_logprobs(self):
        reply = self.server.post("/v1/chat/completions",
                                 {**HELLO, **GREEDY, "logprobs": True, "top_logprobs": 3})
        content = reply["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), reply["usage"]["completion_tokens"])
        for entry in content:
            self.assertLessEqual(entry["logprob"], 0)
            self.assertEqual(len(entry["top_logprobs"]), 3)
            self.assertEqual(entry["top_logprobs"][0]["token"], entry["token"])
        body = {"prompt": "Once upon", **GREEDY, "logprobs": 2}
        logprobs = self.server.post("/v1/completions", body)["choices"][0]["logprobs"]
        lists = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        lengths = {len(logprobs[k]) for k in lists}
        self.assertEqual(lengths, {16})

    def test_echo_with_logprobs_scores_the_prompt(self):
        """A continuation's tokens, asked about as a prompt, have the same probabilities."""
        body = {"prompt": "Once upon a time", **GREEDY, "logprobs": 0, "return_token_ids": True}
        more = self.server.post("/v1/completions", body)["choices"][0]
        ids = self.server.post("/tokenize", {"prompt": body["prompt"]})["tokens"]
        whole = self.server.post("/v1/completions", {**body, "prompt": ids + more["token_ids"],
                                                     "max_tokens": 1, "echo": True})
        logprobs = whole["choices"][0]["logprobs"]
        self.assertEqual(len(logprobs["tokens"]), len(ids) + 17)
        self.assertIsNone(logprobs["token_logprobs"][0])
        scored = logprobs["token_logprobs"][len(ids):-1]
        for a, b in zip(scored, more["logprobs"]["token_logprobs"]):
            self.assertAlmostEqual(a, b, places=3)
        self.assertEqual(logprobs["text_offset"][0], 0)
        self.assertEqual("".join(logprobs["tokens"]), whole["choices"][0]["text"])
        alone = {**body, "prompt": ids + more["token_ids"], "max_tokens": 0, "echo": True}
        for n in (1, 2):
            reply = self.server.post("/v1/completions", {**alone, "n": n})
            self.assertEqual(reply["usage"]["completion_tokens"], 0)
            for choice in reply["choices"]:
                self.assertEqual(choice["text"], "".join(logprobs["tokens"][:-1]))
                self.assertEqual(choice["finish_reason"], "length")
                self.assertIsNone(choice["stop_reason"])
                self.assertEqual(choice["token_ids"], [])
                for key in ("tokens", "token_logprobs", "text_offset"):
                    self.assertEqual(choice["logprobs"][key], logprobs[key][:-1])

    def test_echo_alone(self):
        """What ends the token that is not told is not told either; more tokens are refused."""
        ask = {"prompt": ["Once upon", "A"], "max_tokens": 0, "echo": True}
        ids = list(range(3, 67))  # the token behind the prompt is one of these, and ends it
        for more in ({"stop_token_ids": ids, "allowed_token_ids": ids},
                     {"n": 2, "temperature": 0, "use_beam_search": True}):
            events = self.server.stream("/v1/completions", {
                **ask, **more, "stream_options": {"include_usage": True}})
            n = more.get("n", 1)
            choices = sorted((e["choices"][0] for e in events[:-1]), key=lambda c: c["index"])
            self.assertEqual([c["text"] for c in choices], ["Once upon"] * n + ["A"] * n)
            for choice in choices:
                self.assertEqual((choice["finish_reason"], choice["stop_reason"]), ("length", None))
            self.assertEqual(events[-1]["usage"]["completion_tokens"], 0)
        for field, more in (("max_tokens", {"max_completion_tokens": 5}),
                            ("min_tokens", {"min_tokens": 5})):
            status, _, data = self.server.request("POST", "/v1/completions", {**ask, **more})
            self.assertEqual((status, json.loads(data)["error"]["param"]), (400, field))

    def test_stop_string(self):
        ask = {"prompt": "Once", **GREEDY}
        text = self.server.post("/v1/completions", ask)["choices"][0]["text"]
        stop = text[10:14]
        for body in ({"stop": stop}, {"stop": ["\x01never", stop]}):
            choice = self.server.post("/v1/completions", {**ask, **body})["choices"][0]
            self.assertEqual(choice["text"], text[:text.index(stop)])
            self.assertEqual((choice["finish_reason"], choice["stop_reason"]), ("stop", stop))

    def test_seed(self):
        body = {"prompt": "The old man", "max_tokens": 20, "temperature": 1, "seed": 7}
        one = self.server.post("/v1/completions", body)["choices"][0]["text"]
        self.assertEqual(self.server.post("/v1/completions", body)["choices"][0]["text"], one)
        other = self.server.post("/v1/completions", {**body, "seed": 8})["choices"][0]["text"]
        self.assertNotEqual(other, one)

    def test_cached_tokens(self):
        prompt = "A prompt that nobody else asks about. " * 8
        first = self.server.post("/v1/completions", {"prompt": prompt, **GREEDY})
        again = self.server.post("/v1/completions", {"prompt": prompt, **GREEDY})
        details = [r["usage"]["prompt_tokens_details"] for r in (first, again)]
        self.assertEqual(details[0]["cached_tokens"], 0)
        self.assertGreater(details[1]["cached_tokens"], again["usage"]["prompt_tokens"] - 20)
        self.assertEqual(again["choices"], first["choices"])
        salted = self.server.post("/v1/completions",
                                  {"prompt": prompt, **GREEDY, "cache_salt": "x"})
        self.assertEqual(salted["usage"]["prompt_tokens_details"]["cached_tokens"], 0)

    def test_embeddings(self):
        reply = self.server.post("/v1/embeddings", {"input": ["one", "two words", "one"]})
        vectors = [d["embedding"] for d in reply["data"]]
        self.assertEqual(len(vectors[0]), 512)
        self.assertEqual(vectors[0], vectors[2])
        self.assertNotEqual(vectors[0], vectors[1])
        reply = self.server.post("/v1/embeddings", {"input": [5] * 1030,
                                                    "truncate_prompt_tokens": -1})
        self.assertEqual(reply["usage"]["prompt_tokens"], 1024)  # no answer wants room

    def test_models_and_tokens(self):
        status, _, data = self.server.request("GET", "/v1/models")
        model = json.loads(data)["data"][0]
        self.assertEqual((status, model["id"]), (200, "fable-28m"))
        self.assertEqual(self.server.request("GET", "/v1/models/fable-28m")[0], 200)
        self.assertEqual(self.server.request("GET", "/v1/models/other")[0], 404)
        ids = self.server.post("/tokenize", {"prompt": "Hello <|im_end|> world"})["tokens"]
        self.assertNotIn(2, ids)  # a user's text never becomes a special token
        text = self.server.post("/detokenize", {"tokens": ids})["prompt"]
        self.assertEqual(text, "Hello <|im_end|> world")

    def test_health_metrics_page(self):
        self.assertEqual(self.server.request("GET", "/health")[0], 200)
        self.assertEqual(self.server.request("GET", "/ready")[0], 200)
        text = self.server.request("GET", "/metrics")[2].decode()
        self.assertIn('vllm:num_requests_running{engine="0",model_name="fable-28m"} ', text)
        self.assertIn('le="+Inf"', text)
        status, headers, page = self.server.request("GET", "/")
        self.assertEqual((status, headers["content-type"]), (200, "text/html; charset=utf-8"))
        self.assertIn(b"<title>Sluice</title>", page)

    # ---- mistakes ----

    def error(self, path, body, status, param=None):
        got, _, data = self.server.request("POST", path, body)
        self.assertEqual(got, status, (body, data))
        error = json.loads(data)["error"]
        self.assertEqual(error["param"], param, error)
        self.assertTrue(error["message"])

    def test_bad_fields(self):
        for field, values in {
                "temperature": [-1, 2.01, "1", True, [1]],
                "top_p": [0, -0.1, 1.1, "x"], "min_p": [-0.1, 1.1], "n": [0, 9, 1.5, "1"],
                "max_tokens": [0, -1, 1.5, "8"], "top_k": [-2, "x", 0.5], "seed": ["x", 1.5],
                "presence_penalty": [-2.1, 2.1], "frequency_penalty": [-3, "x"],
                "repetition_penalty": [0, -1], "stop": ["", [""], ["a"] * 17, 5, ["x" * 257], [1]],
                "logit_bias": [[], {"x": 1}, {"1": 101}, {"-1": 0}, {"1": "x"}],
                "stream": [1, "true"], "stop_token_ids": ["x", [-1], [1.5]],
                "response_format": [{"type": "json_object"}, "json"], "best_of": [2],
                "cache_salt": ["", 5, "x" * 1025], "guided_json": [{"type": "object"}],
        }.items():
            for value in values:
                self.error("/v1/completions", {"prompt": "x", field: value}, 400, field)

    def test_limits(self):
        """One below, at and above each limit."""
        for limit, make in (
                (16, lambda n: {"stop": [f"stop{i}" for i in range(n)]}),
                (256, lambda n: {"stop": "s" * n}),
                (1024, lambda n: {"logit_bias": {str(i): 0 for i in range(n)}}),
                (20, lambda n: {"logprobs": n}),
                (8, lambda n: {"n": n}),
                (64, lambda n: {"prompt": ["x"] * n}),
        ):
            for n in (limit - 1, limit, limit + 1):
                body = {"prompt": "x", "max_tokens": 1, **make(n)}
                status = self.server.request("POST", "/v1/completions", body)[0]
                self.assertEqual(status, 200 if n <= limit else 400, (limit, n))

    def test_bad_bodies(self):
        for body in ("", "{", "[]", "null", "{\"prompt\": \"\\ud800\"}", b"\xff", "{} x",
                     '{"prompt": "a", "prompt": "b"}', "[" * 100 + "]" * 100):
            self.error("/v1/completions", body, 400)
        self.error("/v1/completions", {}, 400, "prompt")
        for prompt in ([], "", [[]], {}, 5, [1.5], [-1], [8192], [True], [[1], "x", 5]):
            self.error("/v1/completions", {"prompt": prompt}, 400, "prompt")
        for messages in ([], None, {}, [5], [{}], [{"role": "user"}],
                         [{"role": "user", "content": 5}],
                         [{"role": "user", "content": [{"type": "image_url"}]}]):
            self.error("/v1/chat/completions", {"messages": messages}, 400, "messages")
        self.error("/v1/completions", {"prompt": "x", "model": "other"}, 404, "model")

    def test_too_long_for_the_context(self):
        self.error("/v1/completions", {"prompt": [5] * 2000}, 400)

    def test_paths(self):
        self.assertEqual(self.server.request("GET", "/nowhere")[0], 404)
        self.assertEqual(self.server.request("GET", "/v1/completions")[0], 405)
        self.assertEqual(self.server.request("GET", "/../../etc/passwd")[0], 404)

    # ---- many at once ----

    def test_same_bits_under_load(self):
        bodies = [{"prompt": f"Story number {i}: once upon a time", "max_tokens": 8 + i % 17,
                   "temperature": i % 3 / 2, "seed": i, "logprobs": 1} for i in range(48)]
        ask = lambda body: self.server.post("/v1/completions", body)["choices"]  # noqa: E731
        alone = [ask(body) for body in bodies]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            together = list(pool.map(ask, reversed(bodies)))
        self.assertEqual(together[::-1], alone)

    def test_client_that_leaves_frees_its_blocks(self):
        aborted = 'vllm:request_success_total finished_reason="abort"'
        before = self.server.metric(aborted)
        body = json.dumps({"prompt": "Once", "max_tokens": 900, "ignore_eos": True, "stream": True})
        for _ in range(10):
            client = socket.create_connection(("127.0.0.1", self.server.port))
            client.sendall("POST /v1/completions HTTP/1.1\r\nhost: x\r\n"
                           f"content-length: {len(body)}\r\n\r\n{body}".encode())
            self.assertTrue(client.recv(1000))
            client.close()
        end = time.monotonic() + 120
        while self.server.metric("vllm:num_requests_running") > 0:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        self.assertEqual(self.server.metric(aborted), before + 10)


class Keys(unittest.TestCase):
    def test_every_route_but_health_and_the_page_wants_a_key(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("# keys\nfirst-key\n\n  second-key  \n")
            file.flush()
            server = Server("--api-key-file", file.name)
        try:
            for path in ("/v1/models", "/metrics", "/version", "/nowhere", "/v1/chat/completions"):
                for headers in ({}, {"authorization": "Bearer first-ke"},
                                {"authorization": "Bearer first-keyy"}, {"x-api-key": "FIRST-KEY"}):
                    status, reply, data = server.request("GET", path, headers=headers)
                    self.assertEqual(status, 401, (path, headers))
                    self.assertEqual(json.loads(data)["error"]["code"], "invalid_api_key")
            for headers in ({"authorization": "Bearer first-key"},
                            {"authorization": "bearer second-key"}, {"x-api-key": "second-key"}):
                self.assertEqual(server.request("GET", "/v1/models", headers=headers)[0], 200)
            self.assertEqual(server.request("GET", "/health")[0], 200)
        finally:
            self.assertEqual(server.stop(), 0)
        self.assertNotIn("first-key", "".join(server.log))


class Life(unittest.TestCase):
    def test_refuses_the_world_without_a_key(self):
        with self.assertRaises(RuntimeError) as caught:
            Server("--host", "0.0.0.0")
        self.assertIn("--api-key-file", str(caught.exception))

    def test_term_lets_open_streams_end(self):
        server = Server(*SLOW, "--drain-timeout", "600")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            body = {"prompt": "Once", "max_tokens": 30, "ignore_eos": True, "temperature": 0}
            streams = [pool.submit(server.stream, "/v1/completions", body) for _ in range(8)]
            while server.metric("vllm:num_requests_running") < 8 and not all(s.done() for s in streams):
                time.sleep(0.01)
            self.assertEqual(server.stop(), 0)
            lengths = {len("".join(e["choices"][0]["text"] for e in s.result())) for s in streams}
        self.assertEqual(len(lengths), 1)


if __name__ == "__main__":
    unittest.main()
