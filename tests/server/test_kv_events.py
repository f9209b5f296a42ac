"""test_kv_events: what a router sees over ZeroMQ, read with pyzmq and msgpack: frames, numbers, event
maps; a map of the prefix cache that is built from the events alone foretells how many tokens of each
prompt the server finds cached, while blocks are evicted; and replay gives the same once more."""
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402

try:
    import msgpack
    import zmq
except ImportError:
    zmq = None

BLOCK = 16
END = 2 ** 64 - 1
FIELDS = {"type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id",
          "lora_name", "medium", "extra_keys", "group_idx", "kv_cache_spec_kind"}


class Mirror:
    """The prefix cache as events describe it."""

    def __init__(self):
        self.by_hash = {}

    def apply(self, event):
        kind = event["type"]
        if kind == "BlockStored":
            block_hash, = event["block_hashes"]
            self.by_hash[block_hash] = (event["parent_block_hash"], tuple(event["token_ids"]))
        elif kind == "BlockRemoved":
            for block_hash in event["block_hashes"]:
                del self.by_hash[block_hash]
        else:
            assert kind == "AllBlocksCleared", kind
            self.by_hash.clear()

    def cached(self, tokens):
        """How many of a prompt's tokens are there. The last one is always computed."""
        by_place = {place: block_hash for block_hash, place in self.by_hash.items()}
        parent, n = None, 0
        while n + BLOCK < len(tokens):
            parent = by_place.get((parent, tuple(tokens[n:n + BLOCK])))
            if parent is None:
                break
            n += BLOCK
        return n


