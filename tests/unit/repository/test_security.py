"""docs/explanation/security.md: each claim has its test."""

from __future__ import annotations

import ast
import re

import pytest

from tests.helpers.paths import ROOT

TEXT = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")


def functions_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.slow
def test_each_test_that_holds_a_claim_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 40
    missing = [f"{file}::{name}" for file, name in named if name not in functions_in(file)]
    assert missing == []


def test_each_claim_names_a_test() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and line != "| claim | test |"]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]] == []


def test_documents_link_to_the_security_page() -> None:
    for document in ("README.md", "docs/explanation/architecture.md"):
        assert "security.md" in (ROOT / document).read_text(encoding="utf-8")
