"""test_fields: every field of a request, its types and its range: what is in range is answered, what
is not gets a 400 whose `param` names the field; and what the fields do.

One table has all fields; where the conventions that list them are at hand, it is checked that none
is missing."""
import json
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402

KINDS = {"object": {"a": 1}, "list": [[]], "text": "x", "flag": True, "whole": 3, "number": 1.5}


def whole(low, high, good=()):
    """An integer; good: values in the range that can be answered, if not its ends."""
    return {"kinds": ("whole",), "good": good or (low, high), "bad": (low - 1, high + 1)}


def number(low, high, good=()):
    return {"kinds": ("whole", "number"), "good": good or (low, high),
            "bad": (low - 0.01, high + 0.01)}


def text(good=("x",), bad=()):
    return {"kinds": ("text",), "good": good, "bad": bad}


FLAGS = {"kinds": ("flag",), "good": (True, False), "bad": ()}
IGNORED = {"kinds": (), "good": ({"a": 1},), "bad": ()}


def refused(neutral, *bad):
    """What is not supported, unless it says nothing."""
    return {"kinds": (), "good": (None, *neutral), "bad": bad, "any": True}


def ids(limit):
    return {"kinds": (), "good": ([5],), "bad": ([-1], [8192], [1.5], ["1"], [True], 5, "5", {},
                                                 [5] * (limit + 1))}


FIELDS = {  # of /v1/completions, and of the others unless they have their own
    "model": text(("fable-28m",)),
    "temperature": number(0, 2), "top_p": number(1e-6, 1, (0.1, 1)), "min_p": number(0, 1),
    "repetition_penalty": {**number(0.001, 100), "bad": (0, 100.1)},
    "presence_penalty": number(-2, 2), "frequency_penalty": number(-2, 2),
    "length_penalty": number(-100, 100),
    "top_k": whole(-1, 1 << 30), "n": whole(1, 8), "best_of": {**whole(1, 8, (1,)),
                                                              "bad": (0, 2, 9)},
    "max_tokens": whole(1, 1 << 30, (1, 2)), "max_completion_tokens": whole(1, 1 << 30, (1, 2)),
    "min_tokens": whole(0, 1 << 30, (0, 1)),
    "seed": {"kinds": ("whole",), "good": (-(2**63) + 1, 2**63 - 1, 0), "bad": (-(2**63),)},
    "priority": whole(-(1 << 30), 1 << 30), "prompt_logprobs": whole(0, 20),
    "truncate_prompt_tokens": whole(-1, 1 << 30), "stream_interval": {
        "kinds": ("whole",), "good": (1,), "bad": ()},
    "truncation_side": text(("left", "right"), ("up",)),
    "stream": FLAGS, "echo": FLAGS, "ignore_eos": FLAGS, "include_stop_str_in_output": FLAGS,
    "skip_special_tokens": FLAGS, "spaces_between_special_tokens": FLAGS, "store": FLAGS,
    "return_token_ids": FLAGS, "return_tokens_as_token_ids": FLAGS, "add_special_tokens": FLAGS,
    "use_beam_search": FLAGS,
    "stop": {"kinds": ("text",), "good": ("a", ["a"] * 16, "s" * 256),
             "bad": ("", [""], ["a"] * 17, [1], "s" * 257, "a\0b")},
    "bad_words": {"kinds": (), "good": (["a"] * 256, ["s" * 256]),
                  "bad": ("a", [""], ["a"] * 257, [1], ["s" * 257], {}, 5)},
    "stop_token_ids": ids(64), "allowed_token_ids": {**ids(65536)},
    "logit_bias": {"kinds": (), "good": ({"1": 100}, {str(i): 0 for i in range(1024)}, {}),
                   "bad": ([], {"x": 1}, {"1": 101}, {"1": -101}, {"-1": 0}, {"1": "x"}, 5,
                           {"8192": 1}, {str(i): 0 for i in range(1025)})},
    "cache_salt": text(("x", "y" * 1024), ("", "x" * 1025)),
    "prompt_cache_key": text(("x", "y" * 1024), ("", "x" * 1025)),
    "user": text(), "safety_identifier": text(), "service_tier": text(("auto",)),
    "prompt_cache_retention": text(("24h",)), "request_id": text(), "session_id": text(),
    "metadata": {"kinds": ("object",), "good": ({"a": "b"},), "bad": ()},
    "prompt_cache_options": {"kinds": ("object",), "good": ({},), "bad": ()},
    "prediction": {"kinds": ("object",), "good": ({"type": "content", "content": "x"},), "bad": ()},
    "response_format": {"kinds": ("object",), "good": ({"type": "text"}, None), "bad": (
        {"type": "json_object"}, {"type": "json_schema", "json_schema": {}}, {})},
    "modalities": refused((["text"],), ["audio"], "audio", 5),
    "verbosity": refused(("medium",), "low", 5),
    "suffix": refused(("",), "x", 5),
    **{key: refused(([], {}, False), {"a": 1}, "x", 5, True) for key in (
        "audio", "web_search_options", "functions", "function_call", "moderation", "documents",
        "chat_template", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar", "logprob_token_ids", "thinking_token_budget", "repetition_detection",
        "kv_transfer_params", "vllm_xargs", "return_prompt_text")},
}
COMPLETION = {"logprobs": whole(0, 20), "stream_options": {
    "kinds": (), "good": (None,), "bad": ({"include_usage": True}, 5, [])}}
