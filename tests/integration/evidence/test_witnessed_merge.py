"""`merge --witnessed`: a member counts only if another one cosigned its ledger before its first outage."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.cli import main
from mailwatch.ledger.cosignature import log_key
from mailwatch.store import Store
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.witness.cosigner import Cosigner
from mailwatch.witness.keys import load_witness_key
from tests.helpers.malicious_operator import Operator
from tests.helpers.witnesses import cosign_by_hand


class Member:
    """An operator who is a witness of the others too."""

    def __init__(self, folder: Path) -> None:
        (folder / "keys").mkdir(parents=True)
        private = load_witness_key(folder)
        self.store = Store.open(folder)
        self.operator = Operator(self.store, folder)
        self.register = WitnessRegister(folder)
        self.cosigner = Cosigner(private, self.register, [])

    def close(self) -> None:
        self.register.close()
        self.store.close()


@pytest.fixture
def members(tmp_path: Path) -> Iterator[list[Member]]:
    made = [Member(tmp_path / name) for name in "abc"]
    keys = [one.store.keys for one in made]
    for one in made:
        one.cosigner.allow([log_key(key.origin, key.public) for key in keys])
    yield made
    for one in made:
        one.close()


def merged(tmp_path: Path, bundles: list[Path], *more: str) -> tuple[int, Path]:
    joint = tmp_path / "joint.zip"
    with contextlib.suppress(FileNotFoundError):
        joint.unlink()
    words = [str(path) for path in bundles]
    return main(["merge", *words, "-o", str(joint), "--enclose", "--lang", "en", *more]), joint


def test_a_member_that_no_other_one_cosigned_in_time_does_not_count(
    members: list[Member], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b, c = members
    for one, other in ((a, b), (b, a)):
        one.operator.observe("++")
        known = cosign_by_hand(one.operator, other.cosigner)
        one.operator.observe("++----++")
        cosign_by_hand(one.operator, other.cosigner, known)
    # The third is cosigned only after its outage, as one that was made up for the case.
    c.operator.observe("++----++")
    cosign_by_hand(c.operator, a.cosigner)
    bundles = [one.operator.bundle() for one in members]
    status, joint = merged(tmp_path, bundles, "--witnessed")
    assert (status, joint.exists()) == (1, False)
    assert "no other member cosigned it before its first outage" in capsys.readouterr().err
    status, joint = merged(tmp_path, bundles, "--witnessed", "--keep-going")
    assert status == 0
    stated = json.loads(zipfile.ZipFile(joint).read("joint.json"))
    assert stated["witnessed"] is True
    assert [one["ledger"] for one in stated["members"]] == [
        one["ledger"] for one in stated["members"] if one["ledger"] != c.store.keys.origin
    ]
    assert [one["reason"] for one in stated["left_out"]] == ["no other member cosigned it before its first outage"]
    assert main(["verify", str(joint)]) == 0
    # Without the option all three count, and joint.json says nothing of witnesses.
    status, joint = merged(tmp_path, bundles)
    assert status == 0
    assert "witnessed" not in json.loads(zipfile.ZipFile(joint).read("joint.json"))


def test_a_member_whose_only_witness_does_not_count_does_not_count_either(
    members: list[Member], tmp_path: Path
) -> None:
    """A chain without an end: c cosigned b, and b cosigned a, but nobody cosigned c."""
    a, b, c = members
    for one, other in ((a, b), (b, c)):
        one.operator.observe("++")
        cosign_by_hand(one.operator, other.cosigner)
        one.operator.observe("++----++")
    c.operator.observe("++----++")
    assert merged(tmp_path, [one.operator.bundle() for one in members], "--witnessed", "--keep-going")[0] == 1
