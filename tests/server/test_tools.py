"""test_tools: tool calls and reasoning through the server: what goes into the template, and what
comes out in OpenAI's chats and responses and in Anthropic's messages, whole and streamed.

The model (steered.py) says a text that was written down here, in the form that the vendors document
for Llama 3, Hermes and Qwen, and Mistral; the test knows which call a reader sees in it."""
import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(__file__))
import steered  # noqa: E402
from serving import Server  # noqa: E402

CITY = {"city": "Köln", "days": [1, {"x": "a\"}b"}]}
ARGUMENTS = json.dumps(CITY, ensure_ascii=False)

# The template shows what it was given and ends with the last byte of the last message, which picks
# the answer. The comment holds the mark by which the style is known.
TEMPLATE = """{#%s#}{%% if tools %%}[{%% for t in tools %%}{{ t.function.name }}:{{
t.function.parameters | tojson }}{%% endfor %%}]{%% endif %%}{%% for m in messages %%}<{{ m.role }}>{{
m.content }}{%% if m.reasoning_content %%}({{ m.reasoning_content }}){%% endif %%}{%% for c in
m.tool_calls or [] %%}!{{ c.function.name }} {{ c.function.arguments.city }}{%% endfor %%}{%% if
m.tool_call_id %%}@{{ m.tool_call_id }}{%% endif %%}{%% endfor %%}{%% if enable_thinking is defined
and not enable_thinking %%}-{%% endif %%}{{ messages[-1].content[-1] }}"""

