"""The payloads of a target's observations out of their rows, many to a statement.

Each step of SQLite gives many of them: a thread that works would delay each step by the interpreter's switch
interval.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa

from mailwatch.store.entry_rows import is_consistent
from mailwatch.store.errors import StoreDamagedError, entry_mismatch
from mailwatch.store.schema import entries
from mailwatch.times import Millis

PAYLOADS_PER_STEP = 1000
_PAYLOADS = (
    "SELECT count(*), {join}(time_ms || ' ' || idx || {line}(10) || header || {line}(10) || payload, {line}(10)) "
    "FROM (SELECT time_ms, idx, header, payload FROM entries WHERE target = :target AND time_ms < :end "
    "AND (time_ms, idx) > (:time, :index) AND kind = 'observation' ORDER BY time_ms, idx LIMIT :limit) AS found"
)
_JOINED_PAYLOADS = sa.text(_PAYLOADS.format(join="group_concat", line="char"))
_POSTGRES_PAYLOADS = sa.text(_PAYLOADS.format(join="string_agg", line="chr"))
"""Canonical JSON has no line breaks."""


def row_payloads(
    connection: sa.Connection, target: str, start_ms: Millis, end_ms: Millis
) -> Iterator[tuple[Millis, int, str]]:
    """Yield time, index and payload of the observations that are rows, with times in [start_ms, end_ms), by time.

    Raises StoreDamagedError for one that does not match its header.
    """
    joined = _JOINED_PAYLOADS if connection.dialect.name == "sqlite" else _POSTGRES_PAYLOADS
    time, index, many = start_ms, -1, PAYLOADS_PER_STEP
    while many == PAYLOADS_PER_STEP:
        bounds = {"target": target, "time": time, "index": index, "end": end_ms, "limit": PAYLOADS_PER_STEP}
        many, text = connection.execute(joined, bounds).one()
        lines = text.split("\n") if many else []
        if len(lines) != 3 * many:
            raise _mismatch_after(connection, target, time)
        for place, header, payload in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
            if not is_consistent(header, payload):
                raise _mismatch_after(connection, target, time)
            time, index = map(int, place.split())
            yield time, index, payload


def _mismatch_after(connection: sa.Connection, target: str, time: Millis) -> StoreDamagedError:
    """Return the error for the first entry of a target from a time on that does not match its header."""
    column = entries.c
    query = sa.select(column.idx, column.header, column.payload).where(column.target == target)
    query = query.where(column.time_ms >= time).order_by(column.time_ms, column.idx)
    rows = connection.execute(query, execution_options={"yield_per": 1000})
    return entry_mismatch(next((row.idx for row in rows if not is_consistent(row.header, row.payload)), 0))
