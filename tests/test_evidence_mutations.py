"""Random changes of a bundle, by anybody and by its operator: each is refused in words. The night tries 20,000."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.evidence.verify import Trust, verify
from mailwatch.store import Store
from mailwatch.store.keys import load_keys as load_keys
from tests.helpers.bundle_files import files_of
from tests.helpers.bundle_mutations import MUTATIONS, mutants
from tests.helpers.malicious_operator import Operator, quiet, trusting
from tests.helpers.process import MailWatchProcess

PARTS = 20
FOLLOWS = ("ledger", "outage", "replies", "first_detail", "rules", "range", "outside_times")
"""What of outage.json follows from the entries and tokens."""


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Trust, Ed25519PrivateKey]]:
    """A bundle of few entries and two tokens, without a report: most changes are tried on it."""
    folder = tmp_path_factory.mktemp("lean")
    authority, store = quiet(folder / "authority"), Store.open(folder / "data")
    operator = Operator(store, folder / "data")
    operator.observe("+")
    operator.stamp(authority)
    operator.observe("+---?-++")
    operator.stamp(authority)
    yield operator.bundle(authority), trusting(authority), store.keys.private
    store.close()


@pytest.mark.parametrize("part", range(PARTS))
def test_no_change_by_anybody_is_accepted(
    lean: tuple[Path, Trust, Ed25519PrivateKey], tmp_path: Path, part: int
) -> None:
    """Bits flipped, bytes cut, lines moved, values of the wrong type: in the zip as a whole, and in each file."""
    path, trust, key = lean
    for number, (altered, signed) in enumerate(
        mutants(path, key, random.Random(20230122 + part), MUTATIONS // PARTS)
    ):
        judged(path, altered, tmp_path / "mutant.zip", trust, (part, number), signed=signed)


def test_nor_is_one_of_a_bundle_with_its_report(
    bundle: Path, recorded_outage: tuple[MailWatchProcess, Any, str], trust: Trust, tmp_path: Path
) -> None:
    key = load_keys(recorded_outage[0].data_dir).private
    for number, (mutant, signed) in enumerate(mutants(bundle, key, random.Random(1), MUTATIONS // 20)):
        judged(bundle, mutant, tmp_path / "mutant.zip", trust, number, signed=signed)


def judged(original: Path, mutant: bytes, path: Path, trust: Trust, what: Any, *, signed: bool) -> None:
    """Anybody's change of a file is refused; the operator's is believed only if it changes nothing that counts."""
    path.write_bytes(mutant)
    claims = verify(path, trust)
    for claim in claims:
        assert claim.detail, (what, claim)
        assert len(claim.detail) < 1000, (what, claim)
    if not all(claim.valid for claim in claims):
        return
    before, after = files_of(original), files_of(path)
    if not signed:
        # A bit of the zip's own that changes no file, such as a date, changes nothing that is claimed.
        assert before == after, (what, claims)
        return
    told, again = json.loads(before["outage.json"]), json.loads(after["outage.json"])
    assert {key: again.get(key) for key in FOLLOWS} == {key: told[key] for key in FOLLOWS}, (what, claims)
    # What follows the last token may be written anew; nothing before it.
    proof = json.loads(before["proof.json"])
    stamped = max(token["checkpoint"] for token in proof["tokens"]) - proof["start"]["size"]
    entries = [files["entries.jsonl"].splitlines()[:stamped] for files in (before, after)]
    assert entries[0] == entries[1], (what, claims)
    assert {name for name in before if name.endswith(".tsr")} == {name for name in after if name.endswith(".tsr")}
