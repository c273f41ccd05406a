"""The picture of a window: how much of each hour or day a channel was up, down, undecided, or not looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from mailwatch.elapsed import length_of
from mailwatch.models import Fact, Gap, Millis, Outcome, WatchChange
from mailwatch.service_level import Share, Stretch

QUARTER: Millis = 900_000
"""All time zones change by whole quarters of an hour."""
HOURLY: Millis = 40 * 86_400_000
"""Windows up to here are drawn by the hour, longer ones by the day."""


@dataclass(slots=True)
class Cell:
    """Milliseconds of an hour or a day; `whole` is its part in the window, `odd` counts looks without a result."""

    up: Millis = 0
    down: Millis = 0
    undecided: Millis = 0
    odd: int = 0
    whole: Millis = 0

    def parts(self, beat: Millis) -> tuple[int, int, int]:
        """Per cent down, unknown and up, the rest being no data; what there was of down can always be seen."""
        left = max(0, self.whole - self.up - self.down - self.undecided)
        unknown = self.undecided + min(left, self.odd * beat)
        down, odd, up = (
            round(100 * part / self.whole) if self.whole else 0 for part in (self.down, unknown, self.up)
        )
        if self.down:
            down = max(down, 20)
        if unknown:
            odd = max(odd, 12)
        return down, min(odd, 100 - down), min(up, max(0, 100 - down - odd))


class Calendar:
    """Cells by target; rows are local days of hours, or months of days."""

    def __init__(self, window: tuple[Millis, Millis], zone: ZoneInfo) -> None:
        self.window, self._zone = window, zone
        self.hourly = window[1] - window[0] <= HOURLY
        self.causes: dict[str, dict[str, int]] = {}
        self.failed: dict[str, list[int]] = {}
        """Of each target the looks in the window that failed, and at how many of them other operators answered."""
        self.gaps: dict[str, dict[str, tuple[int, Millis]]] = {}
        self._cells: dict[str, dict[tuple[str, int], Cell]] = {}
        self._keys: dict[int, tuple[str, int]] = {}

    def add(self, target: str, fact: Fact, stretches: list[Stretch]) -> None:
        """Take in a fact, and what it decided of the window."""
        cells = self._cells.setdefault(target, {})
        for start, end, share in stretches:
            while start < end:
                quarter = start // QUARTER
                until = min(end, (quarter + 1) * QUARTER)
                cell = cells.setdefault(self._key(quarter), Cell())
                if share is Share.UP:
                    cell.up += until - start
                elif share is Share.DOWN:
                    cell.down += until - start
                else:
                    cell.undecided += until - start
                start = until
        if isinstance(fact, Gap):
            self._gap(target, fact)
        elif isinstance(fact, WatchChange):
            return
        elif fact.outcome is Outcome.DOWN and self.window[0] <= fact.started_at < self.window[1]:
            failed = self.failed.setdefault(target, [0, 0])
            failed[0] += 1
            failed[1] += fact.guard is not None and bool(fact.guard.online)
        elif fact.outcome is Outcome.UNKNOWN and self.window[0] <= fact.started_at < self.window[1]:
            cells.setdefault(self._key(fact.started_at // QUARTER), Cell()).odd += 1
            causes, cause = self.causes.setdefault(target, {}), fact.cause.value if fact.cause else ""
            causes[cause] = causes.get(cause, 0) + 1

    def _gap(self, target: str, gap: Gap) -> None:
        spent = min(gap.end, self.window[1]) - max(gap.end - length_of(gap), self.window[0])
        if spent > 0:
            gaps = self.gaps.setdefault(target, {})
            count, total = gaps.get(gap.reason.value, (0, 0))
            gaps[gap.reason.value] = (count + 1, total + spent)

    def rows(self, target: str, end: Millis) -> Iterator[tuple[str, dict[int, Cell]]]:
        """Yield the rows of [start, end) with their cells by column: hours 0 to 23 of days, or days of months."""
        rows: dict[str, dict[int, Cell]] = {}
        cells = self._cells.get(target, {})
        for quarter in range(self.window[0] // QUARTER, -(-end // QUARTER)):
            row, column = self._key(quarter)
            cell = rows.setdefault(row, {}).setdefault(column, cells.get((row, column), Cell()))
            cell.whole += min(end, (quarter + 1) * QUARTER) - max(self.window[0], quarter * QUARTER)
        yield from rows.items()

    def _key(self, quarter: int) -> tuple[str, int]:
        key = self._keys.get(quarter)
        if key is None:
            at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=quarter * QUARTER)
            local = at.astimezone(self._zone)
            key = (f"{local:%Y-%m-%d}", local.hour) if self.hourly else (f"{local:%Y-%m}", local.day)
            self._keys[quarter] = key
        return key
