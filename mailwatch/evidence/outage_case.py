"""Collects one outage and all contents of its bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.bundle import File, instructions, pretty_json, standalone_checker, write_bundle
from mailwatch.evidence.claims.owner_statement import OwnerClaim
from mailwatch.evidence.ledger_range import EvidenceError, LedgerRange, select_range
from mailwatch.evidence.stated import OutageStatement, ServiceJson
from mailwatch.evidence.statement import clock_error_of, outage_statement
from mailwatch.ledger.checkpoint import verifier_key
from mailwatch.store import Reader, Tokens, queries
from mailwatch.store.keys import Keys
from mailwatch.store.replay import rule_book


@dataclass(frozen=True, slots=True)
class OutageEvidence:
    """A recorded outage, the range that proves it, and the statement. `key`: the ledger's public key."""

    record: OutageRecord
    range: LedgerRange
    statement: OutageStatement
    key: str
    claim: OwnerClaim | None = None

    def with_claim(self, claim: OwnerClaim) -> OutageEvidence:
        """Return the evidence with the owner's claim, in the statement as well."""
        return replace(self, claim=claim, statement={**self.statement, "claim": claim.as_json()})


def find_outage_evidence(
    reader: Reader, tokens: Tokens, keys: Keys, wanted: str, service: ServiceJson | None
) -> OutageEvidence:
    """Return the evidence of the only outage whose id begins with `wanted`. Raises EvidenceError."""
    record = find_outage(reader, wanted)
    last = record.last_index
    # The entry of its end, and the confirming observation, are part of the evidence.
    closing = [e.index for e in reader.entries(target=record.target, kinds=["outage"], from_index=last)]
    found = select_range(reader, tokens, record.first_index, max([last, *closing[:1]]))
    error = clock_error_of(reader, found, [queries.anchor_of(reader, record)])
    rules = record.rules or rule_book(reader).at(last)
    stated = outage_statement(record, rules, found, keys.origin, service, error)
    return OutageEvidence(record, found, stated, verifier_key(keys.origin, keys.public))


def find_outage(reader: Reader, wanted: str) -> OutageRecord:
    """Return the only outage whose id begins with `wanted`. Raises EvidenceError."""
    fitting = [record for record in queries.outage_records(reader) if record.id.startswith(wanted)]
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
    write_bundle(out, reader, evidence.range, keys.private, [evidence.record.target], inside)


def certificates_file(name: str, path: Path) -> File:
    """Return an authority's certificates from the config, as a file of the bundle."""
    safe = "".join(char if char.isalnum() or char in ".-_" else "_" for char in name)
    return File(f"tokens/{safe}.pem", path.read_bytes())
