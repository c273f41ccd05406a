"""The vectors of tests/vectors are what their tool makes, and `verify` gives each the verdict of the index."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mailwatch.evidence.joint.verify import check_joint, is_joint
from mailwatch.evidence.verify import CLAIMS, Trust, verify
from tests.make_vectors import FOLDER, files

INDEX: list[dict[str, Any]] = json.loads((FOLDER / "index.json").read_bytes())
INFORMATIVE = {"script", "pages"}
"""Claims that hold with a note: a bundle cannot be refused for them alone."""


@pytest.mark.sqlite
def test_the_vectors_are_remade_to_the_byte() -> None:
    there = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    made = files()
    assert made.keys() == there.keys(), "run: python -m tests.make_vectors"
    assert [name for name in made if made[name] != there[name]] == [], "run: python -m tests.make_vectors"


@pytest.mark.parametrize("vector", INDEX, ids=lambda vector: str(vector["file"]))
def test_verify_gives_the_verdict_of_the_index(vector: dict[str, Any]) -> None:
    path = FOLDER / vector["file"]
    claims = check_joint(path, Trust()) if is_joint(path) else verify(path, Trust())
    failed = [claim.claim for claim in claims if not claim.valid]
    if vector["valid"]:
        assert failed == []
    else:
        assert vector["fails"] in failed


def test_each_claim_has_a_vector_for_which_it_fails() -> None:
    assert {*CLAIMS, "period", "joint", "merger"} - INFORMATIVE == {vector["fails"] for vector in INDEX} - {""}
