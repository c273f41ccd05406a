"""report.pdf of several vantage points: turns their groups into the data of the template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.evidence.joint.quorum import ChannelGroup, Contradiction, CoverageStep
from mailwatch.evidence.report.formatting import Rows, digest_groups, provider_name, texts
from mailwatch.evidence.report.typesetting import Page, page_head, typeset
from mailwatch.i18n import Formatter
from mailwatch.times import Millis, Window, total_length

MAX_ROWS = 40
MAX_MEMBERS = 100
MAX_POINTS = 400
"""Most steps in a chart; if there are more, steps that coincide are merged into the lowest or the highest."""
MAX_LEVELS = 16


@dataclass(frozen=True, slots=True)
class AxisMark:
    """A time on the axis of a chart; `at`: its place between 0 and 1."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class CoverageChart:
    """The number of vantage points, of `n`, at which a channel was down or up over time: places from 0 to 1,
    counts.
    """

    n: int
    ticks: list[int]
    possibly: list[tuple[float, int]]
    surely: list[tuple[float, int]]
    up: list[tuple[float, int]]
    marks: list[AxisMark]


@dataclass(frozen=True, slots=True)
class GroupSection:
    """A provider's channel as observed by its vantage points."""

    name: str
    text: str
    chart: CoverageChart | None
    levels: Rows
    levels_cut: str
    contradictions: Rows
    contradictions_cut: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JointPage(Page):
    """The data of joint.typ."""

    headline: str
    figure: str
    alarming: bool
    sentence: str
    sources: str
    groups: list[GroupSection]
    members: Rows
    members_cut: str
    left_out: Rows
    method: list[str]


def joint_report(
    groups: list[ChannelGroup], stated: Mapping[str, Any], statement: bytes, language: str, zone: ZoneInfo
) -> bytes:
    """Return the PDF. `statement`: joint.json as in the zip. `stated`: the same, parsed."""
    return typeset("joint.typ", _PageBuilder(groups, stated, language, zone).page(), statement)


