#!/usr/bin/env python3
"""Compares the template interpreter with Python's Jinja2 on random small templates.

usage: tools/fuzz_jinja.py [--program build/release/tests/text/test_jinja] [--seed N] [--count N]
Needs jinja2 3.1.6; set up as Hugging Face transformers sets it up. Prints every template that the two
render differently, and the differing texts; exit status 1 when there was one. Where both raise, the type of
the exception must agree with --strict.
"""

import argparse
import json
import random
import subprocess
import sys
import warnings

from jinja_reference import render

STRINGS = [
    "",
    "a",
    "abc",
    "Hello World",
    "  pad  ",
    "A-b c.d",
    "x,y,z",
    "line1\nline2\n\nl4",
    "ünï ÇÖDÉ ß",
    "日本語 text",
    "12",
    "-7",
    " 42 ",
    "1.5",
    "1e3",
    "0x1f",
    "it's",
    'say "hi"',
    "<b>&amp;</b>",
    "a b  c   d",
    "tab\there",
    "%s-%d",
    "{0} {x}",
    "ÀÉ",
    "🤗 ok",
    "ﬁn",
    "foo bar baz qux quux",
    "10",
    "True",
    "a.b.c",
    "supercalifragilistic-expialidocious word",
    "aXbXc",
    "\\back",
    "\x07bell",
]
NUMBERS = [
    "0",
    "1",
    "2",
    "3",
    "-1",
    "-5",
    "7",
    "10",
    "255",
    "1000",
    "123456789",
    "0.0",
    "1.5",
    "-2.5",
    "3.14159",
    "1e10",
    "1e-5",
    "1e100",
    "0.1",
    "2.675",
    "1_000",
    "100.0",
    "1e16",
    "123456.789",
    "true",
    "false",
]
OTHERS = [
    "none",
    "[]",
    "{}",
    "()",
    "[1, 2, 3]",
    "['b', 'A', 'c']",
    "[3, 1, 2]",
    "(1, 'a')",
    "{'a': 1, 'b': 2}",
    "{'B': 1, 'a': 2, 'c': 0}",
    "[[1, 2], [3, 4]]",
    "[{'k': 1, 'v': 'x'}, {'k': 2, 'v': 'Y'}, {'k': 1, 'v': 'z'}]",
    "undef",
    "range(5)",
    "range(10, 0, -3)",
    "[none, 1, 'a', 1.5, true]",
    "{1: 'x', 2.5: none, none: [1]}",
    "['a', 'b', 'a', 'A']",
    "items",
    "user",
    "text",
    "user.name",
    "user.tags",
    "nested",
    "user.missing",
    "[1, 1.0, true]",
    "['x' * 30, 'y' * 30, 'z' * 30]",
    "{'long': 'word ' * 20, 'z': [1] * 40}",
    "range(0)",
]
VARIABLES = {
    "text": "The quick brown fox jumps over the lazy dog.",
    "user": {"name": "Ann", "age": 33, "tags": ["x", "Y", "z"], "admin": True, "score": 2.5, "none": None},
    "items": [{"name": "b", "n": 2, "on": True}, {"name": "A", "n": 1, "on": False}, {"name": "c", "n": 3}],
    "nested": {"a": {"b": {"c": [1, {"d": "deep"}]}}, "list": [[1], [2, [3]]]},
}
FILTERS = {
    "abs": [""],
    "capitalize": [""],
    "center": ["", "(20)", "(width=9)"],
    "count": [""],
    "length": [""],
    "default": ["", "('d')", "('d', true)", "(boolean=true)", "(default_value=3)"],
    "d": ["('x')"],
    "dictsort": ["", "(true)", "(by='value')", "(reverse=true)", "(false, 'value', true)"],
    "escape": [""],
    "e": [""],
    "filesizeformat": ["", "(true)"],
    "first": [""],
    "last": [""],
    "float": ["", "(2.5)", "(default='x')"],
    "forceescape": [""],
    "format": ["('a')", "(1)", "(1, 2)", "(x=1)"],
    "groupby": ["('k')|list", "('k')", "('name')", "('v', default='q')", "('v', case_sensitive=true)"],
    "indent": ["", "(2)", "(2, true)", "(blank=true)", "('> ')", "(first=true, width=3)"],
    "int": ["", "(5)", "(default=7)", "(0, 16)", "(0, 0)", "(base=2)"],
    "join": ["", "(', ')", "('-', 'k')", "(attribute='name')", "(1)"],
    "list": [""],
    "lower": [""],
    "upper": [""],
    "items": ["|list"],
    "map": [
        "('upper')|list",
        "(attribute='name')|list",
        "(attribute='zz', default='q')|list",
        "('default', 'z')|join(',')",
        "('int')|sum",
        "('string')|list",
        "(attribute='k')|list",
        "('nope')|list",
        "('length')|list",
        "()|list",
    ],
    "min": ["", "(attribute='n')", "(true)"],
    "max": ["", "(attribute='n')", "(case_sensitive=true)"],
    "pprint": [""],
    "reject": ["|list", "('odd')|list", "('string')|list", "('in', [1, 2])|list"],
    "rejectattr": ["('on')|list", "('k', 'equalto', 1)|list"],
    "select": ["|list", "('odd')|list", "('number')|list", "('divisibleby', 3)|list", "('greaterthan', 1)|list"],
    "selectattr": [
        "('on')|list",
        "('name', 'in', ['b'])|list",
        "('n', 'ge', 2)|map(attribute='name')|join",
        "('k', 'defined')|list",
    ],
    "replace": ["('a', 'b')", "('l', '', 1)", "('', '.')", "('o', 'Ö', count=1)", "(1, 2)"],
    "reverse": ["", "|list"],
    "round": ["", "(1)", "(2)", "(0, 'ceil')", "(1, 'floor')", "(-1)", "(method='ceil')", "(2, 'xx')"],
    "safe": [""],
    "slice": ["(2)|list", "(3, 'f')|list", "(0)|list"],
    "batch": ["(2)|list", "(3, '-')|list"],
    "sort": [
        "",
        "(true)",
        "(case_sensitive=true)",
        "(attribute='name')",
        "(attribute='n', reverse=true)",
        "(attribute='k,v')",
    ],
    "string": [""],
    "striptags": [""],
    "sum": ["", "('n')", "(start=10)", "(attribute='k')"],
    "title": [""],
    "tojson": [
        "",
        "(indent=2)",
        "(sort_keys=true)",
        "(separators=(',', ':'))",
        "(ensure_ascii=true)",
        "(indent='--')",
        "(true)",
    ],
    "trim": ["", "('a')", "(chars='x ')"],
    "truncate": ["(9)", "(5, true)", "(9, false, '..')", "(3, leeway=0)", "(1)", ""],
    "unique": ["|list", "(true)|list", "(attribute='k')|list"],
    "urlencode": [""],
    "wordcount": [""],
    "wordwrap": ["(10)", "(5)", "(7, false)", "(12, wrapstring='|')", "(8, break_on_hyphens=false)"],
    "xmlattr": ["", "(false)"],
    "attr": ["('name')", "('upper')", "('zz')"],
}
TESTS = [
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "integer",
    "float",
    "number",
    "string",
    "mapping",
    "sequence",
    "iterable",
    "callable",
    "odd",
    "even",
    "divisibleby(3)",
    "divisibleby 2",
    "lower",
    "upper",
    "escaped",
    "eq(1)",
    "eq 'a'",
    "ne(2)",
    "gt(1)",
    "lt(1)",
    "ge 2",
    "le 2",
    "in([1, 2])",
    "in 'abc'",
    "sameas(none)",
    "equalto('abc')",
    "filter",
    "test",
    "==(1)",
    "not none",
    "not in([3])",
    "nope",
]
METHODS = [
    "upper()",
    "lower()",
    "title()",
    "capitalize()",
    "strip()",
    "lstrip()",
    "rstrip()",
    "strip('a ')",
    "split()",
    "split(' ')",
    "split(',', 1)",
    "split(none, 1)",
    "rsplit(' ', 1)",
    "rsplit()",
    "rsplit(none, 2)",
    "split('')",
    "splitlines()",
    "splitlines(true)",
    "replace('a', 'b')",
    "replace('o', '0', 1)",
    "startswith('a')",
    "startswith(('H', 'a'))",
    "endswith('c')",
    "endswith('d', 0, 3)",
    "find('o')",
    "rfind('o')",
    "find('b', 1)",
    "index('a')",
    "count('l')",
    "count('')",
    "join(['x', 'y'])",
    "join('abc')",
    "join([1])",
    "zfill(6)",
    "center(11)",
    "center(12, '*')",
    "ljust(8, '.')",
    "rjust(8)",
    "partition(' ')",
    "rpartition(' ')",
    "isdigit()",
    "isalpha()",
    "isalnum()",
    "isspace()",
    "isupper()",
    "islower()",
    "istitle()",
    "isnumeric()",
    "isdecimal()",
    "isascii()",
    "isprintable()",
    "isidentifier()",
    "swapcase()",
    "casefold()",
    "removeprefix('a')",
    "removesuffix('c')",
    "expandtabs(4)",
    "format(1, x=2)",
    "format('a', x='b')",
    "items()|list",
    "keys()|list",
    "values()|list",
    "get('a')",
    "get('zz', 5)",
    "get('a', default=1)",
    "append(1)",
    "pop()",
    "update({})",
    "index(1)",
    "count(1)",
    "copy()",
    "items()",
    "keys()",
    "values()",
    "nope()",
    "upper",
    "items",
    "append",
]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or"]
FORMATS = [
    "%s",
    "%d",
    "%5d",
    "%-5d|",
    "%05d",
    "%+d",
    "%.2f",
    "%8.3f",
    "%e",
    "%g",
    "%x",
    "%X",
    "%o",
    "%#x",
    "%c",
    "%r",
    "%5s|",
    "%-5s|",
    "%.2s",
    "%%",
    "%i",
    "%G",
    "%5.1f|",
    "% d",
    "%a",
    "%s %s",
    "%(a)s",
    "%08.2f",
    "%.0f",
    "%.3d",
]
SPECS = [
    "",
    "d",
    "5",
    "<5",
    ">5",
    "^5",
    "05",
    "+",
    ",",
    "_",
    ".2f",
    "8.3f",
    "e",
    ".1e",
    "g",
    ".3g",
    "%",
    ".1%",
    "x",
    "#x",
    "X",
    "b",
    "o",
    "c",
    "s",
    "*^9",
    "é<6",
    "10,.2f",
    "=+6",
    "010,",
    ".3",
    "5s",
    "n",
    "G",
    "F",
    " d",
    "#b",
    ".0f",
    "+.2e",
    "08.2f",
    "_x",
]


