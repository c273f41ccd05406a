"""Drops the runs of old packs for good: of a pruned pack only the root of its subtree stays.

All proofs above that root hold. What was pruned is unknown from then on, never up. Entries that are rows stay:
outages, settings, tokens, what MailWatch records of itself, and the observations around outages. The ledger
announces each pruning before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from mailwatch.ledger import succession
from mailwatch.store.entry_rows import CheckpointRow
from mailwatch.store.packs import PackReader, PrunedSubtree, has_packs
from mailwatch.store.reader import Reader
from mailwatch.store.schema import entries, packs, runs
from mailwatch.times import HOUR_MS, Millis, rfc3339

PACKS_A_TIME = 64
"""Most packs of one announcement."""
BESIDE_MS: Millis = HOUR_MS
"""Milliseconds before and after an outage of which nothing is pruned."""


@dataclass(frozen=True, slots=True)
class Prunable:
    """A pack that may be pruned: its entries [first, end), and how many its runs hold."""

    first: int
    end: int
    count: int


@dataclass(frozen=True, slots=True)
class Needed:
    """What outages need: entries [start, end), and times, both ends inclusive."""

    ranges: Sequence[tuple[int, int]] = ()
    windows: Sequence[tuple[Millis, Millis]] = ()

    def includes(self, first: int, end: int, low: Millis, high: Millis) -> bool:
        """Return whether a pack, by its entries and its times, holds something of it."""
        return any(start < end and first < stop for start, stop in self.ranges) or any(
            begin <= high and low <= until for begin, until in self.windows
        )


def prunable(reader: Reader, before_ms: Millis, covered: int, needed: Needed) -> list[Prunable]:
    """Return the oldest packs that may be pruned, at most PACKS_A_TIME. Raises StoreError.

    All of their observations are older than `before_ms`, and their entries are among the first `covered`, which
    others have signed. None holds what `needed` includes, nor an entry of which evidence has a proof that needs
    the entries after it: an announcement of maintenance, what a ledger says of the one before it. After each there
    is a checkpoint from before `before_ms`, with which evidence of the times that are kept can begin.
    """
    found: list[Prunable] = []
    column = packs.c
    query = sa.select(column.first, column.level, column.count).where(column.pruned_ms.is_(None))
    query = query.where(column.swept == 1, column.count > 0).order_by(column.first)
    with reader.snapshot() as connection:
        for first, level, count in connection.execute(query).all():
            end = first + (1 << level)
            times = sa.select(sa.func.min(runs.c.low_ms), sa.func.max(runs.c.high_ms)).where(runs.c.pack == first)
            low, high = connection.execute(times).one()
            if end > covered or high is None or high >= before_ms or len(found) == PACKS_A_TIME:
                break
            begin = reader.checkpoint(at_least=end)
            if begin is None or begin.time_ms >= before_ms:
                break
            if not needed.includes(first, end, low, high) and not _is_proven(connection, first, end):
                found.append(Prunable(first, end, count))
    return found


def _is_proven(connection: sa.Connection, first: int, end: int) -> bool:
    """Return whether bundles may have a proof of an entry of this range alone."""
    column = entries.c
    query = sa.select(column.kind, column.payload).where(column.kind.in_(("node", succession.KIND)))
    found = connection.execute(
        query.where(sa.text("kind <> 'observation'"), column.idx >= first, column.idx < end)
    ).all()
    return any(
        kind == succession.KIND or json.loads(text).get("maintenance", {}).get("rules") for kind, text in found
    )


def prune_pack(connection: sa.Connection, first: int, at: Millis) -> None:
    """Drop the runs of a pack in the transaction of `connection`. Raises StoreError."""
    connection.execute(
        sa.update(packs).where(packs.c.first == first, packs.c.pruned_ms.is_(None)).values(pruned_ms=at)
    )
    connection.execute(sa.delete(runs).where(runs.c.pack == first))


def pruned_packs(reader: Reader, end: int) -> list[PrunedSubtree]:
    """Return the pruned packs that begin before `end`, in order. Raises StoreError."""
    with reader.snapshot() as connection:
        return list(PackReader(connection).pruned(end))


def kept_from(reader: Reader, before: int) -> int:
    """Return the entry from which on, up to the entry `before`, nothing was pruned. Raises StoreError."""
    found = pruned_packs(reader, before)
    return found[-1].first + (1 << found[-1].level) if found else 0


def checkpoint_outside(reader: Reader, at_most: int) -> CheckpointRow | None:
    """Return the largest checkpoint of at most so many entries that does not end inside a pruned pack.

    The tree can be continued from there, over the roots of what was pruned. Raises StoreError.
    """
    found = reader.checkpoint(at_most=at_most)
    for pack in reversed(pruned_packs(reader, at_most)):
        if found is None or found.size >= pack.first + (1 << pack.level):
            break
        if found.size > pack.first:
            found = reader.checkpoint(at_most=pack.first)
    return found


def segments(reader: Reader, begin: int, end: int) -> Iterator[range | PrunedSubtree]:
    """Yield what is left of the entries [begin, end): ranges with all entries, and pruned packs by their root.

    A pack of which only a part is wanted is left out.
    """
    for found in pruned_packs(reader, end):
        first, after = found.first, found.first + (1 << found.level)
        if after <= begin:
            continue
        if begin < first:
            yield range(begin, first)
        if begin <= first and after <= end:
            yield found
        begin = after
    if begin < end:
        yield range(begin, end)


@dataclass(frozen=True, slots=True)
class PrunedTime:
    """What was pruned last: the observations before a time, but for those around outages. `entry` announced it."""

    before: Millis
    entry: int

    def __str__(self) -> str:
        before = f"the observations before {rfc3339(self.before)}"
        return f"{before} were pruned by `retention.keep`, as entry {self.entry} announced"


def pruned_time(reader: Reader) -> PrunedTime | None:
    """Return up to when observations were pruned; None if none was. Raises StoreError."""
    if not pruned_entries(reader):
        return None
    for entry in reader.entries(kinds=["node"], descending=True):
        if (written := entry.payload.get("pruned")) is None:
            continue
        end = max(after for _, after in written["packs"])
        first = next(reader.entries(kinds=["observation"], from_index=end, limit=1), None)
        # Announced later than any observation of its packs, whatever there is after them.
        return PrunedTime(entry.time if first is None else first.time, entry.index)
    return None


def pruned_of_target(reader: Reader, target: str) -> PrunedTime | None:
    """Return the same if the target has been on record since before that time; else None. Raises StoreError."""
    found = pruned_time(reader)
    first = None if found is None else next(iter(reader.entries(target=target, limit=1)), None)
    return found if found is not None and first is not None and first.time < found.before else None


def pruned_entries(reader: Reader) -> int:
    """Return how many entries were pruned. Raises StoreError."""
    query = sa.select(sa.func.coalesce(sa.func.sum(packs.c.count), 0)).where(packs.c.pruned_ms.is_not(None))
    with reader.snapshot() as connection:
        return int(connection.execute(query).scalar_one()) if has_packs(connection) else 0