CHAT = {
    "logprobs": FLAGS, "top_logprobs": {**whole(0, 20, (0,)), "bad": (-1, 21, 1)},
    "echo": {**FLAGS, "good": (False,), "bad": (True,)},
    "add_special_tokens": {**FLAGS, "good": (False,), "bad": (True,)},
    "add_generation_prompt": FLAGS, "include_reasoning": FLAGS,
    "continue_final_message": {**FLAGS, "good": (False,), "bad": (True,)},
    "chat_template_kwargs": {"kinds": ("object",), "good": ({"x": [1]},),
                             "bad": ({"messages": []}, {"tokenize": True, "messages": 1})},
    "reasoning_effort": text(("none", "minimal", "low", "medium", "high", "xhigh", "max"),
                             ("much",)),
    "parallel_tool_calls": FLAGS,
    "tools": refused(([],), [{}], 5, "x", {}), "tool_choice": refused(("none", "auto"), "x", 5, {}),
    "messages": {"kinds": (), "good": ([{"role": "user", "content": "x"}],),
                 "bad": (5, "x", {}, [], [5], None)},
}
# Fields that other tests look at, or that belong to replies and to other paths.
ELSEWHERE = {"stream_options", "messages", "tools", "tool_choice"}


def wrong_types(rule):
    return [value for kind, value in KINDS.items()
            if rule["kinds"] and kind not in rule["kinds"]]


