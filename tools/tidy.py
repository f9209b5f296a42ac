#!/usr/bin/env python3
"""Checks the rules of STYLE.md that a program can check. Prints FILE:LINE: what, and fails on any.

usage: tools/tidy.py [--warn] [--list-c]
  --warn    also print what is large but still allowed
  --list-c  print the C files of the repository instead
"""
import collections
import os
import pathlib
import re
import subprocess
import sys

# Which folders a folder may include, besides itself.
LAYERS = {
    "base": "",
    "tensor": "base",
    "format": "tensor base",
    "text": "format tensor base",
    "ops": "tensor base",
    "dist": "ops tensor base",
    "model": "dist ops format tensor base",
    "kv": "base",
    "sample": "ops text tensor base",
    "engine": "model sample kv text dist ops format tensor base",
    "compress": "model format ops text tensor base",
    "server": "text base",
    "app": "compress server engine kv sample model dist ops text format tensor base",
}

# (of a file, of a header, of a function, of a function in ops, arguments): warn above, fail above.
FILE_LINES = (600, 1000)
HEADER_LINES = (200, 400)
FUNCTION_LINES = (70, 100)
KERNEL_LINES = (100, 150)
ARGUMENTS = 7  # only a warning
LINE_COLUMNS = 100
SCRIPT_COLUMNS = 120  # of a generator's tables
FOLDER_FILES = 25

# Files that hold a second small family of functions beside their stem's.
EXTRA_STEMS = {
    "base/buf": ["ints"],
    "base/mem": ["arena"],
    "base/status": ["err", "check"],
    "base/thread": ["pool"],
    "app/help": ["cmd_man", "cmd_completion"],
    "format/gguf_value": ["gguf"],
    "model/model_config": ["config"],
    "ops/ref/ref_linear": ["ref_weight"],
    "ops/cpu/cpu_rows": ["cpu_ops"],
    "text/jinja": ["jrun"],
    "text/jinja_exec": ["jinja_assign"],
    "text/jinja_parse_stmt": ["jinja_parse"],
    "text/jstr": ["jout"],
}

BANNED = {
    r"strcpy|strcat|sprintf|vsprintf|gets|alloca|system|popen|strtok|tmpnam|mktemp": None,
    r"getenv|secure_getenv|exit|_exit|quick_exit": "app",
    r"abort": "base/status.c",
    r"rand|srand|random|srandom|drand48": None,
    r"atoi|atol|atoll|atof": None,
}
INTRINSICS = re.compile(
    r"\b(_mm\d*_\w+|__m\d+\w*|_tile_\w+|__builtin_ia32_(?!pause|rdtsc|cpu_)\w+)\b"
    r"|#include <(?:imm|x86|xmm|emm|amx)\w*\.h>")
LEVELS = ("avx2", "avx512", "amx")
INTRINSIC_FILES = re.compile(r"_(avx2|avx512|amx)\w*\.[ch]$|_tmpl\.h$")

problems = []
warnings = []


def fail(path, line, text):
    problems.append(f"{path}:{line}: {text}")


def warn(path, line, text):
    warnings.append(f"{path}:{line}: {text}")


def limit(path, line, what, value, bounds):
    if value > bounds[1]:
        fail(path, line, f"{what} {value}, at most {bounds[1]}")
    elif value > bounds[0]:
        warn(path, line, f"{what} {value}, aim below {bounds[0]}")


