#!/usr/bin/env python3
"""Prints the share of lines that tests reached, for each source file, from gcov's counts.

usage: tools/cov.py BUILD_DIR
"""
import gzip
import json
import pathlib
import subprocess
import sys
import tempfile


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    lines = {}  # file -> line -> reached?
    with tempfile.TemporaryDirectory() as folder:
        for notes in sorted(build.glob("src/**/*.gcno")):
            subprocess.run(["gcov", "--json-format", str(notes)], cwd=folder, check=False,
                           capture_output=True)
        for path in pathlib.Path(folder).glob("*.gcov.json.gz"):
            for file in json.loads(gzip.open(path).read())["files"]:
                if not file["file"].startswith("src/"):
                    continue
                known = lines.setdefault(file["file"], {})
                for line in file["lines"]:
                    number = line["line_number"]
                    known[number] = known.get(number, False) or line["count"] > 0
    reached = total = 0
    for name, known in sorted(lines.items()):
        hit = sum(known.values())
        reached += hit
        total += len(known)
        print(f"{100 * hit / max(len(known), 1):5.1f} %  {hit:5d} of {len(known):5d}  {name}")
    print(f"{100 * reached / max(total, 1):5.1f} %  {reached:5d} of {total:5d}  all")


if __name__ == "__main__":
    main()
