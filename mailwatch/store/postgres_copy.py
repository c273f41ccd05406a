"""Fills the tables of a ledger in PostgreSQL with rows copied from elsewhere, by COPY in its binary form.

https://www.postgresql.org/docs/15/sql-copy.html
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mailwatch.store.copying import ROWS, lift_time_limits, size_of
from mailwatch.store.errors import StoreError
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.postgres_errors import translate
from mailwatch.store.schema import head, metadata, outbox, token_files, witness_refusals

logger = logging.getLogger(__name__)

_TYPES = {"BIGINT": "int8", "INTEGER": "int4", "SMALLINT": "int2", "TEXT": "text", "BYTEA": "bytea"}
"""COPY's binary form converts nothing: the types must be the columns' own."""
_INDEXES = sa.text(
    "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index "
    "WHERE indrelid = 'entries'::regclass AND NOT indisprimary"
)
_OWNED = sa.text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'entries'::regclass")
_NUMBERED = (outbox, witness_refusals)
"""The tables whose rows the database numbers."""


def copy_into_postgresql(source: sa.Connection, place: PostgresPlace, progress: Callable[[int], None]) -> None:
    """Copy all tables, and the files of tokens, or nothing; what an earlier copy left goes first.

    `progress` gets the number of rows copied so far. Raises StoreError.
    """
    made = place.patient().engine()
    done = 0
    try:
        with made.begin() as target:
            lift_time_limits(target)
            _empty(target)
            with _unindexed(target):
                for table in metadata.sorted_tables:
                    _load(place, target, table, _counted(source, table, done, progress))
                    done += size_of(target, table)
            _load(place, target, token_files, _tokens(place.data_dir / "tokens"))
            _number_on(target)
    finally:
        made.dispose()


def _counted(
    source: sa.Connection, table: sa.Table, done: int, progress: Callable[[int], None]
) -> Iterator[Sequence[Any]]:
    """Yield the rows of a table in the order of its key."""
    rows = sa.select(table).order_by(*table.primary_key.columns)
    for part in source.execution_options(yield_per=ROWS).execute(rows).partitions():
        progress(done)
        yield from part
        done += len(part)


def _tokens(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files that are what their names say."""
    for path in sorted(folder.glob("*.tsr")):
        reply = path.read_bytes()
        if hashlib.sha256(reply).hexdigest() == path.stem:
            yield path.stem, reply
        else:
            logger.warning("%s was altered, and is not copied", path)


def _load(place: PostgresPlace, connection: sa.Connection, table: sa.Table, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, with the columns in the table's order. Raises StoreError."""
    columns = ", ".join(f'"{column.name}"' for column in table.columns)
    statement = f"COPY {table.name} ({columns}) FROM STDIN (FORMAT BINARY)"
    raw: Any = connection.connection.driver_connection
    with _errors_of(place), raw.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types([_type_of(column, connection.dialect) for column in table.columns])
        for row in rows:
            copy.write_row(row)


def _type_of(column: sa.Column[Any], dialect: sa.Dialect) -> str:
    # TEXT COLLATE "C" is TEXT.
    return _TYPES[column.type.compile(dialect).partition(" ")[0]]


@contextlib.contextmanager
def _errors_of(place: PostgresPlace) -> Iterator[None]:
    """Raise psycopg's errors as StoreError: those of COPY do not pass through SQLAlchemy."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        what = str(error).strip().partition("\n")[0]
        raise translate(str(place), error) or StoreError(f"{place} cannot take a row: {what}") from error


@contextlib.contextmanager
def _unindexed(connection: sa.Connection) -> Iterator[None]:
    """Leave the indexes of the entries away, and make them again at the end, which takes less time.

    A role that does not own the table leaves them as they are.
    """
    owned = bool(connection.execute(_OWNED).scalar())
    indexes = connection.execute(_INDEXES).all() if owned else []
    for index in indexes:
        connection.exec_driver_sql(f"DROP INDEX {index.name}")
    yield
    for index in indexes:
        connection.exec_driver_sql(index.definition)


def _empty(connection: sa.Connection) -> None:
    """Remove what an unfinished move left in the tables of a ledger. Raises StoreError if we do not own them."""
    tables = (*metadata.sorted_tables, head, token_files)
    if not any(connection.execute(sa.select(sa.select(table).exists())).scalar() for table in tables):
        return
    names = [table.name for table in tables]
    for name in names:
        # Append-only is for those who monitor. Only the owner of the tables can do this.
        connection.exec_driver_sql(f"ALTER TABLE {name} DISABLE TRIGGER USER")
    connection.exec_driver_sql(f"TRUNCATE {', '.join(names)}")
    for name in names:
        connection.exec_driver_sql(f"ALTER TABLE {name} ENABLE TRIGGER USER")


def _number_on(connection: sa.Connection) -> None:
    """Let the database number new rows after those that were copied with their numbers."""
    for table in _NUMBERED:
        newest = connection.execute(sa.select(sa.func.max(table.c.number))).scalar()
        if newest is not None:
            sequence = sa.func.pg_get_serial_sequence(table.name, "number")
            connection.execute(sa.select(sa.func.setval(sequence, newest)))
