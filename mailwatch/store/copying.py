"""Copies a ledger from one database into another, empty one: row by row, each text as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import sqlalchemy as sa

from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.store.errors import StoreError
from mailwatch.store.packs import PrunedSubtree
from mailwatch.store.place import Place
from mailwatch.store.pruning import segments
from mailwatch.store.reader import Reader
from mailwatch.store.schema import metadata, token_files

ROWS = 2000
"""Rows that are read and written at once."""


def copy_tables(source: sa.Connection, target: sa.Connection, progress: Callable[[int], None]) -> None:
    """Copy all tables that both engines have. `target` has them, and they are empty. Raises StoreError.

    `source` should be a transaction that sees one moment, since other processes write meanwhile. `progress` gets
    the number of rows copied so far.
    """
    done = 0
    for table in metadata.sorted_tables:
        rows = source.execution_options(yield_per=ROWS).execute(sa.select(table))
        for part in rows.mappings().partitions():
            target.execute(sa.insert(table), [dict(row) for row in part])
            done += len(part)
            progress(done)


def copy_token_files(source: sa.Connection, save: Callable[[bytes], object]) -> None:
    """Give all replies of timestamp authorities that PostgreSQL has to `save`. Raises StoreError."""
    for reply in source.execution_options(yield_per=100).execute(sa.select(token_files.c.reply)).scalars():
        save(reply)


def count_rows(connection: sa.Connection) -> dict[str, int]:
    """Return the number of rows of each table that both engines have."""
    return {table.name: size_of(connection, table) for table in metadata.sorted_tables}


def size_of(connection: sa.Connection, table: sa.Table) -> int:
    """Return the number of rows of a table."""
    return int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def read_back(place: Place, size: int, root: bytes, progress: Callable[[int], None]) -> None:
    """Read all entries of a copy, whose headers must hash to the signed root. Raises StoreError."""
    tree = whole_tree(place, progress)
    with contextlib.closing(Reader.open(place)) as reader:
        more = reader.size()
    if (tree.size, tree.root(), more) != (size, root, size):
        raise StoreError(
            f"the entries in {place} do not give the root that was signed; `mailwatch ledger audit` shows whether "
            "the ledger was damaged before. It stays where it is"
        )


def whole_tree(place: Place, progress: Callable[[int], None]) -> CompactRange:
    """Return the tree over all entries of a ledger, each of which must match its header. Raises StoreError."""
    tree = CompactRange()
    with contextlib.closing(Reader.open(place)) as reader:
        for segment in segments(reader, 0, reader.size()):
            if isinstance(segment, PrunedSubtree):
                tree.append_subtree(segment.root, segment.level)
                # What is left of it.
                for _ in reader.entries(from_index=segment.first, to_index=tree.size):
                    pass
                continue
            for *_, header, _payload in reader.raw_entries(segment.start, segment.stop):
                if tree.size % ROWS == 0:
                    progress(tree.size)
                tree.append(leaf_hash(header.encode()))
    return tree


def one_moment(place: Place) -> sa.Engine:
    """Return an engine whose transactions each see one moment of the database, for as long as they take."""
    made = place.engine(read_only=True)
    if not place.is_shared:
        return made

    @sa.event.listens_for(made, "begin")
    def _lift(connection: sa.Connection) -> None:
        lift_time_limits(connection)

    return made.execution_options(isolation_level="REPEATABLE READ")


def lift_time_limits(connection: sa.Connection) -> None:
    """Lift what PostgreSQL allows a transaction of ours, since the copy is written elsewhere meanwhile."""
    # By a cursor of the driver: where rows are streamed, SQLAlchemy would declare a cursor for the statement.
    with contextlib.closing(connection.connection.cursor()) as cursor:
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            cursor.execute(f"SET LOCAL {name} = 0")
