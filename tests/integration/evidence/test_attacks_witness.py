"""What a witness shows of an operator who holds the key: a second history, a ledger begun anew, a past made up.

The ids of the tests are those of the review of the evidence: A16, A17, D3.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailwatch.cli import main
from mailwatch.evidence.joint.member import read_member
from mailwatch.evidence.ledger_range import PUBLIC_KINDS
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.verify import Claim, Trust, examine, verify
from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.evidence.verify.entries import LedgerScan
from mailwatch.evidence.verify.witness import verify_witnesses
from mailwatch.ledger.cosignature import cosign, log_key
from mailwatch.ledger.merkle import CompactRange
from mailwatch.ledger.witness_register import mailbox_commitment, read_statement
from mailwatch.store import Store, Tokens
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.times import now
from mailwatch.witness.cosigner import Cosigner
from mailwatch.witness.keys import load_witness_key
from tests.helpers.ledger_factory import DAY, MINUTE
from tests.helpers.malicious_operator import Operator, quiet, trusting
from tests.helpers.pdf import text_of
from tests.helpers.witnesses import cosign_by_hand, register_by_hand

ADDRESS = "mario.rossi@example.org"


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


def the_claim(path: Path, cosigner: Cosigner | None = None) -> Claim:
    """The claim `witness`, where the reader trusts this witness; all others are valid."""
    claims = verify(path, Trust(witnesses=set() if cosigner is None else {str(cosigner.key)}))
    (found,) = [claim for claim in claims if claim.claim == "witness"]
    assert [claim for claim in claims if not claim.valid and claim is not found] == []
    return found


def refused(path: Path, cosigner: Cosigner) -> list[tuple[str, str]]:
    trust = Trust(witnesses={str(cosigner.key)})
    return [(claim.claim, claim.detail) for claim in verify(path, trust) if not claim.valid]


def record_outage(operator: Operator, cosigner: Cosigner, known: int = 0) -> int:
    """An outage with a cosignature before and after it; the size that was cosigned last."""
    operator.observe("++")
    known = cosign_by_hand(operator, cosigner, known)
    operator.observe("++----++")
    return cosign_by_hand(operator, cosigner, known)


def test_an_honest_outage_is_cosigned_on_both_sides(operator: Operator, cosigner: Cosigner) -> None:
    record_outage(operator, cosigner)
    register_by_hand(operator, cosigner, ADDRESS)
    path = operator.bundle()
    claim = the_claim(path, cosigner)
    assert (claim.valid, claim.note) == (True, False), claim
    assert f"{cosigner.key.name} cosigned 2 checkpoints" in claim.detail
    assert "consistent since; no other ledger of this mailbox there" in claim.detail
    stated = json.loads(zipfile.ZipFile(path).read("outage.json"))
    (one,) = stated["witnesses"]
    assert (one["key"], one["targets"]) == (str(cosigner.key), ["lab-imap"])
    assert read_statement(one["statement"], cosigner.key).commitment == mailbox_commitment(ADDRESS)
    # No entry shows the commitment: the statement is enclosed for the targets of the bundle alone.
    lines = zipfile.ZipFile(path).read("entries.jsonl").decode()
    assert mailbox_commitment(ADDRESS) not in lines
    assert stated["range"]["first"] < stated["outage"]["ledger"]["first"]


def test_without_the_readers_key_it_is_a_note(operator: Operator, cosigner: Cosigner) -> None:
    record_outage(operator, cosigner)
    claim = the_claim(operator.bundle())
    assert (claim.valid, claim.note) == (True, True)
    assert "compare the keys of" in claim.detail


def test_without_a_witness_the_claim_says_what_that_means(operator: Operator) -> None:
    operator.observe("++----++")
    claim = the_claim(operator.bundle())
    assert (claim.valid, claim.note) == (True, False)
    assert "nothing here excludes another history or another ledger" in claim.detail


def test_a_statement_is_of_the_target_of_the_bundle_alone(operator: Operator, cosigner: Cosigner) -> None:
    cosign_by_hand(operator, cosigner)
    operator.target = "another"
    register_by_hand(operator, cosigner, "anna@example.org")
    operator.target = "lab-imap"
    record_outage(operator, cosigner, 1)
    path = operator.bundle()
    assert the_claim(path, cosigner).valid
    assert "witnesses" not in json.loads(zipfile.ZipFile(path).read("outage.json"))
    assert mailbox_commitment("anna@example.org").encode() not in zipfile.ZipFile(path).read("entries.jsonl")


@pytest.mark.sqlite
def test_a17_the_better_of_two_histories_has_no_cosignature(
    operator: Operator, cosigner: Cosigner, tmp_path: Path
) -> None:
    """The owner copies the data_dir, goes on in both, and submits the one with the outage."""
    operator.observe("++")
    known = cosign_by_hand(operator, cosigner)
    operator.store.checkpoint()
    shutil.copytree(tmp_path / "data", tmp_path / "fork")
    operator.observe("++")
    cosign_by_hand(operator, cosigner, known)
    fork = Operator(Store.open(tmp_path / "fork"), tmp_path / "fork")
    fork.observe("++----++")
    with fork.reader() as reader:
        signed = reader.checkpoint(at_most=known)
        assert signed is not None
    cosign_by_hand(fork, cosigner, known + 3)
    path = fork.bundle()
    claim = the_claim(path)
    assert claim.note
    assert "SAW ANOTHER HISTORY of this ledger" in claim.detail
    fork.store.close()


@pytest.mark.sqlite
def test_a17_a_fork_that_hides_the_refusal_shows_no_cosignature_since(
    operator: Operator, cosigner: Cosigner, tmp_path: Path
) -> None:
    operator.observe("++")
    known = cosign_by_hand(operator, cosigner)
    shutil.copytree(tmp_path / "data", tmp_path / "fork")
    operator.observe("+")
    cosign_by_hand(operator, cosigner, known)
    fork = Operator(Store.open(tmp_path / "fork"), tmp_path / "fork")
    fork.observe("++----++")
    path = fork.bundle()
    fork.store.close()
    detail = the_claim(path, cosigner).detail
    # Only the checkpoint before the outage is cosigned, and none after it.
    assert f"cosigned 1 checkpoints, of {known} to {known} entries" in detail


def test_a17_a_ledger_begun_anew_is_known_to_the_witness(
    operator: Operator, cosigner: Cosigner, tmp_path: Path
) -> None:
    """Another key for the same mailbox: the witness names the first ledger in what it states of the second."""
    record_outage(operator, cosigner)
    register_by_hand(operator, cosigner, ADDRESS)
    anew = Operator(Store.open(tmp_path / "anew"), tmp_path / "anew")
    keys = anew.store.keys
    first = operator.store.keys
    cosigner.allow([log_key(one.origin, one.public) for one in (first, keys)])
    known = record_outage(anew, cosigner)
    register_by_hand(anew, cosigner, ADDRESS)
    assert known > 0
    detail = the_claim(anew.bundle(), cosigner).detail
    assert f"OTHER LEDGERS of this mailbox there: {first.origin}" in detail
    anew.store.close()


def test_a17_the_same_key_begun_anew_is_refused_by_the_witness(
    operator: Operator, cosigner: Cosigner, tmp_path: Path
) -> None:
    record_outage(operator, cosigner)
    (tmp_path / "anew" / "keys").mkdir(parents=True)
    anew = Operator(Store.open(tmp_path / "anew", keys=operator.store.keys), tmp_path / "anew")
    record_outage(anew, cosigner)
    path = anew.bundle()
    anew.store.close()
    assert "SAW ANOTHER HISTORY" in the_claim(path).detail
    assert refused(path, cosigner) == [("witness", "no checkpoint was cosigned by a witness of --witness")]


def test_a2_a_past_made_up_today_contradicts_the_cosignature(
    operator: Operator, cosigner: Cosigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the operator is a year behind, and there is no timestamp authority."""
    operator.clock_error = -365 * DAY
    record_outage(operator, cosigner)
    path = operator.bundle()
    # The error is stated, and the report says it; a statement that conceals it is refused.
    assert json.loads(zipfile.ZipFile(path).read("outage.json"))["clock_error"] > 364 * DAY / 1000
    assert the_claim(path, cosigner).valid
    monkeypatch.setattr("mailwatch.evidence.statement.cosigned_clock_error", lambda *_: 0)
    ((claim, words),) = refused(operator.bundle(), cosigner)
    assert claim == "witness"
    assert "the clock was off by" in words


