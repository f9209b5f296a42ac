#!/usr/bin/env python3
"""Writes tests/text/jinja_cases.json: several hundred small templates and what Python's Jinja2 renders.

usage: tools/make_jinja_cases.py > tests/text/jinja_cases.json     (needs jinja2 3.1.6)
The templates are those below and a fixed sample of tools/fuzz_jinja.py's.
"""
import json
import sys
import warnings

from fuzz_jinja import VARIABLES, Generator
from jinja_reference import render

NOW = 1768480200  # 2026-01-15 12:30:00
BY_HAND = [
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -1 ** 2 }} {{ 1 / 3 }}",
    "{{ 1_000 + 0x1f + 0o17 + 0b11 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1e22 }} {{ 1e16 }} {{ 123456789.123 }}",
    "{{ 'a' 'b' ~ 1 ~ none }} {{ 'x' * 3 }} {{ [1] * 2 + [3] }} {{ (1, 2) + (3,) }}",
    "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 in [1.0] }} {{ 'b' not in 'abc' }} {{ not 1 == 2 }}",
    "{{ 'yes' if x is defined else 'no' }}{{ 'only' if false }}|{{ x.y is defined if x else 'u' }}",
    "{{ [1, 'a\\'b', \"q'd\", none, true, 1.0, {'k': (1,)}] }}", "{{ '\\x41\\u00e9\\n\\t\\\\' }}", "{{ 'tab\\tq' | pprint }}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in [1, 2, 3] if x != 2 %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for x in [] %}x{% else %}none{% endfor %}", "{% for x in [1] %}{% continue %}{% else %}E{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}",
    "{% macro m(a, b='d', *c) %}{% endmacro %}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}{{ m(1, 2, 3, z=4) }}",
    "{% macro m() %}<{{ caller('x') }}>{% endmacro %}{% call(v) m() %}{{ v }}{% endcall %}", "{{ m(1) }}", "{% macro m(a) %}[{{ a }}]{% endmacro %}{{ m() }}",
    "{% set ns = namespace(a=1) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns }}{{ ns.b }}",
    "{% set x = 1 %}{% for i in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}", "{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set x | replace('a', 'b') %}aa{% endset %}{{ x }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a }}",
    "{% filter upper | trim %} x {% endfilter %}", "{% raw %}{{ x }}{% endraw %}", "a{# c #}b{#- d -#} e", "  {% if true %}\n  x\n  {% endif %}\ny",
    "  {%+ if true %}x{% endif +%}\ny", "a  {%- if true -%}  b  {%- endif -%}  c", "{% if a %}{% set q = 1 %}{% endif %}{{ q }}", "line\r\nnext\rlast\n",
    "{{ undef }}{{ undef | default('d') }}{{ undef is defined }}{{ undef | length }}{{ undef | list }}", "{{ undef.x }}", "{{ undef + 1 }}", "{{ undef() }}",
    "{{ user.items is callable }}{{ user['items'] is callable }}{{ user.name.upper() }}{{ user.tags.append(1) }}", "{{ [].append }}", "{{ ''.__class__ }}",
    "{{ user.__class__.__mro__ }}", "{{ 'a'.format }}", "{{ '{0.name}|{1[a]}|{x!r:>6}|{{}}'.format(user, {'a': 5}, x='q') }}", "{{ '{}'.format_map({}) }}",
    "{{ '{:>8.3f}|{:+d}|{:,}|{:#x}|{:08.2f}|{:^9}|{:%}'.format(3.14159, 5, 1234567, 255, -2.5, 'mid', 0.25) }}",
    "{{ '%5.1f|%-4d|%04d|%x|%s|%r|%%' % (2.25, 7, 42, 255, 'a', 'b') }}", "{{ '%(a)s-%(b)d' % {'a': 1, 'b': 2} }}", "{{ '%d' % 'x' }}",
    "{{ raise_exception('stop here') }}", "{{ strftime_now('%d %B %Y, %H:%M:%S %j %a %b %y %p') }}", "{{ range(3) }}{{ range(5, 0, -2) | list }}", "{{ range(1000000) }}",
    "{{ dict(a=1, b=2) }}{{ dict([('x', 1)]) }}{{ dict({'q': 1}, r=2) }}", "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}",
    "{% set j = joiner('|') %}{{ j() }}a{{ j() }}b", "{% autoescape true %}{{ '<a>' }}{{ '<b>' | safe }}{{ '<' ~ '>' }}{% endautoescape %}",
    "{% block b %}in {{ user.name }}{% endblock %}{{ self.b() }}", "{% include 'x' %}", "{% if false %}{{ 1 | nofilter }}{% endif %}ok", "{{ 1 | nofilter }}",
    "{{ 'x' is nosuch }}", "{% nosuch %}", "{{ 1 +", "{% if x %}", "{{ 'abc }}", "{{ (1, 2 }}", "{% for %}", "{% set 1 = 2 %}", "{{ a b }}", "{% endfor %}", "{{ [1, 2][5] }}{{ {'a': 1}['b'] }}",
    "{{ 'äöü'.upper() }}{{ 'straße'.upper() }}{{ 'ΑΣ'.lower() }}{{ 'ǆ'.title() }}{{ 'hello wörld'.title() }}{{ 'ß'.capitalize() }}", "{{ 'a🤗b'[1] }}{{ 'a🤗b' | length }}{{ 'a🤗b'[::-1] }}",
    "{{ {'b': 1, 'a': [1.5, none, true, 'é<>&']} | tojson }}{{ {'b': 1, 'a': {}} | tojson(indent=2, sort_keys=true) }}{{ 'é🤗' | tojson(ensure_ascii=true) }}",
    "{{ [3, 1, 2] | sort | join(',') }}{{ ['b', 'A'] | sort }}{{ items | map(attribute='name') | join('+') }}{{ items | selectattr('on') | map(attribute='n') | list }}",
    "{{ [1, 'a'] | sort }}", "{{ items | groupby('on') }}", "{{ 'a\n b' | indent(2, true) }}", "{{ 'one two three' | truncate(9) }}{{ 'one two three four' | wordwrap(8) }}",
    "{{ '<a href=\"x\">T &amp; C</a>' | striptags }}{{ {'a': 1, 'b': '<'} | xmlattr }}{{ 'a b/c?ä' | urlencode }}{{ {'q': 'a b', 'r': 1} | urlencode }}",
    "{{ 42.55 | round(1) }}{{ 42.5 | round }}{{ 2.5 | round | int }}{{ -2.5 | round(0, 'ceil') }}{{ 1234 | filesizeformat }}{{ 10000000 | filesizeformat(true) }}",
    "{{ 'a,b,c'.split(',', 1) }}{{ ' a  b '.split() }}{{ 'a-b'.partition('-') }}{{ 'abc'.replace('', '.') }}{{ 'x'.join(['1', '2']) }}", "{{ messages[0]['role'] }}{% generation %}{{ 1 }}{% endgeneration %}",
    "{{ true + 1 }}{{ true and 'a' or 'b' }}{{ 0 or none }}{{ 1 == true }}{{ 1.0 == 1 }}{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}", "{{ 1 < 'a' }}", "{{ 10 ** 18 }}{{ 1 // 0 }}",
    "{{ [1, 2, 3][1:] }}{{ 'hello'[::2] }}{{ (1, 2, 3)[-2:] }}{{ 'abc'[5:] }}{{ [1, 2, 3][::0] }}", "{% for k, v in user.items() %}{{ k }}={{ v }};{% endfor %}{{ user | dictsort | first }}",
    "{% for c in 'añb' %}[{{ c }}]{% endfor %}{% for i in range(4) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{{ 5 is divisibleby 5 }}{{ 'A' is upper }}{{ 3 is odd and 4 is even }}{{ none is none }}",
]


def main():
    warnings.simplefilter("ignore")
    cases, generator = [], Generator(2026)
    templates = BY_HAND + [generator.template() for _ in range(700)]
    for template in templates:
        result = render(template, VARIABLES, NOW)
        if result is None or len(template) > 600:
            continue
        cases.append([template, result.get("out"), result.get("error")])
    json.dump({"now": NOW, "variables": VARIABLES, "cases": cases}, sys.stdout, ensure_ascii=False, indent=0)
    print()


if __name__ == "__main__":
    main()