STYLES = {
    "hermes": {
        "mark": "<tool_call> </think>",
        "answers": {
            "1": "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": %s}\n"
                 "</tool_call>" % ARGUMENTS,
            "2": "<think>\nA question.\n</think>\n\nIt is sunny.",
            "3": "<tool_call>{\"name\": \"a\", \"arguments\": {}}</tool_call>"
                 "<tool_call> {\"name\": \"get_weather\",\"arguments\":{\"n\": 2}}  </tool_call>",
            "4": "Not <tool_call> a call",
            "5": "<think>Hm</think>Rain, and wind from over there!",
            "{": "\"city\": \"forced\"}}</tool_call>",
        }},
    "llama": {
        "mark": "<|python_tag|>", "specials": ["<|python_tag|>"],
        "answers": {
            "1": "<|python_tag|>{\"name\": \"get_weather\", \"parameters\": %s}" % ARGUMENTS,
            "4": "{\"name\": \"Bob\", \"age\": 5}",
            "{": "\"city\": \"forced\"}}",
        }},
    "mistral": {
        "mark": "[TOOL_CALLS]", "specials": ["[TOOL_CALLS]"],
        "answers": {
            "1": "[TOOL_CALLS] [{\"name\": \"get_weather\", \"arguments\": %s}]" % ARGUMENTS,
            "4": "{\"name\": \"get_weather\", \"arguments\": {}} [TOOL",
            "{": "\"city\": \"forced\"}}]",
        }},
    "mistral_args": {
        "mark": "[TOOL_CALLS] [ARGS]", "specials": ["[TOOL_CALLS]", "[ARGS]"],
        "answers": {
            "1": "[TOOL_CALLS]get_weather[ARGS]%s" % ARGUMENTS,
            "4": "[ARG",
            "{": "\"city\": \"forced\"}",
        }},
}
FUNCTION = {"name": "get_weather", "description": "The weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
CHAT_TOOL = {"type": "function", "function": FUNCTION}
RESPONSE_TOOL = {"type": "function", **FUNCTION}
MESSAGE_TOOL = {"name": FUNCTION["name"], "input_schema": FUNCTION["parameters"]}


def setUpModule():
    global folder, servers
    folder, servers = tempfile.TemporaryDirectory(), {}
    for name, style in STYLES.items():
        path = os.path.join(folder.name, name)
        os.mkdir(path)
        steered.write(path, TEMPLATE % style["mark"], style["answers"], style.get("specials", ()))
        servers[name] = Server(path)


def tearDownModule():
    assert [s.stop() for s in servers.values()] == [0] * len(servers)
    folder.cleanup()


def ask(text, **more):
    return {"messages": [{"role": "user", "content": text}], "tools": [CHAT_TOOL], **more}


def joined(chunks):
    """A message of the deltas of a stream, as OpenAI's clients join them."""
    message = {"content": "", "reasoning": "", "tool_calls": []}
    for chunk in chunks:
        delta = chunk["choices"][0]["delta"]
        for key in ("content", "reasoning"):
            message[key] += delta.get(key) or ""
        for call in delta.get("tool_calls", ()):
            if call["index"] == len(message["tool_calls"]):
                assert call["id"] and call["type"] == "function" and call["function"]["name"]
                message["tool_calls"].append({"id": call["id"], "name": call["function"]["name"],
                                              "arguments": ""})
            else:
                assert call["index"] == len(message["tool_calls"]) - 1
                assert set(call) == {"index", "function"}, call
                assert set(call["function"]) == {"arguments"}, call
            message["tool_calls"][-1]["arguments"] += call["function"]["arguments"]
    return message


class Chat(unittest.TestCase):
    def test_a_call_in_every_style(self):
        for name, server in servers.items():
            reply = server.post("/v1/chat/completions", ask("Hello 1"))
            choice, = reply["choices"]
            call, = choice["message"]["tool_calls"]
            self.assertEqual((call["type"], call["function"]["name"]), ("function", "get_weather"))
            self.assertEqual(json.loads(call["function"]["arguments"]), CITY)
            self.assertEqual(choice["finish_reason"], "tool_calls")
            text = "Let me see.\n" if name == "hermes" else None
            self.assertEqual(choice["message"]["content"], text)
            chunks = server.stream("/v1/chat/completions", ask("Hello 1"))
            streamed = joined(chunks)
            self.assertEqual(streamed["tool_calls"][0]["arguments"], call["function"]["arguments"])
            self.assertEqual(streamed["content"], text or "")
            self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "tool_calls")
            if name.startswith("mistral"):  # their templates take no other ids
                self.assertRegex(call["id"], "^[a-zA-Z0-9]{9}$")

    def test_text_that_is_no_call(self):
        for name, server in servers.items():
            choice, = server.post("/v1/chat/completions", ask("Hello 4"))["choices"]
            self.assertEqual(choice["message"]["content"], STYLES[name]["answers"]["4"])
            self.assertEqual(choice["finish_reason"], "stop")
            self.assertNotIn("tool_calls", choice["message"])

    def test_without_tools_the_text_is_as_it_was(self):
        server = servers["hermes"]
        for more in ({"tools": None}, {"tools": []}, {"tool_choice": "none"}):
            choice, = server.post("/v1/chat/completions", ask("Hello 1", **more))["choices"]
            self.assertEqual(choice["message"]["content"], STYLES["hermes"]["answers"]["1"])

    def test_several_calls(self):
        server = servers["hermes"]
        message = joined(server.stream("/v1/chat/completions", ask("Hello 3")))
        self.assertEqual([(c["name"], json.loads(c["arguments"])) for c in message["tool_calls"]],
                         [("a", {}), ("get_weather", {"n": 2})])
        self.assertEqual(len({c["id"] for c in message["tool_calls"]}), 2)
        one = server.post("/v1/chat/completions", ask("Hello 3", parallel_tool_calls=False))
        call, = one["choices"][0]["message"]["tool_calls"]
        self.assertEqual(call["function"]["name"], "a")

    def test_an_answer_that_breaks_off(self):
        for name, server in servers.items():
            body = ask("Hello 1", return_token_ids=True)
            n = len(server.post("/v1/chat/completions", body)["choices"][0]["token_ids"])
            choice, = server.post("/v1/chat/completions", {**body, "max_tokens": n - 4})["choices"]
            call, = choice["message"]["tool_calls"]
            self.assertEqual(choice["finish_reason"], "length")
            self.assertTrue(ARGUMENTS.startswith(call["function"]["arguments"]))

    def test_a_demanded_call(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        for server in servers.values():
            for choice in (named, "required"):
                reply = server.post("/v1/chat/completions", ask("Hello 2", tool_choice=choice))
                call, = reply["choices"][0]["message"]["tool_calls"]
                self.assertEqual(call["function"]["name"], "get_weather")
                self.assertEqual(json.loads(call["function"]["arguments"]), {"city": "forced"})

    def test_what_the_template_is_given(self):
        """Tools, calls with their arguments as objects, results, and what was thought."""
        messages = [{"role": "user", "content": "u", "tool_call_id": None},
                    {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [
                        {"id": "c1", "type": "function", "function": {
                            "name": "get_weather", "arguments": ARGUMENTS}}]},
                    {"role": "tool", "tool_call_id": "c1", "content": "sunny 2"}]
        server = servers["hermes"]
        body = {"messages": messages, "tools": [CHAT_TOOL], "max_tokens": 1}
        want = ("[get_weather:%s]<user>u<assistant>None(r)!get_weather Köln<tool>sunny 2@c12" %
                json.dumps(FUNCTION["parameters"]))
        tokens = server.post("/v1/chat/completions", body)["usage"]["prompt_tokens"]
        self.assertEqual(tokens, len(want.encode()))  # a byte is a token here
        rendered = server.post("/detokenize", {"tokens": server.post("/tokenize", {
            "messages": [{**messages[0]}, {**messages[2]}]})["tokens"]})["prompt"]
        self.assertEqual(rendered, "<user>u<tool>sunny 2@c12")

    def test_reasoning(self):
        server = servers["hermes"]
        body = {"messages": ask("Hello 2")["messages"]}
        reply = server.post("/v1/chat/completions", body)
        message = reply["choices"][0]["message"]
        self.assertEqual((message["reasoning"], message["content"]),
                         ("\nA question.\n", "It is sunny."))
        details = reply["usage"]["completion_tokens_details"]
        # The tokenizer needs a token for each byte, the model needed fewer for all of the answer.
        self.assertEqual(details["reasoning_tokens"], reply["usage"]["completion_tokens"])
        short = server.post("/v1/chat/completions", ask("Hello 5"))["usage"]
        self.assertEqual(short["completion_tokens_details"]["reasoning_tokens"], len("Hm"))
        message = joined(server.stream("/v1/chat/completions", body))
        self.assertEqual((message["reasoning"], message["content"]),
                         ("\nA question.\n", "It is sunny."))
        self.assertNotIn("reasoning_content", reply["choices"][0]["message"])
        hidden = server.post("/v1/chat/completions", {**body, "include_reasoning": False})
        self.assertNotIn("reasoning", hidden["choices"][0]["message"])
        self.assertEqual(hidden["usage"]["completion_tokens_details"], details)
        tokens = reply["usage"]["prompt_tokens"]
        for more in ({"reasoning_effort": "none"},
                     {"chat_template_kwargs": {"enable_thinking": False}}):
            less = server.post("/v1/chat/completions", {**body, **more})
            self.assertEqual(less["usage"]["prompt_tokens"], tokens + 1)

    def test_reasoning_content(self):
        """The older name beside the newer, when the server is told so."""
        server = Server(os.path.join(folder.name, "hermes"), "--reasoning-content")
        self.addCleanup(lambda: self.assertEqual(0, server.stop()))
        body = {"messages": ask("Hello 2")["messages"]}
        message = server.post("/v1/chat/completions", body)["choices"][0]["message"]
        self.assertEqual([message[k] for k in ("reasoning", "reasoning_content")],
                         ["\nA question.\n"] * 2)
        deltas = [c["choices"][0]["delta"] for c in server.stream("/v1/chat/completions", body)]
        told = "".join(d.get("reasoning_content", "") for d in deltas)
        self.assertEqual(told, "".join(d.get("reasoning", "") for d in deltas))
        self.assertEqual(told, "\nA question.\n")

    def test_mistakes(self):
        server = servers["hermes"]
        call = {"id": "x", "type": "function", "function": {"name": "f", "arguments": 5}}
        for param, more in (
                ("tools", {"tools": 5}), ("tools", {"tools": [5]}),
                ("tools", {"tools": [{"type": "web_search"}]}),
                ("tools", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
                ("tools", {"tools": [{"type": "function", "function": {"name": "x" * 129}}]}),
                ("tools", {"tools": [{"type": "function", "function": {
                    "name": "f", "parameters": []}}]}),
                ("tools", {"tools": [{"type": "function", "function": {
                    "name": "f", "strict": True}}]}),
                ("tool_choice", {"tool_choice": "sometimes"}), ("tool_choice", {"tool_choice": 5}),
                ("tool_choice", {"tool_choice": "required", "tools": [CHAT_TOOL] * 2}),
                ("tool_choice", {"tool_choice": "required", "tools": []}),
                ("tool_choice", {"tool_choice": {"type": "function", "function": {"name": "g"}}}),
                ("tool_choice", {"tool_choice": {"type": "function"}}),
                ("parallel_tool_calls", {"parallel_tool_calls": 1}),
                ("reasoning_effort", {"reasoning_effort": "much"}),
                ("messages", {"messages": [{"role": "assistant", "tool_calls": [call]}]}),
                ("messages", {"messages": [{"role": "assistant", "tool_calls": "x"}]}),
                ("messages", {"messages": [{"role": "tool", "tool_call_id": 5, "content": "x"}]}),
        ):
            status, _, data = server.request("POST", "/v1/chat/completions",
                                             {**ask("Hello 1"), **more})
            self.assertEqual((status, json.loads(data)["error"]["param"]), (400, param), more)
        for n in (127, 128, 129):
            tools = [{"type": "function", "function": {"name": f"f{i}", "parameters": {}}}
                     for i in range(n)]
            status = server.request("POST", "/v1/chat/completions",
                                    {**ask("Hello 4"), "tools": tools, "max_tokens": 1})[0]
            self.assertEqual(status, 200 if n <= 128 else 400)


def events(server, path, body):
    """[(name, data)] of a stream with named events."""
    data = server.request("POST", path, {**body, "stream": True})[2].decode()
    blocks = [b.split("\n") for b in data.strip().split("\n\n")]
    return [(b[0].removeprefix("event: "), json.loads(b[1].removeprefix("data: "))) for b in blocks]


class Messages(unittest.TestCase):
    def body(self, text, **more):
        return {"messages": [{"role": "user", "content": text}], "tools": [MESSAGE_TOOL],
                "max_tokens": 100, **more}

    def test_a_call_in_every_style(self):
        for name, server in servers.items():
            reply = server.post("/v1/messages", self.body("Hello 1"))
            *before, call = reply["content"]
            self.assertEqual((call["type"], call["name"], call["input"]),
                             ("tool_use", "get_weather", CITY))
            self.assertEqual(reply["stop_reason"], "tool_use")
            self.assertEqual([b["text"] for b in before],
                             ["Let me see.\n"] if name == "hermes" else [])
            stream = events(server, "/v1/messages", self.body("Hello 1"))
            begun = [d["content_block"] for k, d in stream if k == "content_block_start"]
            self.assertEqual((begun[-1]["type"], begun[-1]["input"]), ("tool_use", {}))
            parts = [d["delta"]["partial_json"] for k, d in stream if k == "content_block_delta" and
                     d["delta"]["type"] == "input_json_delta"]
            self.assertEqual(json.loads("".join(parts)), CITY)
            self.assertEqual([k for k, _ in stream if k.endswith(("start", "stop"))],
                             ["message_start"] + ["content_block_start", "content_block_stop"] *
                             len(reply["content"]) + ["message_stop"])
            self.assertEqual(stream[-2][1]["delta"]["stop_reason"], "tool_use")

    def test_demanded_thinking_and_one(self):
        server = servers["hermes"]
        for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
            reply = server.post("/v1/messages", self.body("Hello 4", tool_choice=choice))
            self.assertEqual(reply["content"][0]["input"], {"city": "forced"})
        reply = server.post("/v1/messages", self.body(
            "Hello 3", tool_choice={"type": "auto", "disable_parallel_tool_use": True}))
        self.assertEqual([b["name"] for b in reply["content"]], ["a"])
        reply = server.post("/v1/messages", self.body("Hello 2"))
        without = server.post("/v1/messages", self.body("Hello 2", thinking={"type": "disabled"}))
        tokens = [r["usage"]["input_tokens"] + r["usage"]["cache_read_input_tokens"]
                  for r in (reply, without)]
        self.assertEqual(tokens[1], tokens[0] + 1)  # the template's "-"
        self.assertEqual([(b["type"], b.get("thinking") or b.get("text"))
                          for b in reply["content"]],
                         [("thinking", "\nA question.\n"), ("text", "It is sunny.")])

    def test_results_come_back(self):
        server = servers["hermes"]
        blocks = [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "r", "signature": ""},
                {"type": "text", "text": "t"},
                {"type": "tool_use", "id": "c1", "name": "get_weather", "input": CITY}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": [
                    {"type": "text", "text": "sunny"}]},
                {"type": "text", "text": "and 2"}]}]
        want = "[get_weather:%s]<user>u<assistant>t(r)!get_weather Köln<tool>sunny@c1<user>and 22"
        reply = server.post("/v1/messages", self.body("", messages=blocks))
        usage = reply["usage"]
        self.assertEqual(usage["input_tokens"] + usage["cache_read_input_tokens"],
                         len((want % json.dumps(FUNCTION["parameters"])).encode()))
        self.assertEqual(reply["content"][-1]["text"], "It is sunny.")

    def test_mistakes(self):
        for sentence, more in (
                (b"'tools'", {"tools": 5}), (b"tools[0]", {"tools": [{"name": "f"}]}),
                (b"tools[0]", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
                (b"tools[0]", {"tools": [{"name": "", "input_schema": {}}]}),
                (b"'tool_choice.type'", {"tool_choice": "auto"}),
                (b"'tool_choice'", {"tool_choice": {"type": "tool", "name": "g"}}),
                (b"messages[0]", {"messages": [{"role": "user", "content": [
                    {"type": "tool_result"}]}]}),
                (b"messages[0]", {"messages": [{"role": "assistant", "content": [
                    {"type": "tool_use", "id": "x", "name": "f", "input": "s"}]}]})):
            status, _, data = servers["hermes"].request("POST", "/v1/messages",
                                                        self.body("x", **more))
            self.assertEqual(status, 400)
            self.assertIn(sentence, data)


class Responses(unittest.TestCase):
    def body(self, text, **more):
        return {"input": text, "tools": [RESPONSE_TOOL], **more}

    def test_a_call_in_every_style(self):
        for name, server in servers.items():
            reply = server.post("/v1/responses", self.body("Hello 1"))
            *before, call = reply["output"]
            self.assertEqual((call["type"], call["name"], json.loads(call["arguments"])),
                             ("function_call", "get_weather", CITY))
            self.assertEqual(len(before), name == "hermes")
            self.assertEqual(reply["tools"], [RESPONSE_TOOL])
            stream = events(server, "/v1/responses", self.body("Hello 1"))
            parts = [d["delta"] for k, d in stream if k == "response.function_call_arguments.delta"]
            done, = [d for k, d in stream if k == "response.function_call_arguments.done"]
            self.assertEqual("".join(parts), done["arguments"])
            self.assertEqual(done["arguments"], call["arguments"])
            item, = [d["item"] for k, d in stream if k == "response.output_item.done" and
                     d["item"]["type"] == "function_call"]
            self.assertEqual(item["id"], done["item_id"])
            self.assertEqual(item, stream[-1][1]["response"]["output"][-1])

    def test_demanded_and_reasoning(self):
        server = servers["hermes"]
        reply = server.post("/v1/responses", self.body(
            "Hello 4", tool_choice={"type": "function", "name": "get_weather"}))
        self.assertEqual(json.loads(reply["output"][0]["arguments"]), {"city": "forced"})
        reply = server.post("/v1/responses", self.body("Hello 2"))
        self.assertEqual([o["type"] for o in reply["output"]], ["reasoning", "message"])
        self.assertEqual(reply["output"][0]["content"][0]["text"], "\nA question.\n")
        stream = events(server, "/v1/responses", self.body("Hello 2"))
        self.assertEqual("".join(d["delta"] for k, d in stream
                                 if k == "response.reasoning_text.delta"), "\nA question.\n")

    def test_results_come_back(self):
        entries = [{"role": "user", "content": "u"},
                   {"type": "reasoning", "summary": []},
                   {"type": "function_call", "call_id": "c1", "name": "get_weather",
                    "arguments": ARGUMENTS},
                   {"type": "function_call_output", "call_id": "c1", "output": "sunny 2"}]
        reply = servers["hermes"].post("/v1/responses", self.body(entries))
        want = "[get_weather:%s]<user>u<assistant>!get_weather Köln<tool>sunny 2@c12"
        self.assertEqual(reply["usage"]["input_tokens"],
                         len((want % json.dumps(FUNCTION["parameters"])).encode()))
        self.assertEqual(reply["output"][-1]["content"][0]["text"], "It is sunny.")

    def test_mistakes(self):
        for param, more in (
                ("tools", {"tools": [{"type": "web_search"}]}), ("tools", {"tools": "x"}),
                ("tool_choice", {"tool_choice": {"type": "file_search"}}),
                ("input", {"input": [{"type": "function_call", "call_id": "x"}]}),
                ("input", {"input": [{"type": "function_call_output", "output": "x"}]}),
                ("input", {"input": [{"type": "computer_call"}]})):
            status, _, data = servers["hermes"].request("POST", "/v1/responses",
                                                        self.body("x", **more))
            self.assertEqual((status, json.loads(data)["error"]["param"]), (400, param), more)


class NoTools(unittest.TestCase):
    def test_a_model_whose_template_has_none(self):
        path = os.path.join(folder.name, "none")
        os.mkdir(path)
        steered.write(path, TEMPLATE % "", {"1": "Hello there"})
        server = Server(path)
        status, _, data = server.request("POST", "/v1/chat/completions", ask("x 1"))
        self.assertEqual((status, json.loads(data)["error"]["param"]), (400, "tools"))
        reply = server.post("/v1/chat/completions", ask("x 1", tool_choice="none"))
        self.assertEqual(reply["choices"][0]["message"]["content"], "Hello there")
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    unittest.main()
