"""test_more_clients: tools through the clients of OpenAI and Anthropic, and the tools that people
put in front of a server: litellm, langchain-openai, the llm command, curl.

The steered model of test_tools calls a function, so that each client's own reading of a call is
seen; the model that ships here answers the rest."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import steered  # noqa: E402
from clients import anthropic, langchain_openai, litellm, module, openai  # noqa: E402
from serving import Server  # noqa: E402
from test_tools import CITY, FUNCTION, STYLES, TEMPLATE  # noqa: E402

MODEL = "fable-28m"
TOOL = {"type": "function", "function": FUNCTION}
ASK = [{"role": "user", "content": "Hello 1"}]
GREET = [{"role": "user", "content": "Tell me about a fox."}]


def setUpModule():
    global folder, plain, tools, url, tools_url, text
    folder = tempfile.TemporaryDirectory()
    steered.write(folder.name, TEMPLATE % STYLES["hermes"]["mark"], STYLES["hermes"]["answers"])
    plain, tools = Server("--max-seqs", "8"), Server(folder.name, "--model-name", "caller")
    url, tools_url = (f"http://127.0.0.1:{s.port}/v1" for s in (plain, tools))
    text = plain.post("/v1/chat/completions", {"messages": GREET, "temperature": 0,
                                               "max_tokens": 6})["choices"][0]["message"]["content"]


def tearDownModule():
    assert [plain.stop(), tools.stop()] == [0, 0]
    folder.cleanup()


@unittest.skipIf(openai is None, "the openai package is not installed")
class OpenAi(unittest.TestCase):
    def setUp(self):
        self.client = openai.OpenAI(base_url=tools_url, api_key="x")
        self.addCleanup(self.client.close)

    def test_a_round_of_tools(self):
        create = self.client.chat.completions.create
        reply = create(model="caller", messages=ASK, tools=[TOOL])
        call, = reply.choices[0].message.tool_calls
        self.assertEqual(json.loads(call.function.arguments), CITY)
        after = create(model="caller", tools=[TOOL], messages=[
            *ASK, reply.choices[0].message, {"role": "tool", "tool_call_id": call.id,
                                             "content": "sunny 2"}])
        self.assertEqual(after.choices[0].message.content, "It is sunny.")
        self.assertEqual(after.choices[0].message.reasoning, "\nA question.\n")

    def test_stream(self):
        chunks = list(self.client.chat.completions.create(model="caller", messages=ASK,
                                                          tools=[TOOL], stream=True))
        calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
        self.assertEqual(calls[0].function.name, "get_weather")
        self.assertEqual(json.loads("".join(c.function.arguments for c in calls)), CITY)
        self.assertEqual(chunks[-1].choices[0].finish_reason, "tool_calls")

    def test_responses(self):
        ask = {"model": "caller", "input": "Hello 1", "tools": [{"type": "function", **FUNCTION}]}
        reply = self.client.responses.create(**ask)
        self.assertEqual(json.loads(reply.output[-1].arguments), CITY)
        with self.client.responses.stream(**ask) as stream:
            kinds = {event.type for event in stream}
            final = stream.get_final_response()
        self.assertIn("response.function_call_arguments.delta", kinds)
        self.assertEqual(json.loads(final.output[-1].arguments), CITY)
        after = self.client.responses.create(**{**ask, "input": [
            {"role": "user", "content": "u"}, reply.output[-1].to_dict(),
            {"type": "function_call_output", "call_id": reply.output[-1].call_id,
             "output": "sunny 2"}]})
        self.assertEqual(after.output_text, "It is sunny.")


@unittest.skipIf(anthropic is None, "the anthropic package is not installed")
class Anthropic(unittest.TestCase):
    def test_a_round_of_tools(self):
        client = anthropic.Anthropic(base_url=tools_url.removesuffix("/v1"), api_key="x")
        self.addCleanup(client.close)
        ask = {"model": "caller", "max_tokens": 100, "messages": ASK, "tools": [
            {"name": FUNCTION["name"], "input_schema": FUNCTION["parameters"]}]}
        reply = client.messages.create(**ask)
        self.assertEqual((reply.stop_reason, reply.content[-1].input), ("tool_use", CITY))
        with client.messages.stream(**ask) as stream:
            for _ in stream:
                pass
            final = stream.get_final_message()
        self.assertEqual([b.type for b in final.content], ["text", "tool_use"])
        self.assertEqual(final.content[-1].input, CITY)
        after = client.messages.create(**{**ask, "messages": [
            *ASK, {"role": "assistant", "content": reply.content},
            {"role": "user", "content": [{"type": "tool_result", "content": "sunny 2",
                                          "tool_use_id": reply.content[-1].id}]}]})
        self.assertEqual([b.type for b in after.content], ["thinking", "text"])
        self.assertEqual(after.content[-1].text, "It is sunny.")


@unittest.skipIf(litellm is None, "the litellm package is not installed")
class LiteLlm(unittest.TestCase):
    def ask(self, model, base, **more):
        return litellm.completion(model=model, api_base=base, api_key="x", **more)

    def test_chat_and_stream(self):
        ask = {"messages": GREET, "temperature": 0, "max_tokens": 6}
        reply = self.ask("openai/" + MODEL, url, **ask)
        self.assertEqual(reply.choices[0].message.content, text)
        self.assertEqual(reply.usage.completion_tokens, 6)
        parts = [c.choices[0].delta.content or ""
                 for c in self.ask("openai/" + MODEL, url, stream=True, **ask)]
        self.assertEqual("".join(parts), text)

    def test_tools_and_errors(self):
        reply = self.ask("openai/caller", tools_url, messages=ASK, tools=[TOOL])
        call, = reply.choices[0].message.tool_calls
        self.assertEqual(json.loads(call.function.arguments), CITY)
        with self.assertRaises(litellm.BadRequestError):
            self.ask("openai/" + MODEL, url, messages=GREET, temperature=5)
        with self.assertRaises(litellm.NotFoundError):
            self.ask("openai/other", url, messages=GREET)

    def test_messages_and_embedding(self):
        reply = self.ask("anthropic/caller", tools_url.removesuffix("/v1"), messages=ASK,
                         tools=[TOOL], max_tokens=100)
        call, = reply.choices[0].message.tool_calls
        self.assertEqual(json.loads(call.function.arguments), CITY)
        vectors = litellm.embedding(model="openai/" + MODEL, input=["one", "two"], api_base=url,
                                    api_key="x", encoding_format="float")
        self.assertEqual([len(d["embedding"]) for d in vectors.data], [512, 512])


@unittest.skipIf(langchain_openai is None, "the langchain-openai package is not installed")
class LangChain(unittest.TestCase):
    def test_chat_and_stream(self):
        chat = langchain_openai.ChatOpenAI(base_url=url, api_key="x", model=MODEL, temperature=0,
                                           max_tokens=6)
        self.assertEqual(chat.invoke(GREET).content, text)
        self.assertEqual("".join(c.content for c in chat.stream(GREET)), text)

    def test_tools(self):
        chat = langchain_openai.ChatOpenAI(base_url=tools_url, api_key="x", model="caller")
        message = chat.bind_tools([TOOL]).invoke(ASK)
        self.assertEqual([(c["name"], c["args"]) for c in message.tool_calls],
                         [("get_weather", CITY)])
        forced = chat.bind_tools([TOOL], tool_choice="get_weather").invoke(ASK)
        self.assertEqual(forced.tool_calls[0]["args"], {"city": "forced"})
        schema = {"title": "get_weather", "description": "x", **FUNCTION["parameters"]}
        made = chat.with_structured_output(schema, method="function_calling").invoke(ASK)
        self.assertEqual(made, {"city": "forced"})

    def test_embeddings(self):
        embeddings = langchain_openai.OpenAIEmbeddings(
            base_url=url, api_key="x", model=MODEL, check_embedding_ctx_length=False)
        one, two = embeddings.embed_documents(["one", "two"])
        self.assertEqual((len(one), embeddings.embed_query("one")), (512, one))
        self.assertNotEqual(one, two)


@unittest.skipIf(module("llm") is None, "the llm package is not installed")
class LlmCommand(unittest.TestCase):
    def run_llm(self, *arguments):
        with tempfile.TemporaryDirectory() as home:
            with open(os.path.join(home, "extra-openai-models.yaml"), "w") as f:
                f.write(f"- model_id: here\n  model_name: {MODEL}\n  api_base: {url}\n"
                        f"  api_key_name: none\n")
            env = {**os.environ, "LLM_USER_PATH": home, "OPENAI_API_KEY": "x"}
            done = subprocess.run([sys.executable, "-m", "llm", "-m", "here", "-o", "temperature",
                                   "0", "-o", "max_tokens", "6", "--key", "x", *arguments,
                                   GREET[0]["content"]], env=env, stdin=subprocess.DEVNULL,
                                  capture_output=True, text=True, timeout=600)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_prompt(self):
        self.assertEqual(self.run_llm().strip(), text.strip())
        self.assertEqual(self.run_llm("--no-stream").strip(), text.strip())


@unittest.skipIf(shutil.which("curl") is None, "curl is not installed")
class Curl(unittest.TestCase):
    def curl(self, *arguments):
        done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, timeout=600)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_post_and_stream(self):
        body = json.dumps({"messages": GREET, "temperature": 0, "max_tokens": 6})
        reply = json.loads(self.curl(url + "/chat/completions", "-d", body, "-H",
                                     "Content-Type: application/json"))
        self.assertEqual(reply["choices"][0]["message"]["content"], text)
        body = json.dumps({**json.loads(body), "stream": True})
        lines = self.curl("-N", url + "/chat/completions", "-d", body).decode().split("\n\n")
        self.assertEqual(lines[-2:], ["data: [DONE]", ""])
        code = self.curl("-o", "/dev/null", "-w", "%{http_code}", url + "/nothing")
        self.assertEqual(code, b"404")
        self.assertEqual(self.curl("-I", url + "/models")[:9], b"HTTP/1.1 ")


if __name__ == "__main__":
    unittest.main()
