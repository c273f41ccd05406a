"""A bundle of a successor names the ledgers before it, and proves that its ledger begins with that."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mailwatch.evidence.bundle import Bundle
from mailwatch.evidence.chain import first_entry
from mailwatch.evidence.outage_case import find_outage_evidence, write_outage_bundle
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.report.chain_of_custody import predecessor_rows
from mailwatch.evidence.verify import Claim, Trust, verify
from mailwatch.i18n import Formatter
from mailwatch.ledger import succession
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.store import NewEntry, Reader, Store, Tokens, begin_successor, load_keys, queries
from tests.helpers.bundle_files import Files, files_of
from tests.helpers.ledger_factory import MINUTE, write

pytestmark = pytest.mark.sqlite
"""Of PostgreSQL: tests/unit/store/test_successor_postgresql.py."""

START = 1_800_000_000_000


def pattern(at: int) -> str:
    """Down twice: soon after the beginning, and late."""
    minutes = (at - START) // MINUTE
    return "-" if 5 <= minutes < 9 or 90 <= minutes < 95 else "+"


class Succeeded:
    """A ledger that was lost twice, and its successor with two outages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write(folder, {"mail": pattern}, START - 600 * MINUTE, START - 590 * MINUTE, durable=False).close()
        self.old = [(folder / "keys" / "ledger.pub").read_text()]
        (folder / "mailwatch.sqlite").unlink()
        begin_successor(folder)
        self.old.append((folder / "keys" / "ledger.pub").read_text())
        begin_successor(folder, older=True)
        write(folder, {"mail": pattern}, START, START + 120 * MINUTE, every=7, durable=False).close()

    def bundle(self, number: int, path: Path) -> Path:
        """The bundle of an outage, by its place in time."""
        reader, keys, out = Reader.open(self.folder), load_keys(self.folder), io.BytesIO()
        with contextlib.closing(reader):
            identity = sorted(queries.outage_records(reader), key=lambda one: one.first_index)[number].id
            case = find_outage_evidence(reader, Tokens(self.folder), keys, identity, None)
            write_outage_bundle(out, reader, keys, case, "en", [])
        path.write_bytes(out.getvalue())
        return path

    def period(self, start: int, end: int, path: Path) -> Path:
        """The bundle of a window, in minutes from START."""
        reader, keys, out = Reader.open(self.folder), load_keys(self.folder), io.BytesIO()
        with contextlib.closing(reader):
            window = START + start * MINUTE, START + end * MINUTE
            wanted = [ReportTarget("mail", "lab", "imap")]
            case = find_period_evidence(reader, Tokens(self.folder), keys, window, wanted, "here")
            write_period_bundle(out, reader, keys, case, "en", [])
        path.write_bytes(out.getvalue())
        return path

    def resigned(self, files: Files, path: Path) -> Path:
        """The files under a manifest that the ledger's key signs."""
        out = io.BytesIO()
        bundle = Bundle(out)
        for name, content in files.items():
            if not name.startswith("manifest."):
                bundle.add(name, [content])
        bundle.close(load_keys(self.folder).private)
        path.write_bytes(out.getvalue())
        return path


@pytest.fixture(scope="module")
def succeeded(tmp_path_factory: pytest.TempPathFactory) -> Succeeded:
    return Succeeded(tmp_path_factory.mktemp("chain") / "data")


def claims(path: Path, trust: Trust | None = None) -> dict[str, Claim]:
    return {one.claim: one for one in verify(path, trust or Trust())}


def trusting(*keys: str) -> Trust:
    return Trust(keys={key.removesuffix("\n") for key in keys})


