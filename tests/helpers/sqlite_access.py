"""The connection by which a store on SQLite writes, for what only SQLite can do."""

from __future__ import annotations

import sqlite3

from mailwatch.store import Store
from mailwatch.store.sqlite import SqliteHold


def wait_for_no_disk(store: Store) -> None:
    """Let no commit to SQLite wait for the disk. The tests' PostgreSQL waits for none anyway."""
    if (connection := getattr(store._hold, "_connection", None)) is not None:
        connection.connection.cursor().execute("PRAGMA synchronous=OFF")


def sqlite_connection(store: Store) -> sqlite3.Connection:
    """Return the connection of an open store."""
    hold = store._hold
    assert isinstance(hold, SqliteHold)
    connection = hold._connection.connection.dbapi_connection
    assert isinstance(connection, sqlite3.Connection)
    return connection
