"""Turns an outage's evidence into the data of report.typ: final texts, and chart positions between 0 and 1."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from mailwatch.evidence.caveat_text import page_caveats
from mailwatch.evidence.outage_case import OutageEvidence
from mailwatch.evidence.report.chain_of_custody import (
    integrity_rows,
    observer_rows,
    outside_times_text,
    service_rows,
    token_rows,
)
from mailwatch.evidence.report.charts import Timeline, timeline
from mailwatch.evidence.report.contract import (
    ContractSection,
    contract_section,
    holder_rows,
    owner_questions,
    promise_verdict,
)
from mailwatch.evidence.report.facts import ObservationRun, ReportFacts
from mailwatch.evidence.report.formatting import Rows, mailbox_of, outage_formatter, provider_and_company, texts
from mailwatch.evidence.report.method import method_paragraphs, outage_limits
from mailwatch.evidence.report.observer_health import (
    clock_doubt_lines,
    clock_lines,
    observer_health_rows,
    widened_duration,
    widened_uncertainty,
)
from mailwatch.evidence.report.typesetting import Page, page_head
from mailwatch.evidence.shipped import ShippedCatalogue
from mailwatch.evidence.warnings import Caveat, TokenDoubt, caveats
from mailwatch.i18n import Texts
from mailwatch.ledger.settings_payloads import rules_from
from mailwatch.model import PAUSED, Outcome, Rules
from mailwatch.phrases import translated
from mailwatch.times import Millis

MAX_ROWS = 60


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
    caveats: list[str]
    least: str
    least_ms: Millis
    sentence: str
    facts: Rows
    bounds: Rows
    """Those of the facts that a letter repeats: from where, at least, at most."""
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
            caveats=page_caveats(self._caveats(), writing),
            least=writing.format_duration(least) if least else writing.format_time(p.first_bad),
            least_ms=least,
            sentence=self._sentence(),
            facts=self._facts(),
            bounds=self._bounds(),
            sure=self._certainty_lines(),
            outside=outside_times_text(self._case, facts, writing),
            timeline=drawn,
            timeline_note=w["timeline_note" if drawn.strokes else "timeline_bands"],
            runs=self._runs(),
            runs_cut=self._cut(),
            causes=_counted(p.causes, w.section("causes")),
            phases=_counted(p.phases, w.section("phases")),
            first_failure=_as_recorded(p.first_detail, writing.language) or "–",
            replies=list(p.replies),
            replies_note=self._unknown_words(),
            ours=observer_health_rows(facts, writing, proven=p.proven_afterwards),
            service=service_rows(self._case, facts, writing),
            coverage=self._coverage(),
            gaps=[
                self._gap(PAUSED if gap in facts.pauses else gap.reason.value, gap.start, gap.end)
                for gap in facts.gaps[:MAX_ROWS]
            ],
            gaps_cut=self._more("gaps_cut", len(facts.gaps) - MAX_ROWS),
            observer=observer_rows(facts, writing),
            method=method_paragraphs(p, self._rules, facts, writing, self._rules_before()),
            limits=outage_limits(p, facts, writing),
            terms=contract_section(self._case.claim, p.kind, writing),
            claimant=owner_questions(self._case.claim, p.provider, writing),
            integrity=integrity_rows(self._case, facts, digest, writing),
            tokens=token_rows(self._case, facts, writing),
        )

    def _rules_before(self) -> Rules | None:
        """Return the rules at the beginning of the range, if others than at the end of the outage."""
        before = self._case.statement.get("rules_before")
        return None if before is None else rules_from(before)

    def _headline(self, least: Millis) -> str:
        p = self._p
        closed = "headline_closed"
        if p.first_good is None:
            # What came after the last failure was not a failure: so "at the last observation" would be false.
            failed_last = self._report_facts.doubts.latest.get(p.target, Outcome.DOWN) == Outcome.DOWN
            closed = "headline_open" if failed_last else "headline_open_since"
        target = mailbox_of(p.target) or p.target
        return self._w[closed if least else "headline_none"].format(target=target, kind=p.kind.upper())

    def _caveats(self) -> tuple[Caveat, ...]:
        """Return the caveats, as `mailwatch verify` derives them from the bundle."""
        facts, tokens = self._report_facts, self._case.range.tokens
        distrusted = {index for index, token in facts.tokens.items() if token.distrust}
        untrusted = [token.signer[0] or "?" for token in tokens if token.entry in distrusted]
        doubt = TokenDoubt(len(tokens), untrusted)
        return caveats(self._case.statement, facts.doubts, doubt, ShippedCatalogue())

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
        estimate = w["no_estimate"]
        if lasted.estimate is not None:
            half = self._in.format_duration(widened_uncertainty(self._report_facts, p), up=True, exact=True)
            estimate = f"{self._in.format_duration(lasted.estimate, exact=True)} ± {half}"
        end = self._case.range.end.time_ms
        as_of = f"{self._in.local_date(end)} {self._in.format_time(end)}"
        return [
            [w["document_code"], w["document_code_text"].format(id=p.id, at=as_of)],
            *holder_rows(self._case.claim, self._in),
            [w["account"], mailbox_of(p.target) or p.target],
            *self._user_name(),
            [w["channel"], w.section("channels")[p.kind]],
            [w["provider"], provider_and_company(p.provider, w)],
            *self._bounds(),
            [w["estimate"], estimate],
            [w["promise"], promise_verdict(self._case.claim, self._in)],
        ]

    def _user_name(self) -> Rows:
        if (disclosed := self._case.statement.get("user_name")) is None:
            return []
        return [[self._w["user_name"], self._w["user_name_text"].format(name=disclosed["name"])]]

    def _bounds(self) -> Rows:
        p, w = self._p, self._w
        least, longest = widened_duration(self._report_facts, p)
        most = w[{"open": "unknown_yet", "unwatched": "unknown_unwatched"}.get(p.state, "no_estimate")]
        return [
            [w["from_where"], self._place],
            [w["at_least"], self._in.format_duration(least, exact=True)],
            [w["at_most"], most if longest is None else self._in.format_duration(longest, up=True, exact=True)],
        ]

    def _reservation(self) -> str:
        """Return the reservation to the headline, placed beside it since people may read nothing else."""
        p, w = self._p, self._w
        parts = []
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
            lines.append(w["sure_ups"].format(up=p.up, longest=facts.longest_ups, close=self._rules.close_after))
        if proven:
            lines.append(w["sure_proven"])
        elif facts.guarded:
            # Otherwise a caveat says what is missing.
            lines.append(w["sure_line"].format(n=facts.guarded, all=facts.down))
        lines.append(w["sure_gap"].format(gap=self._in.format_duration(p.largest_gap, up=True)))
        return lines + clock_lines(facts, p, self._in) + clock_doubt_lines(facts, p, self._in)

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

    def _gap(self, reason: str, start: Millis, end: Millis) -> str:
        given = {"a": self._in.local_and_utc(start), "b": self._in.local_and_utc(end)}
        return self._w["gap_row"].format(reason=self._w.section("reasons")[reason], **given)

    def _more(self, key: str, n: int) -> str:
        return self._w[key].format(n=n) if n > 0 else ""


def _counted(counts: Mapping[str, int], names: Texts) -> Rows:
    """Return counts with their names, most frequent first."""
    return [[names[key], str(count)] for key, count in sorted(counts.items(), key=lambda one: -one[1])]


def _as_recorded(detail: str, language: str) -> str:
    """Return a detail as it is on record, with its translation where it is MailWatch's own and not a server's."""
    words = translated(detail, language)
    return detail if words == detail else f"{detail} ({words})"
