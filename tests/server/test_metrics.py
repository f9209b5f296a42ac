"""test_metrics: /metrics read by Prometheus' own parser and by promtool: names, labels, buckets and
values after requests that are known; the document, the Grafana dashboard and the alert rules speak
of metrics that exist."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tests/server"), str(ROOT / "tools")]
from make_metrics_doc import document  # noqa: E402
from serving import SLOW, Server  # noqa: E402

try:
    from prometheus_client.parser import text_string_to_metric_families as parse
except ImportError:
    parse = None

PROMTOOL = shutil.which("promtool") or str(ROOT / "build/tools/usr/bin/promtool")
PROMPT = "Once upon a time there was a little red boat. " * 4

# vLLM's buckets, as its users' dashboards and recording rules have them.
SECONDS = [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
BUCKETS = {
    "vllm:time_to_first_token_seconds":
        [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
         640, 2560],
    "vllm:inter_token_latency_seconds":
        [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80],
    "vllm:request_time_per_output_token_seconds":
        [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80],
    "vllm:e2e_request_latency_seconds": SECONDS,
    "vllm:request_queue_time_seconds": SECONDS,
    "vllm:request_prefill_time_seconds": SECONDS,
    "vllm:request_decode_time_seconds": SECONDS,
    "vllm:request_inference_time_seconds": SECONDS,
    "vllm:iteration_tokens_total": [1] + [8 << i for i in range(12)],
    "vllm:request_prompt_tokens": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
    "vllm:request_generation_tokens": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
    "vllm:request_max_num_generation_tokens": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
    "vllm:request_params_max_tokens": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
    "vllm:request_params_n": [1, 2, 5, 10, 20],
}
NAMES = {  # and what else a vLLM dashboard, llm-d or the Gateway extension asks for
    "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
    "vllm:lora_requests_info", "vllm:cache_config_info", "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total", "vllm:request_success_total", "vllm:num_preemptions_total",
    "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "http_requests_total",
    "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
    "process_start_time_seconds"}


def names_in(query):
    """The metric names of a PromQL expression, without what histograms add to them."""
    query = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', "", query)
    words = set(re.findall(r"[a-z]\w*(?::\w+)?", re.sub(r"\b(by|on) \([^)]*\)", "", query)))
    words -= {"histogram_quantile", "sum", "max", "rate", "increase", "and"}
    return {re.sub(r"_bucket$", "", word) for word in words}


class Metrics(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(*SLOW, "--max-seqs", "4", "--model-name", 'odd "name"\\ of\ta model')
        for n in (1, 2):
            cls.reply = cls.server.post("/v1/completions", {
                "prompt": PROMPT, "max_tokens": 20, "n": n, "ignore_eos": True})
        cls.server.request("POST", "/v1/completions", {"prompt": 3})
        cls.server.request("GET", "/v1/nothing/here?a=b")
        cls.text = ""
        settled = (r"generation_tokens_total.* 60$", r"handler=.none.", r"status=.400.",
                   r"handler=./v1/completions.* 2$")
        # A request and a step count a moment after their reply.
        while not all(re.search(part, cls.text, re.M) for part in settled):
            status, headers, text = cls.server.request("GET", "/metrics")
            assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
            cls.text = text.decode()

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def families(self):
        return {f.name: f for f in parse(self.text)}

    def exposed(self):
        return {line.split(" ")[2] for line in self.text.splitlines() if line.startswith("# TYPE")}

    @unittest.skipUnless(parse, "needs prometheus_client")
    def test_values(self):
        value = {(s.name, s.labels.get("finished_reason") or s.labels.get("status")): s.value
                 for f in self.families().values() for s in f.samples if "le" not in s.labels}
        n_prompt = self.reply["usage"]["prompt_tokens"]
        hits = self.reply["usage"]["prompt_tokens_details"]["cached_tokens"]
        self.assertGreater(hits, 0)
        for name, wanted in {
                "vllm:generation_tokens_total": 60, "vllm:num_requests_running": 0,
                "vllm:num_requests_waiting": 0, "vllm:kv_cache_usage_perc": 0,
                "vllm:prefix_cache_queries_total": 2 * n_prompt,
                "vllm:prefix_cache_hits_total": hits,
                "vllm:prompt_tokens_total": 2 * n_prompt - hits,
                "vllm:time_to_first_token_seconds_count": 3,
                "vllm:e2e_request_latency_seconds_count": 3,
                "vllm:request_generation_tokens_sum": 60,
                "vllm:request_max_num_generation_tokens_sum": 40,
                "vllm:request_max_num_generation_tokens_count": 2,
                "vllm:request_params_max_tokens_sum": 40, "vllm:request_params_n_sum": 3,
                "vllm:iteration_tokens_total_sum": 2 * n_prompt - hits + 60 - 3,
                "sluice_nonfinite_logits_total": 0, "sluice_watchdog_warnings_total": 0}.items():
            self.assertEqual(value[name, None], wanted, name)
        # Tokens that come while the server is busy come together.
        self.assertIn(value["vllm:inter_token_latency_seconds_count", None], range(1, 58))
        self.assertEqual(value["vllm:request_success_total", "length"], 3)
        self.assertEqual(value["vllm:request_success_total", "stop"], 0)
        self.assertGreater(value["process_resident_memory_bytes", None], 20e6)

    @unittest.skipUnless(parse, "needs prometheus_client")
    def test_names_labels_and_buckets(self):
        self.assertEqual((NAMES | set(BUCKETS)) - self.exposed(), set())
        for family in self.families().values():
            seen = [(s.name, tuple(sorted(s.labels.items()))) for s in family.samples]
            self.assertEqual(len(seen), len(set(seen)), family.name)
            self.assertTrue(family.documentation, family.name)
            if family.name.startswith("vllm:"):
                for sample in family.samples:
                    self.assertEqual(sample.labels["model_name"], 'odd "name"\\ of\ta model')
                    self.assertEqual(sample.labels["engine"], "0")
        for name, bounds in BUCKETS.items():
            samples = [s for f in self.families().values() for s in f.samples
                       if s.name == name + "_bucket"]
            got = [float(s.labels["le"]) for s in samples]
            self.assertEqual([b for b in bounds if b not in got], [], name)
            self.assertEqual(got[-1], float("inf"))
            counts = [s.value for s in samples]
            self.assertEqual(counts, sorted(counts), name)

    @unittest.skipUnless(parse, "needs prometheus_client")
    def test_requests_by_path(self):
        rows = {(s.labels["handler"], s.labels["method"], s.labels["status"]): s.value
                for f in self.families().values() for s in f.samples
                if s.name == "http_requests_total"}
        self.assertEqual(rows["/v1/completions", "POST", "200"], 2)
        self.assertEqual(rows["/v1/completions", "POST", "400"], 1)
        self.assertEqual(rows["none", "", "404"], 1)  # a client's path is no label

    @unittest.skipUnless(os.path.exists(PROMTOOL), "needs promtool")
    def test_promtool_finds_nothing(self):
        """But what vLLM's names themselves are: they have a colon, and a histogram named total."""
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=self.text, text=True,
                              capture_output=True, check=False)
        vllm = re.compile(r"vllm:\w+ metric names should not contain ':'$|"
                          r"vllm:iteration_tokens_total non-counter metrics should not have")
        found = [line for line in (done.stdout + done.stderr).splitlines() if not vllm.match(line)]
        self.assertEqual(found, [])

    @unittest.skipUnless(os.path.exists(PROMTOOL), "needs promtool")
    def test_rules(self):
        rules = ROOT / "etc/prometheus/sluice.rules.yml"
        done = subprocess.run([PROMTOOL, "check", "rules", rules], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("SUCCESS", done.stdout)

    def test_rules_name_metrics_that_exist(self):
        text = (ROOT / "etc/prometheus/sluice.rules.yml").read_text()
        queries = re.findall(r"^\s+expr: (.*)$", text, re.M)
        self.assertGreater(len(queries), 6)
        for query in queries:
            self.assertEqual(names_in(query) - self.exposed(), set(), query)

    def test_grafana(self):
        board = json.loads((ROOT / "etc/grafana/sluice.json").read_text())
        queries = [t["expr"] for panel in board["panels"] for t in panel["targets"]]
        self.assertGreater(len(queries), 20)
        for query in queries:
            self.assertTrue(names_in(query), query)
            self.assertEqual(names_in(query) - self.exposed(), set(), query)
        places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]}
        self.assertEqual(len(places), len(board["panels"]))

    def test_document(self):
        self.assertEqual((ROOT / "docs/metrics.md").read_text(), document(self.text))

    def test_counters_that_must_stay_0_have_alerts(self):
        text = (ROOT / "etc/prometheus/sluice.rules.yml").read_text()
        marked = re.findall(r"^# HELP (\S+) .*0 in health", self.text, re.M)
        self.assertGreater(len(marked), 3)
        for name in marked:
            self.assertIn(f"increase({name}[", text)


if __name__ == "__main__":
    unittest.main()
