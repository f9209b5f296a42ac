"""test_shapes: replies against OpenAI's published shapes, which the openai package carries as pydantic
models: strict, so that no field is missing or of another type, and no field is there that is neither
in the shape nor among those that are documented as more."""
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import steered  # noqa: E402
from serving import Server  # noqa: E402
from test_tools import FUNCTION, STYLES, TEMPLATE  # noqa: E402

try:
    from openai import types
    from openai.types import responses
    from pydantic import BaseModel, TypeAdapter
except ImportError:
    types = None

# What vLLM's users expect beside OpenAI's fields, and the reason for a miss of the cache.
MORE = {"stop_reason", "token_ids", "prompt_token_ids", "prompt_logprobs", "reasoning",
        "cache_miss", "cache_miss_at"}
TOOL = {"type": "function", "function": FUNCTION}
TOKENS = {"max_tokens": 8, "return_token_ids": True}


def setUpModule():
    global folder, servers
    folder = tempfile.TemporaryDirectory()
    steered.write(folder.name, TEMPLATE % STYLES["hermes"]["mark"], STYLES["hermes"]["answers"])
    servers = {"plain": Server(), "tools": Server(folder.name)}


def tearDownModule():
    assert [s.stop() for s in servers.values()] == [0, 0]
    folder.cleanup()


@unittest.skipIf(types is None, "the openai package is not installed")
class Shapes(unittest.TestCase):
    def extras(self, value, where):
        if isinstance(value, BaseModel):
            self.assertLessEqual(set(value.model_extra or ()), MORE, where)
            for name in type(value).model_fields:
                self.extras(getattr(value, name), f"{where}.{name}")
        elif isinstance(value, (list, tuple)):
            for item in value:
                self.extras(item, where + "[]")

    def check(self, shape, value):
        self.extras(TypeAdapter(shape).validate_json(json.dumps(value), strict=True),
                    getattr(shape, "__name__", "event"))

    def test_chats(self):
        hello = [{"role": "user", "content": "Hello 1"}]
        for name, body in (
                ("plain", {"messages": hello, **TOKENS, "logprobs": True, "top_logprobs": 2, "n": 2}),
                ("plain", {"messages": hello, **TOKENS, "prompt_logprobs": 1}),
                ("tools", {"messages": hello, "tools": [TOOL]}),
                ("tools", {"messages": [{"role": "user", "content": "x 2"}]}),
                ("tools", {"messages": hello, "tools": [TOOL], "logprobs": True})):
            reply = servers[name].post("/v1/chat/completions", body)
            self.check(types.chat.ChatCompletion, reply)
            if "prompt_logprobs" in body:
                continue
            body["stream_options"] = {"include_usage": True}
            for chunk in servers[name].stream("/v1/chat/completions", body):
                self.check(types.chat.ChatCompletionChunk, chunk)

    def test_completions(self):
        for body in ({"prompt": "Once", **TOKENS}, {"prompt": "Once", "logprobs": 2, "echo": True},
                     {"prompt": ["a", "b"], "n": 2, "prompt_logprobs": 0}):
            reply = servers["plain"].post("/v1/completions", body)
            if "echo" in body:  # nothing precedes the first token: OpenAI's own replies have null
                probs = reply["choices"][0]["logprobs"]["token_logprobs"]
                self.assertEqual(probs.count(None), 1)
                probs[0] = 0.5
            self.check(types.Completion, reply)
        for chunk in servers["plain"].stream("/v1/completions", {"prompt": "Once", "logprobs": 1}):
            choice = chunk["choices"][0]  # null until the end, as OpenAI's own streams have it
            choice["finish_reason"] = choice["finish_reason"] or "stop"
            self.check(types.Completion, chunk)

    def test_embeddings_and_models(self):
        post = servers["plain"].post
        self.check(types.CreateEmbeddingResponse, post("/v1/embeddings", {"input": ["a", "b"]}))
        listed = json.loads(servers["plain"].request("GET", "/v1/models")[2])
        for model in listed["data"]:
            self.check(types.Model, {k: model[k] for k in model if k in types.Model.model_fields})

    def test_responses(self):
        ask = {"input": "Hello 1", "tools": [{"type": "function", **FUNCTION, "strict": False}]}
        for name, body in (("plain", {"input": "Hi", "max_output_tokens": 4}), ("tools", ask),
                           ("tools", {"input": "x 2", "instructions": "i"})):
            self.check(responses.Response, servers[name].post("/v1/responses", body))
            data = servers[name].request("POST", "/v1/responses", {**body, "stream": True})[2]
            for line in data.decode().split("\n"):
                if line.startswith("data: "):
                    self.check(responses.ResponseStreamEvent, json.loads(line[6:]))

    def test_errors(self):
        for body in ({}, {"prompt": "x", "n": 9}, {"prompt": "x", "model": "y"}):
            error = json.loads(servers["plain"].request("POST", "/v1/completions", body)[2])
            self.assertEqual(set(error), {"error"})
            self.check(types.ErrorObject, error["error"])
            self.assertEqual(set(error["error"]), {"message", "type", "param", "code"})


if __name__ == "__main__":
    unittest.main()
