"""Every regular expression of the package, how it is asked, and the texts that would keep a bad one busy.

A pattern that backtracks takes a time that grows with the square of the text, or worse. Which texts those are
follows from the pattern: for each of its repetitions what leads there, then what repeats, then what fits no more.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import mailwatch
from mailwatch.probes import classify

PACKAGE = Path(mailwatch.__file__).parent
ASKED = ("search", "match", "fullmatch", "sub", "split", "findall", "finditer")
ANCHORED = frozenset({"match", "fullmatch"})
SIZE = 400
MORE = 4
"""How many times longer the second text is: linear work grows by as much, quadratic by its square."""
TINY, ENDLESS = 22, 0.02
"""Letters that no pattern needs so many seconds for, unless each doubles the work."""
TOO_MUCH, DOUBTFUL = 9.0, 6.0
NOTICED = 0.003
"""Seconds of processor time below which a growth cannot be distinguished from noise."""
LONGER = 2
"""How many times longer the texts are where nothing was noticed."""
ENDS = ("\n", "!", "\0 ")


@dataclass(frozen=True, slots=True)
class UsedPattern:
    """A pattern, where it stands, and by which methods it is asked."""

    where: str
    pattern: re.Pattern[str] | re.Pattern[bytes]
    by: frozenset[str]


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if "migrations" not in path.parts:
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(path.read_text())


def every() -> list[UsedPattern]:
    """Collect all: what modules hold, what is written where it is asked, and the rows of replies.toml."""
    return [*_inline(), *_held(), *_rows()]


def _rows() -> Iterator[UsedPattern]:
    for row in classify.rows():
        for pattern in (row.words, row.not_words):
            if pattern is not None:
                yield UsedPattern(f"replies.toml: {row.id}", pattern, frozenset({"search"}))


def _inline() -> Iterator[UsedPattern]:
    """Patterns in calls such as re.search("...", text); what is put together is asked with a stand-in inside."""
    for name, tree in modules():
        named = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            of = node.func.value
            if not (isinstance(of, ast.Name) and of.id == "re" and node.func.attr in ASKED):
                continue
            given = node.args[0]
            written = named.get(given.id, given) if isinstance(given, ast.Name) else given
            yield UsedPattern(f"{name}:{node.lineno}", _written(written), frozenset({node.func.attr}))


def _written(node: ast.expr) -> re.Pattern[str] | re.Pattern[bytes]:
    match node:
        case ast.Constant(value=str() | bytes() as text):
            return re.compile(text)
        case ast.JoinedStr():
            return re.compile("".join(_part(each) for each in node.values))
        case ast.Call():  # re.escape(secret)
            return re.compile("secret")
    raise AssertionError(f"line {node.lineno}: a pattern that this test cannot read: {ast.unparse(node)}")


def _part(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "40" if "long" in ast.unparse(node) else "word"


def _held() -> Iterator[UsedPattern]:
    """Patterns that modules hold, also in their tuples, dicts and shapes."""
    asked = dict[str, set[str]]()
    for module_name, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in ASKED:
                name = node.value.id
                asked.setdefault(f"{module_name}.{name}" if name.startswith("_") else name, set()).add(node.attr)
    seen = set[int]()
    for found in pkgutil.walk_packages([str(PACKAGE)], "mailwatch."):
        path = PACKAGE.parent / found.name.replace(".", "/")
        source = path / "__init__.py" if found.ispkg else path.with_suffix(".py")
        # The others hold none of their own, and it takes long to load them all.
        if "re.compile(" not in source.read_text():
            continue
        module = importlib.import_module(found.name)
        for name, value in sorted(vars(module).items()):
            for pattern in _patterns(value):
                if id(pattern) not in seen:
                    seen.add(id(pattern))
                    where = f"{found.name}.{name}"
                    by = asked.get(where if name.startswith("_") else name, set())
                    named = isinstance(value, re.Pattern) and by
                    yield UsedPattern(where, pattern, frozenset(by if named else {"search", "match", "fullmatch"}))


def _patterns(value: Any) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _patterns(each)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from _patterns(each)
    elif type(value).__module__.startswith("mailwatch") and hasattr(type(value), "__dataclass_fields__"):
        for name in type(value).__dataclass_fields__:
            yield from _patterns(getattr(value, name, None))


def attacks(pattern: re.Pattern[Any]) -> list[tuple[str, str, str]]:
    """Return texts as (what comes first, what is repeated, what ends it)."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    tree = _parser.parse(
        text, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags
    )
    found = dict[tuple[str, str, str], None]()
    for before, item, after in _repeats(tree, ""):
        pumps = {item, before + item, item + after, after + item, before, before + item + after, f"{item} "}
        for pump in pumps - {""}:
            for end in ENDS:
                found[before, pump, end] = None
                found["", pump, end] = None
    return list(found)


