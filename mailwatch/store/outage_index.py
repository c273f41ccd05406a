"""The index of outages: what lists, incidents and counts need of each, so that none parses all outage entries.

Its rows are kept beside the ledger (table outage_heads) up to one entry, which a kept state names; later entries
are read from the ledger. So the index is right whether or not it was brought up to date, and without its rows, or
with rows of another ledger, it only takes longer. The audit compares the rows with the entries.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mailwatch.analysis.outage_record import OutageRecord, outage_from_payload
from mailwatch.ledger.canonical_json import canonical
from mailwatch.store.kept_states import KeptState, leaf_of, read_kept, write_kept
from mailwatch.store.outage_lists import OutageHead, OutageLists, head_of
from mailwatch.store.schema import entries, outage_heads

if TYPE_CHECKING:
    from mailwatch.store.entry_rows import Entry
    from mailwatch.store.reader import Reader

KIND = "outages"
INDEX_VERSION = canonical({"version": 1})
"""Raise the version with every change of what a head says of the same entries."""
ENTRIES_PER_STEP = 1000
"""Outage entries that are indexed in one transaction."""
MANY = 500
"""Above so many entries, reading all outage entries between the first and the last of them is faster."""


_COLUMNS = {"begin": "begin_ms", "until": "until_ms", "least": "least_ms", "index": "idx"}
_NAMES = [_COLUMNS.get(field.name, field.name) for field in fields(OutageHead)]


class OutageIndex:
    """The heads of all outages on record. For any number of threads; it follows the ledger at each question."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._lists = OutageLists()
        self._next: int | None = None

    def lists(self) -> OutageLists:
        """Return the lists of the outages that are on record now. One question for a page gives it one moment."""
        with self._lock:
            self._follow()
            return self._lists

    def heads(self) -> Sequence[OutageHead]:
        """Return all heads, newest first. The sequence is not changed afterwards."""
        return self.lists().newest_first

    def of_target(self, target: str) -> list[OutageHead]:
        """Return the heads of one target in the order of recording. The list is not changed afterwards."""
        return sorted(self.lists().of_name(target), key=attrgetter("opened"))

    def get(self, identity: str) -> OutageHead | None:
        """Return one head by the outage's id."""
        return self.lists().by_id.get(identity)

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
            self._lists = OutageLists.of(kept)
        fresh = list(self._reader.entries(kinds=["outage"], from_index=self._next))
        if fresh:
            self._next = fresh[-1].index + 1
            changed: dict[str, OutageHead] = {}
            for entry in fresh:
                add_head(changed, entry, self._lists.by_id)
            self._lists = self._lists.with_changed(changed.values())


def add_head(
    heads: dict[str, OutageHead], entry: Entry, before: Mapping[str, OutageHead] = MappingProxyType({})
) -> OutageHead:
    """Add the next outage entry to the heads, after those in `before`; return its head."""
    record = outage_from_payload(entry.payload)
    known = heads.get(record.id) or before.get(record.id)
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
