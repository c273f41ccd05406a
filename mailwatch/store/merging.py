"""Merges what packs hold with the rows of the table `entries`, in ledger order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from mailwatch.store.run_format import Row

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of what packs hold, in ledger order. `rows` reads it; all indexes are within [low, high]."""

    low: int
    high: int
    rows: Callable[[], list[Row]]


def merge(
    rows: Iterable[Made],
    chunks: Iterable[Chunk],
    made: Callable[[Row], Made],
    index_of: Callable[[Made], int],
    *,
    descending: bool = False,
) -> Iterator[Made]:
    """Merge rows with chunks, `made` of whose rows is given; of an entry that both have, the row is given."""
    sign = -1 if descending else 1
    remaining = iter(rows)
    row = next(remaining, None)
    for chunk in chunks:
        low, high = (-chunk.high, -chunk.low) if descending else (chunk.low, chunk.high)
        while row is not None and sign * index_of(row) < low:
            yield row
            row = next(remaining, None)
        packed = chunk.rows()
        if descending:
            packed.reverse()
        if row is None or sign * index_of(row) > high:
            yield from map(made, packed)
            continue
        for one in packed:
            while row is not None and sign * index_of(row) < sign * one.idx:
                yield row
                row = next(remaining, None)
            if row is not None and index_of(row) == one.idx:
                yield row
                row = next(remaining, None)
            else:
                yield made(one)
    if row is not None:
        yield from chain((row,), remaining)
