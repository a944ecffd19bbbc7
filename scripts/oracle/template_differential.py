#!/usr/bin/env python3
"""Compares keye's templates with jinja2 on random programs.

Usage: pip install 'jinja2>=3.1.6'
       scripts/oracle/template_differential.py [--batch build/release/tests/e2e/template_batch] [--programs N] [--seed S]

Both must print the same bytes, or both must fail. keye may refuse (and says so) what depends on memory addresses,
integers beyond 64 bits, complex numbers, and jinja2's `set d.x` blocks that change a dict: these are counted apart. Ends with 1 if anything differs.
"""

import argparse
import collections
import json
import random
import re
import subprocess
import sys
import warnings

from jinja_environment import make_environment

warnings.simplefilter("ignore")

VARIABLES = {
    "i0": 0, "i1": 1, "i7": 7, "neg": -3, "big": 1234567890123, "f0": 0.0, "f1": 1.5, "f2": -2.25, "f3": 1e16, "f4": 1e-7, "f5": 2.675, "t": True, "f": False, "none": None,
    "s0": "", "s1": "hello", "s2": "Hello World foo-bar", "s3": "  padded\t\n", "s4": "naïve Ünïcode 你好 😀 ß", "s5": "a,b,,c", "s6": "line1\nline2\r\nline3\n\n  x", "s7": "12", "s8": "-3.5e2", "s9": "<b>&'\"</b>", "s10": "ΑΣ ΑΣΑ ǆ ŉ", "s11": "%s and %d",
    "l0": [], "l1": [1, 2, 3], "l2": ["b", "A", "c", "a"], "l3": [3, 1, 2, 1, 3], "l4": [{"n": "x", "v": 2}, {"n": "Y", "v": 1}, {"n": "x", "v": 3}], "l5": [None, True, 1.5, "s", [1, [2]], {"k": "v"}], "l6": [[1, 2], [3, 4]], "l7": ["x", "", "z"],
    "d0": {}, "d1": {"a": 1, "b": 2}, "d2": {"name": "w", "items": [1, 2], "nested": {"k": [1, {"z": None}]}}, "d3": {"B": 3, "a": 1, "C": 2}, "d4": {"get": 1, "keys": "K", "_p": 5},
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi <|im_end|>"}, {"role": "assistant", "content": "<think>\nr\n</think>\n\nans", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1, "y": "é"}}}]}, {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}],
}
VARIABLES_JSON = json.dumps(VARIABLES)
INTS = ["i0", "i1", "i7", "neg", "0", "1", "2", "3", "5", "-1", "-2", "10", "true", "l1|length", "s2|length", "d1.a", "l3[1]"]
FLOATS = ["f0", "f1", "f2", "f3", "f4", "f5", "1.5", "0.1", "2.0", "1e3", "-0.5", "3.14159"]
STRINGS = [f"s{k}" for k in range(12)] + ["'abc'", "'a b'", '"x\\ny"', "' '", "''", "'é'", "','", "'-'", "'%5.2f'", "'{} {x}'", "messages[0].role", "'A'", "'true'", "'\\u00e9\\x41\\101'", "'aXbXc'", "'\\\\'"]
LISTS = [f"l{k}" for k in range(8)] + ["[]", "[1]", "[1, 2]", "['a', 'b']", "messages", "(1, 2)", "()", "('a',)", "range(3)", "range(5, 1, -2)", "d1.keys()", "d1.values()", "d1.items()", "s1|list"]
DICTS = [f"d{k}" for k in range(5)] + ["{}", "{'a': 1}", "{1: 2, 'x': s1}", "messages[0]", "l4[0]", "dict(a=1)"]
OTHERS = ["none", "missing", "d1.nope", "true", "false", "loop", "l5", "l5[4]", "ns", "range", "namespace(a=1)", "undefinedthing", "s1.upper", "d1['zz']"]

