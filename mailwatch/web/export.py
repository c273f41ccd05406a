"""Outages and observations as CSV for spreadsheets (RFC 4180)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from starlette.responses import Response

OUTAGE_COLUMNS = (
    "id",
    "target",
    "provider",
    "kind",
    "vantage_point",
    "state",
    "last_good",
    "first_bad",
    "last_bad",
    "first_good",
    "duration.min",
    "duration.max",
    "duration.estimate",
    "duration.uncertainty",
    "observations.down",
    "observations.up",
    "observations.unknown",
    "largest_gap",
    "unobserved",
    "causes",
    "phases",
    "ledger.first",
    "ledger.last",
)
OBSERVATION_COLUMNS = (
    "index",
    "target",
    "provider",
    "kind",
    "started_at",
    "outcome",
    "cause",
    "failed_phase",
    "detail",
    "duration",
    "phases.resolve",
    "phases.connect",
    "phases.tls",
    "phases.greeting",
    "phases.auth",
    "phases.mailbox",
    "phases.fetch",
    "phases.submit",
    "phases.deliver",
    "peer",
    "guard",
)


def csv_response(rows: Iterable[Mapping[str, object]], columns: Sequence[str], name: str) -> Response:
    """Return rows as CSV under a header of `columns`; "duration.min" names a nested key. A missing value is left
    empty.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(_nested_value(row, column)) for column in columns] for row in rows)
    disposition = {"content-disposition": f'attachment; filename="{name}.csv"'}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=disposition)


def _nested_value(row: Mapping[str, object], column: str) -> object:
    found: object = row
    for key in column.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _cell(value: object) -> str | float | int:
    if isinstance(value, Mapping):
        value = " ".join(f"{key}={count}" for key, count in value.items())
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return value
    # A server's text could begin a formula, which a spreadsheet would execute.
    return f"'{value}" if str(value).startswith(("=", "+", "-", "@", "\t", "\r")) else str(value)
