"""test_clients: the server as the real clients of OpenAI and Anthropic see it."""
import concurrent.futures
import os
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from serving import SLOW, Server  # noqa: E402

try:
    import openai
except ImportError:
    openai = None
try:
    import anthropic
except ImportError:
    anthropic = None

MODEL = "fable-28m"
CHAT = [{"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Tell me about a fox."}]
GREEDY = {"model": MODEL, "temperature": 0}


def setUpModule():
    global server, keys
    keys = tempfile.NamedTemporaryFile("w", suffix=".keys")
    keys.write("the-key\n")
    keys.flush()
    server = Server("--api-key-file", keys.name, "--max-seqs", "8")


def tearDownModule():
    assert server.stop() == 0
    keys.close()


@unittest.skipIf(openai is None, "the openai package is not installed")
class OpenAi(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1",
                                    api_key="the-key", timeout=600)
        self.addCleanup(self.client.close)

    def chat(self, **more):
        return self.client.chat.completions.create(
            **{**GREEDY, "messages": CHAT, "max_tokens": 4, **more})

    def test_chat(self):
        reply = self.chat()
        text = reply.choices[0].message.content
        self.assertTrue(text)
        self.assertEqual(reply.choices[0].finish_reason, "length")
        self.assertEqual(reply.usage.completion_tokens, 4)
        parts = [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "about a fox."}]
        again = self.chat(messages=[CHAT[0], {"role": "user", "content": parts}])
        self.assertEqual(again.choices[0].message.content, text)

    def test_chat_stream(self):
        whole = self.chat().choices[0].message.content
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole)
        self.assertEqual(chunks[-1].usage.completion_tokens, 4)
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")

    def test_stream_helper(self):
        with self.client.chat.completions.stream(**GREEDY, messages=CHAT) as stream:
            for _ in stream:
                pass
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content,
                         self.chat(max_tokens=400).choices[0].message.content)

    def test_n_seed_and_stop(self):
        ask = {"temperature": 1, "seed": 5, "n": 3}
        texts = [c.message.content for c in self.chat(**ask).choices]
        self.assertEqual(len(set(texts)), 3)
        self.assertEqual([c.message.content for c in self.chat(**ask).choices], texts)
        streamed = ["", "", ""]
        for chunk in self.chat(stream=True, **ask):
            streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        self.assertEqual(streamed, texts)
        text = self.chat().choices[0].message.content
        stopped = self.chat(stop=[text[3:6]]).choices[0]
        self.assertEqual(stopped.message.content, text[:text.index(text[3:6])])
        self.assertEqual(stopped.finish_reason, "stop")

    def test_logprobs(self):
        content = self.chat(logprobs=True, top_logprobs=4).choices[0].logprobs.content
        self.assertEqual(len(content), 4)
        for entry in content:
            self.assertEqual(entry.top_logprobs[0].token, entry.token)
            self.assertEqual(bytes(entry.bytes).decode(errors="replace"), entry.token)

    def test_continue_final_message(self):
        text = self.chat().choices[0].message.content
        begun = CHAT + [{"role": "assistant", "content": "The fox"}]
        more = {"continue_final_message": True, "add_generation_prompt": False}
        plain, cont = self.chat(messages=CHAT), self.chat(messages=begun, extra_body=more)
        n = len(server_tokens("The fox"))
        self.assertEqual(cont.usage.prompt_tokens, plain.usage.prompt_tokens + n)
        self.assertNotEqual(cont.choices[0].message.content, text)
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(extra_body=more)
        self.assertEqual(caught.exception.param, "continue_final_message")

    def test_completions(self):
        ask = {**GREEDY, "prompt": "Once upon a time", "max_tokens": 12}
        text = self.client.completions.create(**ask).choices[0].text
        chunks = self.client.completions.create(**ask, stream=True)
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), text)

    def test_embeddings(self):
        """The client asks for base64 unless told otherwise."""
        ask = {"model": MODEL, "input": ["a fox", "a boat"]}
        packed = self.client.embeddings.create(**ask)
        plain = self.client.embeddings.create(**ask, encoding_format="float")
        for a, b in zip(packed.data, plain.data):
            self.assertEqual(len(a.embedding), 512)
            for x, y in zip(a.embedding, b.embedding):
                self.assertAlmostEqual(x, y, places=6)

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], [MODEL])
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(temperature=3)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.chat(model="other")
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("other")
        with self.assertRaises(openai.AuthenticationError) as caught:
            self.client.with_options(api_key="wrong").models.list()
        self.assertEqual(caught.exception.code, "invalid_api_key")
        for field in ("allowed_token_ids", "structured_outputs", "guided_choice"):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.chat(extra_body={field: ["x"]})
            self.assertEqual(caught.exception.param, field)

    def test_too_long(self):
        """One token fits, the next does not; the client can tell why, in each of the APIs."""
        body = {"model": MODEL, "max_tokens": 10, "prompt": [7] * 1014}
        self.assertEqual(10, self.client.completions.create(
            **body, extra_body={"ignore_eos": True}).usage.completion_tokens)
        for ask, n in ((lambda: self.client.completions.create(**{**body, "max_tokens": 11}), 1014),
                       (lambda: self.chat(messages=[{"role": "user", "content": "word " * 1100}]),
                        None),
                       (lambda: self.client.responses.create(model=MODEL, input="word " * 1100),
                        None),
                       (lambda: self.client.embeddings.create(model=MODEL, input=[7] * 1025), 1025)):
            with self.assertRaises(openai.BadRequestError) as caught:
                ask()
            self.assertEqual(caught.exception.code, "context_length_exceeded")
            self.assertIn("maximum context length is 1024 tokens", str(caught.exception))
            self.assertIn("has %s" % (n or ""), str(caught.exception))

    def test_timeout(self):
        impatient = self.client.with_options(timeout=0.05, max_retries=0)
        with self.assertRaises(openai.APITimeoutError):
            impatient.completions.create(**GREEDY, prompt="Once", max_tokens=900,
                                         extra_body={"ignore_eos": True})

    # ---- responses ----

    def test_response(self):
        ask = {**GREEDY, "instructions": "Be brief.", "input": "Tell me about a fox."}
        reply = self.client.responses.create(**ask, max_output_tokens=4, metadata={"a": "b"})
        self.assertEqual(reply.output_text, self.chat().choices[0].message.content)
        self.assertEqual((reply.status, reply.incomplete_details.reason),
                         ("incomplete", "max_output_tokens"))
        self.assertEqual((reply.instructions, reply.metadata), ("Be brief.", {"a": "b"}))
        self.assertEqual(reply.usage.output_tokens, 4)
        listed = self.client.responses.create(
            **GREEDY, max_output_tokens=4,
            input=[CHAT[0], {"role": "user", "type": "message", "content": [
                {"type": "input_text", "text": "Tell me about a fox."}]}])
        self.assertEqual(listed.output_text, reply.output_text)
        count = self.client.responses.input_tokens.count(
            model=MODEL, instructions="Be brief.", input="Tell me about a fox.")
        self.assertEqual(count.input_tokens, reply.usage.input_tokens)

    def test_response_stream(self):
        ask = {**GREEDY, "instructions": "Be brief.", "input": "Tell me about a fox."}
        whole = self.client.responses.create(**ask, max_output_tokens=400)
        events = list(self.client.responses.create(**ask, max_output_tokens=400, stream=True))
        kinds = [e.type.removeprefix("response.") for e in events]
        ends = {"completed": "completed", "incomplete": "incomplete"}
        self.assertEqual(kinds[:4], ["created", "in_progress", "output_item.added",
                                     "content_part.added"])
        self.assertEqual(kinds[-4:], ["output_text.done", "content_part.done", "output_item.done",
                                      ends[whole.status]])
        self.assertEqual(set(kinds[4:-4]), {"output_text.delta"})
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        self.assertEqual("".join(e.delta for e in events[4:-4]), whole.output_text)
        self.assertEqual(events[-1].response.output_text, whole.output_text)
        with self.client.responses.stream(**ask, max_output_tokens=8) as stream:
            for _ in stream:
                pass
            self.assertTrue(whole.output_text.startswith(stream.get_final_response().output_text))

    def test_response_errors(self):
        for field, value in {"previous_response_id": "resp_1", "input": [], "background": True,
                             "truncation": "auto", "instructions": 5, "max_output_tokens": 0,
                             "text": {"format": {"type": "json_object"}},
                             "tools": [{"type": "web_search"}]}.items():
            with self.assertRaises(openai.BadRequestError, msg=field) as caught:
                self.client.responses.create(**{**GREEDY, "input": "x", field: value})
            self.assertEqual(caught.exception.param, field)


