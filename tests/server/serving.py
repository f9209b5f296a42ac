"""serving: a server process for tests, on a free port, with the default model."""
import http.client
import json
import os
import re
import signal
import subprocess
import threading

SLUICE = os.environ.get("SLUICE", "build/sluice")
# For a server whose answers last until the test has done what it wants beside them: tens of tokens a
# second. At full speed a fast machine ends a thousand tokens before a busy client's next line.
SLOW = ("--level", "ref")


class Server:
    """`sluice serve` with more arguments; .port once it is ready."""

    def __init__(self, *arguments):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLUICE_")}
        env["XDG_CONFIG_HOME"] = "/nonexistent"
        self.process = subprocess.Popen([SLUICE, "serve", "--port", "0", "-q", *arguments],
                                        stderr=subprocess.PIPE, text=True, env=env)
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("ready in"):
                break
        else:
            self.process.wait()
            self.process.stderr.close()
            raise RuntimeError("".join(self.log))
        self.port = int(re.search(r"address\s+https?://\S*:(\d+)", "".join(self.log)).group(1))
        self.reader = threading.Thread(target=self._drain, daemon=True)
        self.reader.start()

    def _drain(self):
        for line in self.process.stderr:
            self.log.append(line)

    def metric(self, name):
        """The value of the first sample with that name, or that name and label."""
        text = self.request("GET", "/metrics")[2].decode()
        name, _, label = name.partition(" ")
        return float(re.search(rf"^{name}(?:\{{.*{label}.*\}})? (\S+)$", text, re.M).group(1))

    def stop(self, seconds=600):
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.reader.join()
        self.process.stderr.close()
        return code

    def request(self, method, path, body=None, headers=None):
        """(status, headers, body bytes)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        return reply.status, dict((k.lower(), v) for k, v in reply.getheaders()), data

    def post(self, path, body, headers=None):
        """The JSON of a reply that must be 200."""
        status, _, data = self.request("POST", path, body, headers)
        assert status == 200, (status, data)
        return json.loads(data)

    def stream(self, path, body):
        """The JSON of each event; the stream must end with [DONE]."""
        status, headers, data = self.request("POST", path, dict(body, stream=True))
        assert status == 200 and headers["content-type"] == "text/event-stream", (status, data)
        lines = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
        assert lines[-1] == "[DONE]", lines[-1:]
        return [json.loads(line) for line in lines[:-1]]
