"""Malformed requests over raw sockets: refused or cut before any handler runs, and never two
replies for what another server could read as one request. A handler's replies carry x-request-id;
what is refused before it does not."""
import json
import os
import re
import socket
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import serving  # noqa: E402

SHARED = os.environ.get("SLUICE_SHARED", "../shared")
SUITE = os.path.join(SHARED, "data/conformance/JSONTestSuite")
NEXT = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"  # a second request that must never be answered


def post(*headers, body=b""):
    return b"POST /tokenize HTTP/1.1\r\nHost: x\r\n" + b"".join(h + b"\r\n" for h in headers) + \
        b"\r\n" + body


def get(*headers, line=b"GET /version HTTP/1.1", host=b"Host: x\r\n"):
    return line + b"\r\n" + host + b"".join(h + b"\r\n" for h in headers) + b"\r\n"


def lengths():
    values = [b"+5", b"-5", b"5,5", b"5, 5", b"0x5", b"5 5", b"", b"5.0", b"5e0", b"five", b"5;",
              b"\"5\"", b"9" * 19, b"9" * 23, b"18446744073709551616", b"18446744073709551621",
              b"9223372036854775808", b"-0", b"+0", b"0x0", b"5\t5", b"\xef\xbc\x95", b"_5", b"5_0",
              b"NaN", b"1/1", b"(5)", b"5\x0b", b"\x0c5", b"5\x00"]
    for value in values:
        yield b"length " + value, post(b"Content-Length: " + value, body=b"hello" + NEXT)
    for pair in [(b"5", b"6"), (b"5", b"5"), (b"0", b"5"), (b"5", b"0"), (b"5", b"+5")]:
        yield b"two lengths %s %s" % pair, post(
            b"Content-Length: " + pair[0], b"content-length: " + pair[1], body=b"hello" + NEXT)
    yield b"length before colon", post(b"Content-Length : 5", body=b"hello")
    yield b"length tab colon", post(b"Content-Length\t: 5", body=b"hello")


