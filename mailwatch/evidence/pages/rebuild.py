"""Makes a report again from a verified bundle. Nothing comes from the verifier's own config or ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import orjson

from mailwatch.analysis.elapsed import Moment
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.replay import FactListener
from mailwatch.analysis.sla import read_rule
from mailwatch.config.schema_claims import ClaimSection
from mailwatch.evidence.claims.evaluate import evaluate, sla_outage
from mailwatch.evidence.claims.owner_statement import OwnerClaim
from mailwatch.evidence.ledger_range import LedgerRange, TokenFile
from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.period_case import PeriodEvidence
from mailwatch.evidence.rendering import Rendering, outside_of
from mailwatch.evidence.report import collect_report_facts, render_outage_report
from mailwatch.evidence.report.charts import AvailabilityCalendar
from mailwatch.evidence.report.facts import ObserverFacts
from mailwatch.evidence.report.period import period_report
from mailwatch.evidence.stated import OutageStatement, PeriodStatement, ReportJson
from mailwatch.evidence.verify import VerificationResult
from mailwatch.evidence.verify.archive import Archive
from mailwatch.ledger.earlier_entry import read_earlier
from mailwatch.ledger.timestamp import parse_reply
from mailwatch.store import CheckpointRow, Entry
from mailwatch.store.queries import anchor_among
from mailwatch.times import parse_rfc3339


class Rebuild:
    """Makes the report of a bundle again, after the bundle was verified with `listener`."""

    def __init__(self, path: Path, stated: ReportJson) -> None:
        """Raises ValueError, KeyError, TypeError, LookupError, OSError if `stated` is not a key `report`."""
        self._path = path
        self._how = Rendering.of(stated)
        self._calendar: AvailabilityCalendar | None = None
        if self._how.window is not None:
            self._calendar = AvailabilityCalendar(self._how.window, self._how.zone)

    @property
    def listener(self) -> FactListener:
        """What the verification must call with the facts of the bundle."""
        return (lambda *_: None) if self._calendar is None else self._calendar.add

    def report(self, verified: VerificationResult) -> bytes:
        """Return the PDF, unsigned. `verified`: the valid bundle. Raises any exception on hostile content."""
        archive = Archive(self._path)
        try:
            statement = archive.read(archive.statement)
            if verified.replay is None:
                return _outage_report(archive, verified, statement)
            if self._calendar is None:
                raise ValueError("the report of a period states no window")
            stated = cast(PeriodStatement, verified.statement)
            found = _range_of(archive, stated)
            case = PeriodEvidence(found, verified.replay, list(verified.outages), stated, verified.doubts)
            return period_report(case, self._calendar, statement, ObserverFacts.of(_own_entries(archive)))
        finally:
            archive.close()


def _outage_report(archive: Archive, verified: VerificationResult, statement: bytes) -> bytes:
    stated, (record,) = cast(OutageStatement, verified.statement), verified.outages
    key = archive.read("keys/ledger.pub").decode().removesuffix("\n")
    case = OutageEvidence(record, _range_of(archive, stated), stated, key, _claim_of(stated, record))
    reference = _reference(archive, record)
    facts = collect_report_facts(_entries(archive), case, reference, outside_of(stated["report"]))
    return render_outage_report(case, facts, statement)


def _reference(archive: Archive, record: OutageRecord) -> Moment | None:
    own = (entry for entry in _entries(archive) if entry.target == record.target and entry.kind == "observation")
    return anchor_among((one for one in own if record.first_index <= one.index <= record.last_index), record)


def _range_of(archive: Archive, stated: OutageStatement | PeriodStatement) -> LedgerRange:
    """Return the range as far as a report reads it: without the times of most checkpoints."""
    proof: dict[str, Any] = archive.json("proof.json")
    notes = [(int(note.split("\n")[1]), note) for note in proof["checkpoints"]]
    rows = [CheckpointRow(size, 0, note) for size, note in notes]
    end = dataclasses.replace(rows[-1], time_ms=parse_rfc3339(stated["as_of"]))
    tokens = [
        _token(archive, one["file"], one["entry"], one["checkpoint"], one["authority"]) for one in proof["tokens"]
    ]
    carried = tuple((one.index, one.payload["checkpoint"]) for one in _entries(archive) if _is_carried(one))
    announced = read_earlier(proof["announcement"], "node") if "announcement" in proof else None
    start = CheckpointRow(proof["start"]["size"], 0, "")
    return LedgerRange(start, end, tuple(rows), tuple(tokens), carried, announced)


def _is_carried(entry: Entry) -> bool:
    return entry.kind == "carried" and bool(entry.payload)


def _token(archive: Archive, name: str, entry: int, checkpoint: int, authority: str) -> TokenFile:
    reply = archive.read(name)
    digest = name.removeprefix("tokens/").removesuffix(".tsr")
    return TokenFile(entry, checkpoint, parse_reply(reply).time, authority, digest, reply)


def _own_entries(archive: Archive) -> Iterator[Entry]:
    """Yield the entries about witnesses and our addresses: the others, up to millions, are not parsed."""
    wanted = tuple(f'"kind":"{kind}"'.encode() for kind in ObserverFacts.KINDS)
    lines = (line for line in archive.lines("entries.jsonl") if any(kind in line for kind in wanted))
    return (entry for entry in _entries_of(lines) if entry.kind in ObserverFacts.KINDS)


def _entries(archive: Archive) -> Iterator[Entry]:
    """Yield the entries; the target of an entry without its payload is ""."""
    return _entries_of(archive.lines("entries.jsonl"))


def _entries_of(lines: Iterable[bytes]) -> Iterator[Entry]:
    for line in lines:
        entry = orjson.loads(line)
        header, payload = entry["header"], entry.get("payload", {})
        target = None if header["target"] is None else payload.get("target", "")
        texts = (orjson.dumps(one, option=orjson.OPT_SORT_KEYS).decode() for one in (header, payload))
        yield Entry(header["index"], header["kind"], header["time"], target, header["number"], *texts)


def _claim_of(stated: OutageStatement, record: OutageRecord) -> OwnerClaim | None:
    """Return the owner's claim in a statement, its result evaluated again."""
    given: Any = stated.get("claim")
    if given is None:
        return None
    # Which contracts a claim covers is not stated: it is of this outage.
    section = ClaimSection.model_validate(given["stated_by_owner"] | {"targets": [record.target]})
    if "rule" not in given:
        return OwnerClaim(section)
    rule = read_rule(given["rule"]["key"], {key: value for key, value in given["rule"].items() if key != "key"})
    return OwnerClaim(section, rule, evaluate(rule, record.kind, [sla_outage(record)], OwnerClaim(section).fee))