class Fields(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--max-seqs", "16")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def walk(self, path, base, fields):
        n = 0
        for field, rule in fields.items():
            for value in (*wrong_types(rule), *rule["bad"]):
                status, _, data = self.server.request("POST", path, {**base, field: value})
                self.assertEqual(status, 400, (field, str(value)[:80], data))
                error = json.loads(data)["error"]
                self.assertEqual(error.get("param", field), field, (str(value)[:80], error))
                self.assertIn(field, error["message"])
                n += 1
            for value in rule["good"]:
                body = {**base, field: value}
                if value is None:
                    del body[field]
                status, _, data = self.server.request("POST", path, body)
                self.assertEqual(status, 200, (field, str(value)[:80], data[:500]))
        return n

    def test_completions(self):
        base = {"prompt": "Once upon a time", "max_tokens": 2, "temperature": 0}
        fields = {**FIELDS, **COMPLETION}
        fields["model"] = {**fields["model"], "bad": ()}
        self.assertGreater(self.walk("/v1/completions", base, fields), 300)

    def test_chat(self):
        base = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0}
        self.walk("/v1/chat/completions", base, CHAT)

    def test_messages(self):
        base = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        self.walk("/v1/messages", base, {
            "temperature": FIELDS["temperature"], "top_k": FIELDS["top_k"],
            "top_p": FIELDS["top_p"], "stream": FLAGS, "metadata": FIELDS["metadata"],
            "max_tokens": FIELDS["max_tokens"],
            "stop_sequences": {**FIELDS["stop"], "kinds": ()}, "service_tier": text(("auto",)),
            "system": {"kinds": (), "good": ("x", [{"type": "text", "text": "x"}]),
                       "bad": (5, {}, [{"type": "image"}])},
            "thinking": refused(({"type": "disabled"},), {"type": "enabled"}, 5),
            "output_config": refused(({},), {"effort": "low"}), "container": refused((), "x"),
            "n": refused((1,), 2), "logprobs": refused((False,), True, 2), "echo": refused((False,), True),
            "prompt_logprobs": refused((), 0), "return_token_ids": refused((False,), True),
            "stop": refused(([],), "x", ["x"]), "max_completion_tokens": refused((), 5),
            "cache_control": IGNORED})

    def test_responses(self):
        self.walk("/v1/responses", {"input": "Hi", "max_output_tokens": 1}, {
            "temperature": FIELDS["temperature"], "top_p": FIELDS["top_p"], "stream": FLAGS,
            "max_output_tokens": FIELDS["max_tokens"], "metadata": FIELDS["metadata"],
            "instructions": text(), "parallel_tool_calls": FLAGS,
            "previous_response_id": refused((), "resp_1"), "background": refused((False,), True),
            "conversation": refused((), "x"), "prompt": refused((), {"id": "x"}),
            "n": refused((1,), 2), "logprobs": refused((False,), True, 2), "echo": refused((False,), True),
            "prompt_logprobs": refused((), 0), "return_token_ids": refused((False,), True),
            "max_tokens": refused((), 5), "min_tokens": {**whole(0, 1, (0, 1)), "bad": (2,)},
            "text": {"kinds": ("object",), "good": ({"format": {"type": "text"}},
                                                    {"verbosity": "medium"}),
                     "bad": ({"verbosity": "low"}, {"format": {"type": "json_object"}})},
            "reasoning": {"kinds": ("object",), "good": ({"effort": "low"}, {}, None), "bad": ()},
            "include": {"kinds": ("list",), "good": ([], ["reasoning.encrypted_content"]),
                        "bad": (["message.output_text.logprobs"],)},
            "top_logprobs": {**whole(0, 20, (0,)), "bad": (-1, 21, 1)},
            "truncation": text(("disabled",), ("auto",))})

    def test_tokens(self):
        """/tokenize counts what a chat counts; what it gives back is what it was given."""
        parts = [{"role": "user", "content": [{"type": "text", "text": "Hello"},
                                              {"type": "text", "text": " there"}]}]
        plain = [{"role": "user", "content": "Hello there"}]
        for messages in (parts, plain):
            reply = self.server.post("/tokenize", {"messages": messages})
            used = self.server.post("/v1/chat/completions", {
                "messages": messages, "max_tokens": 1, "return_token_ids": True})
            self.assertEqual(reply["tokens"], used["prompt_token_ids"])
            self.assertEqual(reply["count"], used["usage"]["prompt_tokens"])
        bare = self.server.post("/tokenize", {"messages": plain, "add_generation_prompt": False})
        self.assertLess(bare["count"], reply["count"])
        self.assertEqual(bare["tokens"], reply["tokens"][:bare["count"]])
        told = self.server.post("/tokenize", {"prompt": "A caf\u00e9", "return_token_strs": True})
        self.assertEqual("".join(told["token_strs"]), "A caf\u00e9")
        self.assertEqual(self.server.post("/detokenize", {"tokens": []})["prompt"], "")
        for path, body, field in (
                ("/tokenize", {"prompt": 5}, "prompt"), ("/tokenize", {}, "prompt"),
                ("/tokenize", {"prompt": "x", "return_token_strs": 1}, "return_token_strs"),
                ("/tokenize", {"prompt": "x", "add_special_tokens": 1}, "add_special_tokens"),
                ("/tokenize", {"messages": [5]}, "messages"),
                ("/tokenize", {"messages": [{"role": "user", "content": 5}]}, "messages"),
                ("/tokenize", {"messages": [{"role": "user", "content": "x", "name": 5}]},
                 "messages"),
                ("/detokenize", {"tokens": ["x"]}, "tokens"), ("/detokenize", {}, "tokens"),
                ("/detokenize", {"tokens": [[1]]}, "tokens"),
                ("/detokenize", {"tokens": [-1]}, "tokens"),
                ("/detokenize", {"tokens": [8192]}, "tokens")):
            status, _, data = self.server.request("POST", path, body)
            self.assertEqual((status, json.loads(data)["error"]["param"]), (400, field), body)

    def test_no_field_is_missing(self):
        shared = os.environ.get("SLUICE_SHARED", "../shared")
        try:
            with open(os.path.join(shared, "CONVENTIONS.md"), encoding="utf-8") as f:
                source = f.read()
        except OSError:
            self.skipTest("the conventions are not here")
        known = {*FIELDS, *COMPLETION, *CHAT, *ELSEWHERE}
        openai = re.search(r"Chat request fields in the spec: `([^`]*)`", source)[1]
        openai = re.sub(r"\(.*?\)", "", openai)
        vllm = re.search(r"Sampling: `([^`]*)`\.\s*Other: `([^`]*)`", source)
        names = f"{openai} {vllm[1]} " + re.sub(r"\([^)]*\)", "", vllm[2])
        self.assertEqual(set(names.split()) - known, set())

    # ---- what they do ----

    def ask(self, **more):
        body = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0,
                "return_token_ids": True, **more}
        reply = self.server.post("/v1/completions", body)
        return reply["choices"][0]

    def ids(self, text):
        return self.server.post("/tokenize", {"prompt": text})["tokens"]

    def test_which_tokens_may_come(self):
        plain = self.ask()
        ids = plain["token_ids"]
        allowed = [i for i in range(200, 900) if i not in ids]
        self.assertLessEqual(set(self.ask(allowed_token_ids=allowed)["token_ids"]), set(allowed))
        self.assertEqual(self.ask(allowed_token_ids=ids)["token_ids"], ids)
        word = plain["text"].split()[1]
        free = self.ask(bad_words=[word], max_tokens=30)["text"]
        self.assertNotIn(" " + word + " ", free)
        self.assertNotEqual(free[:len(plain["text"])], plain["text"])
        self.assertEqual(self.ask(logit_bias={"300": 100})["token_ids"], [300] * 12)
        self.assertNotIn(ids[0], self.ask(logit_bias={str(ids[0]): -100})["token_ids"])

    def test_rules_that_leave_nothing(self):
        """Each rule alone is sound; together they are the client's mistake, not the model's."""
        allowed = {"allowed_token_ids": [7], "max_tokens": 3}
        word = self.server.post("/detokenize", {"tokens": [7]})["prompt"]
        before = self.server.request("GET", "/metrics")[2]
        for more in ({"min_tokens": 3, "stop_token_ids": [7]}, {"bad_words": [word]},
                     {"bad_words": [word], "n": 3},
                     {"use_beam_search": True, "min_tokens": 3, "stop_token_ids": [7], "n": 2}):
            status, _, data = self.server.request("POST", "/v1/completions", {
                "prompt": "Once", **allowed, **more})
            self.assertEqual(status, 400, (more, data))
            self.assertIn("rules leave no token", json.loads(data)["error"]["message"])
        events = self.server.request("POST", "/v1/completions", {
            "prompt": "Once", "stream": True, **allowed, "bad_words": [word + word]})[2]
        if len(self.ids(word + word)) == 2:  # then the first token may come
            self.assertIn(b"rules leave no token", events)
        name = rb"\nsluice_nonfinite_logits_total\S* (\S+)"
        self.assertEqual(re.search(name, before)[1],
                         re.search(name, self.server.request("GET", "/metrics")[2])[1])
        self.assertEqual(len(self.ask()["token_ids"]), 12)

    def test_where_it_ends(self):
        plain = self.ask()
        ids = plain["token_ids"]
        stopped = self.ask(stop_token_ids=[ids[4]])
        self.assertEqual(stopped["token_ids"], ids[:ids.index(ids[4]) + 1])
        self.assertEqual((stopped["finish_reason"], stopped["stop_reason"]), ("stop", ids[4]))
        at = ids.index(ids[4])
        later = self.ask(stop_token_ids=[ids[4]], min_tokens=at + 1)
        self.assertGreaterEqual(len(later["token_ids"]), at + 1)
        self.assertNotIn(ids[4], later["token_ids"][:at + 1])
        stop = plain["text"][5:8]
        self.assertTrue(self.ask(stop=stop, include_stop_str_in_output=True)["text"].endswith(stop))

    def test_the_prompt(self):
        prompt = self.ids("Once upon a time there was")
        for more, kept in (({}, prompt[-4:]), ({"truncation_side": "right"}, prompt[:4])):
            cut = self.ask(prompt=prompt, truncate_prompt_tokens=4, **more)
            self.assertEqual(cut["prompt_token_ids"], kept)
            self.assertEqual(cut["token_ids"], self.ask(prompt=kept)["token_ids"])
        self.assertEqual(self.ask(prompt=[7] * 5000, truncate_prompt_tokens=-1)["text"],
                         self.ask(prompt=[7] * (1024 - 12))["text"])

    def test_prompt_logprobs(self):
        """Beside what echo tells, which comes by another way; the likeliest are in order."""
        prompt = self.ids("Once upon a time there was")
        told = self.ask(prompt=prompt, prompt_logprobs=3)["prompt_logprobs"]
        self.assertEqual(len(told), len(prompt))
        self.assertIsNone(told[0])
        echoed = self.ask(prompt=prompt, echo=True, logprobs=3, max_tokens=1)["logprobs"]
        for i in range(1, len(prompt)):
            entry = told[i][str(prompt[i])]
            self.assertAlmostEqual(entry["logprob"], echoed["token_logprobs"][i], places=5)
            ranked = sorted((e for e in told[i].values() if e["rank"]), key=lambda e: e["rank"])
            self.assertEqual([e["rank"] for e in ranked], [1, 2, 3])
            values = [e["logprob"] for e in ranked]
            self.assertEqual(values, sorted(values, reverse=True))
            self.assertEqual(len(echoed["top_logprobs"][i]), 3)
            # The likeliest continuation of the prompt so far is what would be written.
            best, = [int(k) for k, e in told[i].items() if e["rank"] == 1]
            self.assertEqual(self.ask(prompt=prompt[:i], max_tokens=1)["token_ids"], [best])
        chat = self.server.post("/v1/chat/completions", {
            "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "prompt_logprobs": 0,
            "return_token_ids": True})
        self.assertEqual(len(chat["prompt_logprobs"]), chat["usage"]["prompt_tokens"])
        self.assertEqual(len(chat["prompt_token_ids"]), chat["usage"]["prompt_tokens"])
        status, _, data = self.server.request("POST", "/v1/completions", {
            "prompt": [[7] * 1000] * 13, "prompt_logprobs": 20, "max_tokens": 1})
        self.assertEqual((status, json.loads(data)["error"]["param"]), (400, "prompt_logprobs"))

    def test_echo_of_several_sequences(self):
        body = {"prompt": ["Once upon", "A dog"], "max_tokens": 3, "temperature": 1, "n": 3,
                "echo": True, "logprobs": 1, "seed": 1}
        choices = self.server.post("/v1/completions", body)["choices"]
        for choice in choices:
            prompt = body["prompt"][choice["index"] // 3]
            lists = choice["logprobs"]
            n = len(self.ids(prompt))
            first = choices[choice["index"] // 3 * 3]["logprobs"]
            self.assertTrue(choice["text"].startswith(prompt))
            self.assertEqual("".join(lists["tokens"]), choice["text"])
            self.assertEqual(lists["text_offset"][0], 0)
            self.assertEqual(lists["token_logprobs"][:n], first["token_logprobs"][:n])

    def test_token_ids_as_text(self):
        choice = self.ask(logprobs=1, return_tokens_as_token_ids=True)
        names = [f"token_id:{i}" for i in choice["token_ids"]]
        self.assertEqual(choice["logprobs"]["tokens"], names)
        self.assertEqual([list(t) for t in choice["logprobs"]["top_logprobs"]],
                         [[n] for n in names])
        plain = self.ask(logprobs=1)
        self.assertEqual(choice["logprobs"]["text_offset"], plain["logprobs"]["text_offset"])

    def test_places_count_characters(self):
        """text_offset is a place in the text, also where a character has several tokens."""
        prompt = "A caf\u00e9 of \u65e5\u672c, \U0001f98a and \u00fc."
        ids = self.ids(prompt)
        choice = self.ask(prompt=prompt, echo=True, logprobs=2, max_tokens=2)
        texts = [self.server.post("/detokenize", {"tokens": ids[:i]})["prompt"]
                 for i in range(1, len(ids))]
        want = [0] + [len(text.rstrip("\ufffd")) for text in texts]
        self.assertGreater(len(ids), len(set(want)))  # some tokens are pieces of characters
        self.assertEqual(choice["logprobs"]["text_offset"][:len(ids) + 1], want + [len(prompt)])
        events = self.server.stream("/v1/completions", {
            "prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": 2, "temperature": 0})
        self.assertEqual([at for e in events for c in e["choices"]
                          for at in c["logprobs"]["text_offset"]],
                         choice["logprobs"]["text_offset"])

    def test_places_in_text_that_is_mended(self):
        """Bytes that are no character are U+FFFD in the text, and have its place."""
        fox, e = self.ids("\U0001f98a"), self.ids("\u00e9")
        self.assertEqual((len(fox), len(e)), (4, 1))  # a token a byte, and one of two bytes
        data = {**dict(zip(fox, (bytes([b]) for b in "\U0001f98a".encode()))), e[0]: b"\xc3\xa9"}
        for ids in (fox[1:] + e, fox[:1] + e + fox + e, fox[:2] + fox[:3] + e, e + fox[2:] * 2,
                    fox[:3]):
            choice = self.ask(prompt=ids, echo=True, logprobs=0, max_tokens=2,
                              allowed_token_ids=e)
            want, so_far = [], b""
            for token in ids:
                want.append(len((so_far + data[token][:1]).decode(errors="replace")) - 1)
                so_far += data[token]
            text = so_far.decode(errors="replace")
            self.assertEqual(choice["text"], text + "\u00e9" * 2)
            self.assertEqual(choice["logprobs"]["text_offset"], want + [len(text), len(text) + 1])

    def test_bytes_of_tokens(self):
        """The bytes of tokens that are pieces of characters make the characters."""
        text = "\u65e5\U0001f98a"
        told = []
        for token in self.ids(text):
            reply = self.server.post("/v1/chat/completions", {
                "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1,
                "allowed_token_ids": [token], "logprobs": True})
            told += reply["choices"][0]["logprobs"]["content"][0]["bytes"]
        self.assertEqual(bytes(told).decode(), text)

    def test_beams(self):
        body = {"prompt": "Once upon a time", "max_tokens": 6, "n": 4, "use_beam_search": True}
        choices = self.server.post("/v1/completions", body)["choices"]
        self.assertEqual(len({c["text"] for c in choices}), 4)
        for field, value in {"temperature": 1, "stop": "a", "logprobs": 1, "bad_words": ["a"],
                             "prompt_logprobs": 0}.items():
            status, _, data = self.server.request("POST", "/v1/completions", {**body, field: value})
            self.assertEqual((status, json.loads(data)["error"]["param"]), (400, "use_beam_search"))


if __name__ == "__main__":
    unittest.main()
