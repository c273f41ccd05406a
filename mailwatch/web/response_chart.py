"""Layout of the chart of response times: layers of phases, the 95th percentile, and what was observed below.

The plot is PLOT_WIDTH wide and PLOT_HEIGHT high, and stretched to its place on the page; positions of texts are in
per cent, so that texts keep their size. Layers are the medians of the phases, stacked. A bucket without a response
time interrupts them: no line crosses a gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import groupby
from zoneinfo import ZoneInfo

from mailwatch.analysis.response_times import PHASES, Bucket, Period, ResponseHistory
from mailwatch.times import DAY_MS, HOUR_MS, Millis, parse_rfc3339
from mailwatch.web.public_shapes import PublicOutageJson

PLOT_WIDTH = 1000.0
PLOT_HEIGHT = 200.0
WHOLE = "whole"
"""The layer of observations that record no phase."""
_GRID_LINES = 4
_OUTLIERS = 0.05
"""The share of the percentiles that may lie above the top of the plot: one slow bucket flattens all others."""
_EDGE_PERCENT = 4.0
_VISIBLE_PERCENT = 0.3
"""The width that is visible: what is certain of an outage is never narrower, what is possible is left out then."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The area of one phase, as an SVG path."""

    phase: str
    path: str


@dataclass(frozen=True, slots=True)
class GridLine:
    """A response time in seconds, and its height from the bottom of the plot in per cent."""

    seconds: float
    up: float