def test_a2_a_clock_that_the_operator_does_not_admit_is_refused(operator: Operator, cosigner: Cosigner) -> None:
    """As above, but with times of request and answer that were made up to fit."""
    operator.clock_error = -365 * DAY
    operator.observe("++")
    _without_admission(operator, cosigner, 0)
    operator.observe("++----++")
    with operator.reader() as reader:
        known = next(reader.entries(kinds=["witness"], descending=True, limit=1)).payload["checkpoint"]
    _without_admission(operator, cosigner, known)
    assert [claim for claim, _ in refused(operator.bundle(), cosigner)] == ["witness"]


def _without_admission(operator: Operator, cosigner: Cosigner, known: int) -> None:
    clock = operator.clock
    operator.clock = now  # type: ignore[method-assign]
    entry = operator.entry

    def dated(kind: str, payload: dict[str, Any], target: str | None = None) -> None:
        operator.clock = clock  # type: ignore[method-assign]
        entry(kind, payload, target)

    operator.entry = dated  # type: ignore[method-assign]
    cosign_by_hand(operator, cosigner, known)
    operator.entry = entry  # type: ignore[method-assign]


def test_ones_own_witness_is_named_as_that(operator: Operator, tmp_path: Path) -> None:
    keys = operator.store.keys
    register = WitnessRegister(operator.folder)
    own = Cosigner(load_witness_key(operator.folder), register, [log_key(keys.origin, keys.public)])
    operator.store.keys = replace(keys, witness=str(own.key))
    record_outage(operator, own)
    path = operator.bundle(report="en")
    register.close()
    assert json.loads(zipfile.ZipFile(path).read("outage.json"))["own_witness"] == str(own.key)
    claim = the_claim(path, own)
    assert claim.note
    assert f"{own.key.name} (THE OBSERVER'S OWN witness" in claim.detail
    with zipfile.ZipFile(path) as opened:
        opened.extract("report.pdf", tmp_path)
    assert "is the observer's own, and so attests nothing by itself" in " ".join(
        text_of(tmp_path / "report.pdf").split()
    )


