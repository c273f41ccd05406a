"""Which tests need more than this process: the marks that `make test-fast` leaves out.

A test bears the marks of what its code reaches: its own, that of its fixtures, and that of the helpers which both
call. Nothing has to be written down, so nothing is forgotten; `starting` makes sure of it while the tests run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import CodeType, FunctionType
from typing import Any, TypeVar

import pytest

MARKS = {
    "servers": "starts real servers: Dovecot, Postfix, nginx, ...",
    "e2e": "starts MailWatch as a process",
    "browser": "opens pages in Chromium",
    "fuzz": "tries random inputs by the hundred",
    "campaign": "simulates weeks of faults",
    "root": "needs root: network namespaces, mounts, servers that insist on it",
    "nightly": "takes longer than `make test` may; `make nightly` runs it",
}
FOLDERS = {"e2e", "browser", "fuzz", "campaign"}
"""Tests in a folder of that name bear the mark."""
FILES = {"test_fuzz": "fuzz", "test_patterns": "fuzz", "test_evidence_mutations": "fuzz"}

_running: set[str] | None = None


F = TypeVar("F", bound=Callable[..., Any])


def marked(name: str) -> Callable[[F], F]:
    """Mark the tests that reach the decorated function, as a class does with an attribute `MARK`."""

    def mark(function: F) -> F:
        function.MARK = name  # type: ignore[attr-defined]
        return function

    return mark


def marks_of(item: pytest.Function) -> set[str]:
    """Return the names of the marks that a test must bear."""
    found = {part for part in item.path.parts if part in FOLDERS}
    if name := FILES.get(item.path.stem):
        found.add(name)
    functions = [item.function]
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        functions += [definition.func for definition in definitions[-1:]]
    for function in functions:
        found |= _reached(_unwrapped(function))
    return found


def running(item: pytest.Item | None) -> None:
    """Note which test runs."""
    global _running
    _running = None if item is None else {mark.name for mark in item.iter_markers()}


def starting(mark: str) -> None:
    """Fail where a test starts what its marks do not say. Raises AssertionError."""
    assert _running is None or mark in _running, (
        f"only a test marked {mark!r} may start this: tests/helpers/marks.py"
    )


def _unwrapped(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    if given := getattr(function, "hypothesis", None):
        function = given.inner_test
    return inspect.unwrap(function)


def _ours(module: str | None) -> bool:
    return module is not None and (module.split(".")[0] == "tests" or module.startswith(("test_", "conftest")))


@cache
def _reached(start: Any) -> frozenset[str]:
    """The marks of all that a function or class may use, as far as it is of the tests."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if mark := getattr(one, "MARK", None):
            found.add(mark)
        waiting += _used(one)
    return frozenset(found)


def _used(one: Any) -> Iterator[Any]:
    """What a function or class names, of the tests' own."""
    functions: list[FunctionType] = []
    if isinstance(one, FunctionType):
        functions = [one]
    elif inspect.isclass(one):
        functions = [_unwrapped(f) for f in vars(one).values() if isinstance(f, FunctionType)]
    for function in functions:
        cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        names = [function.__globals__.get(name) for name in _names(function.__code__)]
        for value in (*cells, *names):
            value = _unwrapped(value) if callable(value) else value
            if (inspect.isclass(value) or isinstance(value, FunctionType)) and _ours(value.__module__):
                yield value


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
