"""What reports of a period and of several members say of witnesses, our public address, and changed rules."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailwatch import monotonic
from mailwatch.cli import main
from mailwatch.evidence.verify import Claim, Trust, verify
from mailwatch.ledger.cosignature import log_key
from mailwatch.model import Rules, TargetEvent
from mailwatch.store import Store, audit_cosignatures
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.times import now, rfc3339
from mailwatch.witness.cosigner import Cosigner
from mailwatch.witness.keys import load_witness_key
from tests.helpers.malicious_operator import Operator
from tests.helpers.pdf import text_of
from tests.helpers.witnesses import cosign_by_hand

ADDRESS = "203.0.113.7"
TARGETS = [{"name": "lab-imap", "kind": "imap", "host": "127.0.0.1"}]


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    store = Store.open(tmp_path / "data")
    yield Operator(store, tmp_path / "data")
    store.close()


@pytest.fixture
def cosigner(operator: Operator, tmp_path: Path) -> Iterator[Cosigner]:
    Store.open(tmp_path / "friend").close()
    register = WitnessRegister(tmp_path / "friend")
    keys = operator.store.keys
    yield Cosigner(load_witness_key(tmp_path / "friend"), register, [log_key(keys.origin, keys.public)])
    register.close()


def our_address(operator: Operator) -> None:
    """Write down that a STUN server saw our address."""
    at = operator.clock()
    clock = {"boot": monotonic.origin().boot, "at": operator.steady()}
    found = {"at": at, "address": ADDRESS, "family": 4, "server": "stun.example.org:3478", "clock": clock}
    operator.entry("address", found)


def record(operator: Operator, cosigner: Cosigner) -> None:
    """An outage with our address, under changing rules, cosigned before and after it."""
    operator.watch("127.0.0.1", TargetEvent.BEGIN)
    operator.observe("++")
    our_address(operator)
    known = cosign_by_hand(operator, cosigner)
    operator.observe("++----++")
    for rules in (Rules(open_after=5), Rules(open_after=5, close_after=4)):
        operator.rules = rules
        operator.start()
        operator.observe("++")
    cosign_by_hand(operator, cosigner, known)
    operator.observe("++")
    operator.store.checkpoint()


def period(operator: Operator, tmp_path: Path, language: str = "en", host: str = "127.0.0.1") -> Path:
    targets = [{"name": "lab-imap", "kind": "imap", "provider": "lab", "host": host, "port": 993}]
    (tmp_path / "config.yaml").write_text(json.dumps({"data_dir": "data", "targets": targets}))
    path, start, end = tmp_path / "period.zip", rfc3339(now() - 3_600_000), rfc3339(now() + 3_600_000)
    words = ["report", "--from", start, "--to", end, "-o", str(path), "--lang", language]
    assert main(["--config", str(tmp_path / "config.yaml"), *words]) == 0
    return path


def page_text(path: Path, tmp_path: Path) -> str:
    (tmp_path / "report.pdf").write_bytes(zipfile.ZipFile(path).read("report.pdf"))
    return text_of(tmp_path / "report.pdf")


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ("cosigned 2 checkpoints of this", "on record once", "opening at number 5, closing at number 4")),
        ("it", ("ha controfirmato 2 checkpoint", "registrato una volta", "apertura alla 5ª, chiusura alla 4ª")),
    ],
)  # fmt: skip
def test_a_period_counts_cosignatures_and_states_our_address_and_all_rules(
    operator: Operator, cosigner: Cosigner, tmp_path: Path, language: str, words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    record(operator, cosigner)
    path = period(operator, tmp_path, language)
    text = page_text(path, tmp_path)
    for word in (*words, ADDRESS, cosigner.key.name):
        assert word in text
    assert main(["verify", str(path)]) == 0
    assert "is the same to the byte" in " ".join(capsys.readouterr().out.split())


def period_claim(path: Path) -> Claim:
    (found,) = [claim for claim in verify(path, Trust()) if claim.claim == "period"]
    return found


def test_the_service_of_a_period_is_compared_with_the_record(
    operator: Operator, cosigner: Cosigner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(operator, cosigner)
    found = period_claim(period(operator, tmp_path))
    assert (found.valid, found.note) == (True, False)
    # An operator whose program states what they like.
    service = {
        "kind": "imap",
        "provider": "libero",
        "host": "imapmail.libero.it",
        "port": 993,
        "with_login": False,
    }
    monkeypatch.setattr("mailwatch.cli.report._recorded_service", lambda *_: service)
    found = period_claim(period(operator, tmp_path))
    assert (found.valid, found.note) == (True, True)
    assert (
        "imapmail.libero.it:993, stated as the server of lab-imap, is not on record in this range" in found.detail
    )


def test_a_period_states_the_server_of_its_own_time(
    operator: Operator, cosigner: Cosigner, tmp_path: Path
) -> None:
    record(operator, cosigner)
    operator.wait(2 * 3_600_000)
    operator.watch("127.0.0.2")
    operator.observe("+")
    operator.store.checkpoint()
    path = period(operator, tmp_path, host="127.0.0.2")
    (one,) = json.loads(zipfile.ZipFile(path).read("period.json"))["targets"]
    assert one["service"]["host"] in ("127.0.0.1", "127.0.0.2")
    assert not period_claim(path).note


def test_the_audit_verifies_cosignatures_again(
    operator: Operator, cosigner: Cosigner, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(operator, cosigner)
    with operator.reader() as reader:
        assert audit_cosignatures(reader) == (2, [])
        good = next(reader.entries(kinds=["witness"])).payload
    other = str(replace(cosigner.key, name="mailwatch-witness/0000000000000000"))
    for changed in ({"time": 1000}, {"checkpoint": 1}, {"witness": other}, {"cosignature": "— x AAAA"}):
        operator.entry("witness", good | changed)
    operator.store.checkpoint()
    with operator.reader() as reader:
        count, findings = audit_cosignatures(reader)
    assert count == 6
    assert [one.what.partition(" is over")[0].partition(":")[0] for one in findings] == [
        "its cosignature has another time",
        "its cosignature",
        "its cosignature does not match",
        "its cosignature does not match",
    ]
    (tmp_path / "config.yaml").write_text(json.dumps({"data_dir": "data", "targets": TARGETS}))
    assert main(["--config", str(tmp_path / "config.yaml"), "ledger", "audit", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["cosignatures"] == 6


class Member:
    """An operator who is a witness of the others too."""

    def __init__(self, folder: Path) -> None:
        (folder / "keys").mkdir(parents=True)
        private = load_witness_key(folder)
        self.store = Store.open(folder)
        self.operator = Operator(self.store, folder)
        self.register = WitnessRegister(folder)
        self.cosigner = Cosigner(private, self.register, [])


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", "Each was cosigned by the witness of another one"),
        ("it", "Ciascuno è stato controfirmato dal testimone"),
    ],
)
def test_a_joint_report_says_that_its_members_were_witnessed_and_their_addresses(
    tmp_path: Path, language: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    members = [Member(tmp_path / name) for name in "ab"]
    with contextlib.ExitStack() as stack:
        for one in members:
            stack.callback(one.store.close)
            stack.callback(one.register.close)
            one.cosigner.allow([log_key(m.store.keys.origin, m.store.keys.public) for m in members])
        for one, other in (members, members[::-1]):
            one.operator.observe("++")
            known = cosign_by_hand(one.operator, other.cosigner)
            our_address(one.operator)
            one.operator.observe("++----++")
            cosign_by_hand(one.operator, other.cosigner, known)
        bundles = [str(one.operator.bundle()) for one in members]
        joint = tmp_path / "joint.zip"
        options = ["-o", str(joint), "--enclose", "--lang", language, "--witnessed"]
        assert main(["merge", *bundles, *options]) == 0
    stated = json.loads(zipfile.ZipFile(joint).read("joint.json"))
    for one in stated["members"]:
        (address,) = one["public_addresses"]
        assert (address["address"], address["count"]) == (ADDRESS, 1)
    text = page_text(joint, tmp_path)
    assert words in text
    assert ADDRESS in text
    assert main(["verify", str(joint)]) == 0
    capsys.readouterr()