@pytest.fixture
def late_cosigner(operator: Operator, tmp_path: Path) -> Iterator[Cosigner]:
    """A witness whose clock is twenty minutes ahead."""
    Store.open(tmp_path / "late").close()
    register = WitnessRegister(tmp_path / "late")
    keys = operator.store.keys
    allowed = [log_key(keys.origin, keys.public)]
    yield Cosigner(load_witness_key(tmp_path / "late"), register, allowed, lambda: now() + 20 * MINUTE)
    register.close()


@pytest.mark.parametrize(("language", "words"), [("en", "its clock was at least"), ("it", "era avanti di almeno")])
def test_a_witness_whose_clock_is_wrong_does_not_date_the_record(
    operator: Operator, late_cosigner: Cosigner, tmp_path: Path, language: str, words: str
) -> None:
    """The tokens agree with our clock: the witness is named, and neither the times nor a joint case suffer."""
    authority = quiet(tmp_path / "authority")
    operator.observe("+")
    operator.stamp(authority)
    known = record_outage(operator, late_cosigner)
    operator.stamp(authority)
    cosign_by_hand(operator, late_cosigner, known)
    path = operator.bundle(authority, report=language)
    assert "clock_error" not in json.loads(zipfile.ZipFile(path).read("outage.json"))
    for witnesses in (set(), {str(late_cosigner.key)}):
        result = examine(path, replace(trusting(authority), witnesses=witnesses))
        assert [claim for claim in result.claims if not claim.valid] == []
        assert "clock_off" not in {one.code.removesuffix("_witness") for one in result.caveats}
        (claim,) = [claim for claim in result.claims if claim.claim == "witness"]
        differed = f"the clock of {late_cosigner.key.name} and ours DIFFERED by at least (1199|1200) s: the tokens"
        assert re.search(differed, claim.detail)
        assert claim.note
    assert read_member(path, trusting(authority)).reason == ""
    with zipfile.ZipFile(path) as opened:
        opened.extract("report.pdf", tmp_path)
    assert re.search(f"{words} (19 min 59 s|20 min)", " ".join(text_of(tmp_path / "report.pdf").split()))


