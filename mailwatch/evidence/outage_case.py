"""One outage and everything that its bundle holds, put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mailwatch.evidence import bundle
from mailwatch.evidence.bundle import File, checker, pack, pretty
from mailwatch.evidence.ledger_range import NoCase, Range, gather
from mailwatch.evidence.statement import error_of, statement
from mailwatch.ledger.checkpoint import verifier_key
from mailwatch.ledger.payloads import read_rules
from mailwatch.model import Rules
from mailwatch.store import Reader, Tokens, queries
from mailwatch.store.keys import Keys
from mailwatch.store.replay import rule_book


@dataclass(frozen=True, slots=True)
class Case:
    """An outage as the ledger tells it, the range that proves it, and what is claimed; `key` is the public one."""

    payload: dict[str, Any]
    found: Range
    statement: dict[str, Any]
    key: str


def find(reader: Reader, tokens: Tokens, keys: Keys, wanted: str, service: dict[str, Any] | None) -> Case:
    """Find the one outage whose id begins with `wanted`. Raises NoCase."""
    payload = chosen(reader, wanted)
    first, last = payload["ledger"]["first"], payload["ledger"]["last"]
    # The entry that tells of its end, and the look that confirmed it, belong to the case.
    closing = [e.index for e in reader.entries(target=payload["target"], kinds=["outage"], from_index=last)]
    found = gather(reader, tokens, first, max([last, *closing[:1]]))
    error = error_of(reader, found, [queries.anchor_of(reader, payload)])
    stated = statement(payload, _rules(reader, payload), found, keys.origin, service, error)
    return Case(payload, found, stated, verifier_key(keys.origin, keys.public))


def chosen(reader: Reader, wanted: str) -> dict[str, Any]:
    """Return the payload of the one outage whose id begins with `wanted`. Raises NoCase."""
    fitting = [payload for payload in queries.outage_payloads(reader) if payload["id"].startswith(wanted)]
    if len(fitting) != 1:
        problem = f"{len(fitting)} outages begin with" if fitting else "no outage is called"
        raise NoCase(f"{problem} {wanted}; `mailwatch outages` lists them")
    return fitting[0]


def write(out: IO[bytes], reader: Reader, keys: Keys, case: Case, language: str, files: list[File]) -> None:
    """Write the bundle of a case; `files` are the report and what else is made elsewhere."""
    inside = [
        File("outage.json", pretty(case.statement)),
        *files,
        File(*bundle.page(language, case.statement)),
        checker(),
    ]
    pack(out, reader, case.found, keys.private, [case.payload["target"]], inside)


def _rules(reader: Reader, payload: dict[str, Any]) -> Rules:
    if "rules" in payload:
        return read_rules(payload["rules"])
    return rule_book(reader).at(payload["ledger"]["last"])


def certificates(name: str, path: Path) -> File:
    """Enclose an authority's certificates, as they are in the config."""
    safe = "".join(letter if letter.isalnum() or letter in ".-_" else "_" for letter in name)
    return File(f"tokens/{safe}.pem", path.read_bytes())
