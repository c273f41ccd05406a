"""The index of outages: what lists, incidents and counts need of each, so that none parses all outage entries.

Its rows are kept beside the ledger (table outage_heads) up to one entry, which a kept state names; later entries
are read from the ledger. So the index is right whether or not it was brought up to date, and without its rows, or
with rows of another ledger, it only takes longer. The audit compares the rows with the entries.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mailwatch.analysis.outage_record import OutageRecord, outage_from_payload
from mailwatch.ledger.canonical_json import canonical
from mailwatch.store.kept_states import KeptState, leaf_of, read_kept, write_kept
from mailwatch.store.schema import entries, outage_heads
from mailwatch.times import Millis

if TYPE_CHECKING:
    from mailwatch.store.reader import Entry, Reader

KIND = "outages"
INDEX_VERSION = canonical({"version": 1})
"""Raise the version with every change of what a head says of the same entries."""
ENTRIES_PER_STEP = 1000
"""Outage entries that are indexed in one transaction."""
MANY = 500
"""Above so many entries, reading all outage entries between the first and the last of them is faster."""


@dataclass(frozen=True, slots=True)
class OutageHead:
    """An outage as lists need it. `opened` and `index`: its first and its latest entry.

    `until`: the latest time at which it may have ended while monitored, None while it is open. `least`: its
    minimum duration, of an open one as of its latest entry.
    """

    id: str
    target: str
    provider: str
    kind: str
    state: str
    begin: Millis
    first_bad: Millis
    until: Millis | None
    least: Millis
    opened: int
    index: int

    @property
    def place(self) -> tuple[int, int]:
        """Its place in a list with the newest first; of two that began together, the one recorded first."""
        return -self.first_bad, self.opened

    def touches(self, start: Millis | None, end: Millis | None) -> bool:
        """Return whether the outage may overlap [start, end) while monitored; None is no bound."""
        over = self.until
        return (start is None or over is None or over > start) and (end is None or self.first_bad < end)


def head_of(record: OutageRecord, opened: int, index: int) -> OutageHead:
    """Return the head of an outage, from the record in its latest entry."""
    return OutageHead(
        record.id, record.target, record.provider, record.kind.value, record.state, record.begin,
        record.first_bad, record.until, record.durations.least, opened, index,
    )  # fmt: skip


_COLUMNS = {"begin": "begin_ms", "until": "until_ms", "least": "least_ms", "index": "idx"}
_NAMES = [_COLUMNS.get(field.name, field.name) for field in fields(OutageHead)]


class OutageIndex:
    """The heads of all outages on record. For any number of threads; it follows the ledger at each question."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._heads: dict[str, OutageHead] = {}
        self._listed: list[OutageHead] = []
        self._by_target: dict[str, list[OutageHead]] | None = None
        """Made when it is asked for, and again after a change."""
        self._next: int | None = None

    def heads(self) -> Sequence[OutageHead]:
        """Return all heads, newest first. The sequence is not changed afterwards."""
        with self._lock:
            self._follow()
            return self._listed

    def of_target(self, target: str) -> list[OutageHead]:
        """Return the heads of one target in the order of recording. The list is not changed afterwards."""
        with self._lock:
            self._follow()
            if self._by_target is None:
                self._by_target = {}
                for head in sorted(self._listed, key=lambda head: head.opened):
                    self._by_target.setdefault(head.target, []).append(head)
            return self._by_target.get(target, [])

    def get(self, identity: str) -> OutageHead | None:
        """Return one head by the outage's id."""
        with self._lock:
            self._follow()
            return self._heads.get(identity)

    def records(self, heads: Iterable[OutageHead]) -> list[tuple[OutageRecord, Entry]]:
        """Return each outage as in its latest entry, with the entry, in the given order."""
        wanted = list(heads)
        found = {entry.index: entry for entry in self._entries(sorted({head.index for head in wanted}))}
        return [(outage_from_payload(found[head.index].payload), found[head.index]) for head in wanted]

    def _entries(self, indices: Sequence[int]) -> Iterator[Entry]:
        if len(indices) <= MANY:
            return self._reader.entries_at(indices)
        known = set(indices)
        between = self._reader.entries(kinds=["outage"], from_index=indices[0], to_index=indices[-1] + 1)
        return (entry for entry in between if entry.index in known)

    def _follow(self) -> None:
        if self._next is None:
            kept, self._next = self._reader.kept_outages()
            self._heads = {head.id: head for head in kept}
            self._listed = sorted(kept, key=lambda head: head.place)
        fresh = list(self._reader.entries(kinds=["outage"], from_index=self._next))
        if fresh:
            self._next = fresh[-1].index + 1
            heads = dict(self._heads)
            for entry in fresh:
                add_head(heads, entry)
            self._heads, self._listed = heads, sorted(heads.values(), key=lambda head: head.place)
            self._by_target = None