STRING_FILTERS = ["upper", "lower", "capitalize", "title", "trim", "string", "e", "escape", "forceescape", "safe", "wordwrap(@i)", "wordwrap(10, false)", "wordwrap(8, true, '|', false)", "indent", "indent(2)", "indent(@s)", "indent(2, true)", "indent(3, true, true)", "indent(width=1, blank=true)",
                  "replace(@s, @s)", "replace('a', 'bb', 1)", "replace('', '-')", "truncate(@i)", "truncate(5, true)", "truncate(6, false, '.', 0)", "center(@i)", "center(12)", "urlencode", "trim(@s)", "default(@s)", "d('x', true)", "reverse", "format(@a)", "format(@i, @s)", "tojson", "tojson(ensure_ascii=true)", "list|join('.')", "first", "last", "attr('upper')"]
STRING_METHODS = ["upper()", "lower()", "strip()", "lstrip()", "rstrip()", "strip(@s)", "lstrip('h ')", "rstrip('\\n')", "title()", "capitalize()", "swapcase()", "casefold()", "replace(@s, @s)", "replace('o', '0', 1)", "zfill(8)", "ljust(8)", "rjust(8, '*')", "center(9, '-')", "center(8)", "expandtabs(4)", "removeprefix(@s)", "removesuffix('o')", "join(@l)", "join(l2)", "format(@a, x=@a)", "format(1, 2, x='q')"]
STRING_TO_LIST = ["split()", "split(@s)", "split(',')", "split(',', 1)", "split(none, 1)", "rsplit(',', 1)", "rsplit(none, 1)", "rsplit()", "splitlines()", "splitlines(true)", "partition(@s)", "rpartition(',')", "split('</think>')", "split(sep=' ', maxsplit=1)"]
STRING_TO_INT = ["find(@s)", "rfind(@s)", "count(@s)", "index(@s)", "find('o', 2)", "count('', 1, 3)", "rindex('l')", "find('l', -3, -1)"]
STRING_TO_BOOL = ["startswith(@s)", "endswith(@s)", "startswith(('h', 'H'))", "endswith('o', 0, 5)", "isdigit()", "isalpha()", "isalnum()", "islower()", "isupper()", "isspace()", "istitle()", "isnumeric()", "isdecimal()", "isidentifier()", "isprintable()", "isascii()"]
LIST_FILTERS = ["list", "sort", "sort(true)", "sort(case_sensitive=true)", "sort(attribute='n')", "sort(attribute='v,n')", "sort(reverse=true, attribute='v')", "unique|list", "unique(true)|list", "unique(attribute='n')|list", "reverse|list", "reverse", "map('upper')|list", "map('string')|list", "map(attribute='n')|list", "map(attribute='v', default=0)|list", "map('int', 7)|list", "map('default', 'q')|list", "map('nosuch')|list", "map('upper')",
                "select|list", "select('odd')|list", "select('string')|list", "select('divisibleby', 2)|list", "select('gt', 1)|list", "reject|list", "reject('none')|list", "reject('in', l1)|list", "selectattr('n')|list", "selectattr('v', 'gt', 1)|list", "selectattr('n', 'equalto', 'x')|list", "rejectattr('n', 'eq', 'x')|list", "selectattr('role', '==', 'user')|list", "batch(2)|list", "batch(2, 'z')|list", "slice(2)|list", "slice(3, 'f')|list", "groupby('n')", "groupby('v')", "groupby('n', case_sensitive=true)", "groupby('zz', default='q')", "items|list", "dictsort", "select('mapping')|list"]
