"""Turns an outage's evidence into the data of report.typ: final texts, and chart positions between 0 and 1."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.report.chain_of_custody import (
    integrity_rows,
    observer_rows,
    outside_times_text,
    service_rows,
    token_rows,
)
from mailwatch.evidence.report.charts import Timeline, timeline
from mailwatch.evidence.report.contract import ContractSection, contract_section, owner_questions
from mailwatch.evidence.report.facts import ObservationRun, ReportFacts
from mailwatch.evidence.report.formatting import Rows, outage_formatter, provider_name, texts
from mailwatch.evidence.report.method import method_paragraphs, outage_limits
from mailwatch.evidence.report.observer_health import (
    clock_doubt_lines,
    clock_lines,
    observer_health_rows,
    widened_duration,
    widened_uncertainty,
)
from mailwatch.evidence.report.typesetting import Page, page_head
from mailwatch.i18n import Texts
from mailwatch.ledger.settings_payloads import rules_from
from mailwatch.model import GapReason
from mailwatch.times import Millis

MAX_ROWS = 60
MAX_CLOCK_ERROR_SECONDS = 600.0
"""Clock error in seconds beyond which the first page mentions it."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of the table of transitions: from, to, result, result in words, count."""

    a: str
    b: str
    what: str
    text: str
    n: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutagePage(Page):
    """The data of report.typ."""

    headline: str
    reserve: str
    least: str
    least_ms: Millis
    sentence: str
    facts: Rows
    sure: list[str]
    outside: str
    timeline: Timeline
    timeline_note: str
    runs: list[RunRow]
    runs_cut: str
    causes: Rows
    phases: Rows
    first_failure: str
    replies: list[str]
    replies_note: str
    ours: Rows
    service: Rows
    coverage: str
    gaps: list[str]
    gaps_cut: str
    observer: Rows
    method: list[str]
    limits: list[str]
    terms: ContractSection | None
    claimant: Rows
    integrity: Rows
    tokens: Rows


def outage_page(
    evidence: OutageEvidence, facts: ReportFacts, statement: bytes, place: str, language: str, zone: ZoneInfo
) -> OutagePage:
    """Return the data of report.typ. `place`: where the probes ran."""
    return _PageBuilder(evidence, facts, place, language, zone).page(hashlib.sha256(statement).hexdigest())


