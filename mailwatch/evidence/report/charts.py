"""The charts of a report.

For an outage: its observations as bands, its times as marks. For a window: how much of each hour or day a channel
was up, down, indeterminate, or not observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from mailwatch.analysis.elapsed import gap_length
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.segments import Segment, SegmentState
from mailwatch.evidence.report.facts import ObservationRun
from mailwatch.evidence.warnings import answering_controls
from mailwatch.i18n import Formatter
from mailwatch.model import PAUSED, ConnectivityResult, Fact, Gap, Outcome, TargetChange
from mailwatch.times import Millis

QUARTER_MS: Millis = 900_000
"""All time zones have offsets of whole quarters of an hour."""
HOURLY_UP_TO_MS: Millis = 40 * 86_400_000
"""Longest window drawn by the hour; longer windows are drawn by the day."""


@dataclass(slots=True)
class Cell:
    """Milliseconds of an hour or a day. `whole`: its part in the window. `no_result`: number of unknown
    observations.
    """

    up: Millis = 0
    down: Millis = 0
    undecided: Millis = 0
    no_result: int = 0
    whole: Millis = 0

    def parts(self, interval: Millis) -> tuple[int, int, int]:
        """Return per cent down, unknown and up; the rest is no data. Any downtime gets a visible share."""
        left = max(0, self.whole - self.up - self.down - self.undecided)
        unknown = self.undecided + min(left, self.no_result * interval)
        down, unknown_share, up = (
            round(100 * part / self.whole) if self.whole else 0 for part in (self.down, unknown, self.up)
        )
        if self.down:
            down = max(down, 20)
        if unknown:
            unknown_share = max(unknown_share, 12)
        return down, min(unknown_share, 100 - down), min(up, max(0, 100 - down - unknown_share))


class AvailabilityCalendar:
    """Cells by target. Rows are local days of hours, or months of days."""

    def __init__(self, window: tuple[Millis, Millis], zone: ZoneInfo) -> None:
        self.window, self._zone = window, zone
        self.hourly = window[1] - window[0] <= HOURLY_UP_TO_MS
        self.causes: dict[str, dict[str, int]] = {}
        self.failed: dict[str, list[int]] = {}
        """For each target: failed observations in the window, and those at which other operators answered."""
        self._paused: set[str] = set()
        self.gaps: dict[str, dict[str, tuple[int, Millis]]] = {}
        self._cells: dict[str, dict[tuple[str, int], Cell]] = {}
        self._keys: dict[int, tuple[str, int]] = {}

    def add(self, target: str, fact: Fact, stretches: list[Segment]) -> None:
        """Add a fact, and the segments of the window that it decides."""
        cells = self._cells.setdefault(target, {})
        for start, end, share in stretches:
            while start < end:
                quarter = start // QUARTER_MS
                until = min(end, (quarter + 1) * QUARTER_MS)
                cell = cells.setdefault(self._key(quarter), Cell())
                if share is SegmentState.UP:
                    cell.up += until - start
                elif share is SegmentState.DOWN:
                    cell.down += until - start
                else:
                    cell.undecided += until - start
                start = until
        if isinstance(fact, Gap):
            self._gap(target, fact)
        elif isinstance(fact, TargetChange):
            (self._paused.add if fact.paused else self._paused.discard)(target)
        elif fact.outcome is Outcome.DOWN and self.window[0] <= fact.started_at < self.window[1]:
            failed = self.failed.setdefault(target, [0, 0])
            failed[0] += 1
            failed[1] += fact.guard is not None and _other_answered(fact.guard)
        elif fact.outcome is Outcome.UNKNOWN and self.window[0] <= fact.started_at < self.window[1]:
            cells.setdefault(self._key(fact.started_at // QUARTER_MS), Cell()).no_result += 1
            causes, cause = self.causes.setdefault(target, {}), fact.cause.value if fact.cause else ""
            causes[cause] = causes.get(cause, 0) + 1

    def _gap(self, target: str, gap: Gap) -> None:
        spent = min(gap.end, self.window[1]) - max(gap.end - gap_length(gap), self.window[0])
        if spent > 0:
            gaps = self.gaps.setdefault(target, {})
            # The gap of a pause is on record just before its end.
            reason = PAUSED if target in self._paused else gap.reason.value
            count, total = gaps.get(reason, (0, 0))
            gaps[reason] = (count + 1, total + spent)

    def rows(self, target: str, end: Millis) -> Iterator[tuple[str, dict[int, Cell]]]:
        """Yield the rows of [start, end) with their cells by column: hours 0 to 23 of days, or days of months."""
        rows: dict[str, dict[int, Cell]] = {}
        cells = self._cells.get(target, {})
        for quarter in range(self.window[0] // QUARTER_MS, -(-end // QUARTER_MS)):
            row, column = self._key(quarter)
            cell = rows.setdefault(row, {}).setdefault(column, cells.get((row, column), Cell()))
            cell.whole += min(end, (quarter + 1) * QUARTER_MS) - max(self.window[0], quarter * QUARTER_MS)
        yield from rows.items()

    def _key(self, quarter: int) -> tuple[str, int]:
        key = self._keys.get(quarter)
        if key is None:
            at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=quarter * QUARTER_MS)
            local = at.astimezone(self._zone)
            day = local.date().isoformat()
            key = (day, local.hour) if self.hourly else (day[:7], local.day)
            self._keys[quarter] = key
        return key


MAX_MARKED_OBSERVATIONS = 160
"""Most observations drawn as strokes; more would merge, so only the bands are drawn."""
MAX_BANDS = 400
NARROW_SHARE = 0.16
"""Share of the width below which two times do not fit side by side under the outage."""


def _other_answered(guard: ConnectivityResult) -> bool:
    """Return whether a control of another operator answered."""
    return bool(guard.online) and bool(answering_controls(guard.controls)[0])


@dataclass(frozen=True, slots=True)
class Band:
    """A part of the width. `kind`: down, edge, up, unknown or gap."""

    kind: str
    a: float
    b: float


@dataclass(frozen=True, slots=True)
class Stroke:
    """An observation. `what`: its outcome."""

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A time, written above or below the outage, to the left or right of its place."""

    at: float
    above: bool
    left: bool
    text: str


