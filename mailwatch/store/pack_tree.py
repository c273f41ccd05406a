"""The tree over rows and packs: the headers of its leaves, and pruned packs by their root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from operator import itemgetter

import sqlalchemy as sa

from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store.errors import DAMAGE_ADVICE, StoreDamagedError, StoreHealth
from mailwatch.store.merging import merge
from mailwatch.store.packs import PackReader, PrunedSubtree
from mailwatch.store.schema import entries
from mailwatch.store.selection import Selection


def subtrees(
    connection: sa.Connection, begin: int, end: int, health: StoreHealth | None = None
) -> Iterator[PrunedSubtree | tuple[int, str]]:
    """Yield index and header of the entries [begin, end), in order, and the pruned packs among them by their root.

    Raises StoreDamagedError, EntriesPrunedError if one of the ends is inside a pruned pack.
    """
    reader = PackReader(connection, health)
    for pruned in reader.pruned(end):
        after = pruned.first + (1 << pruned.level)
        if after <= begin:
            continue
        if pruned.first < begin or after > end:
            reader.check_unpruned(begin, end)
        yield from _headers(reader, connection, begin, pruned.first)
        yield pruned
        begin = after
    yield from _headers(reader, connection, begin, end)


def _headers(reader: PackReader, connection: sa.Connection, begin: int, end: int) -> Iterator[tuple[int, str]]:
    query = sa.select(entries.c.idx, entries.c.header).where(entries.c.idx >= begin, entries.c.idx < end)
    with (
        connection.execute(query.order_by(entries.c.idx), execution_options={"yield_per": 1000}) as rows,
        closing(reader.chunks(Selection(from_index=begin, to_index=end))) as chunks,
    ):
        in_rows = ((index, header) for index, header in rows)
        yield from merge(in_rows, chunks, lambda row: (row.idx, row.header), itemgetter(0))


def ledger_size(connection: sa.Connection) -> int:
    """Return the number of committed entries."""
    newest = connection.execute(sa.select(sa.func.max(entries.c.idx))).scalar()
    return max(0 if newest is None else newest + 1, PackReader(connection).end())


def grow(connection: sa.Connection, tree: CompactRange, end: int, progress: StartupProgress) -> None:
    """Grow a tree over the entries before `end`, whose indices must be consecutive. Raises StoreDamagedError."""
    begun = tree.size
    for found in subtrees(connection, begun, end):
        if isinstance(found, PrunedSubtree):
            tree.append_subtree(found.root, found.level)
            continue
        index, header = found
        if tree.size % 1000 == 0:
            progress.update(StartupStep.CHECKING, tree.size - begun, end - begun)
        if index != tree.size or json.loads(header)["index"] != index:
            raise StoreDamagedError(
                f"entry {tree.size} is missing; {DAMAGE_ADVICE}", f"entry {tree.size} is missing"
            )
        tree.append(leaf_hash(header.encode()))