class _PageBuilder:
    def __init__(
        self, case: OutageEvidence, facts: ReportFacts, place: str, language: str, zone: ZoneInfo
    ) -> None:
        self._case, self._report_facts, self._place = case, facts, place
        self._w = texts(language)
        self._p = case.record
        self._rules = rules_from(case.statement["rules"])
        self._in = outage_formatter(case.record, language, zone)

    def page(self, digest: str) -> OutagePage:
        w, p, facts, writing = self._w, self._p, self._report_facts, self._in
        least, _ = widened_duration(facts, p)
        made_by = self._case.statement["made_by"]
        drawn = timeline(p, facts.runs, writing)
        return OutagePage(
            head=page_head(w, writing, made_by, p.id, self._case.range.end.time_ms, "outage.json"),
            headline=self._headline(least),
            reserve=self._reservation(),
            least=writing.format_duration(least) if least else writing.format_time(p.first_bad),
            least_ms=least,
            sentence=self._sentence(),
            facts=self._facts(),
            sure=self._certainty_lines(),
            outside=outside_times_text(self._case, facts, writing),
            timeline=drawn,
            timeline_note=w["timeline_note" if drawn.strokes else "timeline_bands"],
            runs=self._runs(),
            runs_cut=self._cut(),
            causes=_counted(p.causes, w.section("causes")),
            phases=_counted(p.phases, w.section("phases")),
            first_failure=p.first_detail or "–",
            replies=list(p.replies),
            replies_note=self._unknown_words(),
            ours=observer_health_rows(facts, writing, proven=p.proven_afterwards),
            service=service_rows(self._case, facts, writing),
            coverage=self._coverage(),
            gaps=[self._gap(gap.reason, gap.start, gap.end) for gap in facts.gaps[:MAX_ROWS]],
            gaps_cut=self._more("gaps_cut", len(facts.gaps) - MAX_ROWS),
            observer=observer_rows(facts, writing),
            method=method_paragraphs(p, self._rules, facts, writing),
            limits=outage_limits(p, writing),
            terms=contract_section(self._case.claim, p.kind, writing),
            claimant=owner_questions(self._case.claim, writing),
            integrity=integrity_rows(self._case, digest, writing),
            tokens=token_rows(self._case, facts, writing),
        )

    def _headline(self, least: Millis) -> str:
        p = self._p
        closed = "headline_open" if p.first_good is None else "headline_closed"
        return self._w[closed if least else "headline_none"].format(target=p.target, kind=p.kind.upper())

    def _unknown_words(self) -> str:
        """Return a note on replies whose text is unknown, so that their class decided."""
        unknown, down = self._report_facts.unknown_words, self._report_facts.down
        return self._w["unknown_words"].format(n=unknown, all=down) if unknown else ""

    def _sentence(self) -> str:
        p = self._p
        given = {"b": self._in.local_and_utc(p.first_bad, up=True), "c": self._in.local_and_utc(p.last_bad)}
        if p.last_good is not None:
            given["a"] = self._in.local_and_utc(p.last_good)
        if p.first_good is not None:
            given["d"] = self._in.local_and_utc(p.first_good, up=True)
        else:
            given["now"] = self._in.local_and_utc_of(self._case.statement["as_of"])
        key = {
            (True, True): "between",
            (True, False): "between_open",
            (False, True): "between_began_unknown",
            (False, False): "between_unknown_open",
        }["a" in given, "d" in given]
        if p.state == "unwatched":
            key = "between_unwatched" if "a" in given else "between_unknown_unwatched"
        return self._w[key].format(**given)

    def _facts(self) -> Rows:
        p, w, lasted = self._p, self._w, self._p.durations
        least, longest = widened_duration(self._report_facts, p)
        estimate = w["no_estimate"]
        if lasted.estimate is not None:
            half = self._in.format_duration(widened_uncertainty(self._report_facts, p), up=True, exact=True)
            estimate = f"{self._in.format_duration(lasted.estimate, exact=True)} ± {half}"
        most = w[{"open": "unknown_yet", "unwatched": "unknown_unwatched"}.get(p.state, "no_estimate")]
        return [
            [w["account"], p.target],
            [w["channel"], w.section("channels")[p.kind]],
            [w["provider"], provider_name(p.provider)],
            [w["from_where"], self._place],
            [w["at_least"], self._in.format_duration(least, exact=True)],
            [w["at_most"], most if longest is None else self._in.format_duration(longest, up=True, exact=True)],
            [w["estimate"], estimate],
        ]

    def _reservation(self) -> str:
        """Return the reservation to the headline, placed beside it since people may read nothing else."""
        p, w = self._p, self._w
        parts = []
        if (error := self._case.statement.get("clock_error", 0)) > MAX_CLOCK_ERROR_SECONDS:
            parts.append(w["headline_clock"].format(time=self._in.format_duration(round(error * 1000), up=True)))
        if p.proven_afterwards:
            parts.append(w["headline_proven"].format(down=p.down, up=p.up, unknown=p.unknown))
        elif p.unobserved:
            parts.append(w["headline_blind"].format(time=self._in.format_duration(p.unobserved, up=True)))
        return " ".join(parts)

    def _certainty_lines(self) -> list[str]:
        p, w, facts = self._p, self._w, self._report_facts
        proven = p.proven_afterwards
        lines = [
            w["sure_observations_proven" if proven else "sure_observations"].format(
                down=p.down, up=p.up, unknown=p.unknown
            )
        ]
        if p.up:
            lines.append(w["sure_ups"].format(close=self._rules.close_after))
        if proven:
            lines.append(w["sure_proven"])
        elif facts.guarded:
            lines.append(w["sure_line"].format(n=facts.guarded, all=facts.down))
        else:
            lines.append(w["line_none"])
        lines.append(w["sure_gap"].format(gap=self._in.format_duration(p.largest_gap, up=True)))
        return lines + clock_lines(p, self._in) + clock_doubt_lines(facts, p, self._in)

    def _runs(self) -> list[RunRow]:
        names = {"up": "worked", "down": "failed", "unknown": "undecided", "gap": "not_observed"}
        rows = []
        for run in self._runs_around():
            text = self._w[names[run.state]]
            if run.detail:
                known = self._w.section("reasons" if run.state == "gap" else "causes")
                text += f": {known[run.detail]}"
            count = "–" if run.state == "gap" else str(run.count)
            start, end = self._in.local_and_utc(run.start), self._in.local_and_utc(run.end)
            rows.append(RunRow(start, end, run.state, text, count))
        return rows

    def _runs_around(self) -> list[ObservationRun]:
        """Return the runs around the outage, from the last good run before it to the first good run after it."""
        p = self._p
        start = p.last_good if p.last_good is not None else p.first_bad
        end = p.first_good or p.last_bad
        return [run for run in self._report_facts.runs if run.end >= start and run.start <= end][:MAX_ROWS]

    def _cut(self) -> str:
        p = self._p
        start = p.last_good if p.last_good is not None else p.first_bad
        end = p.first_good or p.last_bad
        left = sum(run.end >= start and run.start <= end for run in self._report_facts.runs) - MAX_ROWS
        return self._more("transitions_cut", left + self._report_facts.omitted_runs if left > 0 else 0)

    def _coverage(self) -> str:
        facts = self._report_facts
        if facts.first is None or facts.last is None:
            return ""
        given = {"a": self._in.local_and_utc(facts.first), "b": self._in.local_and_utc(facts.last)}
        return self._w["coverage_text"].format(n=facts.observations, gaps=len(facts.gaps), **given)

    def _gap(self, reason: GapReason, start: Millis, end: Millis) -> str:
        given = {"a": self._in.local_and_utc(start), "b": self._in.local_and_utc(end)}
        return self._w["gap_row"].format(reason=self._w.section("reasons")[reason.value], **given)

    def _more(self, key: str, n: int) -> str:
        return self._w[key].format(n=n) if n > 0 else ""


def _counted(counts: Mapping[str, int], names: Texts) -> Rows:
    """Return counts with their names, most frequent first."""
    return [[names[key], str(count)] for key, count in sorted(counts.items(), key=lambda one: -one[1])]
