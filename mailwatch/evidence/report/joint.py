"""report.pdf of several vantage points: turns their groups into the data of the template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.evidence.caveat_text import caveat_text
from mailwatch.evidence.joint.quorum import ChannelGroup, Contradiction, CoverageStep, known_as
from mailwatch.evidence.report.formatting import Rows, digest_groups, provider_name, texts
from mailwatch.evidence.report.typesetting import Page, page_head, typeset
from mailwatch.evidence.warnings import CODES, Caveat
from mailwatch.i18n import Formatter
from mailwatch.phrases import translated, word
from mailwatch.times import Millis, Window, total_length

MAX_ROWS = 40
MAX_MEMBERS = 100
MAX_ADDRESSES = 8
MAX_POINTS = 400
"""Most steps in a chart; if there are more, steps that coincide are merged into the lowest or the highest."""
MAX_LEVELS = 16
MAX_CAVEATS = 8
"""Most caveats on the first page; the section on the bundles has all."""
MAX_NAMED = 3
MAX_HUB_MEMBERS = 2000


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
    compared: bool
    """Whether there are two vantage points that could contradict each other."""
    contradictions: Rows
    contradictions_cut: str


@dataclass(frozen=True, slots=True)
class MemberSection:
    """A bundle, and where it comes from. `doubted`: no third party attests when it was written."""

    name: str
    facts: Rows
    doubted: bool
    caveats: list[str]


@dataclass(frozen=True, slots=True)
class HubSection:
    """The members of the hub that made the joint case: what each agreed to send, and whether a bundle is here."""

    summary: str
    text: str
    limits: list[str]
    members: Rows
    members_cut: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JointPage(Page):
    """The data of joint.typ."""

    headline: str
    figure: str
    alarming: bool
    sentence: str
    caveats: list[str]
    sources: str
    groups: list[GroupSection]
    same_machine: list[str]
    members: list[MemberSection]
    members_cut: str
    left_out: Rows
    method: list[str]
    hub: HubSection | None = None


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
        self._point_count = len({_point(one) for one in stated["members"]})

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
            sentence=f"{sentence} {self._confirmed()}".strip(),
            caveats=self._caveats(),
            sources=" ".join(self._sources(len(members), points, len(left_out))),
            groups=[self._group(one) for one in self._groups],
            same_machine=[
                w["same_machine"].format(ledgers=", ".join(map(self._known_as, ledgers)))
                for ledgers in map(self._counted_apart, self._s["same_machine"])
                if len(ledgers) > 1
            ],
            members=[self._member(one) for one in members[:MAX_MEMBERS]],
            members_cut=w["members_cut"].format(n=more) if more > 0 else "",
            left_out=[[one["file"], self._reason(one["reason"])] for one in left_out[:MAX_MEMBERS]],
            method=[line.replace("`", "") for line in w.lines("method_text")],
            hub=None if "hub" not in self._s else self._hub(self._s["hub"]),
        )

    def _caveats(self) -> list[str]:
        """Return the lines in red on the first page: each caveat with those whose bundles have it."""
        whose: dict[str, list[str]] = {}
        for one in self._s["members"]:
            name = known_as(one["vantage_point"], one["ledger"])
            for text in self._caveats_of(one):
                own = whose.setdefault(text, [])
                if name not in own:
                    own.append(name)
        lines = [f"{self._names(names)}: {text}" for text, names in whose.items()]
        more = len(lines) - MAX_CAVEATS
        return lines[:MAX_CAVEATS] + ([self._w["caveats_more"].format(n=more)] if more > 0 else [])

    def _names(self, names: list[str]) -> str:
        more = len(names) - MAX_NAMED
        return ", ".join(names[:MAX_NAMED]) + (self._w["addresses_more"].format(n=more) if more > 0 else "")

    def _caveats_of(self, one: Mapping[str, Any]) -> list[str]:
        return [
            caveat_text(Caveat(found["code"], found["figures"]), self._in)
            for found in one["caveats"]
            if found["code"] in CODES
        ]

    def _sources(self, members: int, points: int, left_out: int) -> Iterator[str]:
        w = self._w
        yield w["sources_text"].format(members=members, points=points, left_out=left_out)
        stamped = {_point(one) for one in self._s["members"] if one["tokens"]}
        key = {0: "stamped_none", points: "stamped_all"}.get(len(stamped), "stamped")
        yield w[key].format(n=len(stamped), points=points)
        merged_by = self._s.get("merged_by")
        if self._s.get("witnessed") is True:
            yield w["witnessed"]
        yield w["merged_by"].format(ledger=merged_by) if merged_by else w["merged_by_none"]

    def _hub_summary(self, hub: Mapping[str, Any]) -> str:
        """Return what the first page says of the hub: it made the bundles, and of how many vantage points."""
        members, name = hub["members"], known_as(hub["vantage_point"], hub["ledger"])
        absent = sum(bool(one["reason"]) for one in members)
        of_all = self._w["hub_absent" if absent else "hub_whole"].format(n=absent, all=len(members))
        return f"{self._w['hub_made'].format(hub=name)} {of_all}"

    def _confirmed(self) -> str:
        """Return the sentence on the outage that the hub confirmed, "" without one."""
        confirmed = self._s.get("hub", {}).get("confirmed")
        if confirmed is None:
            return ""
        since, ended = self._in.local_and_utc_of(confirmed["since"] or confirmed["confirmed"]), confirmed["ended"]
        key = "hub_confirmed_open" if ended is None else "hub_confirmed"
        until = "" if ended is None else self._in.local_and_utc_of(ended)
        return self._w[key].format(k=confirmed["k"], a=since, b=until)

    def _hub(self, hub: Mapping[str, Any]) -> HubSection:
        w, members = self._w, sorted(hub["members"], key=lambda one: (not one["reason"], one["name"]))
        start, end = (self._in.local_and_utc_of(hub["window"][key]) for key in ("from", "to"))
        more = len(members) - MAX_HUB_MEMBERS
        return HubSection(
            summary=self._hub_summary(hub),
            text=w["hub_text"].format(hub=known_as(hub["vantage_point"], hub["ledger"]), a=start, b=end),
            limits=w.lines("hub_limits"),
            members=[
                [one["name"], one["ledger"].rpartition("/")[2][:8], self._agreed(one), self._included(one)]
                for one in members[:MAX_HUB_MEMBERS]
            ],
            members_cut=w["members_cut"].format(n=more) if more > 0 else "",
        )

    def _agreed(self, one: Mapping[str, Any]) -> str:
        w, send = self._w, one["send"]
        if one["ledger"] == self._s["merged_by"]:
            return w["hub_itself"]
        if send is None:
            return w["send_unknown"]
        said = w["send_targets"].format(n=send) if isinstance(send, int) else w[f"send_{send}"]
        return said if one["agreed"] is None else f"{said}, {self._in.local_and_utc_of(one['agreed'])}"

    def _included(self, one: Mapping[str, Any]) -> str:
        return self._reason(one["reason"]) if one["reason"] else self._w["hub_enclosed"]

    def _reason(self, reason: str) -> str:
        """Return why a bundle was left out: its claim that is not valid, or a sentence."""
        before, _, claim = reason.rpartition("not valid: ")
        if not before and claim != reason:
            return self._w["not_valid"].format(claim=word("claim", claim, self._in.language))
        return translated(reason, self._in.language)

    def _counted_apart(self, ledgers: Sequence[str]) -> list[str]:
        """Return one ledger of each vantage point among some."""
        counted = {one["ledger"]: _point(one) for one in self._s["members"]}
        return sorted({counted[ledger]: ledger for ledger in ledgers}.values())

    def _known_as(self, ledger: str) -> str:
        """Return the name of a vantage point, with enough of its ledger's."""
        name = next(one["vantage_point"] for one in self._s["members"] if one["ledger"] == ledger)
        return known_as(name, ledger)

    def _member(self, one: Mapping[str, Any]) -> MemberSection:
        """Return where a bundle comes from: its ledger and the beginning of it, servers, tokens and clock."""
        w, begun = self._w, one["begun"]
        at = self._in.local_and_utc_of(begun["time"])
        shown = list(one["addresses"].items())[:MAX_ADDRESSES]
        more = one["address_count"] - len(shown)
        addresses = ", ".join(f"{peer} ({count})" for peer, count in shown) or w["no_address"]
        clock = w["clock_unknown"]
        if one["clock_error"] is not None:
            by = self._in.format_duration(round(one["clock_error"] * 1000), up=True, exact=True)
            clock = w["clock_within"].format(time=by)
        key = "ledger_from_start" if begun["entry"] == 0 else "ledger_before"
        return MemberSection(
            name=f"{one['vantage_point']} ({one['ledger']})",
            facts=[
                [w["ledger_age"], w[key].format(time=at, entry=begun["entry"])],
                [w["addresses"], addresses + (w["addresses_more"].format(n=more) if more else "")],
                *self._public_addresses(one),
                [w["outside_tokens"], "; ".join(map(self._tokens, one["tokens"])) or w["no_tokens"]],
                [w["clock_error"], clock],
                *([[w["counted_as"], one["counted_as"]]] if "counted_as" in one else []),
                [w["file"].capitalize(), one["file"]],
                [w["sha256"], digest_groups(one["sha256"])],
            ],
            doubted=not one["tokens"],
            caveats=self._caveats_of(one),
        )

    def _public_addresses(self, one: Mapping[str, Any]) -> Rows:
        """Return the row on the observer's own addresses; none where the joint case states none."""
        if "public_addresses" not in one:
            return []
        found = one["public_addresses"]
        parts = [
            self._w["public_address_of"].format(
                address=each["address"],
                n=each["count"],
                a=self._in.local_and_utc_of(each["first"]),
                b=self._in.local_and_utc_of(each["last"]),
            )
            for each in found[:MAX_ADDRESSES]
        ]
        return [[self._w["public_address"], "; ".join(parts) or self._w["not_on_record"]]]

    def _tokens(self, one: Mapping[str, Any]) -> str:
        first, last = (self._in.local_and_utc_of(one[key]) for key in ("first", "last"))
        return self._w["tokens_by"].format(n=one["count"], name=one["authority"] or "–", a=first, b=last)

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
            compared=n > 1,
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


def _point(member: Mapping[str, Any]) -> str:
    """Return the ledger by which a member's vantage point is counted."""
    return str(member.get("counted_as", member["ledger"]))


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
