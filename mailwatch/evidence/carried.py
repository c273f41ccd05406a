"""Which messages that carried a checkpoint a bundle shows: those of round trips of its own providers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from mailwatch.store import Entry, Reader
from mailwatch.times import DAY_MS

KIND = "carried"
MAX_ENTRIES = 500
"""Most entries to search on either side of a case: a week of one provider."""
MAX_SHOWN = 1000
"""Most messages in a bundle."""


def carried_range(reader: Reader, first: int, last: int, providers: Collection[str]) -> tuple[int, int]:
    """Return the size of the last checkpoint that arrived in a message before the entry `first`, and the number of
    entries up to the first message with more than `last`: each within a day of the case.

    Without one, `first` and `last` + 1.
    """
    if not providers:
        return first, last + 1
    before = reader.entries(kinds=[KIND], to_index=first + 1, descending=True, limit=MAX_ENTRIES)
    after = reader.entries(kinds=[KIND], from_index=last + 1, limit=MAX_ENTRIES)
    here = {one.index: one.time for at in (first, last) for one in reader.entries(from_index=at, to_index=at + 1)}
    earlier = _first(before, providers, here.get(first), 0)
    later = _first(after, providers, here.get(last), last + 1)
    start = first if earlier is None else min(first, earlier.payload["checkpoint"])
    return start, last + 1 if later is None else later.index + 1


def _first(entries: Iterable[Entry], providers: Collection[str], near: int | None, least: int) -> Entry | None:
    for entry in entries:
        if near is None or abs(entry.time - near) > DAY_MS:
            return None
        if entry.payload["provider"] in providers and entry.payload["checkpoint"] >= least:
            return entry
    return None


def carried_entries(
    reader: Reader, start: int, end: int, providers: Collection[str]
) -> tuple[tuple[int, int], ...]:
    """Return index and checkpoint size of the entries [start, end) to show: those of `providers` whose checkpoint
    is not before the range.
    """
    if not providers:
        return ()
    entries = reader.entries(kinds=[KIND], from_index=start, to_index=end)
    return tuple(
        (entry.index, entry.payload["checkpoint"])
        for entry in entries
        if entry.payload["provider"] in providers and entry.payload["checkpoint"] >= max(1, start)
    )


def thin_carried(
    carried: Sequence[tuple[int, int]], spans: Iterable[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Keep, of a long range, the first and the last message, those nearest to `spans` on both sides, and of the
    others evenly as many as fit.
    """
    kept = {*carried[:1], *carried[-1:]}
    for first, last in spans:
        kept |= {*[one for one in carried if one[0] <= first][-1:], *[one for one in carried if one[1] > last][:1]}
    step = max(1, -(-len(carried) // max(1, MAX_SHOWN - len(kept))))
    return tuple(sorted(kept | set(carried[::step])))