def blank(text):
    """The text with comments, strings and characters blanked; lines stay where they are."""
    pattern = re.compile(r"//[^\n]*|/\*.*?\*/"
                         r"|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)

    def replace(match):
        token = match.group(0)
        quote = token[0] if token[0] in "\"'" else " "
        middle = re.sub(r"[^\n]", " ", token[1:-1])
        return quote + middle + quote if len(token) > 1 else token

    return pattern.sub(replace, text)


FUNCTION = re.compile(r"^(?!typedef|struct|union|enum|#|extern|else|\s)"
                      r"([A-Za-z_][\w \t\*\n]*?[ \*\n])(\w+)\(([^;{}=]*?)\)[^;{}=()]*\{\n", re.M)


def functions(code):
    """(name, first line, lines with the head, arguments, is static) of each definition."""
    for match in FUNCTION.finditer(code):
        end = code.find("\n}", match.end() - 1)
        if end < 0:
            continue
        first = code.count("\n", 0, match.start()) + 1
        last = code.count("\n", 0, end) + 2
        depth = n_arguments = 0
        arguments = match.group(3).strip()
        if arguments and arguments != "void":
            n_arguments = 1
            for c in arguments:
                depth += (c == "(") - (c == ")")
                n_arguments += c == "," and depth == 0
        is_static = re.search(r"\bstatic\b|_INLINE\b", match.group(1)) is not None
        yield match.group(2), first, last - first + 1, n_arguments, is_static


def check_includes(path, text):
    folder = path.parts[1] if path.parts[0] == "src" else None
    includes = re.findall(r'^#include "([^"]+)"', text, re.M)
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r'#include "([^"]+)"', line)
        if not match or folder is None:
            continue
        name = match.group(1)
        if name == "sluice.h":
            if folder not in ("engine", "server", "app"):
                fail(path, number, f"{folder} must not know sluice.h")
            continue
        other = name.split("/")[0]
        if "/" not in name or other not in LAYERS:
            fail(path, number, f'include "{name}": wanted "folder/file.h"')
        elif other != folder and other not in LAYERS[folder].split():
            fail(path, number, f"{folder} must not include {other}")
        elif other != folder and name.endswith("_priv.h"):
            fail(path, number, f"{name} is private to {other}")
    if folder and path.suffix == ".c":
        own = "/".join(path.parts[1:])[:-2] + ".h"
        if pathlib.Path("src", own).exists() and (not includes or includes[0] != own):
            fail(path, 1, f'"{own}" must be the first include')


def check_code(path, code):
    where = "/".join(path.parts[1:])
    for names, allowed in BANNED.items():
        if allowed and (where == allowed or where.startswith(allowed + "/")):
            continue
        if path.parts[0] != "src" and allowed:
            continue
        for match in re.finditer(rf"(?<![\w.>])({names})\s*\(", code):
            fail(path, code.count("\n", 0, match.start()) + 1,
                 f"{match.group(1)} is not to be used here")
    if path.parts[0] == "src" and not INTRINSIC_FILES.search(path.name):
        for match in INTRINSICS.finditer(code):
            fail(path, code.count("\n", 0, match.start()) + 1,
                 f"intrinsics ({match.group(0)}) only in files whose name ends in their level")
    # A static or file-level variable that is not const holds state that no handle owns.
    variable = r"^\s*static (?!inline|const)([^(;={]*?)(\[[^;=]*)?\s*(=[^;]*)?;"
    for match in re.finditer(variable, code, re.M):
        text = match.group(0)
        is_const = re.search(r"\bconst\b", text) or "(" in match.group(1)
        if path.parts[0] == "src" and not is_const and where != "base/log.c":
            fail(path, code.count("\n", 0, match.start(1)) + 1, "a mutable global")


def check_functions(path, code):
    where = "/".join(path.parts[1:])[: -len(path.suffix)]
    stems = [path.stem] + EXTRA_STEMS.get(where, [])
    in_ops = path.parts[0] == "src" and path.parts[1] == "ops"
    for name, line, lines, arguments, is_static in functions(code):
        limit(path, line, f"{name} has lines:", lines, KERNEL_LINES if in_ops else FUNCTION_LINES)
        if arguments > ARGUMENTS:
            warn(path, line, f"{name} has {arguments} arguments")
        if path.parts[0] != "src" or is_static or path.suffix != ".c":
            continue
        if name == "main" or (name.startswith("sluice_") and path.parts[1] == "engine"):
            continue
        level = path.stem.split("_")[-1]  # cpu_linear_x_avx2 is in any cpu_linear_*_avx2.c
        if level in LEVELS and name.endswith("_" + level):
            stems = stems + ["_".join(path.stem.split("_")[:2])]
        if not any(name == stem or name.startswith(stem + "_") for stem in stems):
            fail(path, line, f"public function {name} must begin with {' or '.join(stems)}")