def test_with_tokens_that_the_reader_does_not_trust_a_witness_is_believed(
    operator: Operator, late_cosigner: Cosigner, tmp_path: Path
) -> None:
    """Else an authority of the operator's own could overrule the witness that a reader names."""
    authority = quiet(tmp_path / "authority")
    operator.observe("+")
    operator.stamp(authority)
    record_outage(operator, late_cosigner)
    operator.stamp(authority)
    ((claim, words),) = refused(operator.bundle(authority), late_cosigner)
    assert (claim, "of which 0 ms are stated" in words) == ("witness", True)


def test_without_tokens_a_wrong_clock_is_admitted_unless_another_witness_agrees_with_it(
    operator: Operator, cosigner: Cosigner, late_cosigner: Cosigner
) -> None:
    known = record_outage(operator, late_cosigner)
    path = operator.bundle(report="en")
    assert json.loads(zipfile.ZipFile(path).read("outage.json"))["clock_error"] == pytest.approx(1199.5, abs=1)
    assert {one.code for one in examine(path, Trust()).caveats} >= {"clock_off_witness", "no_tokens"}
    cosign_by_hand(operator, cosigner)
    operator.observe("++----++")
    cosign_by_hand(operator, late_cosigner, known)
    cosign_by_hand(operator, cosigner, known)
    path = operator.bundle()
    assert "clock_error" not in json.loads(zipfile.ZipFile(path).read("outage.json"))
    assert the_claim(path, cosigner).valid
    assert [claim for claim, _ in refused(path, late_cosigner)] == ["witness"]


def edited(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Operator], None]:
    """Write a cosignature as it came, but for a change."""

    def write(operator: Operator) -> None:
        with operator.reader() as reader:
            newest = next(reader.entries(kinds=["witness"], descending=True, limit=1)).payload
        operator.entry("witness", change(newest))

    return write


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda it: it | {"time": it["time"] + 1000}, "another time"),
        (lambda it: it | {"checkpoint": 3}, "does not match"),
        (lambda it: it | {"cosignature": it["cosignature"][:-8] + "AAAAAA=="}, "does not match"),
        (lambda it: it | {"cosignature": "— a AAAAAAA="}, "expected a cosignature"),
        (lambda it: it | {"cosignature": "no\nline"}, "expected a signature"),
        (lambda it: it | {"witness": "mailwatch-witness/1+2+3"}, "key of the witness"),
    ],
)
def test_a_cosignature_that_is_not_one_is_refused(
    operator: Operator, cosigner: Cosigner, change: Callable[[dict[str, Any]], dict[str, Any]], words: str
) -> None:
    operator.observe("++")
    assert cosign_by_hand(operator, cosigner) == 3
    operator.observe("----++")
    cosign_by_hand(operator, cosigner, 3)
    edited(change)(operator)
    ((claim, detail),) = refused(operator.bundle(), cosigner)
    assert claim == "witness"
    assert words in detail


@pytest.mark.parametrize("payload", [{}, {"witness": 1, "refused": "x"}, {"witness": "a"}])
def test_an_entry_about_a_witness_without_its_facts_is_refused(
    operator: Operator, cosigner: Cosigner, payload: dict[str, Any]
) -> None:
    record_outage(operator, cosigner)
    operator.entry("witness", {"checkpoint": 1} | payload)
    assert refused(operator.bundle(), cosigner)[0][0] == "entries"


