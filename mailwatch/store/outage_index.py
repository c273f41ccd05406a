"""The index of outages: what lists, incidents and counts need of each, so that none parses all outage entries.

Its rows are kept beside the ledger (table outage_heads) up to one entry, which a kept state names with the number
and a sum of the rows; later entries are read from the ledger. So the index is right whether or not it was brought
up to date. Without its rows, with rows of another ledger, or with others than were written, it only takes longer,
and the next start makes them anew. The audit compares the rows with the entries.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from operator import attrgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from mailwatch.analysis.outage_record import OutageRecord, outage_from_payload
from mailwatch.ledger.canonical_json import canonical
from mailwatch.store.kept_states import KeptState, leaf_of, read_kept, readable, texts_of, write_kept
from mailwatch.store.outage_lists import OutageHead, OutageLists, head_of
from mailwatch.store.schema import entries, kept_states, outage_heads

if TYPE_CHECKING:
    from mailwatch.store.entry_rows import Entry
    from mailwatch.store.reader import Reader

KIND = "outages"
INDEX_VERSION = 2
"""Raise the version with every change of what a head says of the same entries."""
SUM_BYTES = 8
READ_AGAIN = 3
"""How often the heads are read again that another process brings up to date meanwhile."""
ENTRIES_PER_STEP = 1000
"""Outage entries that are indexed in one transaction."""
MANY = 500
"""Above so many entries, reading all outage entries between the first and the last of them is faster."""


_COLUMNS = {"begin": "begin_ms", "until": "until_ms", "least": "least_ms", "index": "idx"}
_NAMES = [_COLUMNS.get(field.name, field.name) for field in fields(OutageHead)]
_TEXTS = 5
"""The first columns of a head are text, the others numbers."""
_KEPT = [outage_heads.c[name] for name in _NAMES]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the kept heads are: those of all outages up to entry `upto`, `count` of them.

    `total`: the sum of their digests modulo 2**64. A row that is missing, changed or of other types shows in it.
    """

    upto: int = -1
    count: int = 0
    total: int = 0

    def changed(self, upto: int, before: Iterable[Sequence[Any]], after: Iterable[Sequence[Any]]) -> Coverage:
        """Return the coverage after some rows took the place of others."""
        old, new = list(before), list(after)
        total = (self.total + _total(new) - _total(old)) % (1 << 8 * SUM_BYTES)
        return Coverage(upto, self.count + len(new) - len(old), total)

    def fits(self, rows: Sequence[Sequence[Any]]) -> bool:
        """Return whether these are the rows that were written."""
        return len(rows) == self.count and _total(rows) % (1 << 8 * SUM_BYTES) == self.total

    @property
    def text(self) -> str:
        """The text of the state that is kept of it."""
        return canonical({"version": INDEX_VERSION, "heads": self.count, "sum": f"{self.total:x}"})

    @classmethod
    def of(cls, state: KeptState) -> Coverage | None:
        """Return what a state says; None for one of another version."""
        try:
            written = json.loads(state.text)
            if written["version"] == INDEX_VERSION:
                return cls(state.index, int(written["heads"]), int(written["sum"], 16))
        except (ValueError, KeyError, TypeError):
            pass
        return None


class KeptHeads(NamedTuple):
    """The heads that are kept, and the entry from which on the ledger has more; ([], 0) without any that fit.

    `damaged`: they are not as they were written.
    """

    heads: list[OutageHead]
    begin: int
    damaged: bool = False


def _total(rows: Iterable[Sequence[Any]]) -> int:
    digests = (hashlib.blake2b(repr(tuple(row)).encode(), digest_size=SUM_BYTES).digest() for row in rows)
    return sum(int.from_bytes(one) for one in digests)


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
            kept = self._reader.kept_outages()
            self._next = kept.begin
            self._lists = OutageLists.of(kept.heads)
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


