"""What keeps the tests apart from each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.marks import MARKS, marks_of, starting
from tests.helpers.paths import ROOT, TESTS
from tests.helpers.process import MailWatchProcess

_IMPORTS = re.compile(
    r"^\s*(?:from|import) (tests\.(?:[\w.]+\.)?(?:test_|conftest)[\w.]*|tests import .*\btest_)", re.MULTILINE
)


def test_no_module_imports_a_test_module() -> None:
    """What two of them need stands in tests/helpers; nothing depends on the order in which tests are collected."""
    wrong = {
        str(path.relative_to(TESTS)): found
        for path in TESTS.rglob("*.py")
        if (found := _IMPORTS.findall(path.read_text(encoding="utf-8")))
    }
    assert wrong == {}


@pytest.mark.parametrize("tree", ["unit", "integration"])
def test_each_folder_of_tests_has_the_name_of_a_package(tree: str) -> None:
    """The tests of mailwatch/guard are in tests/unit/guard and tests/integration/guard."""
    folders = {path.parent.name for path in (TESTS / tree).glob("*/*.py")}
    packages = {path.parent.name for path in (ROOT / "mailwatch").glob("*/__init__.py")}
    assert folders - packages - {"repository"} == set()


def test_no_test_module_lies_outside_the_trees() -> None:
    assert sorted(TESTS.glob("test_*.py")) == []


@pytest.mark.parametrize("mark", MARKS)
def test_a_fast_test_cannot_start_servers_without_a_mark(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILWATCH_TEST_FAST", "1")
    with pytest.raises(AssertionError, match=mark):
        starting(mark)


def test_a_test_is_marked_by_what_its_fixtures_and_helpers_reach(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if tmp_path.name == "never":
        MailWatchProcess(tmp_path, []).start()
    assert marks_of(request.node) == {"e2e"}
    assert request.node.get_closest_marker("e2e")