def server_tokens(text):
    return server.post("/tokenize", {"prompt": text, "add_special_tokens": False},
                       {"x-api-key": "the-key"})["tokens"]


@unittest.skipIf(openai is None, "the openai package is not installed")
class Overload(unittest.TestCase):
    def test_full_queue_is_a_rate_limit_that_retries_wait_out(self):
        small = Server(*SLOW, "--max-seqs", "1", "--max-queue", "1", "--queue-timeout", "600")
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{small.port}/v1", api_key="x")
        ask = {**GREEDY, "prompt": "Once", "max_tokens": 2, "extra_body": {"ignore_eos": True}}
        long = {**ask, "max_tokens": 1000, "stream": True}
        once = client.with_options(max_retries=0)
        patient = client.with_options(max_retries=60)
        try:
            held = once.completions.create(**long)
            with concurrent.futures.ThreadPoolExecutor(5) as pool:
                waiting = pool.submit(once.completions.create, **long)  # its stream begins later
                while small.metric("vllm:num_requests_waiting") == 0:
                    time.sleep(0.01)
                for _ in range(3):
                    with self.assertRaises(openai.RateLimitError) as caught:
                        once.completions.create(**ask)
                    self.assertEqual(caught.exception.code, "rate_limit_exceeded")
                    retry = caught.exception.response.headers["retry-after"]
                    self.assertGreaterEqual(int(retry), 1)
                asked = [pool.submit(patient.completions.create, **ask) for _ in range(4)]
                while "".join(small.log).count(" 429 ") < 3 + 4:
                    time.sleep(0.01)
                held.close()
                waiting.result().close()
                self.assertEqual({a.result().usage.completion_tokens for a in asked}, {2})
        finally:
            client.close()
            self.assertEqual(small.stop(), 0)