@unittest.skipUnless(zmq, "needs pyzmq and msgpack")
class KvEvents(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="sluice-kv-events-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.context = zmq.Context()
        self.addCleanup(self.context.destroy, 0)

    def serve(self, *arguments):
        server = Server("--kv-events", f"ipc://{self.folder}/events",
                        "--kv-events-replay", f"ipc://{self.folder}/replay", *arguments)
        self.addCleanup(lambda: server.process.poll() is None and server.stop())
        return server

    def subscribe(self, topic):
        socket = self.context.socket(zmq.SUB)
        self.addCleanup(socket.close, 0)
        socket.setsockopt(zmq.SUBSCRIBE, topic)
        socket.setsockopt(zmq.RCVTIMEO, 120000)
        socket.connect(f"ipc://{self.folder}/events")
        return socket

    def read(self, frames):
        topic, number, payload = frames
        self.assertEqual(len(number), 8)
        batch = msgpack.unpackb(payload)
        self.assertEqual(len(batch), 3)
        self.assertAlmostEqual(batch[0], time.time(), delta=300)
        self.assertEqual(batch[2], 0)
        return topic, struct.unpack(">Q", number)[0], batch[1]

    def replay(self, start):
        """[(number, payload)] from the replay socket, up to its end mark."""
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.RCVTIMEO, 120000)
        socket.connect(f"ipc://{self.folder}/replay")
        socket.send_multipart([b"", struct.pack(">Q", start)])
        got = []
        while True:
            empty, number, payload = socket.recv_multipart()
            self.assertEqual(empty, b"")
            number = struct.unpack(">Q", number)[0]
            if number == END:
                self.assertEqual(payload, b"")
                socket.close()
                return got
            got.append((number, payload))

    def mirror(self):
        """The mirror of all events so far; the replay's numbers have no gap."""
        mirror, batches = Mirror(), self.replay(0)
        self.assertEqual([n for n, _ in batches], list(range(len(batches))))
        for _, payload in batches:
            for event in msgpack.unpackb(payload)[1]:
                mirror.apply(event)
        return mirror

    def settled(self, server):
        """The mirror, once it has as many blocks as the server says are cached and idle."""
        end = time.monotonic() + 120
        while True:
            data = server.request("GET", "/dashboard/data")[2]
            data = json.loads(data)
            mirror = self.mirror()
            if data["engine"]["running"] == 0 and len(mirror.by_hash) == data["blocks"]["cached"]:
                return mirror
            self.assertLess(time.monotonic(), end, (len(mirror.by_hash), data["blocks"]))
            time.sleep(0.05)

    def test_mirror_foretells_hits(self):
        server = self.serve("--max-seqs", "2", "--kv-mb", "6", "--context", "512")
        draw = random.Random(4)
        beginnings = [[draw.randrange(300, 4000) for _ in range(80)] for _ in range(4)]
        hits = 0
        for i in range(18):
            beginning = draw.choice(beginnings)
            prompt = beginning[:draw.randrange(20, 81)] + [draw.randrange(300, 4000)
                                                           for _ in range(draw.randrange(60))]
            foretold = self.settled(server).cached(prompt)
            reply = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 20,
                                                    "ignore_eos": True, "seed": i})
            self.assertEqual(reply["usage"]["prompt_tokens_details"]["cached_tokens"], foretold)
            hits += foretold > 0
        self.assertGreater(hits, 4)
        removed = [e for _, payload in self.replay(0) for e in msgpack.unpackb(payload)[1]
                   if e["type"] == "BlockRemoved"]
        self.assertGreater(len(removed), 0, "nothing was ever evicted")
        self.assertEqual(server.stop(), 0)

    def test_frames(self):
        server = self.serve("--kv-events-topic", "kv@pod-7@fable", "--max-seqs", "2")
        self.assertIn("can read what clients write", "".join(server.log))
        live, other = self.subscribe(b"kv@"), self.subscribe(b"something-else")
        poller = zmq.Poller()
        poller.register(live, zmq.POLLIN)
        prompt = 300
        while not poller.poll(500):  # a subscription takes a moment to arrive
            server.post("/v1/completions", {"prompt": [prompt + i for i in range(40)],
                                            "max_tokens": 1})
            prompt += 40
        server.post("/v1/completions", {"prompt": [8000 + i for i in range(40)], "max_tokens": 1})
        got = []
        while not any(event["token_ids"][-1] == 8031 for _, _, events in got for event in events):
            got.append(self.read(live.recv_multipart()))
        self.assertEqual({topic for topic, _, _ in got}, {b"kv@pod-7@fable"})
        numbers = [number for _, number, _ in got]
        self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))
        self.assertFalse(other.poll(0))
        again = self.replay(numbers[0])
        self.assertEqual([(n, msgpack.unpackb(p)[1]) for n, p in again[:len(got)]],
                         [(number, events) for _, number, events in got])
        self.assertEqual(self.replay(numbers[-1] + 1000), [])
        events = [event for _, _, events in got for event in events]
        for event in events:
            self.assertEqual(set(event), FIELDS)
            self.assertEqual((event["type"], event["block_size"], event["medium"], event["lora_id"],
                              event["group_idx"], event["kv_cache_spec_kind"]),
                             ("BlockStored", BLOCK, "GPU", None, 0, "full_attention"))
            self.assertEqual(len(event["token_ids"]), BLOCK)
        last, before = [e for e in events if e["token_ids"][0] >= 8000][::-1]
        self.assertIsNone(before["parent_block_hash"])
        self.assertEqual(last["parent_block_hash"], before["block_hashes"][0])
        self.assertEqual(before["token_ids"], list(range(8000, 8016)))
        self.assertEqual(server.stop(), 0)

    def test_odd_requests_for_replay(self):
        server = self.serve("--max-seqs", "2")
        server.post("/v1/completions", {"prompt": list(range(300, 340)), "max_tokens": 1})
        socket = self.context.socket(zmq.DEALER)
        self.addCleanup(socket.close, 0)
        socket.connect(f"ipc://{self.folder}/replay")
        for frames in ([b""], [b"", b"short"], [b"x", bytes(8)], [b"", bytes(8), b"more"],
                       [b"", b"y" * 100000], [b""] * 50):
            socket.send_multipart(frames)
        self.settled(server)  # sound requests are still answered
        self.assertFalse(socket.poll(0))
        self.assertEqual(server.stop(), 0)

    def test_endpoints_that_cannot_be(self):
        with self.assertRaisesRegex(RuntimeError, "cannot listen at 'ipc:///nonexistent/x'"):
            Server("--kv-events", "ipc:///nonexistent/x")
        with self.assertRaisesRegex(RuntimeError, "cannot connect to 'nothing'"):
            Server("--kv-events", "nothing")


if __name__ == "__main__":
    unittest.main()
