"""What keeps the tests apart from each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.marks import MARKS, marks_of, starting
from tests.helpers.process import MailWatchProcess

TESTS = Path(__file__).parent


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_no_module_imports_a_test_module() -> None:
    """What two of them need stands in tests/helpers; nothing depends on the order in which tests are collected."""
    wrong = [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in TESTS.rglob("*.py")
        for name in _imported(path)
        if name.startswith("tests.")
        and any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]
    assert not wrong


@pytest.mark.parametrize("mark", MARKS)
def test_what_needs_a_mark_cannot_start_in_a_test_without_it(mark: str) -> None:
    with pytest.raises(AssertionError, match=mark):
        starting(mark)


def test_a_test_is_marked_by_what_its_fixtures_and_helpers_reach(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if tmp_path.name == "never":
        MailWatchProcess(tmp_path, []).start()
    assert marks_of(request.node) == {"e2e"}
    assert request.node.get_closest_marker("e2e")
