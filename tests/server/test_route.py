"""test_route: methods, ids of requests and the line that each leaves in the log."""
import http.client
import os
import sys
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from serving import Server  # noqa: E402


class Routes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--log-level", "debug")

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def logged(self, text):
        """The line of the log that has the text, once it is there."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            for line in list(self.server.log):
                if text in line:
                    return line
            time.sleep(0.01)
        self.fail(f"no line has {text}")

    def test_head(self):
        """HEAD is GET without the body, on a connection that goes on."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=600)
        for path in ("/", "/dashboard", "/health", "/ready", "/version", "/v1/models",
                     "/v1/models/fable-28m", "/style.css"):
            got = {}
            for method in ("GET", "HEAD"):
                connection.request(method, path)
                reply = connection.getresponse()
                got[method] = (reply.status, reply.getheader("content-type"),
                               int(reply.getheader("content-length")), reply.read())
            self.assertEqual(got["GET"][:3], got["HEAD"][:3], path)
            self.assertEqual((200, b""), (got["HEAD"][0], got["HEAD"][3]), path)
        connection.close()

    def test_other_methods(self):
        for method, path, allowed in (("POST", "/health", "GET, HEAD"), ("PUT", "/", "GET, HEAD"),
                                      ("GET", "/v1/completions", "POST"),
                                      ("HEAD", "/v1/completions", "POST")):
            status, headers, _ = self.server.request(method, path)
            self.assertEqual((405, allowed), (status, headers.get("allow")), (method, path))

    def test_request_id(self):
        """A client's id comes back only if it is visible ASCII, and not too long."""
        good = ["a", "A-1_b.c:d/e+f=", "x" * 47, "{(<id>)}"]
        bad = ["", "x" * 48, "a b", "a\tb", 'a"b', "a\\b", "caf\u00e9", "\u00ff", "a\x80b"]
        for given in good + bad:
            _, headers, _ = self.server.request("GET", "/version", None,
                                                {"x-request-id": given.encode("latin-1")})
            back = headers["x-request-id"]
            if given in good:
                self.assertEqual(given, back)
            else:
                self.assertRegex(back, "^req-[0-9a-f]{24}$", given)
            self.assertTrue(self.logged(f" http {back} ").isascii())

    def test_log_of_paths(self):
        """What a path holds cannot end the quotes around it."""
        for path, shown in (("/a%22%20200%20peer=1.2.3.4", '/a\\" 200 peer=1.2.3.4'),
                            ("/a%5C", "/a\\\\"), ("/" + "%22" * 300, "/" + '\\"' * 199)):
            self.server.request("GET", path, None, {"x-request-id": "path-%d" % len(shown)})
            self.assertIn(f'path-{len(shown)} "GET {shown}" 404 peer=127.0.0.1 ',
                          self.logged(f"path-{len(shown)} "))


if __name__ == "__main__":
    unittest.main()
