"""test_tenant: what one key's holder asked never counts as cached for another's."""
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402

PROMPT = "The canary in the old coal mine sang of rivers and of rain. " * 8


class Tenant(unittest.TestCase):
    def test_cache_is_apart(self):
        with tempfile.NamedTemporaryFile("w", suffix=".keys") as keys:
            keys.write("key-of-a\nkey-of-b\n")
            keys.flush()
            server = Server("--api-key-file", keys.name)

        def cached(key):
            reply = server.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 2},
                                {"authorization": "Bearer " + key})
            return reply["usage"]["prompt_tokens_details"]["cached_tokens"]

        try:
            self.assertEqual(0, cached("key-of-a"))
            self.assertGreater(cached("key-of-a"), 0)
            self.assertEqual(0, cached("key-of-b"))
            self.assertGreater(cached("key-of-b"), 0)
        finally:
            self.assertEqual(0, server.stop())


if __name__ == "__main__":
    unittest.main()
