"""Compares what the ledger reports with what was true.

1. Found: each outage of a provider that could be seen for long enough is on record (truth.py says what that is).
2. Bounds: it began between last_good and first_bad, and ended between last_bad and first_good, and its durations
   are those that truly passed, whatever the wall clock was set to in between (duration_check.py).
3. Honest: every reported outage begins and ends with probes that truly met a fault of that very target.
4. Proven afterwards: only logins that were broken; and a broken login that shows is reported, then or later.

What is booked of each probe and of the time between probes is judged in record_check.py, the availability in
availability_check.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mailwatch.analysis.public_json import OutageJson
from mailwatch.ledger.payloads import FACT_KINDS
from mailwatch.model import Cause, Fact, Observation, Outcome, TargetChange, TargetEvent
from mailwatch.store import Reader, queries
from tests.campaign.availability_check import Accounts
from tests.campaign.duration_check import Bounds, Unseen
from tests.campaign.record_check import Bookkeeping
from tests.campaign.reported_outage import ReportedOutage
from tests.campaign.run import Run
from tests.campaign.simulated_probes import TrueProbe
from tests.campaign.truth import Truth, shortest
from tests.campaign.world import Service, Span


@dataclass(slots=True)
class WorldResult:
    """Figures of one world, or of many added up, and what broke a promise."""

    figures: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def compare_world(run: Run, reader: Reader) -> WorldResult:
    """Judge one world."""
    return _Comparison(run, reader).run_checks()


class _Comparison:
    def __init__(self, run: Run, reader: Reader) -> None:
        self.run, self.world, self.reader = run, run.world, reader
        self.truth = Truth(run.world, run.history, run.probes.probes)
        self.result = WorldResult()
        self.figures = self.result.figures
        self.facts: dict[str, list[tuple[int, Fact]]] = {name: [] for name in run.world.services}
        self.named: dict[str, list[tuple[int, Fact]]] = {}
        for entry in reader.entries(kinds=FACT_KINDS):
            if entry.fact is not None:
                self.named.setdefault(entry.fact.target, []).append((entry.index, entry.fact))
        self.probes = {
            index: self._true_probe(fact)
            for facts in self.named.values()
            for index, fact in facts
            if isinstance(fact, Observation)
        }
        for facts in self.named.values():
            self._by_service(facts)
        for facts in self.facts.values():
            facts.sort(key=lambda each: each[0])
        self.clock = [entry.payload for entry in reader.entries(kinds=["clock"])]
        self.reported: dict[str, list[ReportedOutage]] = {name: [] for name in run.world.services}
        for payload in queries.outages(reader):
            reported = self._reported(payload)
            self.reported[reported.bad.target].append(reported)
        self.figures["entries"] = reader.size()

    def run_checks(self) -> WorldResult:
        """Ask every question."""
        self.result.failures += self.run.history.findings
        for service in self.world.services.values():
            for fault in service.faults.all:
                self._found(service, fault)
            for reported in self.reported[service.key]:
                self._honest(reported)
        self.result.failures += Bookkeeping(self.run, self.truth, self.facts, self.clock, self.figures).faults()
        self.result.failures += Accounts(self.run, self.reader, self.named, self.probes).faults()
        return self.result

    def _by_service(self, facts: list[tuple[int, Fact]]) -> None:
        """Divide what is on record under one name by what was watched under it."""
        hosts = {service.target.host: key for key, service in self.world.services.items()}
        key = ""
        for index, fact in facts:
            if isinstance(fact, TargetChange):
                key = hosts[fact.settings.host]
            self.facts[key].append((index, fact))

    def _fail(self, what: str) -> None:
        self.result.failures.append(what)

    def _true_probe(self, fact: Observation) -> TrueProbe:
        assert fact.facts
        number: int = fact.facts["probe"]  # type: ignore[typeddict-item]
        return self.run.probes.probes[number]

    def _reported(self, payload: OutageJson) -> ReportedOutage:
        first, last = payload["ledger"]["first"], payload["ledger"]["last"]
        observations = [
            (index, fact)
            for index, fact in self.named[payload["target"]]
            if first <= index <= last and isinstance(fact, Observation)
        ]
        rejected = payload.get("proven_afterwards", False)
        bad = [
            index
            for index, fact in observations
            if (_rejected(fact) if rejected else fact.outcome is Outcome.DOWN)
        ]
        return ReportedOutage(
            payload,
            good=self.probes[first] if payload["last_good"] else None,
            bad=self.probes[bad[0]],
            last=self.probes[bad[-1]],
            end=self.probes[last] if payload["first_good"] else None,
            first_index=bad[0],
            last_index=bad[-1],
        )

    # 1

    def _found(self, service: Service, fault: Span) -> None:
        end = min(fault.end, self.world.end)
        if not self.truth.is_watched(service, fault):
            self.figures["of hosts not watched then"] += 1
            return
        self.figures["true outages"] += 1
        if end - fault.start <= shortest(self.world.rules, service):
            self.figures["shorter than the rechecks"] += 1
            return
        self.figures["longer than the rechecks"] += 1
        if self._is_found(service, fault):
            self.figures["found"] += 1
            return
        if fault.kind == "login":
            self._login_found(service, fault)
            return
        segments, lost = self.truth.stretches(service, fault)
        met, cut = None, False
        for segment in segments:
            probes = self.truth.within(service.target.name, segment.start, min(segment.end, self.world.end))
            due = segment.start + self.truth.probe_due(service, segment.start)
            if due < min(segment.end, self.world.end) and not (probes and probes[0].start <= due):
                self._fail(f"{service.target.name}: no probe from {segment.start:.1f} to {due:.1f} ({fault})")
                return
            if here := next((probe for probe in probes if fault in probe.faults_met), None):
                met, cut = here, segment.end < end
                if met.end + self.truth.rest_needed(service, met) < segment.end:
                    self._fail(f"{service.target.name}: {fault} was met at {met.end:.1f} and is not on record")
                    return
        if lost and (cut or sum(lost.values()) > (end - fault.start) / 2):
            self._excuse(max(lost, key=lambda why: lost[why]))
        else:
            self._excuse("over before its rechecks were" if met else "between two probes")

    def _is_found(self, service: Service, fault: Span) -> bool:
        for reported in self.reported[service.key]:
            for index, fact in self.named[reported.json["target"]]:
                if not reported.first_index <= index <= reported.last_index or not isinstance(fact, Observation):
                    continue
                if fault in self.probes[index].faults_met and (fact.outcome is Outcome.DOWN or _rejected(fact)):
                    self.figures["found afterwards"] += reported.json.get("proven_afterwards", False)
                    return True
        return False

    def _login_found(self, service: Service, fault: Span) -> None:
        """A login that was accepted, rejected and accepted again with one password was broken: report it."""
        accepted, rejected = "", ""
        for _, fact in self.facts[service.target.name]:
            if isinstance(fact, TargetChange) and fact.event in (TargetEvent.BEGIN, TargetEvent.END):
                accepted, rejected = "", ""
            if not isinstance(fact, Observation) or not fact.with_login:
                continue
            if fault in self._true_probe(fact).faults_met and fact.cause is Cause.CREDENTIALS:
                rejected = fact.secret if fact.secret == accepted else rejected
            elif fact.outcome is Outcome.UP:
                if rejected and fact.secret == rejected:
                    self._fail(f"{service.target.name}: {fault}: rejected and accepted again, and not reported")
                    return
                accepted, rejected = fact.secret, ""
        _, lost = self.truth.stretches(service, fault)
        self._excuse(max(lost, key=lambda why: lost[why]) if lost else "between two probes")

    def _excuse(self, why: str) -> None:
        self.result.excused[why] += 1

    # 2 and 3

    def _honest(self, reported: ReportedOutage) -> None:
        proven = reported.json.get("proven_afterwards", False)
        self.figures["reported"] += 1
        self.figures["proven afterwards"] += proven
        self.figures["reported, of a login"] += not proven and "credentials" in reported.json["causes"]
        faults = [fault for probe in (reported.bad, reported.last) for fault in probe.faults_met]
        if (
            not reported.bad.faults_met
            or not reported.last.faults_met
            or (proven and any(f.kind != "login" for f in faults))
        ):
            self.figures["false"] += 1
            self._fail(f"{reported.name} is not the provider's: {reported.bad} {reported.last} {reported.json}")
            return
        good, end = reported.good, reported.end
        began = any(good is None or good.start <= f.start <= reported.bad.end for f in reported.bad.faults_met)
        ended = end is None or any(reported.last.start <= f.end <= end.end for f in reported.last.faults_met)
        facts = [each for each in self.named[reported.json["target"]] if self._spans(reported, each[0])]
        wrong = list(self._of_one(reported, facts))
        bounds = Bounds(reported, facts, self.run.clocks)
        wrong += bounds.faults()
        if not proven:
            wrong += Unseen(reported, facts, self.probes, self.run.clocks).faults(bounds.known_throughout)
        self.figures["over a step of the clock"] += bounds.stepped
        self.figures["over a reboot"] += bounds.rebooted
        self.figures["over a reboot that nobody can date"] += bounds.rebooted and not bounds.known
        if began and ended and not wrong:
            self.figures["within bounds"] += 1
        else:
            why = "; ".join(wrong) or f"it was {faults}"
            self._fail(f"{reported.name} is out of its bounds: {why} {reported.json}")

    def _of_one(self, reported: ReportedOutage, facts: Sequence[tuple[int, Fact]]) -> Iterator[str]:
        """Say whether it is of more than one service, or its state is not that of its watching."""
        met = {self.probes[index].target for index, _ in facts if index in self.probes}
        if len(met) > 1:
            yield f"it has probes of {met}"
        later = [fact for index, fact in self.named[reported.json["target"]] if index > reported.last_index]
        changes = [fact for fact in later if isinstance(fact, TargetChange)]
        ended = any(change.event is TargetEvent.END for change in changes)
        state = reported.json["state"]
        self.figures["unwatched"] += state == "unwatched"
        if state == "open" and ended:
            yield "it is open, and watched no more"
        if state == "unwatched" and not ended:
            yield "it is unwatched, but its watching did not end"

    @staticmethod
    def _spans(reported: ReportedOutage, index: int) -> bool:
        first, last = reported.json["ledger"]["first"], reported.json["ledger"]["last"]
        return bool(first <= index <= last)


def _rejected(fact: Observation) -> bool:
    return fact.with_login and fact.cause is Cause.CREDENTIALS
