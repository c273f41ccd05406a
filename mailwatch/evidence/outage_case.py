"""Collects one outage and all contents of its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.bundle import File, instructions, pretty_json, standalone_checker, write_bundle
from mailwatch.evidence.chain import chain_statement
from mailwatch.evidence.claims.owner_statement import OwnerClaim
from mailwatch.evidence.ledger_range import EvidenceError, LedgerRange, select_range, unsigned_error
from mailwatch.evidence.stated import OutageStatement, ServiceJson
from mailwatch.evidence.statement import clock_error_of, outage_statement
from mailwatch.evidence.witnesses import witness_statement
from mailwatch.ledger.checkpoint import verifier_key
from mailwatch.ledger.earlier_entry import EarlierEntry
from mailwatch.store import Reader, Tokens, queries
from mailwatch.store.keys import Keys
from mailwatch.store.proofs import earlier_entry
from mailwatch.store.replay import rule_book


@dataclass(frozen=True, slots=True)
class OutageEvidence:
    """A recorded outage, the range that proves it, and the statement. `key`: the ledger's public key."""

    record: OutageRecord
    range: LedgerRange
    statement: OutageStatement
    key: str
    claim: OwnerClaim | None = None

    def stating(self, more: Mapping[str, Any]) -> OutageEvidence:
        """Return the evidence with more keys in the statement."""
        return replace(self, statement=cast(OutageStatement, {**self.statement, **more}))

    def with_claim(self, claim: OwnerClaim) -> OutageEvidence:
        """Return the evidence with the owner's claim, in the statement as well."""
        return replace(self, claim=claim, statement={**self.statement, "claim": claim.as_json()})


def find_outage_evidence(
    reader: Reader, tokens: Tokens, keys: Keys, wanted: str, service: ServiceJson | None
) -> OutageEvidence:
    """Return the evidence of the only outage whose id begins with `wanted`. Raises EvidenceError."""
    record, found = _signed_part(reader, tokens, find_outage(reader, wanted))
    error = clock_error_of(reader, found, [queries.anchor_of(reader, record)])
    book = rule_book(reader)
    rules = record.rules or book.at(record.last_index)
    stated = outage_statement(record, rules, found, keys.origin, service, error, book.at(found.start.size))
    key = verifier_key(keys.origin, keys.public)
    witnessed = witness_statement(reader, keys, found.end.size, [record.target])
    stated = cast(OutageStatement, {**stated, **chain_statement(reader, key), **witnessed})
    return OutageEvidence(record, found, stated, key)


def _signed_part(reader: Reader, tokens: Tokens, known: OutageRecord) -> tuple[OutageRecord, LedgerRange]:
    """Return the outage as the entries of its range give it, and the range. Raises EvidenceError.

    The ledger grows while it is read. An open outage is therefore stated as of the checkpoint at which its range
    ends, where `mailwatch verify` replays it to; an outage that has ended is stated only once its end is signed.
    """
    newest = reader.last_checkpoint()
    size = 0 if newest is None else newest.size
    record = queries.outage_record_at(reader, known.id, size)
    if record is None or (record.state == "open" and known.state != "open"):
        raise unsigned_error(known.last_index)
    last = record.last_index
    # The entry of its end, and the confirming observation, are part of the evidence.
    closing = reader.entries(target=record.target, kinds=["outage"], from_index=last, to_index=size, limit=1)
    last = max([last, *(entry.index for entry in closing)])
    found = select_range(reader, tokens, record.first_index, last, [record.provider])
    found = replace(found, announcement=_announcement(reader, found.start.size))
    if found.end.size == size:
        return record, found
    return queries.outage_record_at(reader, known.id, found.end.size) or record, found


def _announcement(reader: Reader, start: int) -> EarlierEntry | None:
    """Return the last start or reload before a range, if it announced maintenance: it is in force there."""
    for entry in reader.entries(kinds=["node"], to_index=start, descending=True, limit=1):
        if entry.payload.get("maintenance"):
            return earlier_entry(reader, entry, start)
    return None


def find_outage(reader: Reader, wanted: str) -> OutageRecord:
    """Return the only outage whose id begins with `wanted`. Raises EvidenceError."""
    fitting = queries.outage_records(reader, wanted=lambda head: head.id.startswith(wanted))
    if len(fitting) != 1:
        problem = f"{len(fitting)} outages begin with" if fitting else "no outage has the id"
        raise EvidenceError(f"{problem} {wanted}; `mailwatch outages` lists them")
    return fitting[0]


def write_outage_bundle(
    out: IO[bytes], reader: Reader, keys: Keys, evidence: OutageEvidence, language: str, files: list[File]
) -> None:
    """Write the bundle of an outage. `files`: the report and other files made by the caller."""
    inside = [
        File("outage.json", pretty_json(evidence.statement)),
        *files,
        instructions(language, keys.origin, "outage.json"),
        standalone_checker(),
    ]
    write_bundle(out, reader, evidence.range, keys, [evidence.record.target], inside)


def certificates_file(name: str, path: Path) -> File:
    """Return an authority's certificates from the config, as a file of the bundle."""
    safe = "".join(char if char.isalnum() or char in ".-_" else "_" for char in name)
    return File(f"tokens/{safe}.pem", path.read_bytes())
