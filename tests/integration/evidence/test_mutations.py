"""Random changes of a bundle, by anyone and by its operator: each is refused in words.

`make test` tries the same 1,000 each time, `make nightly` 20,000 with a seed of its own. A failure says which one
it was; MAILWATCH_MUTANT=SEED:NUMBER repeats that.
"""

from __future__ import annotations

import json
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.evidence.verify import Trust, verify
from tests.helpers.bundle_files import files_of
from tests.helpers.bundle_mutations import FOLDER, MUTATIONS, Original, original, private_key
from tests.helpers.seed import SEED

PARTS = 10
CONTRACTS = FOLDER.parent / "contracts"
FOLLOWS = ("ledger", "outage", "replies", "first_detail", "rules", "range", "outside_times")
"""What of outage.json follows from the entries and tokens."""


def numbered(numbers: range) -> Iterator[tuple[str, int]]:
    """The seed and number of each mutant; or of the one that is to be repeated, if it is among them."""
    if asked := os.environ.get("MAILWATCH_MUTANT"):
        seed, _, number = asked.rpartition(":")
        yield from [(seed, int(number))] if int(number) in numbers else []
        return
    yield from ((SEED, number) for number in numbers)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_change_to_a_bundle_is_accepted(tmp_path: Path, part: int) -> None:
    """Bits flipped, bytes cut, lines moved, values of the wrong type: in the zip as a whole, and in each file."""
    check_mutants(original(), Trust.read([FOLDER / "authority.pem"]), tmp_path, range(part, MUTATIONS, PARTS))


def test_no_change_to_a_bundle_with_report_is_accepted(tmp_path: Path) -> None:
    with tarfile.open(CONTRACTS / "home.tar.xz") as stored:
        stored.extract("./data/keys/ledger.pem", tmp_path, filter="data")
    bundle = Original(CONTRACTS / "bundles" / "outage.zip", private_key(tmp_path / "data" / "keys" / "ledger.pem"))
    check_mutants(bundle, Trust.read([CONTRACTS / "authority.pem"]), tmp_path, range(MUTATIONS // 20))


def check_mutants(bundle: Original, trust: Trust, folder: Path, numbers: range) -> None:
    """Judge each of the mutants."""
    for seed, number in numbered(numbers):
        altered, signed = bundle.mutant(random.Random(f"{seed}:{number}"), number)
        check_mutant(bundle.path, altered, folder / "mutant.zip", trust, f"{seed}:{number}", signed=signed)


def check_mutant(original: Path, mutant: bytes, path: Path, trust: Trust, what: str, *, signed: bool) -> None:
    """Anyone's change of a file is refused; the operator's is believed only if it changes nothing that counts."""
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
    reported, again = json.loads(before["outage.json"]), json.loads(after["outage.json"])
    assert {key: again.get(key) for key in FOLLOWS} == {key: reported[key] for key in FOLLOWS}, (what, claims)
    # What follows the last token may be written anew; nothing before it.
    proof = json.loads(before["proof.json"])
    stamped = max(token["checkpoint"] for token in proof["tokens"]) - proof["start"]["size"]
    entries = [files["entries.jsonl"].splitlines()[:stamped] for files in (before, after)]
    assert entries[0] == entries[1], (what, claims)
    assert {name for name in before if name.endswith(".tsr")} == {name for name in after if name.endswith(".tsr")}