def _repeats(tree: Any, before: str) -> Iterator[tuple[str, str, str]]:
    """Give for each repetition a text that leads to it, one that it repeats, and one that comes after."""
    parts = list(tree)
    for number, (op, value) in enumerate(parts):
        rest = _sample(parts[number + 1 : number + 3])
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            least, most, inner = value
            if most is sre.MAXREPEAT or most - least > 8:
                for item in _samples(inner):
                    yield before, item, rest
            yield from _repeats(inner, before)
        elif op is sre.SUBPATTERN:
            yield from _repeats(value[-1], before)
        elif op is sre.BRANCH:
            for branch in value[1]:
                yield from _repeats(branch, before)
        elif op in (sre.ASSERT, sre.ASSERT_NOT):
            yield from _repeats(value[1], before)
        elif op is sre.ATOMIC_GROUP:
            yield from _repeats(value, before)
        before += _sample([(op, value)])


def _sample(tree: Any) -> str:
    """Return a short text that fits."""
    made = ""
    for op, value in tree:
        if op is sre.LITERAL:
            made += chr(value)
        elif op is sre.NOT_LITERAL:
            made += "a" if value != ord("a") else "b"
        elif op is sre.ANY:
            made += "a"
        elif op is sre.IN:
            made += _members(value)[0]
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            made += _sample(value[2]) * value[0]
        elif op is sre.SUBPATTERN:
            made += _sample(value[-1])
        elif op is sre.BRANCH:
            made += _sample(value[1][0])
        elif op is sre.ATOMIC_GROUP:
            made += _sample(value)
    return made


def _samples(tree: Any) -> list[str]:
    """Return a few texts that fit what is repeated."""
    parts = list(tree)
    if len(parts) == 1:
        op, value = parts[0]
        if op is sre.IN:
            return _members(value)[:3]
        if op is sre.BRANCH:
            return [_sample(branch) for branch in value[1]]
        if op is sre.SUBPATTERN:
            return _samples(value[-1])
    return [_sample(parts)]


def _members(of: Any) -> list[str]:
    """Return some letters that a class takes."""
    fits = re.compile(_class(of))
    return [one for one in 'a0 -.[(<"/:=,@\t\\{+_' if fits.fullmatch(one)] or [
        chr(code) for code in range(0x20, 0x250) if fits.fullmatch(chr(code))
    ][:3]


def _class(of: Any) -> str:
    made = ""
    names = {
        sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_NOT_DIGIT: r"\D", sre.CATEGORY_SPACE: r"\s",
        sre.CATEGORY_NOT_SPACE: r"\S", sre.CATEGORY_WORD: r"\w", sre.CATEGORY_NOT_WORD: r"\W",
    }  # fmt: skip
    for op, value in of:
        if op is sre.NEGATE:
            made += "^"
        elif op is sre.LITERAL:
            made += f"\\U{value:08x}"
        elif op is sre.RANGE:
            made += f"\\U{value[0]:08x}-\\U{value[1]:08x}"
        elif op is sre.CATEGORY:
            made += names[value]
    return f"[{made}]"


def busy(asked: UsedPattern) -> str:
    """Return the text that keeps the pattern busy beyond what its length explains, "" if there is none."""
    for method in sorted(asked.by):
        ask = getattr(asked.pattern, method)
        for before, pump, end in attacks(asked.pattern):
            if grows(partial(_ask, ask, method, asked.pattern), before, pump, end):
                return f"{method} {before!r} + {pump!r} * n + {end!r}"
    return ""


def grows(work: Callable[[str], object], before: str, pump: str, end: str, least: int = SIZE) -> bool:
    """Whether the work grows faster than the text; by processor time, of which other programs take none."""

    def spent(size: int, times: int) -> float:
        text = before + pump * (size // len(pump)) + end
        took = []
        for _ in range(times):
            began = time.thread_time()
            work(text)
            took.append(time.thread_time() - began)
        return min(took)

    if spent(TINY, 1) > ENDLESS and spent(TINY, 3) > ENDLESS:
        return True
    once = spent(least * MORE, 1)
    if once < NOTICED:
        # A fast machine, or a faster Python, needs a longer text before anything can be noticed.
        least *= LONGER
        once = spent(least * MORE, 1)
    if once < NOTICED or once < DOUBTFUL * spent(least, 5):
        return False
    # In doubt again, and with longer texts: what grows with the square does so all the more.
    return all(spent(least * MORE * at, 3) > TOO_MUCH * max(spent(least * at, 3), 1e-6) for at in (1, 2, 3))


def _ask(ask: Callable[..., Any], method: str, pattern: re.Pattern[Any], text: str) -> object:
    given = text.encode("latin-1", "replace") if isinstance(pattern.pattern, bytes) else text
    if method == "sub":
        return ask(b"" if isinstance(given, bytes) else "", given)
    found = ask(given)
    return list(found) if method == "finditer" else found
