"""report.pdf of a window of time: turns the evidence into the data of the template."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import SharesJson
from mailwatch.evidence.caveat_text import page_caveats
from mailwatch.evidence.period_case import PeriodEvidence
from mailwatch.evidence.rendering import Rendering
from mailwatch.evidence.report.chain_of_custody import authority_text, predecessor_rows, witness_rows
from mailwatch.evidence.report.charts import AvailabilityCalendar, Cell
from mailwatch.evidence.report.facts import ObserverFacts
from mailwatch.evidence.report.formatting import Rows, digest_groups, provider_name, texts
from mailwatch.evidence.report.method import period_limits, period_method
from mailwatch.evidence.report.public_address import public_address_rows
from mailwatch.evidence.report.typesetting import Page, page_head, typeset
from mailwatch.evidence.shipped import ShippedCatalogue
from mailwatch.evidence.stated import PeriodTarget
from mailwatch.evidence.warnings import Caveat, TokenDoubt, caveats
from mailwatch.i18n import Formatter
from mailwatch.ledger.settings_payloads import rules_from

MAX_OUTAGES = 200
MAX_TOKENS = 12
_NOT_OVER = {"open": "not_ended", "unwatched": "watched_no_more"}


@dataclass(frozen=True, slots=True)
class CalendarRow:
    """A day of hours or a month of days. A cell: per cent down, unknown and up; None outside the window."""

    label: str
    cells: list[tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True)
class CalendarSection:
    """The calendar of one channel. `months`: its table, empty if the calendar is by the hour."""

    name: str
    facts: Rows
    columns: list[str]
    rows: list[CalendarRow]
    months: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodPage(Page):
    """The data of period.typ."""

    headline: str
    figure: str
    alarming: bool
    sentence: str
    caveats: list[str]
    channels: Rows
    sure: list[str]
    outside: str
    calendar_note: str
    pictures: list[CalendarSection]
    outages: Rows
    outages_cut: str
    odd: Rows
    gaps: Rows
    method: list[str]
    limits: list[str]
    integrity: Rows
    tokens: Rows
    tokens_cut: str


def period_report(
    evidence: PeriodEvidence,
    calendar: AvailabilityCalendar,
    statement: bytes,
    observer: ObserverFacts,
) -> bytes:
    """Return the PDF, as the key `report` of the statement says. `statement`: period.json as in the bundle."""
    how = Rendering.of(evidence.statement["report"])
    builder = _PageBuilder(evidence, calendar, observer, how)
    page = builder.page(hashlib.sha256(statement).hexdigest())
    return typeset("period.typ", page, statement)


class _PageBuilder:
    def __init__(
        self, case: PeriodEvidence, calendar: AvailabilityCalendar, observer: ObserverFacts, how: Rendering
    ) -> None:
        self._in = Formatter(how.language, how.zone, tenths=False)
        self._case, self._calendar, self._place, self._observer = case, calendar, how.place, observer
        self._w = texts(how.language, "period")
        self._s = case.statement
        self._window = case.replay.window
        self._rows_shown = {one["target"]: one for one in self._s["availability"]}

    def page(self, digest: str) -> PeriodPage:
        w, found = self._w, self._case.range
        note = w["calendar_hours"] if self._calendar.hourly else w["calendar_days"]
        more = len(self._case.outages) - MAX_OUTAGES
        more_tokens = len(found.tokens) - MAX_TOKENS
        window = " – ".join(self._in.local_date(at) for at in self._window)
        headline, figure, alarming = self._headline()
        return PeriodPage(
            head=page_head(w, self._in, self._s["made_by"], window, found.end.time_ms, "period.json"),
            headline=headline,
            figure=figure,
            alarming=alarming,
            sentence=self._sentence(),
            caveats=page_caveats(self._caveats(), self._in),
            channels=[self._channel(name) for name in self._rows_shown],
            sure=[self._observations_text(name) for name in self._rows_shown],
            outside=self._outside_times(),
            calendar_note=note.format(zone=str(self._in.zone)),
            pictures=[self._calendar_section(one) for one in self._s["targets"]],
            outages=[self._outage(outage) for outage in self._case.outages[:MAX_OUTAGES]],
            outages_cut=w["outages_cut"].format(n=more) if more > 0 else "",
            odd=self._inconclusive(),
            gaps=[*self._before(), *self._gaps()],
            method=self._method(),
            limits=period_limits(self._in),
            integrity=self._integrity(digest),
            tokens=[
                [authority_text(t, w), self._in.local_and_utc(t.time), f"0 – {t.checkpoint - 1}"]
                for t in found.tokens[:MAX_TOKENS]
            ],
            tokens_cut=w["tokens_cut"].format(n=more_tokens) if more_tokens > 0 else "",
        )

    def _inconclusive(self) -> Rows:
        """Return the causes of inconclusive observations with counts, for each channel."""
        causes = self._w.section("causes")
        return [
            [name, causes.get(cause, cause), str(count)]
            for name, counts in self._calendar.causes.items()
            for cause, count in counts.items()
            if name in self._rows_shown
        ]

    def _gaps(self) -> Rows:
        reasons = self._w.section("reasons")
        return [
            [name, reasons[reason], str(count), self._in.format_duration(spent)]
            for name, gaps in self._calendar.gaps.items()
            for reason, (count, spent) in gaps.items()
            if name in self._rows_shown
        ]

    def _integrity(self, digest: str) -> Rows:
        w, found = self._w, self._case.range
        return [
            [w["document"], f"{self._s['format']}, {self._s['made_by']}"],
            [w["as_of"], self._in.local_and_utc_of(self._s["as_of"])],
            [w["ledger"], self._s["ledger"]],
            *predecessor_rows(self._s.get("chain", ()), self._in),
            *witness_rows(
                self._s.get("witnesses", ()), self._observer.witnesses, self._in, self._s.get("own_witness", "")
            ),
            *public_address_rows(self._observer.addresses, self._in),
            [w["range"], f"{found.start.size} – {found.end.size - 1}"],
            [w["checkpoints"], str(len(found.checkpoints))],
            [w["last_root"], found.end.note.split("\n")[2]],
            [w["statement_digest"], digest_groups(digest)],
        ]

    def _headline(self) -> tuple[str, str, bool]:
        """Return the first page's headline, its figure, and whether that is alarming.

        The figure is the worst channel's certain downtime, else the lowest certain availability.
        """
        w = self._w
        worst = max(self._rows_shown.values(), key=lambda one: float(one["downtime"]["min"]))
        down = round(worst["downtime"]["min"] * 1000)
        shares = [one["availability"]["lower"] for one in self._rows_shown.values()]
        known = [share for share in shares if share is not None]
        if down:
            return w["headline"].format(name=worst["target"]), self._in.format_duration(down), True
        if len(known) == len(shares):
            return w["headline_fine"], self._in.format_page_share(min(known)), False
        if self._case.outages:
            # Too little was observed for a duration, but there were outages.
            return w["headline_outages"], str(len(self._case.outages)), False
        return w["headline_no_data"], w["no_data"], False

    def _sentence(self) -> str:
        start, end = self._window
        key = "sentence_cut" if end < self._calendar.window[1] else "sentence"
        sentence = self._w[key].format(a=self._in.local_and_utc(start), b=self._in.local_and_utc(end))
        seen = [self._case.replay.accounts[name].first_seen_at for name in self._rows_shown]
        begun = min((at for at in seen if at is not None), default=start)
        if begun > start:
            sentence += " " + self._w["sentence_begun"].format(at=self._in.local_and_utc(begun))
        return sentence

    def _channel(self, name: str) -> list[str]:
        target = self._rows_shown[name]
        count = sum(outage.target == name for outage in self._case.outages)
        least, most = (round(target["downtime"][key] * 1000) for key in ("min", "max"))
        was_observed = target["availability"]["lower"] is not None
        return [
            name,
            *self._shares(target["availability"], target["coverage"]),
            *self._lasted(least, most, was_observed),
            str(count),
        ]

    def _lasted(self, least: int, most: int, was_observed: bool) -> list[str]:
        """Return the minimum and maximum downtime as text; no data if nothing was observed."""
        return (
            [self._in.format_duration(least), self._in.format_duration(most, up=True)]
            if was_observed
            else [self._w["no_data"]] * 2
        )

    def _shares(self, share: SharesJson, coverage: float | None) -> list[str]:
        lower, upper = share["lower"], share["upper"]
        if lower is None or upper is None:
            bounds = [self._w["no_data"]] * 2
        else:
            bounds = [self._in.format_page_share(lower), self._in.format_page_share(upper, up=True)]
        observed = self._w["no_data"] if coverage is None else self._in.format_page_share(coverage)
        return [*bounds, observed]

    def _observations_text(self, name: str) -> str:
        text = self._w["sure_observations"].format(name=name, **self._rows_shown[name]["observations"])
        failed, answered = self._calendar.failed.get(name, (0, 0))
        return f"{text} {self._w['line_period'].format(n=answered, all=failed)}" if failed else text

    def _method(self) -> list[str]:
        targets = [one for one in self._s["targets"] if one["kind"] in self._w.section("steps")]
        failed = [self._calendar.failed.get(name, (0, 0)) for name in self._rows_shown]
        guarded = any(answered for _, answered in failed) or not any(count for count, _ in failed)
        with_login = any((one["service"] or {}).get("with_login", True) for one in targets)
        return period_method(
            (one["kind"] for one in targets),
            with_login,
            [rules_from(self._s["rules"]), *self._case.replay.later_rules],
            self._in,
            guarded,
            self._case.doubts,
        )

    def _caveats(self) -> tuple[Caveat, ...]:
        """Return the caveats, as `mailwatch verify` derives them from the bundle."""
        found = self._case.range.tokens
        untrusted = [token.signer[0] or "?" for token in found if token.digest in self._case.doubts.distrusted]
        return caveats(self._s, self._case.doubts, TokenDoubt(len(found), untrusted), ShippedCatalogue())

    def _outside_times(self) -> str:
        times, w = self._s["outside_times"], self._w
        a, b = times["not_before"], times["not_after"]
        kind = {(True, True): "both", (True, False): "before", (False, True): "after", (False, False): "none"}
        text: str = w[f"outside_{kind[bool(a), bool(b)]}"]
        names = ", ".join(dict.fromkeys(authority_text(token, w) for token in self._case.range.tokens))
        return text.format(
            names=names, a=a and self._in.local_and_utc_of(a), b=b and self._in.local_and_utc_of(b, up=True)
        )

    def _before(self) -> Iterator[list[str]]:
        """Yield the time at the window's beginning before a channel was monitored."""
        for name in self._rows_shown:
            begun = self._case.replay.accounts[name].first_seen_at
            if begun is not None and begun > self._window[0]:
                yield [name, self._w["not_yet"], "1", self._in.format_duration(begun - self._window[0])]

    def _calendar_section(self, one: PeriodTarget) -> CalendarSection:
        w, interval = self._w, round(one["interval"] * 1000)
        rows = list(self._calendar.rows(one["target"], self._window[1]))
        columns = range(24) if self._calendar.hourly else range(1, 32)
        service = one["service"] or {}
        server = service.get("host") or service.get("url")
        return CalendarSection(
            name=one["target"],
            facts=[
                [w["channel"], w.section("channels").get(one["kind"], "–")],
                [w["provider"], provider_name(one["provider"])],
                [w["server"], f"{server}:{service['port']}" if server and "port" in service else server or "–"],
                [w["from_where"], self._place],
            ],
            columns=[str(column) for column in columns],
            rows=[
                CalendarRow(self._row(label), [cells[c].parts(interval) if c in cells else None for c in columns])
                for label, cells in rows
            ],
            months=[] if self._calendar.hourly else [self._month(label, cells) for label, cells in rows],
        )

    def _row(self, label: str) -> str:
        parts = label.split("-")
        return "/".join(reversed(parts))

    def _month(self, label: str, cells: dict[int, Cell]) -> list[str]:
        up, down, undecided, whole = (
            sum(getattr(cell, part) for cell in cells.values()) for part in ("up", "down", "undecided", "whole")
        )
        observed = up + down + undecided
        share: SharesJson = {
            "lower": up / observed if observed else None,
            "upper": (up + undecided) / observed if observed else None,
        }
        return [
            self._row(label),
            *self._shares(share, observed / whole),
            *self._lasted(down, down + undecided, bool(observed)),
        ]

    def _outage(self, outage: OutageRecord) -> list[str]:
        w, lasted = self._w, outage.durations
        most = w["no_estimate"] if lasted.most is None else self._in.format_duration(lasted.most, up=True)
        causes = sorted(outage.causes, key=lambda cause: -outage.causes[cause])[:2]
        return [
            outage.target,
            self._in.local_and_utc(outage.first_bad, up=True),
            self._in.local_and_utc(outage.last_bad),
            self._in.format_duration(lasted.least),
            w[_NOT_OVER[outage.state]] if outage.state in _NOT_OVER else most,
            "; ".join(w.section("causes")[cause] for cause in causes),
        ]
