"""What is booked of each probe, of the time between two probes, and of the logins, against what was true.

1. No probe that failed by our line, our sleep, our password or a throttle is booked as down, none that failed is
   booked as up, and none is booked as unknown without such a reason.
2. Time in which MailWatch was off, asleep or did not probe for long is on record as a gap, and no other time is.
   A gap is as long as it truly was; over a reboot, at least what surely passed. So is the sum in the metrics.
3. Suspends and steps of the clock are on record, as long as they were.
4. An account is rejected at most three times an hour, and its logins are not held back without such a reason; an
   hour in which the machine is awake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mailwatch.analysis.elapsed import gap_length
from mailwatch.guard.clock import STALL_SECONDS, STEP_SECONDS, SUSPEND_SECONDS, TICK_SECONDS
from mailwatch.model import Cause, Fact, Gap, Observation, Outcome, TargetChange, TargetEvent
from tests.campaign.duration_check import true_span
from tests.campaign.run import Run
from tests.campaign.simulated_probes import TrueProbe
from tests.campaign.truth import Truth
from tests.campaign.world import HOUR, Account, Service, Span

Facts = Sequence[tuple[int, Fact]]
NOTICED = {"suspend": SUSPEND_SECONDS, "step": STEP_SECONDS, "stall": STALL_SECONDS + TICK_SECONDS}
"""Seconds above which MailWatch notices what happens to its machine."""
SLACK = 2 * TICK_SECONDS
REJECTIONS = 3
"""How often an account may be rejected in an hour."""


class Bookkeeping:
    """Judges one world."""

    def __init__(
        self,
        run: Run,
        truth: Truth,
        facts: Mapping[str, Facts],
        clock: Sequence[dict[str, Any]],
        figures: Counter[str],
    ) -> None:
        self._run, self._truth, self._facts, self._clock, self._figures = run, truth, facts, clock, figures

    def faults(self) -> Iterator[str]:
        """Yield what is wrong, and count."""
        history = self._run.history
        if history.errors:
            yield f"{history.errors:.0f} probes failed by MailWatch's own fault"
        yield from self._noticed()
        yield from self._summed()
        for name, service in self._run.world.services.items():
            for _, fact in self._facts[name]:
                if isinstance(fact, Observation):
                    yield from self._booked(service, fact, self._true_probe(fact))
            yield from self._gaps(service)
        for account in {id(s.account): s.account for s in self._run.world.services.values() if s.account}.values():
            yield from self._logins(account)
        self._figures["probes"] += len(self._run.probes.probes)
        self._figures["starts"] += len(history.off)
        self._figures["kills"] += history.kills
        self._figures["reboots"] += history.reboots
        self._figures["reloads"] += history.reloads

    def _true_probe(self, fact: Observation) -> TrueProbe:
        assert fact.facts
        number: int = fact.facts["probe"]  # type: ignore[typeddict-item]
        return self._run.probes.probes[number]

    def _booked(self, service: Service, fact: Observation, probe: TrueProbe) -> Iterator[str]:
        self._figures[f"probes booked {fact.outcome}"] += 1
        if fact.outcome is Outcome.DOWN and not probe.faults_met:
            self._figures["probes lost on the way"] += probe.why == "lost"
            if probe.why != "lost":
                yield f"booked as down: {probe}"
        ours = probe.why in ("throttled", "password") or _is_login(probe) or self._truth.is_disturbed(probe)
        if fact.outcome is Outcome.UNKNOWN and not ours and (service.account is None or probe.with_login):
            yield f"booked as unknown: {probe} {fact.cause} {fact.detail}"
        if fact.outcome is Outcome.UP and probe.raw is not Outcome.UP:
            yield f"booked as up: {probe}"

    def _summed(self) -> Iterator[str]:
        """The metrics must have the sum of a life's gaps, each of which `_between` holds against the truth."""
        for life in self._run.history.lives:
            sums: Counter[str] = Counter()
            begun: Counter[str] = Counter()
            for facts in self._facts.values():
                for index, fact in facts:
                    if not life.first <= index < life.last:
                        continue
                    if isinstance(fact, Gap):
                        sums[fact.target] += gap_length(fact)
                    anew = (TargetEvent.BEGIN, TargetEvent.END)
                    begun[fact.target] += isinstance(fact, TargetChange) and fact.event in anew
            for name, displayed in life.gap_seconds.items():
                # Counted anew for a target that came again in the same life.
                if begun[name] <= 1 and abs(displayed * 1000 - sums[name]) > 1:
                    yield f"{name}: gaps of {displayed:.3f} s in the metrics, of {sums[name] / 1000:.3f} on record"

    def _noticed(self) -> Iterator[str]:
        reported = [
            (entry["event"], entry["milliseconds"] / 1000) for entry in self._clock if "milliseconds" in entry
        ]
        for span in self._run.history.disturbed:
            self._figures[f"{span.kind}s"] += 1
            kind = "stalled" if span.kind == "stall" else span.kind
            lengths = self._stepped(span.start) if kind == "step" else [span.end - span.start]
            died = any(span.end - 1 < off.start < span.end + SLACK for off in self._run.history.off)
            near = any(
                event == kind and abs(seconds - length) < SLACK
                for event, seconds in reported
                for length in lengths
            )
            if abs(lengths[0]) > NOTICED[span.kind] and not died and not near:
                yield f"not on record: a {span.kind} of {lengths[0]:.2f} s at {span.start:.1f}"

    def _stepped(self, moment: float) -> list[float]:
        """By how much the clock was set then; and around that moment, for steps between two ticks are one."""
        offset_at = self._run.clocks.offset_at
        return [offset_at(moment + apart) - offset_at(moment - (apart or 1e-6)) for apart in (0.0, TICK_SECONDS)]

    def _gaps(self, service: Service) -> Iterator[str]:
        gaps: list[Gap] = []
        last: Observation | None = None
        interval, before = 0.0, 0.0
        for _, fact in self._facts[service.key]:
            if isinstance(fact, TargetChange):
                interval = fact.settings.interval / 1000
                yield from self._watched(service, fact)
                if fact.event in (TargetEvent.BEGIN, TargetEvent.END):
                    last, gaps = None, []
                self._figures[f"watching: {fact.event}"] += 1
                continue
            if isinstance(fact, Gap):
                gaps.append(fact)
                continue
            if last is not None:
                yield from self._between(service, max(interval, before), last, fact, gaps)
            elif gaps:
                yield f"a gap before the watching of {service.key} began"
            self._figures["gaps"] += len(gaps)
            last, gaps, before = fact, [], interval

    def _watched(self, service: Service, change: TargetChange) -> Iterator[str]:
        """What is on record of the watching must be what the config said then."""
        clock = change.clock
        assert clock is not None
        at = self._run.clocks.true_time(clock.boot, clock.end)
        applied = [each for each in self._run.history.configs if each.start <= at + 0.001]
        entry = applied[-1].entries.get(service.key) if applied else None
        watched = change.event is not TargetEvent.END
        if watched and entry is not None and entry != (change.target, change.settings.interval / 1000):
            yield f"{service.key} is on record as {change} and in the config as {entry}"
        if not watched and applied:
            # One that no config took over was one in the middle of which the process was killed.
            before = applied[-2:][0] if at <= applied[-1].end + 0.001 else applied[-1]
            if before.entries.get(service.key, ("", 0.0))[0] != change.target:
                yield f"the end of the watching of {change.target} ({service.key}) came late: {change}"

    def _between(
        self, service: Service, interval: float, last: Observation, fact: Observation, gaps: list[Gap]
    ) -> Iterator[str]:
        start, end = self._true_probe(last).end, self._true_probe(fact).start
        covered = [true_span(gap, self._run.clocks, start) for gap in gaps]
        where = f"{service.target.name} from {start:.1f} to {end:.1f}: {[gap.reason for gap in gaps]}"
        if end - start > interval * 1.5 + 1 + SLACK:
            for gap, (since, until) in zip(gaps, covered, strict=True):
                known, true = gap_length(gap) / 1000, until - since
                exact = not self._run.clocks.booted_between(since, until)
                if known > true + 0.002 or (exact and known < true - 0.002):
                    yield f"a gap of {true:.3f} s is taken for {known:.3f}: {where}"
            if sum(until - since for since, until in covered) < end - start - 0.1:
                yield f"no gap in a long time without a probe: {where}"
            return
        unseen = [span for span in self._unseen() if span.overlaps(start, end)]
        for span in unseen:
            low, high = max(start, span.start), min(end, span.end)
            if high - low > NOTICED.get(span.kind, TICK_SECONDS) and high - low > TICK_SECONDS:
                displayed = sum(max(0.0, min(high, until) - max(low, since)) for since, until in covered)
                if displayed < high - low - SLACK:
                    yield f"no gap while {span.kind} from {span.start:.1f} to {span.end:.1f}: {where}"
        if gaps and not unseen:
            yield f"a gap for nothing: {where}"

    def _unseen(self) -> list[Span]:
        return [*self._run.history.off, *(span for span in self._run.history.disturbed if span.kind != "step")]

    def _logins(self, account: Account) -> Iterator[str]:
        probes = sorted(
            (
                probe
                for probe in self._run.probes.probes
                if self._run.world.services[probe.target].account is account
            ),
            key=lambda probe: probe.start,
        )
        rejections = sorted(
            (probe for probe in probes if probe.with_login and probe.cause is Cause.CREDENTIALS),
            key=lambda probe: probe.end,
        )
        rejected = [probe.end for probe in rejections]
        # One that a kill kept from the record is unknown to the next start.
        recorded = {id(probe) for name in self._facts for probe in self._recorded(name)}
        known = [probe.end for probe in rejections if id(probe) in recorded]
        self._figures["rejected logins"] += len(rejected)
        for first, fourth in zip(known, known[REJECTIONS:], strict=False):
            if fourth - first < HOUR - SLACK and not self._times_are_in_doubt(first, fourth):
                yield f"{account.username}: rejected four times from {first:.1f} to {fourth:.1f}"
        for probe in probes:
            if probe.with_login or self._times_are_in_doubt(probe.start - 5 * HOUR, probe.start):
                continue
            recent = any(
                at <= probe.start + SLACK and self._awake(at, probe.start) < HOUR + SLACK for at in rejected
            )
            if not recent and not any(
                other.with_login and other.start <= probe.start <= other.end for other in probes
            ):
                yield f"{account.username}: its login was held back for nothing: {probe}"

    def _recorded(self, name: str) -> list[TrueProbe]:
        return [self._true_probe(fact) for _, fact in self._facts[name] if isinstance(fact, Observation)]

    def _awake(self, start: float, end: float) -> float:
        suspends = [
            span for span in self._run.history.disturbed if span.kind == "suspend" and start < span.end < end
        ]
        return end - start - sum(span.end - span.start for span in suspends)

    def _times_are_in_doubt(self, start: float, end: float) -> bool:
        """Whether the machine was restarted, and the clock set: MailWatch knows only then when it was before."""
        clocks = self._run.clocks
        return clocks.booted_between(start, end) and clocks.offset_at(start) != clocks.offset_at(end)


def _is_login(probe: TrueProbe) -> bool:
    """Whether it met a broken login, which nobody can tell from a wrong password until it is accepted again."""
    return any(fault.kind == "login" for fault in probe.faults_met)