LIST_TO_ANY = ["first", "last", "min", "max", "sum", "sum(attribute='v')", "sum(start=10)", "min(attribute='v')", "max(case_sensitive=true)", "length", "count", "join", "join(', ')", "join(@s, attribute='n')", "join('-')", "tojson", "tojson(indent=2)", "tojson(indent=0)", "tojson(sort_keys=true)", "tojson(separators=(',', ':'))", "tojson(indent=1, separators=[', ', '='])", "string", "random" if False else "list|length", "pprint" if False else "string", "d(1)", "default([], true)"]
DICT_FILTERS = ["dictsort", "dictsort(true)", "dictsort(false, 'value')", "dictsort(reverse=true)", "items|list", "list", "length", "tojson", "tojson(indent=2, sort_keys=true)", "xmlattr", "urlencode", "string", "first", "last", "sort", "map('upper')|list", "join('+')", "reverse|list"]
DICT_METHODS = ["get('a')", "get('zz', 5)", "get(@s)", "items()", "keys()", "values()", "items()|list", "keys()|list", "copy()", "pop('a')", "update({})", "get('a', none)"]
NUMBER_FILTERS = ["abs", "int", "float", "round", "round(1)", "round(2)", "round(-1)", "round(1, 'floor')", "round(0, 'ceil')", "round(method='ceil')", "string", "filesizeformat", "filesizeformat(true)", "tojson", "default(3)", "int(5)", "e"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "true", "false", "mapping", "sequence", "iterable", "callable", "odd", "even", "divisibleby(2)", "divisibleby 3", "lower", "upper", "eq(@a)", "== 1", "ne(@a)", "gt(1)", "lt(@i)", "ge(0)", "le(5)", "in(@l)", "in l1", "sameas(none)", "sameas true", "escaped", "filter", "test", "equalto 'a'", "greaterthan(0)"]
OPERATORS = ["+", "+", "+", "-", "*", "/", "//", "%", "~", "~", "~", "and", "or", "==", "!=", "<", "<=", ">", ">=", "in", "not in"]
SPECS = ["'%s'", "'%5s|%-5s'", "'%d'", "'%05d'", "'%+.3f'", "'%x %X %o'", "'%r'", "'%g'", "'%e'", "'%%'", "'%.2s'", "'%c'", "'%a'", "'%#x'", "'% d'", "'%(a)s'", "'%*d'", "'%i'", "'%10.3e'", "'%G'"]
BRACES = ["'{}'", "'{0} {1} {0}'", "'{x}'", "'{:>8}'", "'{:^9}'", "'{:*<6}'", "'{:05d}'", "'{:.2f}'", "'{:,}'", "'{:x}'", "'{:#b}'", "'{!r}'", "'{!s:>10}'", "'{:+}'", "'{:e}'", "'{:g}'", "'{:%}'", "'{:.3}'", "'{{}}'", "'{0.a}'", "'{0[a]}'", "'{0[1]}'", "'{:{}}'", "'{:_}'", "'{:010.2f}'", "'{:=+8}'", "'{!a}'", "'{:c}'", "'{:n}'", "'{:o}'", "'{:20,.3f}'", "'{:015,}'", "'{:.0f}'"]


