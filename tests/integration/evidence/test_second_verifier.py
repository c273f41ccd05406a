"""A verifier written from docs/reference/format.md, in another language, gives each bundle the verdict of ours."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mailwatch.evidence.joint.verify import check_joint, is_joint
from mailwatch.evidence.verify import Trust, verify
from tests.helpers.bundle_mutations import MUTATIONS, original
from tests.helpers.paths import TESTDATA, TESTS
from tests.helpers.requirements import need_program
from tests.helpers.seed import SEED
from tests.make_vectors import FOLDER

NODE = Path("/usr/bin/node")
PROGRAM = TESTS / "second_verifier" / "verify.mjs"
INDEX: list[dict[str, Any]] = json.loads((FOLDER / "index.json").read_bytes())
STORED = sorted(
    [*(TESTDATA / "old").glob("*.zip"), *(TESTDATA / "contracts" / "expected" / "bundles").glob("*.zip")]
)
"""Bundles of versions since 0.1.0, with real observations, tokens and reports."""


@pytest.fixture(autouse=True)
def _node() -> None:
    need_program(NODE)


def verdicts(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Return what the second verifier finds wrong in each file, by claim."""
    command = [str(NODE), str(PROGRAM), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line)["claims"] for line in done.stdout.splitlines()]
    return [{claim: why for claim, why in claims.items() if why and not unchecked(why)} for claims in found]


def unchecked(why: str) -> bool:
    """Whether a claim depends on another one that does not hold, or on members that are not enclosed."""
    return why.startswith("not checked")


def ours(path: Path) -> dict[str, str]:
    """What `mailwatch verify` finds wrong, by claim."""
    claims = (check_joint if is_joint(path) else verify)(path, Trust())
    return {claim.claim: claim.detail for claim in claims if not claim.valid and not unchecked(claim.detail)}


def test_it_gives_the_vectors_their_verdicts() -> None:
    for vector, wrong in zip(INDEX, verdicts(FOLDER / one["file"] for one in INDEX), strict=True):
        assert vector["fails"] in wrong if vector["fails"] else not wrong, (vector["file"], wrong)


def test_it_agrees_on_bundles_of_all_versions() -> None:
    assert len(STORED) > 15
    assert any(is_joint(path) for path in STORED)
    for path, wrong in zip(STORED, verdicts(STORED), strict=True):
        refused = ours(path)
        assert wrong.keys() == refused.keys(), (path.name, wrong, refused)


def test_it_agrees_on_changed_bundles(tmp_path: Path) -> None:
    """With and without the key, as in test_mutations.py."""
    chance, changed = random.Random(SEED), []
    for number in range(MUTATIONS // 25):
        raw, _ = original().mutant(chance, number)
        changed.append(tmp_path / f"{number}.zip")
        changed[-1].write_bytes(raw)
    for path, wrong in zip(changed, verdicts(changed), strict=True):
        found = ours(path)
        assert bool(wrong) == bool(found), (path.name, wrong, found)