@unittest.skipIf(anthropic is None, "the anthropic package is not installed")
class Anthropic(unittest.TestCase):
    ASK = {**GREEDY, "system": "Be brief.", "messages": CHAT[1:], "max_tokens": 4}

    def setUp(self):
        self.client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}",
                                          api_key="the-key", timeout=600)
        self.addCleanup(self.client.close)

    def post(self, **more):
        """The sampling fields that the client no longer names travel as extra fields."""
        ask = {**self.ASK, **more}
        extra = {k: ask.pop(k) for k in ("temperature", "top_k", "top_p") if k in ask}
        return self.client.messages.create(**ask, extra_body=extra)

    def test_message(self):
        reply = self.post()
        chat = server.post("/v1/chat/completions",
                           {**GREEDY, "messages": CHAT, "max_tokens": 4},
                           {"x-api-key": "the-key"})
        self.assertEqual(reply.content[0].text, chat["choices"][0]["message"]["content"])
        self.assertEqual((reply.role, reply.type, reply.model), ("assistant", "message", MODEL))
        self.assertEqual((reply.stop_reason, reply.stop_sequence), ("max_tokens", None))
        self.assertEqual(reply.usage.output_tokens, 4)
        self.assertEqual(reply.usage.input_tokens + reply.usage.cache_read_input_tokens,
                         chat["usage"]["prompt_tokens"])
        blocks = self.post(system=[{"type": "text", "text": "Be brief."}],
                           messages=[{"role": "user", "content": [
                               {"type": "text", "text": "Tell me about a fox.",
                                "cache_control": {"type": "ephemeral"}}]}])
        self.assertEqual(blocks.content, reply.content)
        self.assertGreaterEqual(blocks.usage.cache_read_input_tokens, 16)
        drawn = self.post(temperature=1, top_k=1)
        self.assertEqual(drawn.content, reply.content)

    def test_stop_sequence_and_prefill(self):
        text = self.post().content[0].text
        stop = text[3:6]
        reply = self.post(stop_sequences=["\x01never", stop])
        self.assertEqual((reply.stop_reason, reply.stop_sequence), ("stop_sequence", stop))
        self.assertEqual(reply.content[0].text, text[:text.index(stop)])
        begun = self.post(messages=CHAT[1:] + [{"role": "assistant", "content": "The fox"}])
        tokens = begun.usage.input_tokens + begun.usage.cache_read_input_tokens
        plain = self.client.messages.count_tokens(model=MODEL, system="Be brief.",
                                                  messages=CHAT[1:]).input_tokens
        self.assertEqual(tokens, plain + len(server_tokens("The fox")))

    def test_stream(self):
        whole = self.post()
        events = list(self.post(stream=True))
        kinds = [e.type for e in events]
        self.assertEqual(kinds[:2], ["message_start", "content_block_start"])
        self.assertEqual(kinds[-3:], ["content_block_stop", "message_delta", "message_stop"])
        self.assertEqual(set(kinds[2:-3]), {"content_block_delta"})
        self.assertEqual("".join(e.delta.text for e in events[2:-3]), whole.content[0].text)
        self.assertEqual(events[-2].delta.stop_reason, "max_tokens")
        self.assertEqual(events[-2].usage.output_tokens, 4)
        self.assertEqual(events[-2].usage.cache_read_input_tokens,
                         whole.usage.cache_read_input_tokens)
        with self.client.messages.stream(model=MODEL, system="Be brief.", messages=CHAT[1:],
                                         max_tokens=4, extra_body={"temperature": 0}) as stream:
            self.assertEqual("".join(stream.text_stream), whole.content[0].text)

    def test_bearer(self):
        client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}",
                                     auth_token="the-key")
        reply = client.messages.create(model=MODEL, messages=CHAT[1:], max_tokens=1)
        self.assertEqual(reply.usage.output_tokens, 1)
        client.close()

    def test_errors(self):
        for more in ({"messages": []}, {"max_tokens": 0}, {"temperature": 5},
                     {"messages": [{"role": "tool", "content": "x"}]},
                     {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
                     {"tools": [{"name": "a", "input_schema": {"type": "object"}}]},
                     {"thinking": {"type": "enabled", "budget_tokens": 1024}}):
            with self.assertRaises(anthropic.BadRequestError, msg=more) as caught:
                self.post(**more)
            self.assertEqual(caught.exception.body["error"]["type"], "invalid_request_error")
        with self.assertRaises(anthropic.NotFoundError) as caught:
            self.post(model="other")
        self.assertEqual(caught.exception.body["error"]["type"], "not_found_error")
        with self.assertRaises(anthropic.AuthenticationError):
            self.client.with_options(api_key="wrong").messages.create(
                model=MODEL, messages=CHAT[1:], max_tokens=1)
        status, _, data = server.request("POST", "/v1/messages", {"messages": CHAT[1:]},
                                         {"x-api-key": "the-key"})
        self.assertEqual(status, 400)
        self.assertIn(b"'max_tokens' is missing", data)


if __name__ == "__main__":
    unittest.main()
