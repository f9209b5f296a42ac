#!/usr/bin/env python3
"""Writes src/text/unicode_table.h: general categories and scripts as the reference knows them.

usage: gen_unicode.py OUT.h   (needs the PyPI package tokenizers)

The reference for token ids is Hugging Face tokenizers, whose patterns run in Oniguruma. Its tables
are newer than those of PCRE2 and of utf8proc in the distributions, so the truth is asked from it,
code point by code point.
"""
import sys

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs "
              "Co Cn").split()
SCRIPTS = "Han Hiragana Katakana Hangul Latin Cyrillic Greek Arabic Hebrew Thai Bopomofo".split()
POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
TEXT = "".join(map(chr, POINTS))


def members(pattern):
    """The code points that the pattern matches."""
    out = []
    pieces = Split(Regex(pattern), "isolated").pre_tokenize_str(TEXT)
    removed = Split(Regex(pattern), "removed").pre_tokenize_str(TEXT)
    kept = {span for _, span in removed}
    for piece, span in pieces:
        if span not in kept:
            out.extend(map(ord, piece))
    return out


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def main():
    category = {c: "Cs" for c in range(0xD800, 0xE000)}
    for name in CATEGORIES:
        if name == "Cs":
            continue
        for c in members(r"\p{%s}+" % name):
            category[c] = name
    lines = ["/* unicode_table: written by tools/gen_unicode.py; do not edit. */", "#pragma once", "",
             '#include "text/unicode.h"', "",
             "/* first code point of a run and the category of the run */",
             "static const UnicodeRun UNICODE_RUNS[] = {"]
    last, row = None, []
    for c in range(0x110000):
        name = category.get(c, "Cn")
        if name != last:
            row.append("{0x%x, UNICODE_%s}" % (c, name.upper()))
            last = name
        if len(row) == 4 or c == 0x10FFFF:
            if row:
                lines.append("    " + ", ".join(row) + ",")
            row = []
    lines += ["};", ""]
    for name in SCRIPTS:
        lines.append("static const UnicodeRange UNICODE_%s[] = {" % name.upper())
        row = ["{0x%x, 0x%x}" % tuple(r) for r in ranges(members(r"\p{%s}+" % name))]
        lines += ["    " + ", ".join(row[i:i + 4]) + "," for i in range(0, len(row), 4)]
        lines += ["};", ""]
    lines += ["#define UNICODE_SCRIPTS(X) \\"]
    lines += ["    X(\"%s\", UNICODE_%s) \\" % (n, n.upper()) for n in SCRIPTS]
    lines[-1] = lines[-1][:-2]
    with open(sys.argv[1], "w") as out:
        out.write("\n".join(lines) + "\n")


main()