@dataclass(frozen=True, slots=True)
class TimeTick:
    """A local time on the axis. `x` in per cent. `is_day`: it begins a day. `minor`: left out on a phone."""

    at: Millis
    x: float
    is_day: bool
    is_labelled: bool
    minor: bool


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the time axis, in per cent, and its state."""

    state: str
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Column:
    """One bucket: its place in per cent, its time and its figures; `bucket` is None while it is not read."""

    x: float
    width: float
    start: Millis
    end: Millis
    bucket: Bucket | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseChart:
    """The chart, ready to draw."""

    period: Period
    start: Millis
    end: Millis
    layers: Sequence[Layer]
    band: str
    """The area below the 95th percentile, as an SVG path."""
    p95: str
    """The line of the 95th percentile, as an SVG path."""
    clipped: Sequence[float]
    """Where the 95th percentile lies above the plot, in per cent."""
    grid: Sequence[GridLine]
    ticks: Sequence[TimeTick]
    lane: Sequence[Stretch]
    """What was observed: up, down, unknown, nodata or unread."""
    outages: Sequence[Stretch]
    """Outages: "down" certainly, "undecided" possibly."""
    columns: Sequence[Column]

    @property
    def is_empty(self) -> bool:
        """Whether there is no response time in the period."""
        return not self.layers

    @property
    def fastest(self) -> int:
        """The lowest median in microseconds; not of an empty chart."""
        return min(self._medians())

    @property
    def slowest(self) -> int:
        """The highest median in microseconds; not of an empty chart."""
        return max(self._medians())

    def _medians(self) -> list[int]:
        return [one.bucket.total.median for one in self.columns if one.bucket and one.bucket.total]

    @property
    def unread(self) -> bool:
        """Whether a part is not read yet."""
        return any(column.bucket is None for column in self.columns)

    @property
    def listed(self) -> Sequence[Column]:
        """The buckets with observations, newest first, for the table."""
        return [column for column in reversed(self.columns) if column.bucket and column.bucket.observed]


def draw(history: ResponseHistory, outages: Sequence[PublicOutageJson], zone: ZoneInfo) -> ResponseChart:
    """Lay out the chart of a history, with the outages that overlap it and ticks at local times of `zone`."""
    phases = _phases(history)
    top, step = _scale(history)
    lines = list(_p95_lines(history, top))
    return ResponseChart(
        period=history.period,
        start=history.start,
        end=history.end,
        layers=[Layer(phase, path) for phase, path in zip(phases, _areas(history, phases, top), strict=True)],
        band="".join(f"{line}V{PLOT_HEIGHT:.0f}H{line[1:].split()[0]}Z" for line in lines),
        p95="".join(lines),
        clipped=[
            _percent(history, number + 0.5)
            for number, bucket in enumerate(history.buckets)
            if bucket and bucket.total and bucket.total.p95 > top
        ],
        grid=[
            GridLine(number * step / 1e6, number * step / top * 100)
            for number in range(1, int(top // step) + 1)
            if phases and number * step < top * 0.99
        ],
        ticks=_ticks(history, zone),
        lane=_lane(history),
        outages=[stretch for outage in outages for stretch in _stretches(history, outage)],
        columns=_columns(history),
    )


def bucket_state(bucket: Bucket | None) -> str:
    """Return the state of a bucket: down if any observation failed, unknown if any was undecided."""
    if bucket is None:
        return "unread"
    if bucket.down:
        return "down"
    if bucket.unknown:
        return "unknown"
    return "up" if bucket.up else "nodata"


def _phases(history: ResponseHistory) -> list[str]:
    """Return the phases that the history has, in their order."""
    timed = [bucket for bucket in history.buckets if bucket and bucket.total]
    found = {phase for bucket in timed for phase in bucket.phases}
    whole = [WHOLE] if any(not bucket.phases for bucket in timed) else []
    return whole + [phase for phase in PHASES if phase in found]


def _heights(bucket: Bucket, phases: Sequence[str]) -> list[int]:
    """Return the upper edge of each layer in a bucket, in microseconds."""
    edges, edge = [], 0
    for phase in phases:
        if phase == WHOLE:
            edge += bucket.total.median if bucket.total and not bucket.phases else 0
        elif phase in bucket.phases:
            edge += bucket.phases[phase].median
        edges.append(edge)
    return edges


def _scale(history: ResponseHistory) -> tuple[float, float]:
    """Return the top of the plot and the distance of its grid lines, in microseconds."""
    timed = [bucket for bucket in history.buckets if bucket and bucket.total]
    phases = _phases(history)
    peak = max((_heights(bucket, phases)[-1] for bucket in timed), default=0)
    high = sorted(bucket.total.p95 for bucket in timed if bucket.total)
    if high:
        peak = max(peak, high[int(len(high) * (1 - _OUTLIERS)) - 1 if len(high) > 1 / _OUTLIERS else -1])
    needed = max(1000.0, peak * 1.1)
    step = 1.0
    while needed / step > _GRID_LINES + 1:
        # 1, 2, 5, 10, 20, 50 ...
        step *= 2.5 if f"{step:.0f}".startswith("2") else 2.0
    return needed, step


def _runs(history: ResponseHistory) -> Iterator[list[tuple[int, Bucket]]]:
    """Yield the runs of consecutive buckets that have a response time."""
    numbered = enumerate(history.buckets)
    for timed, run in groupby(numbered, key=lambda one: one[1] is not None and one[1].total is not None):
        if timed:
            yield [(number, bucket) for number, bucket in run if bucket is not None]


def _places(run: Sequence[tuple[int, Bucket]], count: int) -> list[float]:
    """Return where a run is drawn: at its left edge, the middle of each bucket, and its right edge."""
    unit = PLOT_WIDTH / count
    return [run[0][0] * unit, *((number + 0.5) * unit for number, _ in run), (run[-1][0] + 1) * unit]


def _areas(history: ResponseHistory, phases: Sequence[str], top: float) -> list[str]:
    paths = [""] * len(phases)
    for run in _runs(history):
        places = _places(run, len(history.buckets))
        below = [PLOT_HEIGHT] * len(places)
        edges = [_heights(bucket, phases) for _, bucket in run]
        for number in range(len(phases)):
            middle = [_y(edge[number], top) for edge in edges]
            above = [middle[0], *middle, middle[-1]]
            if above != below:
                forth = _points(zip(places, above, strict=True))
                back = _points(zip(reversed(places), reversed(below), strict=True))
                paths[number] += f"M{forth}L{back}Z"
            below = above
    return paths


def _p95_lines(history: ResponseHistory, top: float) -> Iterator[str]:
    for run in _runs(history):
        middle = [_y(bucket.total.p95, top) for _, bucket in run if bucket.total]
        heights = [middle[0], *middle, middle[-1]]
        yield "M" + _points(zip(_places(run, len(history.buckets)), heights, strict=True))


def _y(microseconds: float, top: float) -> float:
    return PLOT_HEIGHT * (1 - min(microseconds, top) / top)


def _points(points: Iterator[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _percent(history: ResponseHistory, buckets: float) -> float:
    return round(buckets / len(history.buckets) * 100, 3)


def _lane(history: ResponseHistory) -> list[Stretch]:
    found, number = [], 0
    for state, run in groupby(history.buckets, key=bucket_state):
        length = len(list(run))
        found.append(Stretch(state, _percent(history, number), _percent(history, length)))
        number += length
    return found


def _columns(history: ResponseHistory) -> list[Column]:
    length = history.period.bucket
    return [
        Column(
            x=_percent(history, number),
            width=_percent(history, 1),
            start=history.start + number * length,
            end=history.start + (number + 1) * length,
            bucket=bucket,
        )
        for number, bucket in enumerate(history.buckets)
    ]


def _stretches(history: ResponseHistory, outage: PublicOutageJson) -> Iterator[Stretch]:
    good, bad, last, end = (
        None if at is None else parse_rfc3339(at)
        for at in (outage["last_good"], outage["first_bad"], outage["last_bad"], outage["first_good"])
    )
    assert bad is not None
    assert last is not None
    for state, since, until in (("undecided", good, bad), ("down", bad, last), ("undecided", last, end)):
        if since is None or until is None:
            continue
        left, right = max(since, history.start), min(until, history.end)
        if left <= right:
            x, width = _place(history, left), _place(history, right) - _place(history, left)
            if state == "down":
                width = max(width, _VISIBLE_PERCENT)
            if width >= _VISIBLE_PERCENT:
                yield Stretch(state, round(x, 3), round(width, 3))


def _place(history: ResponseHistory, at: Millis) -> float:
    return (at - history.start) / (history.end - history.start) * 100


def _ticks(history: ResponseHistory, zone: ZoneInfo) -> list[TimeTick]:
    """Return ticks at round local times: every three hours, each day, or each fifth or fifteenth day."""
    period = history.period
    days = {Period.MONTH: 5, Period.QUARTER: 15}.get(period, 1)
    hours = range(0, 24, 3) if period is Period.DAY else range(1)
    found = []
    first = datetime.fromtimestamp(history.start / 1000, zone).date()
    for number in range((history.end - history.start) // DAY_MS + 2):
        day = first + timedelta(days=number)
        if day.toordinal() % days:
            continue
        for hour in hours:
            at = _moment(day, hour, zone)
            x = _place(history, at)
            if 0 <= x <= 100:
                inside = _EDGE_PERCENT < x < 100 - _EDGE_PERCENT
                minor = hour % 6 != 0 or (period is Period.WEEK and day.toordinal() % 2 != 0)
                found.append(TimeTick(at, round(x, 3), hour == 0, inside, minor))
    return found


def _moment(day: date, hour: int, zone: ZoneInfo) -> Millis:
    """Return the first moment of an hour of a day; with the clocks set forward, the hour after it."""
    at = round(datetime.combine(day, time(hour), zone).timestamp() * 1000)
    shown = datetime.fromtimestamp(at / 1000, zone)
    return at if shown.hour == hour else at + HOUR_MS