class Programs:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def pick(self, options):
        return self.random.choice(options)

    def chance(self, probability):
        return self.random.random() < probability

    def fill(self, text, depth):
        for mark, make in (("@s", self.string), ("@i", self.integer), ("@l", self.list), ("@a", self.scalar)):
            while mark in text:
                text = text.replace(mark, make(depth + 2), 1)
        return text

    def scalar(self, depth=0):
        return self.random.choices([self.string, self.integer, self.float, self.bool], [4, 3, 1, 1])[0](depth)

    def wrap(self, text):
        return f"({text})" if re.search(r"[^\w.\[\]'\"()]", text) else text

    def any(self, depth=0):
        makers = [self.string, self.integer, self.list, self.dict, self.other, self.bool, self.float]
        return self.random.choices(makers, [6, 3, 5, 2, 1, 2, 1])[0](depth)

    def other(self, depth):
        return self.pick(OTHERS)

    def string(self, depth=0):
        if depth > 3 or self.chance(0.3):
            return self.pick(STRINGS)
        kind = self.random.randrange(12)
        if kind < 3:
            return f"{self.wrap(self.string(depth + 1))}.{self.fill(self.pick(STRING_METHODS), depth)}"
        if kind < 6:
            return f"{self.wrap(self.string(depth + 1))}|{self.fill(self.pick(STRING_FILTERS), depth)}"
        if kind == 6:
            return f"{self.wrap(self.string(depth + 1))} {self.pick(['+', '~', '~', '*'])} {self.wrap(self.pick([self.string, self.any, self.integer])(depth + 1))}"
        if kind == 7:
            return f"{self.wrap(self.string(depth + 1))}[{self.slice(depth)}]"
        if kind == 8:
            return f"{self.wrap(self.list(depth + 1))}|{self.fill(self.pick(LIST_TO_ANY), depth)}"
        if kind == 9:
            return f"{self.pick(SPECS)} % {self.pick([self.any, self.tuple, self.float, self.integer, self.dict])(depth + 1)}".replace("% (", "%(") if self.chance(0.1) else f"{self.pick(SPECS)} % {self.wrap(self.pick([self.any, self.tuple, self.float, self.integer, self.dict])(depth + 1))}"
        if kind == 10:
            return f"{self.pick(BRACES)}.format({self.any(depth + 1)}, {self.any(depth + 1)}, x={self.any(depth + 1)})"
        return self.conditional(self.string, depth)

    def tuple(self, depth):
        return "(" + ", ".join(self.any(depth + 1) for _ in range(self.random.randrange(1, 4))) + ",)"

    def integer(self, depth=0):
        if depth > 3 or self.chance(0.4):
            return self.pick(INTS)
        kind = self.random.randrange(7)
        if kind == 0:
            return f"{self.wrap(self.integer(depth + 1))} {self.pick(['+', '-', '*', '//', '%', '/'])} {self.wrap(self.integer(depth + 1))}"
        if kind == 1:
            return f"{self.wrap(self.string(depth + 1))}.{self.fill(self.pick(STRING_TO_INT), depth)}"
        if kind == 2:
            return f"{self.wrap(self.list(depth + 1))}|length"
        if kind == 3:
            return f"{self.wrap(self.pick([self.integer, self.string, self.float, self.any])(depth + 1))}|{self.pick(NUMBER_FILTERS)}"
        if kind == 4:
            return f"-{self.wrap(self.integer(depth + 1))}"
        if kind == 5:
            return f"{self.wrap(self.integer(depth + 1))} ** {self.pick(['2', '3', '0', '-1', '0.5'])}"
        return self.conditional(self.integer, depth)

    def float(self, depth=0):
        if depth > 2 or self.chance(0.5):
            return self.pick(FLOATS)
        if self.chance(0.5):
            return f"{self.wrap(self.float(depth + 1))} {self.pick(['+', '-', '*', '/', '//', '%'])} {self.wrap(self.pick([self.float, self.integer])(depth + 1))}"
        return f"{self.wrap(self.float(depth + 1))}|{self.pick(NUMBER_FILTERS)}"

    def bool(self, depth=0):
        if depth > 3:
            return self.pick(["true", "false", "t", "f"])
        kind = self.random.randrange(6)
        if kind == 0:
            return f"{self.wrap(self.any(depth + 1))} is {self.pick(['', 'not '])}{self.fill(self.pick(TESTS), depth)}"
        if kind == 1:
            same = self.pick([self.string, self.integer, self.list, self.any])
            return f"{self.wrap(same(depth + 1))} {self.pick(['==', '!=', '<', '<=', '>', '>='])} {self.wrap(same(depth + 1))}"
        if kind == 2:
            return f"{self.wrap(self.any(depth + 1))} {self.pick(['in', 'not in'])} {self.wrap(self.pick([self.string, self.list, self.dict, self.any])(depth + 1))}"
        if kind == 3:
            return f"{self.wrap(self.string(depth + 1))}.{self.fill(self.pick(STRING_TO_BOOL), depth)}"
        if kind == 4:
            return f"not {self.wrap(self.any(depth + 1))}"
        return f"{self.wrap(self.integer(depth + 1))} < {self.integer(depth + 2)} <= {self.wrap(self.integer(depth + 1))}"

    def list(self, depth=0):
        if depth > 3 or self.chance(0.3):
            return self.pick(LISTS)
        kind = self.random.randrange(8)
        if kind < 3:
            return f"{self.wrap(self.list(depth + 1))}|{self.fill(self.pick(LIST_FILTERS), depth)}"
        if kind == 3:
            return f"{self.wrap(self.list(depth + 1))}[{self.slice(depth)}]"
        if kind == 4:
            return "[" + ", ".join(self.any(depth + 1) for _ in range(self.random.randrange(4))) + "]"
        if kind == 5:
            return f"{self.wrap(self.string(depth + 1))}.{self.fill(self.pick(STRING_TO_LIST), depth)}"
        if kind == 6:
            return f"{self.wrap(self.list(depth + 1))} {self.pick(['+', '*'])} {self.wrap(self.pick([self.list, self.integer])(depth + 1))}"
        return self.conditional(self.list, depth)

    def dict(self, depth=0):
        if depth > 3 or self.chance(0.4):
            return self.pick(DICTS)
        kind = self.random.randrange(5)
        if kind == 0:
            return f"{self.wrap(self.dict(depth + 1))}.{self.fill(self.pick(DICT_METHODS), depth)}"
        if kind == 1:
            return f"{self.wrap(self.dict(depth + 1))}|{self.fill(self.pick(DICT_FILTERS), depth)}"
        if kind == 2:
            return "{" + ", ".join(f"{self.pick([self.string, self.integer])(3)}: {self.any(depth + 1)}" for _ in range(self.random.randrange(4))) + "}"
        if kind == 3:
            return f"{self.wrap(self.dict(depth + 1))}{self.pick(['.a', '.items', '.name', '.get', '.zz', '.nested.k', '[@s]', '.keys', '._p', '.__class__', '.a.b'])}".replace("@s", self.string(3))
        return f"dict({self.pick(['', 'd1, ', '[(1, 2)], '])}a={self.any(depth + 1)})"

    def slice(self, depth):
        part = lambda: self.pick(["", "", "0", "1", "2", "-1", "-2", "100", "i1", "neg"])
        kind = self.random.randrange(4)
        if kind == 0:
            return self.pick(["0", "1", "-1", "-2", "5", "i7", "'a'", "'upper'", "1.0", "true", self.integer(3)])
        if kind == 1:
            return f"{part()}:{part()}"
        return f"{part()}:{part()}:{self.pick(['', '1', '2', '-1', '-2', '0', '3'])}"

    def conditional(self, make, depth):
        tail = f" else {make(depth + 1)}" if self.chance(0.8) else ""
        return f"({make(depth + 1)} if {self.bool(depth + 1)}{tail})"

    # Statements.
    def tag(self, text):
        return "{%" + self.pick(["", "", "", "-", "+"]) + f" {text} " + self.pick(["", "", "", "-", "+"]) + "%}"

    def text(self):
        return self.pick(["", " ", "\n", "x", "  y\n", "\n  ", "\t\n", "a b\n\n", "{", "}", "# ", "%}", "é "])

    def output(self):
        return "{{" + self.pick(["", "", "", "-"]) + f" {self.any()} " + self.pick(["", "", "", "-"]) + "}}"

    def name(self):
        return self.pick(["x", "y", "z", "s1", "l1", "x", "y", "item"])

    def block(self, depth, loop=False):
        return "".join(self.text() + self.statement(depth, loop) for _ in range(self.random.randrange(1, 4))) + self.text()

    def statement(self, depth, loop=False):
        if depth > 3:
            return self.output()
        kind = self.random.randrange(20)
        inner = lambda looped=loop: self.block(depth + 1, looped)
        if kind < 5:
            return self.output()
        if kind < 8:
            of_loop = ["loop.index", "loop.last", "loop.length", "loop.previtem", "loop.nextitem", "loop.revindex0", "loop.first", "loop.cycle('a', 'b')", "loop.changed(x)", "loop.depth"]
            rare = ["x.upper()", "ns.a", "ns.b", "m(1)", "m()", "m(x, y=2)", "caller()", "j()", "c.next()", "loop", "ns", "m", "m.name", "c.current"]
            always = ["x", "y", "z", "item", "x|d('-')", "varargs", "kwargs", "x is defined", "k", "v"]
            return "{{ " + self.pick(always + of_loop if loop and self.chance(0.7) else rare if self.chance(0.3) else always) + " }}"
        if kind < 10:
            return self.tag(f"set {self.pick([self.name(), self.name(), 'ns.a', 'ns.b', 'x, y', 'ns', 'c', 'j'])} = {self.pick([self.any(), self.any(), '1, 2', 'namespace(a=x, b=[])', 'cycler(1, 2, 3)', 'joiner()', 'x', 'ns.a'])}")
        if kind == 10:
            return self.tag(f"set {self.pick([self.name(), 'ns.a'])}{self.pick(['', '|upper', '|trim|length', '|replace(x, y)'])}") + inner(False) + self.tag("endset")
        if kind == 11:
            middle = self.pick(["", self.tag(f"elif {self.bool()}") + inner(), self.tag("else") + inner(), self.tag(f"elif {self.pick(['x', 'y'])}") + inner() + self.tag("else") + inner()])
            return self.tag(f"if {self.pick([self.bool(), 'x', 'x is defined', 'loop.first' if loop else 'y'])}") + inner() + middle + self.tag("endif")
        if kind < 15:
            target = self.pick(["x", "y", "item", "x, y", "k, v", "x"])
            source = self.pick([self.list(), self.list(), "l1", "l6", "d1.items()", "d1|items", "[[1, [2, [3]]]]", "messages[::-1]", "range(4)", "x"])
            test = self.pick(["", "", "", f" if {self.bool()}", " if x", " if x is odd"])
            recursive = self.pick(["", "", "", "", " recursive"])
            otherwise = self.pick(["", "", self.tag("else") + inner()])
            body = inner(True)
            if recursive and self.chance(0.6):
                body += "{% if x is sequence and x is not string and loop.depth < 4 %}{{ loop(x) }}{% endif %}"
            if self.chance(0.15):
                body += self.tag(f"if {self.pick(['x', 'loop.index > 1', self.bool()])}") + self.tag(self.pick(["break", "continue"])) + self.tag("endif") + inner(True)
            return self.tag(f"for {target} in {source}{test}{recursive}") + body + otherwise + self.tag("endfor")
        if kind == 15:
            signature = self.pick(["()", "(x)", "(x, y=2)", "(x=1, y=x)", "(a, b='q', c=none)"])
            return self.tag(f"macro m{signature}") + self.block(depth + 1) + self.tag("endmacro") + "{{ m(" + self.pick(["", "1", "1, 2", "x", "y=3", "1, 2, 3, z=4", "*l1", "**d1", self.any()]) + ") }}"
        if kind == 16:
            return self.tag(f"call{self.pick(['', '', '(x)', '(x, y=1)'])} m({self.pick(['', '1', 'x'])})") + self.block(depth + 1) + self.tag("endcall")
        if kind == 17:
            return self.tag(f"with {self.pick(['', 'x = 5', 'x = y, y = x', 'x = ' + self.any()])}") + inner() + self.tag("endwith")
        if kind == 18:
            return self.tag(f"filter {self.pick(['upper', 'trim', 'replace(x, y)', 'indent(2)|upper', 'title'])}") + inner(False) + self.tag("endfilter")
        return self.pick(["{# comment #}", "{#- c -#}", "{% raw %}{{ x }}{% endraw %}", "{%- raw -%} {% x %} {%- endraw -%}", self.tag("generation") + self.block(depth + 1) + self.tag("endgeneration"), "{% print x, y %}", self.tag("break") if loop else "", self.tag("continue") if loop else ""])

    def program(self):
        program = self.whole_program()
        return self.mutilated(program) if self.chance(0.1) else program

    def mutilated(self, program):
        tokens = re.findall(r"\s+|\w+|\{[{%#][-+]?|[-+]?[}%#]\}|.", program, re.S)
        at = self.random.randrange(len(tokens))
        other = self.pick(tokens)
        change = self.random.randrange(4)
        if change == 0:
            del tokens[at]
        elif change == 1:
            tokens.insert(at, other)
        elif change == 2:
            tokens[at] = other
        else:
            tokens[at] = tokens[at][1:] + self.pick(["", "'", "(", "]", "{", "%}", "{#", "\\", "}}", "-"])
        return "".join(tokens)

    def whole_program(self):
        kind = self.random.randrange(10)
        if kind < 4:
            return "{{ " + self.any() + " }}"
        start = self.pick(["", "{% set ns = namespace(a=1, b='q') %}", "{% set ns = namespace(a=1) %}{% macro m(x, y=1) %}<{{ x }}{{ y }}{{ caller() if caller else '' }}>{% endmacro %}", "{% set c = cycler(1, 2) %}{% set j = joiner('; ') %}{% macro m() %}{{ varargs }}{{ kwargs }}{{ caller(1) }}{% endmacro %}", "{% macro m(x) %}{{ caller(x) }}{{ y }}{% endmacro %}{% set y = 4 %}"])
        return start + self.block(0)


