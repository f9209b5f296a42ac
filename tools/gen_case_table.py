#!/usr/bin/env python3
"""Writes src/text/jcase_table.h: the case mappings that are not one code point to one.

usage: tools/gen_case_table.py > src/text/jcase_table.h
"""
import sys
import unicodedata

print(f"/* jcase_table: case mappings of Unicode {unicodedata.unidata_version} to more than one code point,")
print(" * and the foldings that are not the lower case. Made by tools/gen_case_table.py. */")
print("#pragma once\n")
print('#include "base/base.h"\n')
print("/* upper, title, lower, fold; up to 3 code points each, 0: the simple mapping. */")
print("static const struct {\n    uint32_t cp;\n    uint32_t to[4][3];\n} jcase_table[] = {")
for cp in range(0x80, sys.maxunicode + 1):
    c = chr(cp)
    if 0xD800 <= cp < 0xE000:
        continue
    maps = [c.upper(), c.title(), c.lower(), c.casefold()]
    wanted = [len(m) > 1 for m in maps]
    wanted[3] = wanted[3] or maps[3] != maps[2]
    if not any(wanted):
        continue
    cols = []
    for m, w in zip(maps, wanted):
        cols.append("{" + ", ".join(f"0x{ord(x):x}" for x in m) + "}" if w else "{0}")
    print(f"    {{0x{cp:x}, {{{', '.join(cols)}}}}},")
print("};")
