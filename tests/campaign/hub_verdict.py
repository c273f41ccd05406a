"""Compares what a hub confirmed with what was true.

1. Found: while at least k honest vantage points can see an outage, are connected and have right clocks, each for
   as long as its rules and the push need, it is confirmed.
2. True: what is confirmed is the provider's outage, or one that ended so short a time ago that none knows yet.
3. Bounds: `since` is not before the k-th of its vantage points truly lost it, `not_before` not after.
4. The record: the audit comes to the same decisions, and so does a hub that starts again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from mailwatch.analysis.confirmation import GRACE_MS, LATE_MS, Sight
from tests.campaign.hub_run import EPOCH, Decision, HubRun
from tests.campaign.hub_world import PUSH_SECONDS, VantageTruth
from tests.campaign.world import Span

BACK_SECONDS = 300.0
"""Seconds from the end of a cut to the next try to push, at the most."""
GRACE, LATE = GRACE_MS / 1000, LATE_MS / 1000
SLACK = 3.0


@dataclass(slots=True)
class HubVerdict:
    """Figures of one world, or of many added up, and what broke a promise."""

    figures: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def judge(run: HubRun) -> HubVerdict:
    """Judge one world."""
    return _Verdict(run).judged()


class _Verdict:
    def __init__(self, run: HubRun) -> None:
        self.run, self.world, self.k = run, run.world, run.hub.k
        self.result = HubVerdict()
        self.figures, self.failures = self.result.figures, self.result.failures
        rules, interval = self.world.rules, self.world.interval
        rechecks = rules.recheck or (interval,)
        spaced = [min(interval, rechecks[min(n, len(rechecks) - 1)]) for n in range(rules.open_after - 1)]
        tick = max(30.0, interval / 4)
        self.need = interval + sum(spaced) + PUSH_SECONDS + tick + SLACK * rules.open_after
        """Seconds from the beginning of what a vantage point can see to its counting as down, at the most."""
        self.news = (2 + rules.close_after) * interval + GRACE + PUSH_SECONDS + tick + SLACK
        """Seconds for which an outage that is over may still count as one."""
        self.confirmed = self._confirmed()

    def judged(self) -> HubVerdict:
        """Ask every question."""
        run, figures = self.run, self.figures
        figures["pushes"], figures["entries"], figures["restarts"] = run.pushes, run.entries, run.restarts
        figures["decisions"] = len(run.decisions)
        self.failures += run.findings
        for fault in self.world.faults.all:
            self._found(fault)
        for begun, end in self.confirmed:
            self._true(begun, end)
            self._bounds(begun)
        for one in self.world.members:
            figures["lies"] += len(one.lies.all)
            figures["cut off"] += len(one.cut.all)
            figures["clocks wrong"] += len(one.clock.all)
        return self.result

    def _confirmed(self) -> list[tuple[Decision, float]]:
        found, begun = [], None
        for one in self.run.decisions:
            if one.decided.confirmed:
                begun = one
            elif begun is not None:
                found.append((begun, one.at))
                begun = None
        return found if begun is None else [*found, (begun, self.world.end)]

    # 1

    def _found(self, fault: Span) -> None:
        self.figures["true outages"] += 1
        due = self._surely_seen(fault)
        if not due:
            self.figures["not seen by enough"] += 1
            return
        self.figures["seen by enough"] += 1
        for span in due:
            if not self._covers(span):
                self.failures.append(f"{fault} was seen by enough in {span}, and not confirmed throughout")
                return
        self.figures["confirmed"] += 1

    def _covers(self, span: Span) -> bool:
        return any(begun.at <= span.start and span.end <= end for begun, end in self.confirmed)

    def _surely_seen(self, fault: Span) -> list[Span]:
        """Return when at least k honest vantage points surely count as down."""
        edges: list[tuple[float, int]] = []
        for one in self.world.members:
            if one.lies.all:
                continue
            for span in self._clear(one, fault):
                if span.start + self.need < span.end:
                    edges += [(span.start + self.need, 1), (span.end, -1)]
        found, count, since = [], 0, 0.0
        for at, change in sorted(edges):
            before, count = count, count + change
            if before < self.k <= count:
                since = at
            elif count < self.k <= before and since < at:
                found.append(Span(since, at))
        return found

    def _clear(self, one: VantageTruth, fault: Span) -> list[Span]:
        """Return the stretches of a fault in which nothing keeps a vantage point from seeing and saying so."""
        interval = self.world.interval
        around = fault.start - 2 * interval, fault.end
        if one.clock.touching(*around):
            # An outage that began by a wrong clock is in doubt as long as it lasts.
            return []
        blind = [
            Span(each.start, each.end) for each in (*one.offline.touching(*around), *one.off.touching(*around))
        ]
        blind += [Span(span.start, span.end + BACK_SECONDS + LATE) for span in one.cut.touching(*around)]
        found, at, end = [], fault.start, min(fault.end, self.world.end)
        for span in sorted(blind, key=lambda each: each.start):
            if span.start > at:
                found.append(Span(at, min(span.start, end)))
            at = max(at, span.end)
        return [*found, Span(at, end)] if at < end else found

    # 2

    def _true(self, begun: Decision, end: float) -> None:
        self.figures["confirmations"] += 1
        faults = self.world.faults.touching(begun.at - self.news, begun.at)
        if not faults:
            self.figures["false"] += 1
            self.failures.append(f"confirmed at {begun.at:.0f} without an outage: {begun.decided}")
            return
        last = max(fault.end for fault in self.world.faults.touching(begun.at - self.news, end))
        if end > last + self.news:
            self.failures.append(f"confirmed from {begun.at:.0f} to {end:.0f}, and it was over at {last:.0f}")

    # 3

    def _bounds(self, begun: Decision) -> None:
        decided = begun.decided
        assert decided.since is not None
        honest = [self._true_begin(begun, ledger) for ledger in begun.begins if not self._lies(ledger)]
        down = decided.count(Sight.DOWN)
        since = (decided.since - EPOCH) / 1000
        if len(honest) == down:
            begin = sorted(honest)[self.k - 1]
            self.figures["bounds of honest ones"] += 1
            if decided.not_before is not None:
                self.figures["bounds on both sides"] += 1
                if (decided.not_before - EPOCH) / 1000 > begin + 0.002:
                    self.failures.append(f"not before {decided.not_before}, and it began at {begin}: {decided}")
        elif honest:
            # With fewer than k liars one of those that confirm it is honest.
            begin = sorted(honest)[max(0, self.k - 1 - (down - len(honest)))]
        else:
            return
        if since < begin - 0.002 or since > begun.at + 0.002:
            self.failures.append(f"since {since}, and it began at {begin}: {decided}")
        else:
            self.figures["within bounds"] += 1

    def _true_begin(self, begun: Decision, ledger: str) -> float:
        """Return when the provider truly broke for a vantage point: after its last good probe."""
        probes = begun.begins[ledger]
        fault = self.world.faults.at(probes.bad)
        return probes.bad if fault is None else fault.start

    def _lies(self, ledger: str) -> bool:
        return bool(self.run.by_ledger[ledger].truth.lies.all)