def test_an_entry_about_a_witness_cannot_be_hidden(
    operator: Operator, cosigner: Cosigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of which the witness refused the history."""
    record_outage(operator, cosigner)
    shown = tuple(kind for kind in PUBLIC_KINDS if kind != "witness")
    monkeypatch.setattr("mailwatch.evidence.bundle.PUBLIC_KINDS", shown)
    assert "nothing left out" in [claim for claim, _ in refused(operator.bundle(), cosigner)]


def test_a_statement_that_the_witness_did_not_make_is_refused(
    operator: Operator, cosigner: Cosigner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record_outage(operator, cosigner)
    note = register_by_hand(operator, cosigner, ADDRESS)
    keys = operator.store.keys
    text, _, _ = note.partition("\n\n")
    lies = {
        "altered": note.replace("first ", "first 1", 1),
        "signed by the ledger": f"{text}\n\n{cosign(text, keys.private, 1)}\n",
        "cosigned by the witness": f"{text}\n\n{cosign(text, load_witness_key(tmp_path / 'friend'), 1)}\n",
    }
    for what, lie in lies.items():
        listed = [{"key": str(cosigner.key), "targets": ["lab-imap"], "statement": lie}]
        monkeypatch.setattr(
            "mailwatch.evidence.outage_case.witness_statement", lambda *_, it=listed: {"witnesses": it}
        )
        assert [claim for claim, _ in refused(operator.bundle(), cosigner)] == ["witness"], what


def test_a_statement_about_another_mailbox_than_the_disclosed_one_is_refused(
    operator: Operator, cosigner: Cosigner
) -> None:
    """The owner had another mailbox registered than the one that was down."""
    record_outage(operator, cosigner)
    note = register_by_hand(operator, cosigner, ADDRESS)
    listed = [{"key": str(cosigner.key), "targets": ["lab-imap"], "statement": note}]
    origin = operator.store.keys.origin
    for name, fits in ((ADDRESS, True), (ADDRESS.upper(), True), ("user", True), ("anna@example.org", False)):
        stated = {"witnesses": listed, "user_name": {"name": name, "key": ""}}
        with contextlib.nullcontext() if fits else pytest.raises(VerificationError, match="another mailbox"):
            verify_witnesses(LedgerScan(CompactRange()), {}, origin, stated)


def test_a_period_keeps_the_cosigned_checkpoints_around_its_outages(
    operator: Operator, cosigner: Cosigner, tmp_path: Path
) -> None:
    """Of a long range only the first checkpoint of a day is kept, and what cosignatures need."""
    known = 0
    for _ in range(4):
        operator.observe("+")
        known = cosign_by_hand(operator, cosigner, known)
    operator.observe("----++")
    known = cosign_by_hand(operator, cosigner, known)
    for _ in range(3):
        operator.observe("+")
        known = cosign_by_hand(operator, cosigner, known)
    operator.store.checkpoint()
    path = tmp_path / "period.zip"
    window, wanted = (now() - DAY, now() + 1), [ReportTarget("lab-imap", "lab", "imap")]
    with operator.reader() as reader, path.open("wb") as out:
        keys = operator.store.keys
        case = find_period_evidence(reader, Tokens(tmp_path / "data"), keys, window, wanted, "here")
        write_period_bundle(out, reader, keys, case, "en", [])
    claim = the_claim(path, cosigner)
    assert claim.valid
    # The first, the one before the outage, the first after it, and the last.
    assert f"{cosigner.key.name} cosigned 4 checkpoints" in claim.detail


@pytest.mark.parametrize(
    ("language", "words"),
    [("it", "non conosce altri registri"), ("en", "knows no other ledger")],
)
def test_the_report_names_the_witness_and_its_pages_are_made_again(
    operator: Operator, cosigner: Cosigner, tmp_path: Path, language: str, words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    record_outage(operator, cosigner)
    register_by_hand(operator, cosigner, ADDRESS)
    operator.store.checkpoint()
    with operator.reader() as reader:
        outage = next(reader.entries(kinds=["outage"], descending=True, limit=1)).payload["id"]
    targets = [{"name": "lab-imap", "kind": "imap", "host": "127.0.0.1"}]
    (tmp_path / "config.yaml").write_text(json.dumps({"data_dir": "data", "targets": targets}))
    path = tmp_path / "case.zip"
    words_of_report = ["report", outage, "-o", str(path), "--lang", language]
    assert main(["--config", str(tmp_path / "config.yaml"), *words_of_report]) == 0
    assert main(["verify", str(path), "--witness", str(cosigner.key), "--json"]) == 0
    claims = {
        one["claim"]: one["status"] for one in json.loads(capsys.readouterr().out.partition("\n")[2])["claims"]
    }
    assert (claims["witness"], claims["pages"]) == ("valid", "valid")
    (tmp_path / "report.pdf").write_bytes(zipfile.ZipFile(path).read("report.pdf"))
    text = text_of(tmp_path / "report.pdf")
    assert words in text
    assert cosigner.key.name in text
    assert main(["verify", str(path), "--witness", "nothing"]) == 2
