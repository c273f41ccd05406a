"""Every regular expression of the package takes a time that grows with the text, whatever the text is."""

from __future__ import annotations

import ast
import re

import pytest

from tests.helpers.regexes import UsedPattern, busy, every, modules

BUILT = {
    # The origin and key of the ledger, in the script that the bundle itself encloses; three lines are asked.
    "mailwatch.evidence.standalone.verify": (
        r"f'{origin}\n([1-9][0-9]*)\n(.{{44}})\n\n— {origin} {re.escape(key_id)}.{{87}}\n'"
    ),
    "mailwatch.config.yaml_file": "_pattern",  # YAML 1.1's own, of short words of the owner's
    "mailwatch.probes.classify": "joined",  # the rows of replies.toml, which are collected
    "mailwatch.store.run_format": "_ONE_VALUE.join(map(re.escape, structure.pieces))",  # JSON
    "mailwatch.probes.roundtrip.delivery_report": "re.escape(TOKEN_PREFIX).encode() + b'([0-9a-f]{32})\\\\b'",
}
"""Where a pattern is compiled from what is no literal."""


PARTS = 12
"""In parts, so that none of them takes long on a busy machine. By day every third is tried, by night all are."""


@pytest.mark.parametrize(
    "part", [*range(0, PARTS, 3), *(pytest.param(n, marks=pytest.mark.nightly) for n in range(PARTS) if n % 3)]
)
def test_no_pattern_backtracks(part: int) -> None:
    collected = every()
    assert len(collected) > 130
    assert {asked.where: text for asked in collected[part::PARTS] if (text := busy(asked))} == {}


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"(?s)\[([^\] ]+)[^\]]*\] ?(.*)", "match"),  # imap_client._CODE until 2026-11: 16 s for 65,000 letters
        (r"(?:logon|authenticat\w*|auth)\b denied", "search"),  # replies.toml, login-failed
        (r"[^@\s]+@[^@\s]+", "search"),
        (r"(a+)+$", "match"),
        (rb"LIST .* .* x", "match"),
        (r"\s+$", "search"),
    ],
)
def test_a_bad_pattern_is_found(pattern: str | bytes, method: str) -> None:
    # Once is enough: on a busy machine a short text may take as long as a longer one.
    assert any(busy(UsedPattern("here", re.compile(pattern), frozenset({method}))) for _ in range(5))


def test_a_pattern_is_compiled_where_it_is_collected() -> None:
    """At the top of a module; what is put together is known here, and its parts are harmless."""
    for name, tree in modules():
        top = {id(node) for statement in tree.body for node in ast.walk(statement) if not _inside(statement)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile":
                written = ast.unparse(node.args[0])
                literal = isinstance(node.args[0], ast.Constant)
                assert (literal and id(node) in top) or BUILT.get(name) == written, f"{name}: {written}"


def _inside(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