def add_head(heads: dict[str, OutageHead], entry: Entry) -> OutageHead:
    """Add the next outage entry to the heads; return its head."""
    record = outage_from_payload(entry.payload)
    known = heads.get(record.id)
    head = heads[record.id] = head_of(record, entry.index if known is None else known.opened, entry.index)
    return head


def read_heads(connection: sa.Connection) -> tuple[list[OutageHead], int]:
    """Return the kept heads, and the entry from which the ledger has to be read; ([], 0) where they do not fit."""
    upto = _indexed_up_to(connection)
    if upto is None:
        return [], 0
    rows = connection.execute(sa.select(*(outage_heads.c[name] for name in _NAMES)))
    return [OutageHead(*row) for row in rows], upto + 1


def _indexed_up_to(connection: sa.Connection) -> int | None:
    """Return the last entry that the kept heads include; None where they do not fit the ledger, or are none."""
    state = read_kept(connection, KIND, "")
    if state is None or state.text != INDEX_VERSION:
        return None
    header = connection.execute(sa.select(entries.c.header).where(entries.c.idx == state.index)).scalar()
    return state.index if header is not None and leaf_of(header) == state.leaf else None


def index_outages(connection: sa.Connection, parse: Callable[[Sequence[object]], Entry]) -> int:
    """Add the next outage entries to the kept heads, in the caller's transaction; return how many.

    `parse` makes an entry of its columns. Heads of another ledger or version are removed first.
    """
    upto = _indexed_up_to(connection)
    if upto is None:
        connection.execute(sa.delete(outage_heads))
    names = ("idx", "kind", "time_ms", "target", "number", "header", "payload")
    query = sa.select(*(entries.c[name] for name in names)).where(entries.c.kind == "outage")
    query = query.where(sa.text("kind <> 'observation'"), entries.c.idx > (-1 if upto is None else upto))
    found = [parse(row) for row in connection.execute(query.order_by(entries.c.idx).limit(ENTRIES_PER_STEP))]
    if not found:
        return 0
    ids = [str(entry.payload["id"]) for entry in found]
    known = sa.select(*(outage_heads.c[name] for name in _NAMES)).where(outage_heads.c.id.in_(ids))
    heads = {row[0]: OutageHead(*row) for row in connection.execute(known)}
    changed = {head.id: head for head in [add_head(heads, entry) for entry in found]}
    connection.execute(sa.delete(outage_heads).where(outage_heads.c.id.in_(list(changed))))
    rows = [dict(zip(_NAMES, astuple(head), strict=True)) for head in changed.values()]
    connection.execute(sa.insert(outage_heads), rows)
    last = found[-1]
    write_kept(connection, [KeptState(KIND, "", last.index, leaf_of(last.header), INDEX_VERSION)])
    return len(found)


def audit_heads(reader: Reader) -> list[str]:
    """Return the ids of outages whose kept head is not what their entries give."""
    kept, upto = reader.kept_outages()
    given: dict[str, OutageHead] = {}
    for entry in reader.entries(kinds=["outage"], to_index=upto):
        add_head(given, entry)
    # Heads that were brought up to date meanwhile are later than `upto`.
    found = {head.id: head for head in kept if head.index < upto}
    later = {head.id for head in kept} - found.keys()
    return sorted(one for one in (given.keys() | found.keys()) - later if given.get(one) != found.get(one))
