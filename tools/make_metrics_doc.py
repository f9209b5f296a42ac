#!/usr/bin/env python3
"""Writes docs/metrics.md from what a server says of its metrics.

usage: tools/make_metrics_doc.py FILE >docs/metrics.md   (FILE: a reply of /metrics, or -)
"""
import re
import sys

HEAD = """# Metrics

`GET /metrics` answers in Prometheus' text format 0.0.4. Names with `vllm:` mean what they mean in
vLLM, with its buckets and labels, so that dashboards and routers made for it work unchanged; ours
begin with `sluice_`. Speculative decoding and adapters have no figures here because there are none.
`etc/grafana/sluice.json` is a dashboard, `etc/prometheus/sluice.rules.yml` has alerts.

This table is `tools/make_metrics_doc.py`'s; a test holds it to what the server says.

| metric | type | labels | what |
|---|---|---|---|
"""


def document(text):
    """The document's text for a reply of /metrics."""
    kinds, helps, labels = {}, {}, {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, what = line.split(" ", 3)
            helps[name] = what
            labels[name] = []
        elif line.startswith("# TYPE "):
            _, _, name, kinds[name] = line.split(" ")
        else:
            name = re.match(r"[\w:]+", line)[0]
            family = name if name in helps else re.sub(r"_(bucket|sum|count)$", "", name)
            for label in re.findall(r'(\w+)="', line):
                if label not in labels[family] and label != "le":
                    labels[family].append(label)
    rows = [f"| `{name}` | {kinds[name]} | {', '.join(labels[name])} | {helps[name]} |\n"
            for name in sorted(helps)]
    return HEAD + "".join(rows)


if __name__ == "__main__":
    source = sys.stdin if sys.argv[1] == "-" else open(sys.argv[1], encoding="utf-8")
    sys.stdout.write(document(source.read()))
