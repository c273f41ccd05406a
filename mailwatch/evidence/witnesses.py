"""What witnesses add to a bundle: a range that reaches to cosignatures, and statements about mailboxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from mailwatch.evidence.stated import WitnessStatementJson
from mailwatch.ledger.cosignature import witness_clock_offset
from mailwatch.ledger.entry import target_id
from mailwatch.store import Entry, Reader
from mailwatch.store.keys import Keys
from mailwatch.times import DAY_MS, Millis

MAX_WITNESS_ENTRIES = 2000
"""Most entries about witnesses to search on either side: two weeks of one witness."""


def cosigned_range(reader: Reader, first: int, last: int, least: int = 0) -> tuple[int, int]:
    """Return the size of the last checkpoint that was cosigned before the entry `first`, of `least` entries or
    more, and the number of entries up to the first answer of a witness over more than `last`.

    Each side has the nearest of each witness within a day of the nearest; without one, `first` and `last` + 1.
    """
    before = _nearest(
        entry
        for entry in reader.entries(
            kinds=["witness"], to_index=first + 1, descending=True, limit=MAX_WITNESS_ENTRIES
        )
        if "cosignature" in entry.payload and entry.payload["checkpoint"] >= least
    )
    after = _nearest(
        entry
        for entry in reader.entries(kinds=["witness"], from_index=last + 1, limit=MAX_WITNESS_ENTRIES)
        # A refusal belongs to the evidence too.
        if entry.payload["checkpoint"] > last
    )
    start = min((entry.payload["checkpoint"] for entry in before), default=first)
    return min(start, first), max((entry.index + 1 for entry in after), default=last + 1)


def cosigned_sizes(reader: Reader, start: int, end: int, spans: Iterable[tuple[int, int]]) -> set[int]:
    """Return the sizes of the cosigned checkpoints to keep of a long range.

    Of each witness these are the first of a day, and those nearest to `spans` on both sides.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    kept, days = set[int](), set[tuple[str, int]]()
    for entry in reader.entries(kinds=["witness"], from_index=start, to_index=end):
        payload = entry.payload
        if "cosignature" not in payload:
            continue
        witness, size = payload["witness"], payload["checkpoint"]
        found.setdefault(witness, []).append((entry.index, size))
        if (witness, entry.time // DAY_MS) not in days:
            days.add((witness, entry.time // DAY_MS))
            kept.add(size)
    for first, last in spans:
        for own in found.values():
            kept.update([size for index, size in own if index <= first][-1:])
            kept.update([size for _, size in own if size > last][:1])
    return {size for size in kept if start <= size <= end}


def cosigned_clock_error(reader: Reader, start: int, end: int) -> Millis:
    """Return the error of our clock by the cosignatures recorded in the entries [start, end).

    Of each witness the largest that its cosignatures prove, and of those the least: a witness whose clock is wrong
    proves nothing while another one agrees with us.
    """
    worst: dict[str, Millis] = {}
    for entry in reader.entries(kinds=["witness"], from_index=start, to_index=end):
        if "cosignature" in entry.payload:
            witness = entry.payload["witness"]
            worst[witness] = max(worst.get(witness, 0), abs(witness_clock_offset(entry.payload)))
    return min(worst.values(), default=0)


def _nearest(entries: Iterator[Entry]) -> list[Entry]:
    """Return the first entry of each witness within a day of the very first entry."""
    found: dict[str, Entry] = {}
    begun: int | None = None
    for entry in entries:
        begun = entry.time if begun is None else begun
        if abs(entry.time - begun) > DAY_MS:
            break
        found.setdefault(entry.payload["witness"], entry)
    return list(found.values())


def witness_statement(reader: Reader, keys: Keys, end: int, targets: Iterable[str]) -> dict[str, Any]:
    """Return what the statement of a bundle says of witnesses, {} where there are none.

    `witnesses`: of each witness and mailbox the last statement before the entry `end`. `own_witness`: the key with
    which this MailWatch cosigns others.
    """
    names = {target_id(keys.secret, name): name for name in targets}
    found: dict[tuple[str, str], WitnessStatementJson] = {}
    for entry in reader.entries(kinds=["register"], to_index=end, descending=True, limit=MAX_WITNESS_ENTRIES):
        payload = entry.payload
        own = sorted(names[one] for one in payload["targets"] if one in names)
        if own:
            key = payload["witness"], ",".join(own)
            found.setdefault(key, {"key": payload["witness"], "targets": own, "statement": payload["statement"]})
    listed = [found[key] for key in sorted(found)]
    stated: dict[str, Any] = {"witnesses": listed} if listed else {}
    return stated | ({"own_witness": keys.witness} if keys.witness else {})
