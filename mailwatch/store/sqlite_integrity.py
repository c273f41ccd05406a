"""SQLite's own check of a database file, which can be stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import sqlalchemy as sa

from mailwatch.store.errors import StoreUnavailableError

MAX_INTEGRITY_FINDINGS = 20
"""Most findings to request from SQLite's integrity check."""
PROGRESS_STEPS = 100_000
"""Steps of SQLite's virtual machine between two chances to stop its integrity check."""


def integrity_findings(engine: sa.Engine, stopped: Callable[[], bool]) -> list[str]:
    """Return the findings of SQLite's integrity check; [] if there are none, or once `stopped` returns True.

    Raises StoreError.
    """
    with engine.connect() as connection:
        raw = connection.connection.dbapi_connection
        assert isinstance(raw, sqlite3.Connection)
        raw.set_progress_handler(lambda: int(stopped()), PROGRESS_STEPS)
        try:
            found = connection.exec_driver_sql(f"PRAGMA integrity_check({MAX_INTEGRITY_FINDINGS})").scalars().all()
        except StoreUnavailableError:
            if stopped():
                return []
            raise
        finally:
            raw.set_progress_handler(None, 0)
    lines = [line.strip() for text in found for line in str(text).splitlines()]
    return [line for line in lines if line != "ok" and not line.startswith("***")][:MAX_INTEGRITY_FINDINGS]