class Generator:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def literal(self):
        kind = self.r.random()
        if kind < 0.4:
            s = self.r.choice(STRINGS)
            return repr(s) if "\x07" not in s else "'\\x07bell'"
        return self.r.choice(NUMBERS) if kind < 0.65 else self.r.choice(OTHERS)

    def call_filter(self):
        name = self.r.choice(list(FILTERS))
        return f"|{name}{self.r.choice(FILTERS[name])}"

    def index(self):
        n = lambda: self.r.choice(["", "0", "1", "2", "-1", "-2", "5", "none"])
        kind = self.r.random()
        if kind < 0.4:
            keys = ["0", "1", "-1", "9", "'a'", "'name'", "'upper'", "none", "undef", "1.0", "true"]
            return f"[{self.r.choice(keys)}]"
        if kind < 0.7:
            return f"[{n()}:{n()}]"
        return f"[{n()}:{n()}:{self.r.choice(['', '1', '2', '-1', '-2', '0'])}]"

    def expr(self, depth=0):
        kind = self.r.random()
        if depth > 2 or kind < 0.12:
            return self.literal()
        if kind < 0.45:
            return f"({self.expr(depth + 1)}){self.call_filter()}"
        if kind < 0.57:
            return f"({self.expr(depth + 2)}).{self.r.choice(METHODS)}"
        if kind < 0.66:
            return f"({self.expr(depth + 1)}){self.index()}"
        if kind < 0.82:
            return f"({self.expr(depth + 1)} {self.r.choice(BINARY)} {self.expr(depth + 1)})"
        if kind < 0.88:
            return f"({self.expr(depth + 1)} is {self.r.choice(['', 'not '])}{self.r.choice(TESTS)})"
        if kind < 0.91:
            return f"({self.expr(depth + 1)} if {self.expr(depth + 1)} else {self.expr(depth + 1)})"
        if kind < 0.94:
            return f"{self.r.choice(['-', '+', 'not '])}({self.expr(depth + 1)})"
        if kind < 0.97:
            return f"'{self.r.choice(FORMATS)}' % ({self.expr(depth + 2)}{self.r.choice(['', ', 2', ','])})"
        return f"'{{:{self.r.choice(SPECS)}}}|{{!r}}'.format({self.expr(depth + 2)}, {self.literal()})"

    def block(self, depth=0):
        sign = lambda: self.r.choice(["", "", "", "-", "+"])
        b = lambda text: "{%" + sign() + " " + text + " " + sign() + "%}"
        ws = lambda: self.r.choice(["", "", " ", "\n", "  \n", "\n  ", "a", " b\n"])
        inner = lambda: (
            ws()
            + (self.block(depth + 1) if depth < 3 and self.r.random() < 0.6 else "{{ " + self.name() + " }}")
            + ws()
        )
        k = self.r.randrange(15)
        if k == 0:
            return b(f"set {self.r.choice('xyz')} = {self.expr(2)}") + inner()
        if k == 1:
            return b(f"for {self.r.choice(['x', 'y', 'x, y', 'k'])} in {self.expr(2)}") + inner() + b("endfor")
        if k == 2:
            test = self.r.choice(["x", "loop", "x != y", "x is odd", "true"])
            return b(f"for x in [1, 2, 3, 4] if {test}") + inner() + b("else") + inner() + b("endfor")
        if k == 3:
            attr = self.r.choice(
                [
                    "index",
                    "index0",
                    "first",
                    "last",
                    "length",
                    "revindex",
                    "revindex0",
                    "previtem",
                    "nextitem",
                    "depth",
                    "cycle('a', 'b')",
                    "changed(x)",
                ]
            )
            source = self.r.choice(["[1, 2, 2]", "items", "range(3)", "[1, 2]|map('string')", "[]"])
            return b(f"for x in {source}") + "{{ loop." + attr + " }}" + inner() + b("endfor")
        if k == 4:
            return (
                b(f"if {self.expr(2)}")
                + inner()
                + b(f"elif {self.expr(2)}")
                + inner()
                + b("else")
                + inner()
                + b("endif")
            )
        if k == 5:
            return (
                b(f"macro {self.r.choice('fg')}(x, y={self.literal()})")
                + inner()
                + self.r.choice(["", "{{ varargs }}", "{{ kwargs }}", "{{ caller() if caller else 0 }}"])
                + b("endmacro")
                + inner()
            )
        if k == 6:
            return (
                "{{ "
                + self.r.choice(
                    ["f(1)", "g()", "f(1, 2)", "f(y=3)", "g(1, 2, 3)", "f(z=1)", "f(*[1, 2])", "g(**{'y': 5})"]
                )
                + " }}"
            )
        if k == 7:
            return (
                b(f"call{self.r.choice(['', '(a)'])} {self.r.choice('fg')}({self.r.choice(['', '1'])})")
                + inner()
                + b("endcall")
            )
        if k == 8:
            return (
                b(
                    f"filter {self.r.choice(['upper', 'trim', 'indent(2)', 'replace(chr, x)', 'title|trim', 'length'])}"
                )
                + inner()
                + b("endfilter")
            )
        if k == 9:
            return (
                b(f"set {self.r.choice('xyz')}{self.r.choice(['', ' | upper', ' | trim | length'])}")
                + inner()
                + b("endset")
                + inner()
            )
        if k == 10:
            return b(f"with x = {self.expr(2)}, y = x") + inner() + b("endwith")
        if k == 11:
            return (
                b("set ns = namespace(v=0)")
                + b("for x in [1, 2, 3]")
                + b(f"set ns.v = ns.v + {self.r.choice(['x', '1', 'loop.index'])}")
                + self.r.choice(["", b("if x == 2") + b(self.r.choice(["break", "continue"])) + b("endif")])
                + inner()
                + b("endfor")
                + "{{ ns.v }}"
            )
        if k == 12:
            return "{#" + sign() + " note " + sign() + "#}" + inner()
        if k == 13:
            return (
                b("for x in [[1, [2]], [3]] recursive")
                + "{{ loop.depth }}{{ loop(x) if x is sequence and x is not string else x }}"
                + b("endfor")
            )
        return b("raw") + ws() + "{{ x }}{% y %}" + b("endraw") + inner()

    def name(self):
        return self.r.choice(
            ["x", "y", "z", "k", "text", "user.name", "loop.index", "ns.v", "x ~ y", "x|default('u')"]
        )

    def template(self):
        if self.r.random() < 0.6:
            return "{{ " + self.expr() + " }}"
        return "".join(self.block() + self.r.choice(["", " ", "\n"]) for _ in range(self.r.randrange(1, 4)))


def main():
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="build/release/tests/text/test_jinja")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--show", type=int, default=20)
    args = parser.parse_args()
    program = subprocess.Popen([args.program, "--lines"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    generator, bad, same, errors, refused = Generator(args.seed), 0, 0, 0, {}
    for _ in range(args.count):
        template = generator.template()
        want = render(template, VARIABLES, 0)
        if want is None:
            continue
        program.stdin.write(json.dumps({"template": template, "variables": VARIABLES, "now": 0}) + "\n")
        program.stdin.flush()
        line = program.stdout.readline()
        if not line:
            print("the program died on", repr(template))
            return 1
        got = json.loads(line)
        if "is not supported" in got.get("error", "") or got.get("status") == 6:
            reason = got["error"].split(": ", 1)[1]
            refused[reason] = refused.get(reason, 0) + 1
            continue
        if "out" in want:
            good = got.get("out") == want["out"]
        else:
            good = "error" in got
            if good and args.strict:
                good = want["error"].split(":")[0] in got["error"]
            errors += good
        same += good
        if not good:
            bad += 1
            if bad <= args.show:
                print(repr(template), "\n   want", want, "\n   got ", got)
    print(f"{same} the same ({errors} of them errors), {bad} different, refused: {refused}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