@dataclass(frozen=True, slots=True)
class Timeline:
    """The chart of an outage, with places between 0 and 1. `strokes`: empty if there are too many observations."""

    spans: list[Band]
    strokes: list[Stroke]
    marks: list[Mark]


Place = Callable[[Millis], float]
"""Maps a time to its place in a chart."""


def timeline(outage: Outage, runs: Sequence[ObservationRun], writing: Formatter) -> Timeline:
    """Return the chart of an outage."""
    start, end = _window(outage)

    def x(at: Millis) -> float:
        return float(min(1.0, max(0.0, (at - start) / (end - start))))

    visible = [run for run in runs if run.end >= start and run.start <= end]
    observed = [run for run in visible if run.state != "gap"]
    strokes = [
        Stroke(x(at), run.state)
        for run in observed
        if sum(one.count for one in observed) <= MAX_MARKED_OBSERVATIONS
        for at in _run_positions(run)
        if start <= at <= end
    ]
    return Timeline(_bands(outage, visible, x), strokes, _marks(outage, x, writing))


def _window(outage: Outage) -> tuple[Millis, Millis]:
    """Return the displayed time, with margins around the outage; an open outage ends with its last observation."""
    begin = outage.first_bad if outage.last_good is None else outage.last_good
    end = outage.last_bad if outage.first_good is None else outage.first_good
    margin = max(1000, (end - begin) // 12)
    return begin - margin, end + (0 if outage.first_good is None else margin)


def _bands(outage: Outage, runs: list[ObservationRun], x: Place) -> list[Band]:
    first, last, good, over = outage.first_bad, outage.last_bad, outage.last_good, outage.first_good
    bands = [Band("down", x(first), x(last))]
    if good is not None:
        bands += [Band("edge", x(good), x(first)), Band("up", 0.0, x(good))]
    if over is not None:
        bands += [Band("edge", x(last), x(over)), Band("up", x(over), 1.0)]
    unknown_runs = [
        run for run in runs if run.state in ("unknown", "gap") and run.end > first and run.start < last
    ]
    inside = [run for run in runs if run.state == "up" and first <= run.start < last]
    if len(unknown_runs) + len(inside) <= MAX_BANDS:
        bands += [Band(run.state, x(run.start), x(run.end)) for run in (*unknown_runs, *inside)]
    return bands


def _marks(outage: Outage, x: Place, writing: Formatter) -> list[Mark]:
    first, last, good, over = outage.first_bad, outage.last_bad, outage.last_good, outage.first_good
    narrow = x(last) - x(first) < NARROW_SHARE
    begin = first if good is None else good
    end = last if over is None else over
    marks = [
        Mark(x(begin), above=True, left=False, text=writing.local_and_utc(begin)),
        Mark(x(end), above=True, left=True, text=writing.local_and_utc(end, up=over is not None)),
    ]
    if good is not None:
        marks.append(Mark(x(first), above=False, left=narrow, text=writing.format_time(first, up=True)))
    if over is not None:
        marks.append(Mark(x(last), above=False, left=not narrow, text=writing.format_time(last)))
    return marks


def _run_positions(run: ObservationRun) -> list[Millis]:
    """Return the times of a run's strokes, evenly spaced, since runs keep no single times."""
    step = (run.end - run.start) / max(1, run.count - 1) if run.count > 1 else 0
    return [round(run.start + number * step) for number in range(run.count)]
