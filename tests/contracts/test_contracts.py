"""No public contract changes unseen. CONTRIBUTING.md says when its snapshot may be rewritten, and how."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.contracts.snapshots import EXPECTED, difference, made_now, names

pytestmark = pytest.mark.xdist_group("contracts")
FACTS = ("outage.json", "period.json", "joint.json", "entries.jsonl", "proof.json", "keys/ledger.pub")
"""Of a bundle what is never worded anew."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contracts") / "now"
    made_now(folder)
    return folder


def test_the_same_snapshots_are_made(made: Path) -> None:
    assert names(made) == names(EXPECTED)


@pytest.mark.parametrize("name", sorted(name for name in names(EXPECTED) if not name.startswith("bundles/")))
def test_a_contract_is_as_it_was(made: Path, name: str) -> None:
    assert not (told := difference(EXPECTED / name, made / name)), told


@pytest.mark.parametrize("name", sorted(name for name in names(EXPECTED) if name.startswith("bundles/")))
def test_evidence_is_made_again_to_the_byte(made: Path, name: str) -> None:
    assert not (told := difference(EXPECTED / name, made / name)), told


@pytest.mark.parametrize("name", sorted(path.name for path in EXPECTED.glob("bundles/*.zip")))
def test_the_facts_of_a_bundle_are_made_again(made: Path, name: str) -> None:
    """Also where report.pdf is worded anew, and the snapshots of the whole with it."""
    with zipfile.ZipFile(EXPECTED / "bundles" / name) as before, zipfile.ZipFile(made / "bundles" / name) as after:
        compared = [one for one in before.namelist() if one in FACTS or one.startswith("tokens/")]
        assert compared
        for one in compared:
            assert before.read(one) == after.read(one), one


@pytest.mark.parametrize("name", ["home", "away"])
def test_a_stored_ledger_is_valid_and_replays_to_its_outages(made: Path, name: str) -> None:
    audit = json.loads((made / "cli" / f"ledger-audit-{name}.json").read_bytes())
    assert audit["findings"] == []
    assert audit["entries"] > 100


def test_all_bundles_of_today_are_valid(made: Path) -> None:
    told = json.loads((made / "verify.json").read_bytes())
    now = {name: one for name, one in told.items() if name.startswith("now/")}
    assert len(now) == 6
    for name, one in now.items():
        assert one["status"] == 0, name
        assert all(valid for _, valid in one["claims"]), name
