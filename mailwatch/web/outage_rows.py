"""The rows of lists of outages. The row of an outage that is over does not change, so it is rendered once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from jinja2 import Environment
from markupsafe import Markup

MAX_ROWS = 2000
"""Rows that are kept for each language and zone, about a kilobyte each."""


class OutageRow(NamedTuple):
    """All that a row shows. `least` and `most` in seconds."""

    id: str
    target: str
    first_bad: str
    state: str
    is_paused: bool
    least: float
    most: float | None
    causes: tuple[str, ...]


def outage_row(outage: Mapping[str, Any]) -> OutageRow:
    """Return the row of an outage in the JSON of the API."""
    lasted = outage["duration"]
    return OutageRow(
        id=outage["id"],
        target=outage["target"],
        first_bad=outage["first_bad"],
        state=outage["state"],
        is_paused="paused" in outage,
        least=lasted["min"],
        most=lasted["max"],
        causes=tuple(outage["causes"]),
    )


def row_renderer(environment: Environment) -> Callable[[Mapping[str, Any], str], Markup]:
    """Return what renders the row of an outage by outage_row.html, for a page with this way to the first page."""

    @lru_cache(MAX_ROWS)
    def rendered(row: OutageRow, root: str) -> Markup:
        return Markup(environment.get_template("outage_row.html").render(o=row, root=root))  # noqa: S704

    return lambda outage, root: rendered(outage_row(outage), root)
