"""How fast the ledger grows, and when its disk is full. Pure; what cannot be known is None."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mailwatch.times import DAY_MS, Millis

EXPECTED_PACKED_BYTES = 70
"""Bytes of a packed entry until enough are packed to measure: at most, as promised."""
MIN_PACKED_ENTRIES = 1000
"""Packed entries from which their bytes are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSizes:
    """The bytes of the ledger by form, and its entries. `rows`: all in the database but packs and free pages.

    `free`: pages of the file that are used again before it grows. `log`: the write-ahead log. `packed`: entries in
    packs. `last_day`: entries of the last 24 hours, None where the ledger is younger. `disk_free`: bytes left on
    its disk, None where that is not known.
    """

    rows: int
    packs: int = 0
    free: int = 0
    log: int = 0
    entries: int
    packed: int = 0
    last_day: int | None = None
    disk_free: int | None = None

    def by_form(self) -> dict[str, int]:
        """Return the bytes by form; their sum is what the ledger takes on disk."""
        return {"rows": self.rows, "packs": self.packs, "free": self.free, "log": self.log}

    @property
    def total(self) -> int:
        """All bytes on disk."""
        return sum(self.by_form().values())


def combined(own: LedgerSizes, others: Iterable[LedgerSizes]) -> LedgerSizes:
    """Return the sizes of a hub's own ledger and those of its members together, on the disk of its own.

    All entries of a member's ledger that is younger than a day are of the last day.
    """
    every = [own, *others]
    days = [one.entries if one.last_day is None else one.last_day for one in every[1:]]
    return LedgerSizes(
        rows=sum(one.rows for one in every),
        packs=sum(one.packs for one in every),
        free=sum(one.free for one in every),
        log=sum(one.log for one in every),
        entries=sum(one.entries for one in every),
        packed=sum(one.packed for one in every),
        last_day=None if own.last_day is None else own.last_day + sum(days),
        disk_free=own.disk_free,
    )


@dataclass(frozen=True, slots=True)
class StorageBudget:
    """Sizes, bytes by which the ledger grows a day, and days until its disk is full; `math.inf`: never."""

    sizes: LedgerSizes
    bytes_a_day: float | None
    days_until_full: float | None


def storage_budget(
    sizes: LedgerSizes, rows_kept: Millis | None = None, kept: Millis | None = None
) -> StorageBudget:
    """Return the budget if entries go on as in the last 24 hours, and nothing else fills the disk.

    `rows_kept`: the time after which rows are packed, None if never; `kept`: after which packs are dropped. Until
    the rows of `rows_kept` are there, the ledger grows by rows; from then on by packs, until those of `kept` are.
    """
    if sizes.last_day is None:
        return StorageBudget(sizes, None, None)
    entries, rows = sizes.last_day, max(sizes.entries - sizes.packed, 1)
    row = sizes.rows / rows
    packed = sizes.packs / sizes.packed if sizes.packed >= MIN_PACKED_ENTRIES else EXPECTED_PACKED_BYTES
    if not entries:
        return StorageBudget(sizes, 0.0, None if sizes.disk_free is None else math.inf)
    filling, growth = math.inf, entries * row
    if rows_kept is not None:
        filling = max(0.0, rows_kept / DAY_MS - rows / entries)
        growth = growth if filling else entries * packed
    if sizes.disk_free is None:
        return StorageBudget(sizes, growth, None)
    left = sizes.disk_free + sizes.free
    if filling and left <= filling * entries * row:
        return StorageBudget(sizes, growth, left / (entries * row))
    assert rows_kept is not None
    left -= int(filling * entries * row)
    # Rows that wait to be packed give space back.
    left += int(max(0.0, rows - rows_kept / DAY_MS * entries) * max(0.0, row - packed))
    days = left / (entries * packed)
    if kept is not None and days > max(0.0, (kept - rows_kept) / DAY_MS - sizes.packed / entries):
        return StorageBudget(sizes, growth, math.inf)
    return StorageBudget(sizes, growth, filling + days)