def encodings():
    values = [b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"identity",
              b"chunked, identity", b"identity, chunked", b"xchunked", b"chunkedx", b"chunked;q=1",
              b"\"chunked\"", b"'chunked'", b"chunked,", b",chunked", b"", b"chunk", b"x",
              b"chunked\x0b", b"\x0bchunked", b"chunked\x00", b"chun\x00ked", b"deflate",
              b"cow", b"chunked \x01", b"chunked x", b"compress, chunked", b"trailers",
              b"\xc4\x8bhunked", b"chunked\xa0", b"0"]
    for value in values:
        yield b"encoding " + value, post(b"Transfer-Encoding: " + value, body=b"0\r\n\r\n" + NEXT)
    both = [(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked", b"Content-Length: 5"),
            (b"Transfer-Encoding: chunked", b"Content-Length: 0"),
            (b"Transfer-Encoding: gzip", b"Content-Length: 5"),
            (b"transfer-encoding: CHUNKED", b"content-length: 40"),
            (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"),
            (b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked"),
            (b"Transfer-Encoding : chunked", b"Content-Length: 5"),
            (b"Transfer-Encoding\t: chunked", b"Content-Length: 5"),
            (b"Transfer_Encoding: chunked\x01", b"Content-Length: 5"),
            (b"Transfer-Encoding:\x01chunked", b"Content-Length: 5")]
    for pair in both:
        yield b"framing %s / %s" % pair, post(*pair, body=b"0\r\n\r\n" + NEXT)
    yield b"chunks in 1.0", (b"POST /tokenize HTTP/1.0\r\nHost: x\r\n"
                             b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


def chunks():
    bodies = [b"zz\r\nabc\r\n0\r\n\r\n", b"-1\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n",
              b"0x3\r\nabc\r\n0\r\n\r\n", b"f" * 17 + b"\r\n\r\n", b"1" + b"0" * 16 + b"\r\n\r\n",
              b"ffffffffffffffff\r\nabc", b"\r\nabc\r\n0\r\n\r\n", b"g\r\nabc\r\n",
              b"3\r\nabcX\r\n0\r\n\r\n", b"3\r\nabcde\r\n0\r\n\r\n", b"3 3\r\nabc\r\n0\r\n\r\n",
              b"3.0\r\nabc\r\n0\r\n\r\n", b"\"3\"\r\nabc\r\n0\r\n\r\n", b"3h\r\nabc\r\n0\r\n\r\n",
              b"3\x00\r\nabc\r\n0\r\n\r\n", b" 3\r\nabc\r\n0\r\n\r\n", b"\x0b3\r\nabc\r\n0\r\n\r\n",
              b"3,3\r\nabc\r\n0\r\n\r\n", b"_3\r\nabc\r\n0\r\n\r\n", b"3\r\nabc0\r\n\r\n",
              b"\xff\r\nabc\r\n", b"8000000000000000\r\nabc\r\n", b"1000001\r\nabc\r\n"]
    for body in bodies:
        yield b"chunk " + body[:24], post(b"Transfer-Encoding: chunked", body=body + NEXT)


def lines():
    for line in [b"GET /", b"GET / HTTP/2.0", b"GET / HTTP/3.0", b"GET / HTTP/0.9",
                 b"GET / HTTP/1.2", b"GET / HTTP/1.10", b"GET / HTTP/11", b"GET / HTTP/1",
                 b"GET / HTTP/1.", b"GET / HTTP/.1", b"GET / HTTP/-1.1", b"GET / http/1.1",
                 b"GET / XTTP/1.1", b"GET / HTTP/1.1 x", b"GET / HTTP /1.1", b"GET / HTTP/1,1",
                 b"GET /a b HTTP/1.1", b"GET / HTTPS/1.1", b"GET / HTTP/01.1", b"GET / HTTP/1.01",
                 b"GET", b"GET HTTP/1.1", b"/ HTTP/1.1", b" GET / HTTP/1.1", b"GET  / HTTP/1.1",
                 b"GET /  HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"G\x00T / HTTP/1.1",
                 b"G\x01T / HTTP/1.1", b"GET( / HTTP/1.1", b"G@T / HTTP/1.1", b"\xc7ET / HTTP/1.1",
                 b"GET version HTTP/1.1", b"GET http://y/ HTTP/1.1", b"GET https://x/ HTTP/1.1",
                 b"GET http:// HTTP/1.1", b"GET http://x@y/ HTTP/1.1", b"GET //y/version HTTP/1.1",
                 b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"CONNECT x:80 HTTP/1.1",
                 b"GET /\x01 HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET /\x00 HTTP/1.1",
                 b"GET /\xff HTTP/1.1", b"GET /%00 HTTP/1.1", b"GET /version%00x HTTP/1.1",
                 b"GET /%0d%0a HTTP/1.1", b"PRI * HTTP/2.0", b"GET /version#x HTTP/1.1"]:
        yield b"line " + line, get(line=line) + NEXT


def headers():
    for header in [b"Bad Name: 1", b"Bad\tName: 1", b": 1", b"NoColon", b"A: b\x01c", b"A: b\x00c",
                   b"A\x00: b", b"A\x01: b", b"A: \x7f", b"A: \x1f", b"A: \x0b", b"A\xe9: b",
                   b"A(: b", b"A@: b", b"A[: b", b"A{: b", b"A\": b", b"A/: b", b"A,: b", b"A;: b",
                   b"A=: b", b"A?: b", b"A<: b", b"A>: b", b"A\\: b", b"A : b", b"A\t: b",
                   b"A: b\rX: y", b"Host: y", b"host: x"]:
        yield b"header " + header, get(header) + NEXT
    for name, host in [("none", b""), ("space", b"Host: a b\r\n"), ("at", b"Host: a@b\r\n"),
                       ("slash", b"Host: a/b\r\n"), ("comma", b"Host: a,b\r\n"),
                       ("empty name", b"Host : x\r\n"), ("port", b"Host: x:80a\r\n")]:
        yield b"host " + name.encode(), get(host=host) + NEXT


def endings():
    """Lines that end in a bare LF or CR, are folded, or hide something."""
    sound = get(b"A: b", b"C:d", b"E:  f")
    for at in [i for i in range(len(sound)) if sound[i:i + 2] == b"\r\n"]:
        yield b"bare LF at %d" % at, sound[:at] + sound[at + 1:] + NEXT
        yield b"bare CR at %d" % at, sound[:at + 1] + sound[at + 2:] + NEXT
    yield b"bare LF everywhere", sound.replace(b"\r\n", b"\n") + NEXT
    yield b"CR CR LF", get(b"A: b\r") + NEXT
    for fold in (b" ", b"\t", b"  \t "):
        yield b"fold " + fold, get(b"A: b\r\n" + fold + b"c") + NEXT
        yield b"fold first " + fold, get(host=fold + b"Host: x\r\n") + NEXT
        yield b"fold length " + fold, post(b"Content-Length:\r\n" + fold + b"5", body=b"hello")
        yield b"fold encoding " + fold, post(b"Transfer-Encoding:\r\n" + fold + b"chunked",
                                             body=b"0\r\n\r\n" + NEXT)
        yield b"fold host " + fold, get(host=b"Host: x\r\n" + fold + b"y\r\n") + NEXT
    for line in (b"GET ", b"GET  ", b"GET / ", b"GET /version HTTP/1.1 ", b"GET /version HTTP/1.1\t",
                 b"GET  /version HTTP/1.1", b"GET   /version HTTP/1.1"):
        yield b"spaces " + line, get(line=line) + NEXT
    yield b"many spaces", get(b"A:" + b" " * 100 + b"b") + NEXT
    yield b"nothing hidden in host", get(host=b"Host: x\x00y\r\n") + NEXT


TABLE = [*lengths(), *encodings(), *chunks(), *lines(), *headers(), *endings()]

# Chunked bodies that are sound by RFC 9112, and those with a bare LF: servers have read them
# differently, so what follows must never be answered.
CHUNKED = [b"3;a=b\r\n{} \r\n0\r\n\r\n", b"3;a\r\n{} \r\n0;b\r\n\r\n",
           b"3\r\n{} \r\n0\r\nA: b\r\n\r\n", b"3\r\n{} \r\n0\r\nContent-Length: 9\r\n\r\n",
           b"3\r\n{} \r\n00000\r\n\r\n", b"0003\r\n{} \r\n0\r\n\r\n", b"2\r\n{}\r\n1\r\n\n\r\n0\r\n\r\n",
           b"3;" + b"x" * 3000 + b"\r\n{} \r\n0\r\n\r\n"]
BARE = [b"3\n{} \r\n0\r\n\r\n", b"3;a=b\n{} \r\n0\r\n\r\n", b"3;a\nb\r\n{} \r\n0\r\n\r\n",
        b"2\r\n{}\n1\r\n \r\n0\r\n\r\n", b"2\r\n{}\r\n1\n \r\n0\r\n\r\n", b"2\r\n{}\n1\n \n0\n\n",
        b"3\r\r\n{} \r\n0\r\n\r\n", b"3;a\rb\r\n{} \r\n0\r\n\r\n"]
# After the last piece of the body libmicrohttpd before 1.0 shows nothing any more.
BARE_END = [b"3\r\n{} \n0\r\n\r\n", b"3\r\n{} \r\n0\n\n"]


def exchange(port, data, still=0.5):
    """All that comes back until the server closes, or has been still for a while. The client's side
    stays open: to the server a half-closed client is one that left."""
    out = b""
    with socket.create_connection(("127.0.0.1", port), timeout=still) as connection:
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                out += part
        except (ConnectionError, socket.timeout):
            pass
    return out


def answered(port, data):
    """The same where the server closes when it has answered, however busy the machine is."""
    return exchange(port, data, still=600)


def refused(reply):
    """Nothing at all, or an error whose connection ends with it: what follows is no reply any more
    (libmicrohttpd 0.9.75 repeats the header of the errors it finds itself)."""
    head = reply.split(b"\r\n\r\n")[0].lower()
    return reply == b"" or (re.match(rb"http/1\.[01] [45]\d\d ", head) is not None and
                            b"connection: close" in head and b"x-request-id" not in reply.lower())


class Malformed(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = serving.Server()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_sound(self):
        """What the table varies is answered by a handler when it is left as it is."""
        reply = answered(self.server.port, get(b"Connection: close"))
        self.assertIn(b"x-request-id", reply.lower())

    def test_table(self):
        """Each is refused, and a neighbour's request beside it gets its own answer."""
        self.assertGreaterEqual(len(TABLE), 200)
        wrong = []
        for i, (name, data) in enumerate(TABLE):
            with socket.create_connection(("127.0.0.1", self.server.port)) as neighbour:
                half = get(b"Connection: close", b"X-Request-Id: neighbour-%d" % i)
                neighbour.sendall(half[:20])
                reply = exchange(self.server.port, data)
                neighbour.sendall(half[20:])
                answer = neighbour.makefile("rb").read()
            if not refused(reply):
                wrong.append((name, reply[9:12], reply[-60:]))
            if b"neighbour-%d\r\n" % i not in answer or b'{"version":' not in answer:
                wrong.append((name, "neighbour", answer))
        self.assertEqual([], wrong, "\n".join(map(str, wrong)))

    def test_after_chunks(self):
        """A chunked body is the connection's last, sound or not; a bare LF in it is refused, sent
        at once or in two parts, wherever they are cut."""
        for body in CHUNKED + BARE + BARE_END:
            data = post(b"Transfer-Encoding: chunked", body=body + NEXT)
            reply = answered(self.server.port, data)
            self.assertNotIn(b'"version"', reply, body)
            self.assertLessEqual(reply.count(b"HTTP/1."), 1 + (body in BARE), body)
            self.assertIn(b"connection: close", reply.lower() or b"connection: close", body)
            self.assertEqual(body in BARE, refused(reply), (body, reply))

    def test_chunks_in_parts(self):
        """Wherever the network cuts a sound body, it is read as one."""
        body = b"1;a=b\r\n{\r\n00d\r\n\"prompt\":\"\\n\"\r\n2\r\n\n}\r\n0\r\n\r\n"
        data = post(b"Transfer-Encoding: chunked", body=body)
        for at in range(len(data) - len(body), len(data)):
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=600) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(data[:at])
                other = answered(self.server.port, get(b"Connection: close"))  # it has been read
                self.assertIn(b"200 OK", other)
                connection.sendall(data[at:])
                self.assertIn(b"200 OK", connection.makefile("rb").read(), at)

    def test_limits(self):
        """Each limit one below, at it, and one above."""
        def code(data):
            return int(answered(self.server.port, data)[9:12] or b"400")

        for n in (4095, 4096, 4097):
            url = b"/version?" + b"a" * (n - 9)
            reply = code(get(b"Connection: close", line=b"GET " + url + b" HTTP/1.1"))
            self.assertEqual(200 if n <= 4096 else 414, reply, n)
        for n in (99, 100, 101):
            extra = [b"A%d: b" % i for i in range(n - 2)]
            reply = code(get(b"Connection: close", *extra))
            self.assertEqual(200 if n <= 100 else 431, reply, n)
        for n in (16383, 16384, 16385):
            start = b"Host: x\r\nConnection: close\r\nA: \r\n"
            reply = code(get(b"Connection: close", b"A: " + b"a" * (n - len(start))))
            self.assertEqual(200 if n <= 16384 else 431, reply, n)


class Json(unittest.TestCase):
    @unittest.skipUnless(os.path.isdir(SUITE), "JSONTestSuite is not here")
    def test_bodies(self):
        """Each file as a body: never a success (none is a request), never the server's fault. What
        the suite calls sound is read (but for keys that come twice or hold a NUL, which are refused
        as test_json says), and refused for what it is; the rest for where it breaks."""
        server = serving.Server()
        self.addCleanup(lambda: self.assertEqual(0, server.stop()))
        n = 0
        for folder, _, files in os.walk(SUITE):
            for name in sorted(files):
                if not name.endswith(".json") or name[:2] not in ("y_", "n_", "i_"):
                    continue
                with open(os.path.join(folder, name), "rb") as file:
                    status, _, reply = server.request("POST", "/v1/completions", file.read())
                self.assertEqual(400, status, (name, reply))
                message = json.loads(reply)["error"]["message"]
                if name[0] != "i" and "duplicated_key" not in name and "null_in_key" not in name:
                    self.assertEqual(name[0] == "n", message.startswith("the body: "),
                                     (name, message))
                n += 1
        self.assertGreater(n, 250)
        self.assertEqual(200, server.request("GET", "/health")[0])


NUMBERS = ["1", [], {}, True]
INTEGERS = NUMBERS + [1.5]
BOOLEANS = ["true", 0, 1, [], {}]
COMMON = {
    "model": [1, [], {}, True], "temperature": NUMBERS + [-0.1, 2.1, 1e400],
    "top_p": NUMBERS + [-1, 0, 1.01], "min_p": NUMBERS + [-0.1, 1.1],
    "repetition_penalty": NUMBERS + [0, -1, 101], "presence_penalty": NUMBERS + [-2.1, 2.1],
    "frequency_penalty": NUMBERS + [-2.1, 2.1], "n": INTEGERS + [0, -1, 9, 1 << 40, 1 << 70],
    "top_k": INTEGERS + [-2, 1 << 40], "min_tokens": INTEGERS + [-1, 1 << 40],
    "max_tokens": INTEGERS + [0, -1, 1 << 40], "seed": INTEGERS + [1 << 70, -(1 << 70)],
    "priority": INTEGERS + [1 << 40, -(1 << 40)], "stream": BOOLEANS, "ignore_eos": BOOLEANS,
    "include_stop_str_in_output": BOOLEANS, "skip_special_tokens": BOOLEANS,
    "return_token_ids": BOOLEANS, "stream_options": [1, "a", [], True],
    "stop": [1, {}, True, [1], [""], "", ["a"] * 17, "a" * 257, ["a", None], [["a"]], "a\0b"],
    "stop_token_ids": [1, "a", {}, ["1"], [-1], [1 << 40], [1.5], [1] * 65],
    "logit_bias": [1, "a", [1], {"a": 1}, {"-1": 1}, {"1": 101}, {"1": -101}, {"1": "a"},
                   {"1": True}, {"99999999999": 1}, {str(i): 1 for i in range(1025)}],
    "cache_salt": [1, [], {}, "", "a" * 1025], "best_of": [2, "1"], "response_format": [
        1, "json", {"type": "x"}], "audio": [{"voice": "a"}], "modalities": [["audio"]],
}
CHAT = {"messages": [1, "a", {}, [], [1], ["a"], [[]], [{}], [{"role": "user"}], [{"content": "a"}],
                     [{"role": 1, "content": "a"}], [{"role": "user", "content": 1}],
                     [{"role": "user", "content": {}}], [{"role": "user", "content": [1]}],
                     [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
                     [{"role": "user", "content": [{"type": "text", "text": 1}]}],
                     [{"role": "user", "content": [{"text": "a"}]}], None],
        "logprobs": BOOLEANS, "top_logprobs": INTEGERS + [-1, 21, 5], "tools": [1, "a", {}, True],
        "max_completion_tokens": INTEGERS + [0, -1], "chat_template_kwargs": [1, "a", [1], True],
        "add_generation_prompt": BOOLEANS, "continue_final_message": BOOLEANS + [True]}
TEXT = {"prompt": [1, {}, True, [], [[]], [{}], [True], [1.5], [-1], [1 << 40], ["a", 1], [1, "a"],
                   "", [""], ["a"] * 65, None],
        "logprobs": INTEGERS + [-1, 21], "echo": BOOLEANS, "suffix": ["a", 1]}


class Fields(unittest.TestCase):
    def test_wrong(self):
        """Every field with what it may not hold: 400 with a sentence that names it."""
        server = serving.Server()
        self.addCleanup(lambda: self.assertEqual(0, server.stop()))
        bases = [("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]},
                  {**COMMON, **CHAT}),
                 ("/v1/completions", {"prompt": "a"}, {**COMMON, **TEXT})]
        wrong = []
        for path, base, fields in bases:
            for field, values in fields.items():
                for value in values:
                    text = json.dumps({"max_tokens": 1, **base, field: value})
                    status, _, data = server.request("POST", path, text.replace("Infinity", "1e400"))
                    reply = json.loads(data)
                    message = reply["error"]["message"] if status == 400 else ""
                    # No number that JSON's reader can hold is a matter of the body.
                    named = field in message or ("real number overflow" in message or
                                                 re.search("too big .*integer", message))
                    if not named:
                        wrong.append((path, field, str(value)[:40], status, data[:150]))
        self.assertEqual([], wrong, "\n".join(map(str, wrong)))


if __name__ == "__main__":
    unittest.main()
