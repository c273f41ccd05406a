"""Which tests need more than this process: the marks that `make test-fast` leaves out.

A test bears the marks of what its code reaches: its own, that of its fixtures, and that of the helpers which both
call. Nothing has to be written down, so nothing is forgotten; `make test-fast` makes sure of it, where what starts
something without its mark fails.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import CodeType, FunctionType, ModuleType
from typing import Any, TypeVar

import pytest

from tests.helpers.paths import TESTS

MARKS = {
    "servers": "starts real servers: Dovecot, Postfix, nginx, ...",
    "e2e": "starts MailWatch or another program as a process",
    "slow": "takes a second or more of this process",
    "browser": "opens pages in Chromium",
    "fuzz": "tries random inputs by the hundred",
    "campaign": "simulates weeks of faults",
    "root": "needs root: network namespaces, mounts, servers that insist on it",
    "sqlite": "is about SQLite's files, and is left out where MAILWATCH_TEST_DATABASE is postgresql",
    "nightly": "takes longer than `make test` may; `make nightly` runs it",
}
FOLDERS = {"e2e", "browser", "fuzz", "campaign"}
"""Tests in a folder of that name bear the mark."""
FILES = {"unit/repository/test_patterns.py": "fuzz", "integration/evidence/test_mutations.py": "fuzz"}

NIGHTLY = (
    ("browser/test_setup.py", "without JavaScript"),
    ("browser/test_pages.py", "test_pages_pass_axe[en-desk-dark"),
    ("browser/test_pages.py", "test_pages_pass_axe[it-desk-light"),
    ("browser/test_pages.py", "test_public_pages_pass_axe[it-desk-dark"),
    ("campaign/test_hub_campaign.py", "short"),
    ("e2e/test_hub.py", "test_a_hub_that_is_away_gets_all_of_it_later"),
    ("e2e/test_spool.py", ""),
    ("integration/evidence/test_report_cases.py", "five-days-it"),
    ("integration/evidence/test_report_cases.py", "test_the_pictures_of_the_documents"),
    ("integration/probes/test_other_servers.py", ""),
    ("unit/cli/test_surroundings.py", ""),
    ("unit/hub/", "postgresql"),
    ("unit/monitor/test_self_check.py", "test_few_handles_left"),
    ("unit/notify/test_notifier.py", "test_a_target_that_flaps_for_an_hour"),
    ("unit/store/test_damage.py", "test_each_damaged_page"),
    ("unit/store/test_replay.py", "test_a_restart_between_any_two"),
)
"""Beginnings of paths and parts of names of tests that are left to the night. Each takes long, and `make test`
shows the like in another way.
"""

_STARTING = {"subprocess", "create_subprocess_exec"}
"""What code names that starts programs."""

_OF_SQLITE = {"mailwatch.store.sqlite", "mailwatch.store.compact", "mailwatch.store.closed_ledger"}
"""Modules of what works on the file of SQLite itself."""
_OF_THE_RUN = {"places_in_postgresql", "_ledgers_where_asked"}
"""Fixtures that choose by the environment, not by the test."""

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
    path = item.path.relative_to(TESTS).as_posix()
    if name := FILES.get(path):
        found.add(name)
    if any(path.startswith(begin) and part in item.name for begin, part in NIGHTLY):
        found.add("nightly")
    functions = [_unwrapped(item.function)]
    functions += [_unwrapped(given[-1].func) for given in item._fixtureinfo.name2fixturedefs.values()]
    choosing = [function for function in functions if function.__name__ not in _OF_THE_RUN]
    if any("getfixturevalue" in _names(function.__code__) for function in choosing):
        functions += _asked_for_by_name(item)
    for function in functions:
        found |= _reached(function)
    return found


def _asked_for_by_name(item: pytest.Function) -> Iterator[FunctionType]:
    """The fixtures that a parameter names, and theirs."""
    waiting = [name for name in item.callspec.params.values() if isinstance(name, str)]
    for name in waiting:
        for given in (item.session._fixturemanager.getfixturedefs(name, item) or ())[-1:]:
            waiting += given.argnames
            yield _unwrapped(given.func)


def running(item: pytest.Item | None) -> None:
    """Note which test runs."""
    global _running
    _running = None if item is None else {mark.name for mark in item.iter_markers()}


def starting(mark: str) -> None:
    """Fail where a test of `make test-fast` starts what its marks do not say. Raises AssertionError."""
    if _running is not None and "MAILWATCH_TEST_FAST" in os.environ:
        assert mark in _running, f"only a test marked {mark!r} may start this: tests/helpers/marks.py"


def _unwrapped(function: Any) -> Any:
    while isinstance(function, partial):
        function = function.func
    if given := getattr(function, "hypothesis", None):
        function = given.inner_test
    return inspect.unwrap(function)


def _ours(module: str | None) -> bool:
    return module is not None and module.split(".")[0] == "tests"


@cache
def _reached(start: Any) -> frozenset[str]:
    """The marks of all that a function or class may use, as far as it is of the tests."""
    found: set[str] = set()
    seen: set[Any] = set()
    waiting = [start]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        found |= _own_marks(one)
        waiting += _used(one)
    return frozenset(found)


def _own_marks(one: Any) -> set[str]:
    own = {one.MARK} if hasattr(one, "MARK") else set()
    if isinstance(one, FunctionType) and not _STARTING.isdisjoint(_names(one.__code__)):
        own.add("e2e")
    if isinstance(one, FunctionType) and any(_is_of_sqlite(one, name) for name in _names(one.__code__)):
        own.add("sqlite")
    return own


def _is_of_sqlite(function: FunctionType, name: str) -> bool:
    """Whether a function names what works on the file of SQLite itself."""
    named = function.__globals__.get(name)
    return getattr(named, "__name__", "") == "sqlite3" or getattr(named, "__module__", "") in _OF_SQLITE


@cache
def _used(one: Any) -> tuple[Any, ...]:
    """What a function or class names, of the tests' own."""
    if inspect.isclass(one):
        own = [_unwrapped(f) for f in vars(one).values() if isinstance(f, FunctionType)]
        return (*own, *(base for base in one.__bases__ if _ours(base.__module__)))
    function, used = one, set[Any]()
    if isinstance(function, FunctionType):
        cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        spoken = _names(function.__code__)
        named = [function.__globals__.get(name) for name in spoken]
        # Of a module what is taken from it, such as `pty.Terminal`.
        parts = [vars(one).get(name) for one in named if isinstance(one, ModuleType) for name in spoken]
        for value in (*cells, *named, *(part for part in parts if part is not None)):
            value = _unwrapped(value) if callable(value) else value
            if (inspect.isclass(value) or isinstance(value, FunctionType)) and _ours(value.__module__):
                used.add(value)
    return tuple(used)


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


@cache
def _names(code: CodeType) -> frozenset[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(*map(_names, inner))