class _PageBuilder:
    def __init__(
        self, groups: list[ChannelGroup], stated: Mapping[str, Any], language: str, zone: ZoneInfo
    ) -> None:
        self._in = Formatter(language, zone, tenths=False)
        self._groups, self._s, self._w = groups, stated, texts(language, "joint")
        self._point_count = len({one["ledger"] for one in stated["members"]})

    def page(self) -> JointPage:
        w, members, left_out = self._w, self._s["members"], self._s["left_out"]
        more, points = len(members) - MAX_MEMBERS, self._point_count
        name = w["group_text"].format(n=points, with_outage="", outages="", without="").partition(".")[0]
        headline, figure, sentence = self._headline()
        return JointPage(
            head=page_head(w, self._in, self._s["made_by"], name, self._latest(), "joint.json"),
            headline=headline,
            figure=figure,
            alarming=bool(self._peak()),
            sentence=sentence,
            sources=w["sources_text"].format(members=len(members), points=points, left_out=len(left_out)),
            groups=[self._group(one) for one in self._groups],
            members=[
                [one["vantage_point"], one["ledger"], digest_groups(one["sha256"])]
                for one in members[:MAX_MEMBERS]
            ],
            members_cut=w["members_cut"].format(n=more) if more > 0 else "",
            left_out=[[one["file"], one["reason"]] for one in left_out[:MAX_MEMBERS]],
            method=[line.replace("`", "") for line in w.lines("method_text")],
        )

    def _latest(self) -> Millis:
        """Return the latest time in any outage, the date of the report."""
        return max((one.possibly[-1][0] for one in self._groups if one.possibly), default=0)

    def _peak(self) -> int:
        return max((one.peak for one in self._groups), default=0)

    def _headline(self) -> tuple[str, str, str]:
        """Return the first page's headline, its figure, and a sentence.

        They are about the channel that most vantage points found down at the same time.
        """
        w = self._w
        if not self._peak():
            return w["headline_fine"], str(self._point_count), w["sentence_fine"]
        worst = max(self._groups, key=lambda one: one.peak)
        half = -(-len(worst.views) // 2)
        span = max(worst.surely_spans[worst.peak - 1], key=lambda span: span[1] - span[0])
        sentence = w["sentence"].format(
            a=self._in.local_and_utc(span[0], up=True),
            b=self._in.local_and_utc(span[1]),
            half=half,
            time=self._in.format_duration(total_length(worst.surely_spans[half - 1])),
        )
        headline = w["headline"].format(channel=_name(worst))
        return headline, w["figure"].format(k=worst.peak, n=len(worst.views)), sentence

    def _group(self, one: ChannelGroup) -> GroupSection:
        w, n = self._w, len(one.views)
        having = sum(bool(point.outages) for point in one.views)
        outages = sum(len(point.outages) for point in one.views)
        levels = _levels(n)
        longest = sorted(one.contradictions, key=lambda found: found.span[0] - found.span[1])[:MAX_ROWS]
        more = len(one.contradictions) - MAX_ROWS
        return GroupSection(
            name=_name(one),
            text=w["group_text"].format(n=n, with_outage=having, outages=outages, without=n - having),
            chart=self._chart(one),
            levels=[
                [str(k), *self._level(one.surely_spans[k - 1]), *self._level(one.possibly_spans[k - 1], up=True)]
                for k in levels
                if one.possibly_spans[k - 1]
            ],
            levels_cut=w["levels_cut"] if len(levels) < n else "",
            contradictions=[self._contradiction(found) for found in longest],
            contradictions_cut=w["contradictions_cut"].format(n=more) if more > 0 else "",
        )

    def _contradiction(self, found: Contradiction) -> list[str]:
        start, end = found.span
        return [
            f"{found.vantage} ({found.ledger.rpartition('/')[2][:8]})",
            self._in.local_and_utc(start, up=True),
            self._in.local_and_utc(end),
            self._in.format_duration(end - start),
            str(found.down),
        ]

    def _level(self, spans: list[Window], *, up: bool = False) -> list[str]:
        if not spans:
            return ["–", "–", "–"]
        first, last = self._in.local_and_utc(spans[0][0], up=not up), self._in.local_and_utc(spans[-1][1], up=up)
        return [self._in.format_duration(total_length(spans), up=up), first, last]

    def _chart(self, one: ChannelGroup) -> CoverageChart | None:
        if not one.possibly:
            return None
        first, last = one.possibly[0][0], one.possibly[-1][0]
        margin = max(60_000, (last - first) // 20)
        start, end = first - margin, last + margin
        n = len(one.views)
        return CoverageChart(
            n=n,
            ticks=sorted({0, n, *(round(n * part / 4) for part in (1, 2, 3))}),
            possibly=_chart_points(one.possibly, start, end, max),
            surely=_chart_points(one.surely, start, end, min),
            up=_chart_points(one.up, start, end, min),
            marks=[
                AxisMark((at - start) / (end - start), f"{self._in.local_date(at)} {self._in.format_time(at)}")
                for at in (start, (start + end) // 2, end)
            ],
        )


def _name(one: ChannelGroup) -> str:
    return f"{provider_name(one.provider)} {one.kind.upper()}"


def _levels(n: int) -> list[int]:
    """Return the values of k to list: all if few, else the first, the last and evenly spaced ones between."""
    if n <= MAX_LEVELS:
        return list(range(1, n + 1))
    return sorted({1, 2, 3, n, *(round(n * part / (MAX_LEVELS - 4)) for part in range(1, MAX_LEVELS - 4))})


def _chart_points(
    counted: list[CoverageStep], start: Millis, end: Millis, choose: Callable[[int, int], int]
) -> list[tuple[float, int]]:
    """Return places from 0 to 1 with counts; above MAX_POINTS steps, `choose` merges those that coincide."""
    before = [count for at, count in counted if at <= start]
    points = [(start, before[-1] if before else 0)] + [step for step in counted if start < step[0] < end]
    drawn: dict[int, tuple[float, int]] = {}
    for at, count in points:
        place = (at - start) / (end - start)
        slot = int(place * MAX_POINTS) if len(points) > MAX_POINTS else len(drawn)
        drawn[slot] = (drawn[slot][0], choose(drawn[slot][1], count)) if slot in drawn else (place, count)
    return [*drawn.values(), (1.0, list(drawn.values())[-1][1])]