def check_header(path, text):
    first = text.split("\n", 1)[0]
    if not re.match(rf"/\* {re.escape(path.stem)}(\.h)?: \S", first):
        fail(path, 1, f'a header begins with "/* {path.stem}: one sentence"')
    repeated = path.parts[0] == "include" or path.name.endswith("_tmpl.h")
    if not repeated and "\n#pragma once\n" not in text:
        fail(path, 1, "no #pragma once")
    if path.parts[0] == "src" and not path.name.endswith(("_table.h", "_tmpl.h")):
        limit(path, 1, "lines:", text.count("\n"), HEADER_LINES)


def check_text(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        columns = LINE_COLUMNS if path.suffix in (".c", ".h") else SCRIPT_COLUMNS
        is_case_table = path.parts[0] == "tools" and path.name.startswith("make_")
        if len(line) > columns and not is_case_table:
            fail(path, number, f"{len(line)} columns, at most {columns}")
        if line != line.rstrip():
            fail(path, number, "white space at the end of the line")
        if path.suffix in (".c", ".h") and "\t" in line:
            fail(path, number, "a tab")
        if re.search(r"\bFIXME\b|\bXXX\b", line) and path.name != "tidy.py":
            fail(path, number, "FIXME does not land")
        if re.search(r"^(<{7}|>{7})( |$)", line):
            fail(path, number, "a merge conflict")
        if "-ffast-math" in line and path.name in ("Makefile",):
            fail(path, number, "-ffast-math changes results")
    if text and not text.endswith("\n"):
        fail(path, text.count("\n") + 1, "no newline at the end")
    if text.endswith("\n\n"):
        fail(path, text.count("\n"), "blank lines at the end")


def main():
    top = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True)
    root = pathlib.Path(top.stdout.strip() or pathlib.Path(__file__).parent.parent)
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=root, capture_output=True, text=True).stdout
    names = [name for name in listed.split("\0") if name and (root / name).is_file()]
    if not names:  # an unpacked archive
        names = [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]
        names = [name for name in names if not name.startswith(("build/", ".git/"))]
    os.chdir(root)
    c_files = [pathlib.Path(n) for n in names if n.endswith((".c", ".h"))]
    if "--list-c" in sys.argv:
        print("\n".join(map(str, c_files)))
        return 0

    stems = collections.defaultdict(set)
    folders = collections.Counter()
    for path in c_files:
        text = path.read_text(encoding="utf-8")
        code = blank(text)
        check_text(path, text)
        check_includes(path, text)
        check_code(path, code)
        check_functions(path, code)
        if not path.name.endswith("_table.h"):
            limit(path, 1, "lines:", text.count("\n"), FILE_LINES)
        if path.suffix == ".h":
            check_header(path, text)
        if path.parts[0] in ("src", "tests"):
            stems[path.name].add(str(path.parent))
            folders[path.parent] += 1
        if path.parts[0] == "tests" and path.name.startswith("test_"):
            if not text.startswith(f"/* {path.stem}: "):
                fail(path, 1, f'a test begins with "/* {path.stem}: its goal and method"')
    for name, where in stems.items():
        if len(where) > 1:
            fail(name, 1, f"the name is not unique: {', '.join(sorted(where))}")
    for folder, count in folders.items():
        if count > FOLDER_FILES * 2:
            warn(folder, 1, f"{count} files")
    for name in names:
        path = pathlib.Path(name)
        if path.suffix in (".sh", ".py", ".md") or path.name in ("Makefile", "run"):
            text = path.read_text(encoding="utf-8")
            if path.suffix != ".md" and path.name != "Makefile":
                check_text(path, text)

    if "--warn" in sys.argv:
        print("\n".join(warnings))
    print("\n".join(sorted(problems)) if problems else f"tidy: {len(c_files)} files, ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