REFUSALS = re.compile(r"beyond 64 bits|not supported|address|complex|is not a namespace|more than \d+ (steps|bytes|items)")


def expected_of(environment, template):
    try:
        return environment.from_string(template).render(**json.loads(VARIABLES_JSON))  # a failing filter may change a list
    except RecursionError:
        return RecursionError
    except Exception as error:  # whatever Python raises
        return error


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", default="build/release/tests/e2e/template_batch")
    parser.add_argument("--programs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=20, help="how many differences to print")
    arguments = parser.parse_args()
    environment = make_environment()
    programs = Programs(arguments.seed)
    counts = collections.Counter()
    shown = 0
    size = 5000
    for begin in range(0, arguments.programs, size):
        templates = [programs.program() for _ in range(min(size, arguments.programs - begin))]
        jobs = "".join(json.dumps({"template": t, "variables": VARIABLES}) + "\n" for t in templates)
        done = subprocess.run([arguments.batch], input=jobs, capture_output=True, text=True)
        answers = done.stdout.split("\n")[:-1]
        if len(answers) != len(templates):
            print(f"the program ended early, at {templates[len(answers)]!r}: {done.stderr[-2000:]}")
            return 1
        for template, line in zip(templates, answers):
            answer = json.loads(line)
            expected = expected_of(environment, template)
            failed = not isinstance(expected, str)
            if failed and "text" not in answer:
                counts["both fail"] += 1
            elif not failed and answer.get("text") == expected:
                counts["same text"] += 1
            elif expected is RecursionError or (not failed and " at 0x" in expected):
                counts["depends on Python's memory"] += 1
            elif not failed and "has no slices" in answer.get("error", ""):
                counts["slices of constants, which jinja2 folds by other rules"] += 1
            elif not failed and "error" in answer and REFUSALS.search(answer["error"]):
                counts["refused"] += 1
            else:
                counts["DIFFERENT"] += 1
                shown += 1
                if shown <= arguments.show:
                    print(f"template {template!r}\n  jinja2 {expected!r}\n  keye   {answer}", flush=True)
    print(", ".join(f"{count} {name}" for name, count in counts.most_common()))
    return 1 if counts["DIFFERENT"] else 0


if __name__ == "__main__":
    sys.exit(main())