def read_heads(connection: sa.Connection) -> KeptHeads:
    """Return the kept heads, none where they do not fit the ledger or are not as they were written."""
    for _ in range(READ_AGAIN):
        covered = _coverage(connection)
        if covered is None:
            break
        rows = _kept_rows(connection)
        if covered.fits(rows):
            return KeptHeads([OutageHead(*row) for row in rows], covered.upto + 1)
        if _coverage(connection) == covered:
            return KeptHeads([], 0, damaged=True)
    return KeptHeads([], 0)


def _kept_rows(connection: sa.Connection, ids: Sequence[str] | None = None) -> list[list[Any]]:
    query = sa.select(*readable(connection, _KEPT))
    query = query if ids is None else query.where(outage_heads.c.id.in_(ids))
    rows = connection.execute(query).all()
    if connection.dialect.name == "sqlite":
        with contextlib.suppress(AttributeError, UnicodeError):
            # As texts_of does, in a fifth of the time.
            return [[*(text.decode() for text in row[:_TEXTS]), *row[_TEXTS:]] for row in rows]
    return [texts_of(row) for row in rows]


def _coverage(connection: sa.Connection) -> Coverage | None:
    """Return what the kept heads include; None where they do not fit the ledger, or are none."""
    state = read_kept(connection, KIND, "")
    covered = None if state is None else Coverage.of(state)
    if state is None or covered is None:
        return None
    header = connection.execute(sa.select(entries.c.header).where(entries.c.idx == state.index)).scalar()
    return covered if header is not None and leaf_of(header) == state.leaf else None


def remove_unfit(connection: sa.Connection) -> bool:
    """Remove heads that are not those that were written; return whether there were any. For the one writer."""
    covered = _coverage(connection)
    if covered is not None and covered.fits(_kept_rows(connection)):
        return False
    state = read_kept(connection, KIND, "")
    is_older = state is not None and Coverage.of(state) is None
    removed = connection.execute(sa.delete(outage_heads)).rowcount
    connection.execute(sa.delete(kept_states).where(kept_states.c.kind == KIND))
    return not is_older and (covered is not None or removed > 0)


def index_outages(connection: sa.Connection, parse: Callable[[Sequence[object]], Entry]) -> int:
    """Add the next outage entries to the kept heads, in the caller's transaction; return how many.

    `parse` makes an entry of its columns. Heads of another ledger or version are removed first.
    """
    covered = _coverage(connection)
    if covered is None:
        connection.execute(sa.delete(outage_heads))
        covered = Coverage()
    names = ("idx", "kind", "time_ms", "target", "number", "header", "payload")
    query = sa.select(*(entries.c[name] for name in names)).where(entries.c.kind == "outage")
    query = query.where(sa.text("kind <> 'observation'"), entries.c.idx > covered.upto)
    found = [parse(row) for row in connection.execute(query.order_by(entries.c.idx).limit(ENTRIES_PER_STEP))]
    if not found:
        return 0
    before = _kept_rows(connection, [str(entry.payload["id"]) for entry in found])
    heads = {row[0]: OutageHead(*row) for row in before}
    changed = {head.id: head for head in [add_head(heads, entry) for entry in found]}
    connection.execute(sa.delete(outage_heads).where(outage_heads.c.id.in_(list(changed))))
    after = [astuple(head) for head in changed.values()]
    connection.execute(sa.insert(outage_heads), [dict(zip(_NAMES, row, strict=True)) for row in after])
    last = found[-1]
    text = covered.changed(last.index, before, after).text
    write_kept(connection, [KeptState(KIND, "", last.index, leaf_of(last.header), text)])
    return len(found)


def audit_heads(reader: Reader) -> list[str]:
    """Return the ids of outages whose kept head is not what their entries give; [""] if the heads are not as they
    were written.
    """
    kept = reader.kept_outages()
    given: dict[str, OutageHead] = {}
    for entry in reader.entries(kinds=["outage"], to_index=kept.begin):
        add_head(given, entry)
    found = {head.id: head for head in kept.heads}
    wrong = sorted(one for one in given.keys() | found.keys() if given.get(one) != found.get(one))
    return [""] if kept.damaged else wrong
