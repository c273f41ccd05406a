"""The metric families of the spool: what waits on this machine's disk while the database is away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mailwatch.metrics.exposition import NO_LABELS, Family, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolRecord:
    """The spool at one time. `oldest`: when its oldest observation ended, Unix seconds, None without one.

    `used`: the share of limits.spool that is in use, 0 to 1; 1 as well while the disk takes no more.
    """

    waiting: int
    oldest: float | None
    used: float


_FAMILIES: dict[str, tuple[str, Callable[[SpoolRecord], float | None]]] = {
    "observations": ("Observations that wait for the database.", lambda spool: spool.waiting),
    "oldest_timestamp_seconds": ("End of the oldest of them.", lambda spool: spool.oldest),
    "used_ratio": ("Share of limits.spool that is in use.", lambda spool: spool.used),
}


def spool_families(record: SpoolRecord | None) -> Iterator[Family]:
    """Yield the families; without rows where the ledger is in SQLite."""
    for name, (text, read) in _FAMILIES.items():
        value = None if record is None else read(record)
        rows: list[Row] = [] if value is None else [("", NO_LABELS, NO_LABELS, value)]
        yield Family(f"mailwatch_spool_{name}", "gauge", text, rows)
