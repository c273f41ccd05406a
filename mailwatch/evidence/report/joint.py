"""report.pdf of several vantage points: turns their groups into what the report prints."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.evidence.joint.quorum import ChannelGroup, CoverageStep
from mailwatch.evidence.report import typeset
from mailwatch.evidence.report.formatting import digest_groups, provider_name, texts
from mailwatch.i18n import Formatter
from mailwatch.times import Millis, Span, total_length

MAX_ROWS = 40
MAX_MEMBERS = 100
MAX_POINTS = 400
"""Steps that a chart can show; of more the lowest of those that fall together are drawn, or the highest."""
MAX_LEVELS = 16


def joint_report(
    groups: list[ChannelGroup], stated: dict[str, Any], statement: bytes, language: str, zone: ZoneInfo
) -> bytes:
    """Return the PDF. `statement` is joint.json as it stands in the zip, `stated` what it says."""
    return typeset("joint.typ", _JointPage(groups, stated, language, zone).data(), statement)


class _JointPage:
    def __init__(self, groups: list[ChannelGroup], stated: dict[str, Any], language: str, zone: ZoneInfo) -> None:
        self._in = Formatter(language, zone, tenths=False)
        self._groups, self._s, self._w = groups, stated, texts(language, "joint")

    def data(self) -> dict[str, Any]:
        w, members, left_out = self._w, self._s["members"], self._s["left_out"]
        at = datetime.fromtimestamp(self._latest() / 1000, UTC)
        more = len(members) - MAX_MEMBERS
        points = len({one["ledger"] for one in members})
        given = {"members": len(members), "points": points, "left_out": len(left_out)}
        return {
            "lang": self._in.language,
            "words": w.single(),
            "title": w["title"],
            "subtitle": w["subtitle"],
            "author": self._s["made_by"],
            "id": w["group_text"].format(n=points, with_outage="", outages="", without="").partition(".")[0],
            "date": {"year": at.year, "month": at.month, "day": at.day},
            "attached": "joint.json",
            **self._head(),
            "sources": w["sources_text"].format(**given),
            "groups": [self._group(one) for one in self._groups],
            "members": [
                [one["vantage_point"], one["ledger"], digest_groups(one["sha256"])]
                for one in members[:MAX_MEMBERS]
            ],
            "members_cut": w["members_cut"].format(n=more) if more > 0 else "",
            "left_out": [[one["file"], one["reason"]] for one in left_out[:MAX_MEMBERS]],
            "method": [line.replace("`", "") for line in w.lines("method_text")],
            "local_note": w["local_note"].format(zone=str(self._in.zone)),
        }

    def _latest(self) -> Millis:
        """The latest time in any of the outages: the date of the report."""
        return max((one.possibly[-1][0] for one in self._groups if one.possibly), default=0)

    def _head(self) -> dict[str, Any]:
        """The one figure of the first page: of the channel that most vantage points found down together."""
        w = self._w
        worst = max(self._groups, key=lambda one: one.peak, default=None)
        if worst is None or not worst.peak:
            points = str(len({one["ledger"] for one in self._s["members"]}))
            return {
                "headline": w["headline_fine"],
                "figure": points,
                "alarming": False,
                "sentence": w["sentence_fine"],
            }
        n, half = len(worst.views), -(-len(worst.views) // 2)
        lasting = worst.surely_spans[half - 1]
        span = max(worst.surely_spans[worst.peak - 1], key=lambda span: span[1] - span[0])
        return {
            "headline": w["headline"].format(channel=_name(worst)),
            "figure": w["figure"].format(k=worst.peak, n=n),
            "alarming": True,
            "sentence": w["sentence"].format(
                a=self._in.local_and_utc(span[0], up=True),
                b=self._in.local_and_utc(span[1]),
                half=half,
                time=self._in.format_duration(total_length(lasting)),
            ),
        }

    def _group(self, one: ChannelGroup) -> dict[str, Any]:
        w, n = self._w, len(one.views)
        having = sum(bool(point.outages) for point in one.views)
        outages = sum(len(point.outages) for point in one.views)
        levels = _levels(n)
        longest = sorted(one.contradictions, key=lambda found: found.span[0] - found.span[1])[:MAX_ROWS]
        more = len(one.contradictions) - MAX_ROWS
        return {
            "name": _name(one),
            "text": w["group_text"].format(n=n, with_outage=having, outages=outages, without=n - having),
            "chart": self._chart(one),
            "levels": [
                [str(k), *self._level(one.surely_spans[k - 1]), *self._level(one.possibly_spans[k - 1], up=True)]
                for k in levels
                if one.possibly_spans[k - 1]
            ],
            "levels_cut": w["levels_cut"] if len(levels) < n else "",
            "contradictions": [
                [
                    f"{found.vantage} ({found.ledger.rpartition('/')[2][:8]})",
                    self._in.local_and_utc(found.span[0], up=True),
                    self._in.local_and_utc(found.span[1]),
                    self._in.format_duration(found.span[1] - found.span[0]),
                    str(found.down),
                ]
                for found in longest
            ],
            "contradictions_cut": w["contradictions_cut"].format(n=more) if more > 0 else "",
        }

    def _level(self, spans: list[Span], *, up: bool = False) -> list[str]:
        if not spans:
            return ["–", "–", "–"]
        first, last = self._in.local_and_utc(spans[0][0], up=not up), self._in.local_and_utc(spans[-1][1], up=up)
        return [self._in.format_duration(total_length(spans), up=up), first, last]

    def _chart(self, one: ChannelGroup) -> dict[str, Any] | None:
        if not one.possibly:
            return None
        first, last = one.possibly[0][0], one.possibly[-1][0]
        margin = max(60_000, (last - first) // 20)
        start, end = first - margin, last + margin
        n = len(one.views)
        marks = [start, (start + end) // 2, end]
        return {
            "n": n,
            "ticks": sorted({0, n, *(round(n * part / 4) for part in (1, 2, 3))}),
            "possibly": _chart_points(one.possibly, start, end, max),
            "surely": _chart_points(one.surely, start, end, min),
            "up": _chart_points(one.up, start, end, min),
            "marks": [
                {
                    "at": (at - start) / (end - start),
                    "text": f"{self._in.local_date(at)} {self._in.format_time(at)}",
                }
                for at in marks
            ],
        }


def _name(one: ChannelGroup) -> str:
    return f"{provider_name(one.provider)} {one.kind.upper()}"


def _levels(n: int) -> list[int]:
    """All k of a few, of many some: the first and last ones and about evenly in between."""
    if n <= MAX_LEVELS:
        return list(range(1, n + 1))
    return sorted({1, 2, 3, n, *(round(n * part / (MAX_LEVELS - 4)) for part in range(1, MAX_LEVELS - 4))})


def _chart_points(
    counted: list[CoverageStep], start: Millis, end: Millis, choose: Callable[[int, int], int]
) -> list[tuple[float, int]]:
    """Places from 0 to 1 with their counts; at most so many, choosing among those that fall together."""
    before = [count for at, count in counted if at <= start]
    points = [(start, before[-1] if before else 0)] + [step for step in counted if start < step[0] < end]
    drawn: dict[int, tuple[float, int]] = {}
    for at, count in points:
        place = (at - start) / (end - start)
        slot = int(place * MAX_POINTS) if len(points) > MAX_POINTS else len(drawn)
        drawn[slot] = (drawn[slot][0], choose(drawn[slot][1], count)) if slot in drawn else (place, count)
    return [*drawn.values(), (1.0, list(drawn.values())[-1][1])]
