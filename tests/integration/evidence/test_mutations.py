"""Random changes of bundles, by anyone and by their operator: each is refused in words.

`make test` tries the same 1,000 each time, `make nightly` 20,000 with a seed of its own: of an outage, of a
window, of both as a joint zip, and of an outage with its report. A failure says which one it was;
MAILWATCH_MUTANT=SEED:NUMBER repeats that.
"""

from __future__ import annotations

import json
import os
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch.evidence.joint.verify import check_joint
from mailwatch.evidence.verify import UNEXPECTED_PREFIX, Claim, Trust, verify
from tests.helpers.bundle_files import Files, files_of
from tests.helpers.bundle_mutations import (
    FOLDER,
    MUTATIONS,
    Joint,
    Original,
    joint,
    original,
    period,
    private_key,
    signed_joint,
)
from tests.helpers.seed import SEED

PARTS = 10
CONTRACTS = FOLDER.parent / "contracts"
FOLLOWS = {
    "outage.json": ("ledger", "outage", "replies", "first_detail", "rules", "range", "outside_times"),
    "period.json": ("ledger", "window", "availability", "outages", "rules", "entries", "range", "outside_times"),
}
"""What of a statement follows from the entries and tokens."""
TRUSTED = [FOLDER / "authority.pem", FOLDER / "period-authority.pem"]


def numbered(numbers: range) -> Iterator[tuple[str, int]]:
    """The seed and number of each mutant; or of the one that is to be repeated, if it is among them."""
    if asked := os.environ.get("MAILWATCH_MUTANT"):
        seed, _, number = asked.rpartition(":")
        yield from [(seed, int(number))] if int(number) in numbers else []
        return
    yield from ((SEED, number) for number in numbers)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("make", [original, period, joint], ids=["outage", "period", "joint"])
def test_no_change_to_a_bundle_is_accepted(tmp_path: Path, make: Any, part: int) -> None:
    """Bits flipped, bytes cut, lines moved, values of the wrong type: in the zip as a whole, and in each file."""
    share = range(part, MUTATIONS // 2 if make is original else MUTATIONS // 4, PARTS)
    check_mutants(make(), Trust.read(TRUSTED), tmp_path, share)


def test_no_change_to_a_bundle_with_report_is_accepted(tmp_path: Path) -> None:
    with tarfile.open(CONTRACTS / "home.tar.xz") as stored:
        stored.extract("./data/keys/ledger.pem", tmp_path, filter="data")
    bundle = Original(CONTRACTS / "bundles" / "outage.zip", private_key(tmp_path / "data" / "keys" / "ledger.pem"))
    check_mutants(bundle, Trust.read([CONTRACTS / "authority.pem"]), tmp_path, range(MUTATIONS // 20))


def test_no_change_to_a_signed_joint_zip_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody but who merged changes a byte of a file: members, pages, who made it, what was left out."""
    bundle = signed_joint(tmp_path)
    capsys.readouterr()
    stated = json.loads(bundle.files["joint.json"])
    assert len(stated["left_out"]) == 1
    assert {"made_by", "merged_by"} <= stated.keys()
    check_mutants(bundle, Trust.read(TRUSTED), tmp_path, range(MUTATIONS // 10))


def check_mutants(bundle: Original | Joint, trust: Trust, folder: Path, numbers: range) -> None:
    """Judge each of the mutants."""
    path = folder / "mutant.zip"
    for seed, number in numbered(numbers):
        altered, signed = bundle.mutant(random.Random(f"{seed}:{number}"), number)
        path.write_bytes(altered)
        what = f"{seed}:{number}"
        claims = check_joint(path, trust) if isinstance(bundle, Joint) else verify(path, trust)
        for claim in claims:
            assert claim.detail, (what, claim)
            assert len(claim.detail) < 1000, (what, claim)
            assert UNEXPECTED_PREFIX not in claim.detail, (what, claim)
        if not all(claim.valid for claim in claims):
            continue
        before, after = bundle.files, files_of(path)
        if isinstance(bundle, Joint):
            check_joint_mutant(before, after, what, claims)
        else:
            check_mutant(before, after, what, claims, signed=signed)


def check_mutant(before: Files, after: Files, what: str, claims: list[Claim], *, signed: bool) -> None:
    """Anyone's change of a file is refused; the operator's is believed only if it changes nothing that counts."""
    if not signed:
        # A bit of the zip's own that changes no file, such as a date, changes nothing that is claimed.
        assert before == after, (what, claims)
        return
    (name,) = FOLLOWS.keys() & before.keys()
    reported, again = json.loads(before[name]), json.loads(after[name])
    assert {key: again.get(key) for key in FOLLOWS[name]} == {key: reported[key] for key in FOLLOWS[name]}, (
        what,
        claims,
    )
    # What follows the last token may be written anew; nothing before it.
    proof = json.loads(before["proof.json"])
    stamped = max(token["checkpoint"] for token in proof["tokens"]) - proof["start"]["size"]
    entries = [files["entries.jsonl"].splitlines()[:stamped] for files in (before, after)]
    assert entries[0] == entries[1], (what, claims)
    assert {name for name in before if name.endswith(".tsr")} == {name for name in after if name.endswith(".tsr")}


def check_joint_mutant(before: Files, after: Files, what: str, claims: list[Claim]) -> None:
    """What follows from the members is as it was: the merger's own words are not of that kind, unless signed."""
    if "manifest.sig" in before:
        assert before == after, (what, claims)
        return
    reported, again = (json.loads(files["joint.json"]) for files in (before, after))
    for key in ("format", "groups"):
        assert again[key] == reported[key], (what, claims)
    assert len(again["members"]) == len(reported["members"]), (what, claims)
    assert before.keys() - {f"members/{one['sha256']}.zip" for one in reported["members"]} == (
        after.keys() - {f"members/{one['sha256']}.zip" for one in again["members"]}
    ), (what, claims)
