"""Entries and checkpoints as they are read from their rows, compared with what was sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from mailwatch.ledger.payloads import FACT_KINDS, fact_from
from mailwatch.model import Fact
from mailwatch.store.errors import entry_mismatch
from mailwatch.store.selection import WITHHELD
from mailwatch.times import Millis


@dataclass(frozen=True, slots=True)
class Entry:
    """A committed entry. `header` and `text` (the payload): canonical JSON. `target`: the clear name.

    In the ledger of a hub's member, an entry whose payload its owner withholds is of the kind WITHHELD, without
    text, target and number. Its header has the kind and the opaque target.
    """

    index: int
    kind: str
    time: Millis
    target: str | None
    number: int | None
    header: str
    text: str

    @property
    def payload(self) -> dict[str, Any]:
        """The payload, parsed at each access; empty where it is withheld."""
        parsed: dict[str, Any] = orjson.loads(self.text) if self.text else {}
        return parsed

    @property
    def target_id(self) -> str:
        """The opaque target id in the header, "" without a target."""
        return orjson.loads(self.header)["target"] or ""

    @property
    def fact(self) -> Fact | None:
        """The recorded observation, gap or target change; None for other kinds."""
        return fact_from(self.kind, self.payload) if self.kind in FACT_KINDS else None


RawEntry = tuple[int, str, Millis, str | None, str, str]
"""An entry as a tuple: index, kind, time, clear name of the target, header and payload."""


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A signed checkpoint, its time, and the compact range from which the tree grows on."""

    size: int
    time_ms: Millis
    note: str
    hashes: bytes = b""


def entry_from_row(row: Sequence[Any]) -> Entry:
    """Return an entry from its columns, which must match its header. Raises StoreDamagedError.

    Compared as text, in a fraction of the time of parsing: in a canonical header each key occurs once.
    """
    entry = Entry(*row)
    if entry.kind == WITHHELD:
        if not is_withheld(*row):
            raise entry_mismatch(row[0])
        return entry
    try:
        sealed_payload = hashlib.sha256(entry.text.encode()).hexdigest()
        number = "null" if entry.number is None else entry.number
        says = f'"index":{entry.index},"kind":"{entry.kind}","number":{number},"payload":"{sealed_payload}",'
        fits = says in entry.header and f'"time":{entry.time},' in entry.header
    except (AttributeError, TypeError, UnicodeError):
        fits = False
    if not fits:
        raise entry_mismatch(row[0])
    return entry


def is_withheld(
    idx: int, kind: str, time: Millis, target: str | None, number: int | None, header: str, payload: str
) -> bool:
    """Return whether a row of the kind WITHHELD is one: it shows nothing but its header, which has its place."""
    try:
        fits = f'"index":{idx},"kind":' in header and f'"time":{time},' in header
    except TypeError:
        return False
    return fits and (kind, target, number, payload) == (WITHHELD, None, None, "")


def is_consistent(header: str, payload: str) -> bool:
    """Return whether a header has the digest of a payload; neither need be text in a damaged database."""
    try:
        return f'"payload":"{hashlib.sha256(payload.encode()).hexdigest()}"' in header
    except (AttributeError, TypeError, UnicodeError):
        return False