@pytest.mark.parametrize("whole", [False, True], ids=["from a later entry", "from the first entry"])
def test_a_bundle_of_a_successor_names_all_predecessors(succeeded: Succeeded, tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "b.zip"
    if whole:
        succeeded.period(-10, 30, path)
    else:
        succeeded.bundle(1, path)
    found = claims(path)
    assert [claim.claim for claim in found.values() if not claim.valid] == []
    names = [key.partition("+")[0] for key in succeeded.old]
    assert (
        f"goes on for {names[1]} (database older; 1 entries signed, 1 kept), which appointed"
        in found["chain"].detail
    )
    assert f"goes on for {names[0]} (database lost; 11 entries signed), which appointed" in found["chain"].detail
    files = files_of(path)
    stated = json.loads(files["period.json" if whole else "outage.json"])
    assert [link["ledger"] for link in stated["chain"]] == names
    assert ("first" in json.loads(files["proof.json"])) == (not whole)


def test_a_bundle_of_a_period_names_them_too(succeeded: Succeeded, tmp_path: Path) -> None:
    found = claims(succeeded.period(20, 100, tmp_path / "p.zip"))
    assert [claim.claim for claim in found.values() if not claim.valid] == []
    assert "which appointed its successor" in found["chain"].detail


def test_the_key_of_a_predecessor_is_trusted_for_what_it_appointed(succeeded: Succeeded, tmp_path: Path) -> None:
    path = succeeded.bundle(1, tmp_path / "b.zip")
    for key in succeeded.old:
        found = claims(path, trusting(key))
        assert found["key"].valid
        assert f"successor of {key.partition('+')[0]}, which is among" in found["key"].detail
    write(tmp_path / "other", {"mail": pattern}, START, START + MINUTE, durable=False).close()
    outsider = (tmp_path / "other" / "keys" / "ledger.pub").read_text()
    assert not claims(path, trusting(outsider))["key"].valid


def test_the_first_entry_is_proven_from_every_checkpoint(succeeded: Succeeded) -> None:
    with contextlib.closing(Reader.open(succeeded.folder)) as reader:
        sizes = [row.size for row in reader.checkpoints()]
        for row in reader.checkpoints():
            # It verifies what it made, and raises if that is wrong.
            made = first_entry(reader, row)["first"]
            assert isinstance(made, dict)
            assert len(made["proof"]) == (row.size - 1).bit_length()
    assert sizes[0] == 1
    assert len(sizes) > 15


Edit = Callable[[dict[str, Any], dict[str, Any]], None]


def _forget(stated: dict[str, Any], _proof: dict[str, Any]) -> None:
    del stated["chain"]


def _shorten(stated: dict[str, Any], _proof: dict[str, Any]) -> None:
    del stated["chain"][0]


def _inflate(stated: dict[str, Any], _proof: dict[str, Any]) -> None:
    stated["chain"][0]["size"] += 1


def _hide(stated: dict[str, Any], proof: dict[str, Any]) -> None:
    del stated["chain"], proof["first"]


def _drop_entry(_stated: dict[str, Any], proof: dict[str, Any]) -> None:
    del proof["first"]


def _change_payload(stated: dict[str, Any], proof: dict[str, Any]) -> None:
    proof["first"]["payload"]["kept"] = stated["chain"][1]["kept"] = 999


def _change_entry(stated: dict[str, Any], proof: dict[str, Any]) -> None:
    _change_payload(stated, proof)
    proof["first"]["header"]["payload"] = digest(canonical(proof["first"]["payload"]))


def _unsign(stated: dict[str, Any], proof: dict[str, Any]) -> None:
    del proof["first"]["payload"]["appointment"]
    stated["chain"][1]["appointed"] = False
    proof["first"]["header"]["payload"] = digest(canonical(proof["first"]["payload"]))


def _move(_stated: dict[str, Any], proof: dict[str, Any]) -> None:
    proof["first"]["header"]["index"] = 1


def _cut(_stated: dict[str, Any], proof: dict[str, Any]) -> None:
    del proof["first"]["proof"][-1]


ATTACKS: dict[str, tuple[Edit, str]] = {
    "the statement forgets it": (_forget, "names other predecessors"),
    "the statement forgets the older one": (_shorten, "names other predecessors"),
    "the statement inflates it": (_inflate, "names other predecessors"),
    "the entry is dropped": (_drop_entry, "names other predecessors"),
    "the payload is changed": (_change_payload, "is not the one that its header seals"),
    "payload and header are changed": (_change_entry, "does not begin with the entry shown"),
    "the appointment is taken out": (_unsign, "did not appoint its successor"),
    "it is another entry": (_move, "is not the first"),
    "the proof is cut": (_cut, "does not begin with the entry shown"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_operator_with_the_key_changes_nothing_of_what_is_shown(
    succeeded: Succeeded, tmp_path: Path, attack: str
) -> None:
    edit, reason = ATTACKS[attack]
    files = files_of(succeeded.bundle(1, tmp_path / "b.zip"))
    stated, proof = json.loads(files["outage.json"]), json.loads(files["proof.json"])
    edit(stated, proof)
    files |= {"outage.json": json.dumps(stated).encode(), "proof.json": json.dumps(proof).encode()}
    found = claims(succeeded.resigned(files, tmp_path / "c.zip"))
    assert [claim.claim for claim in found.values() if not claim.valid] == ["chain"]
    assert reason in found["chain"].detail


def test_who_shows_no_predecessor_at_all_is_not_said_to_have_none(succeeded: Succeeded, tmp_path: Path) -> None:
    files = files_of(succeeded.bundle(1, tmp_path / "b.zip"))
    stated, proof = json.loads(files["outage.json"]), json.loads(files["proof.json"])
    _hide(stated, proof)
    files |= {"outage.json": json.dumps(stated).encode(), "proof.json": json.dumps(proof).encode()}
    assert claims(succeeded.resigned(files, tmp_path / "c.zip"))["chain"].detail == "no predecessor is named"
    # In a range that begins with the first entry it cannot be left out.
    files = files_of(succeeded.period(-10, 30, tmp_path / "b.zip"))
    stated = json.loads(files["period.json"])
    del stated["chain"]
    files["period.json"] = json.dumps(stated).encode()
    assert not claims(succeeded.resigned(files, tmp_path / "c.zip"))["chain"].valid


def test_only_the_first_entry_names_a_predecessor(tmp_path: Path) -> None:
    ledger = Succeeded(tmp_path / "data")
    with contextlib.closing(Reader.open(ledger.folder)) as reader:
        first = next(reader.entries())
    with contextlib.closing(Store.open(ledger.folder)) as store:
        store.read_clock = lambda: START + 130 * MINUTE
        store.append_batch([NewEntry(kind="successor", time=START, target=None, payload=first.payload)])
        store.checkpoint()
    write(ledger.folder, {"mail": pattern}, START + 200 * MINUTE, START + 202 * MINUTE, durable=False).close()
    found = claims(ledger.period(80, 201, tmp_path / "p.zip"))
    assert [claim.claim for claim in found.values() if not claim.valid] == ["chain"]
    assert "names a predecessor, which only the first entry may" in found["chain"].detail


def test_an_appointment_of_another_ledger_is_refused(succeeded: Succeeded, tmp_path: Path) -> None:
    with contextlib.closing(Reader.open(succeeded.folder)) as reader:
        payload = next(reader.entries()).payload
    outsider = Store.open(tmp_path / "other")
    outsider.close()
    other = (tmp_path / "other" / "keys" / "ledger.pub").read_text().removesuffix("\n")
    with pytest.raises(succession.SuccessionError, match="did not appoint the ledger that follows it"):
        succession.predecessors(payload, other)


@pytest.mark.parametrize("language", ["en", "it"])
def test_the_report_has_a_row_for_each_predecessor(succeeded: Succeeded, language: str) -> None:
    with contextlib.closing(Reader.open(succeeded.folder)) as reader:
        payload = next(reader.entries()).payload
    key = (succeeded.folder / "keys" / "ledger.pub").read_text().removesuffix("\n")
    chain = [link.as_json() for link in succession.predecessors(payload, key)]
    rows = predecessor_rows(chain, Formatter(language, ZoneInfo("Europe/Rome"), tenths=False))
    assert [len(row) for row in rows] == [2, 2]
    assert str(chain[1]["ledger"]) in str(rows[0][1])
    lost = dataclasses.replace(
        succession.predecessors(payload, key)[0], origin="", size=0, reason="keys_lost", appointed=False
    ).as_json()
    (row,) = predecessor_rows([lost], Formatter(language, ZoneInfo("Europe/Rome"), tenths=False))
    assert {"en": "word of the owner alone", "it": "lo dichiara solo il titolare"}[language] in str(row[1])
