"""No public contract changes unseen. CONTRIBUTING.md says when its snapshot may be rewritten, and how."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.maker import STORED
from tests.contracts.snapshots import EXPECTED, difference, made_now, names

pytestmark = pytest.mark.xdist_group("contracts")
FROZEN = STORED / "bundles"
"""Bundles of 96e3dbd, which are never rewritten."""
FACTS = ("entries.jsonl", "proof.json", "keys/ledger.pub")
STATEMENTS = ("outage.json", "period.json", "joint.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contracts") / "now"
    made_now(folder)
    return folder


def test_each_contract_has_a_snapshot_and_no_snapshot_is_left_over(made: Path) -> None:
    assert names(made) == names(EXPECTED)


@pytest.mark.parametrize("name", sorted(name for name in names(EXPECTED) if not name.startswith("bundles/")))
def test_a_contract_is_as_it_was(made: Path, name: str) -> None:
    assert not (differing := difference(EXPECTED / name, made / name)), differing


@pytest.mark.parametrize("name", sorted(name for name in names(EXPECTED) if name.startswith("bundles/")))
def test_evidence_is_made_again_to_the_byte(made: Path, name: str) -> None:
    assert not (differing := difference(EXPECTED / name, made / name)), differing


@pytest.mark.parametrize("name", sorted(path.name for path in FROZEN.glob("*.zip")))
def test_the_facts_of_a_bundle_never_change(made: Path, name: str) -> None:
    """Also where the snapshots were rewritten, for what is added or worded anew."""
    with zipfile.ZipFile(FROZEN / name) as before, zipfile.ZipFile(made / "bundles" / name) as after:
        compared = [one for one in before.namelist() if one in FACTS or one.startswith("tokens/")]
        stated = [one for one in before.namelist() if one in STATEMENTS]
        assert stated
        for one in compared:
            assert before.read(one) == after.read(one), one
        for one in stated:
            assert not (lost := list(_lost(json.loads(before.read(one)), json.loads(after.read(one))))), lost


def _lost(before: object, after: object, where: str = "") -> Iterator[str]:
    """Find what is stated no more, or otherwise. Keys may have come."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            yield from _lost(value, after[key], f"{where}.{key}") if key in after else [f"{where}.{key}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        if where == ".members":
            # They stand in the order of their SHA-256, which changes with the wording of their PDF.
            before, after = (sorted(both, key=lambda member: str(member["file"])) for both in (before, after))
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _lost(*pair, f"{where}[{number}]")
    elif before != after and not where.endswith((".sha256", ".size")):
        # A joint report names its members, whose PDF may be worded anew.
        yield f"{where}: {before!r} is now {after!r}"


@pytest.mark.parametrize("name", ["home", "away"])
def test_a_stored_ledger_is_valid_and_replays_to_its_outages(made: Path, name: str) -> None:
    audit = json.loads((made / "cli" / f"ledger-audit-{name}.json").read_bytes())
    assert audit["findings"] == []
    assert audit["entries"] > 100


@pytest.mark.parametrize("of", ["now", "96e3dbd"])
def test_bundles_of_now_and_then_are_valid(made: Path, of: str) -> None:
    reported = json.loads((made / "verify.json").read_bytes())
    bundles = {name: one for name, one in reported.items() if name.startswith(f"{of}/")}
    assert len(bundles) == 6
    for name, one in bundles.items():
        assert one["status"] == 0, name
        assert all(valid for _, valid in one["claims"]), name
