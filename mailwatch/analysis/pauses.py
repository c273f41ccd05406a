"""The times in which a target was paused, by its recorded changes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from mailwatch.model import TargetChange
from mailwatch.times import Millis, Window


def paused_windows(changes: Iterable[TargetChange], start: Millis, end: Millis) -> list[Window]:
    """Return the pauses in [start, end). `changes`: in ledger order, with the latest one before `start`.

    Each change of a paused target says so; the first that does not ends the pause.
    """
    found: list[Window] = []
    since: Millis | None = None
    for change in changes:
        if change.paused:
            since = change.at if since is None else since
        elif since is not None:
            found.append((since, change.at))
            since = None
    if since is not None:
        found.append((since, end))
    within = ((max(begin, start), min(until, end)) for begin, until in found)
    return [(begin, until) for begin, until in within if begin < until]
