"""Are the durations of a reported outage true? Held against the time that truly passed, not any wall clock's.

Within a boot they are exact. Over a reboot they are bounds: the minimum never more and the maximum never less than
the truth, the maximum unknown only where no observation of one of both boots knew how wrong its clock was, and the
minimum never less than what was observed inside the boots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from mailwatch.analysis.elapsed import fact_end, fact_start
from mailwatch.model import Fact, Gap, Observation, Outcome, TargetChange
from mailwatch.monotonic import STEP_MS
from mailwatch.times import Millis, parse_rfc3339
from tests.campaign.reported_outage import ROUNDING, ReportedOutage
from tests.campaign.simulated_probes import TrueProbe
from tests.campaign.survey import SYNCHRONISED_WITHIN
from tests.campaign.virtual import EPOCH_NS, Clocks

EPOCH = EPOCH_NS // 1_000_000
TIMES = ("last_good", "first_bad", "last_bad", "first_good")
Facts = Sequence[tuple[int, Fact]]


class Bounds:
    """Judges the durations of one outage; `facts` are its target's from its first entry to its last."""

    def __init__(self, reported: ReportedOutage, facts: Facts, clocks: Clocks) -> None:
        self._reported, self._clocks = reported, clocks
        self._facts = [fact for _, fact in facts if not isinstance(fact, TargetChange)]
        self._begin, self._end = (reported.good or reported.bad).start, (reported.end or reported.last).end
        self.rebooted = clocks.booted_between(self._begin, self._end)
        self.stepped = any(self._begin < at <= self._end for at, _ in clocks.offsets)

    def faults(self) -> Iterator[str]:
        """Yield what is wrong."""
        reported, duration = self._reported, self._reported.json["duration"]
        inner = max(0, _millis(reported.last.start - reported.bad.end))
        least = _millis(duration["min"])
        if least > inner + ROUNDING or (not self.rebooted and least < inner - ROUNDING):
            yield f"at least {least} ms, but {inner} passed from its first to its last failure"
        if self.rebooted and least < self._observed() - ROUNDING:
            yield f"at least {least} ms, but {self._observed()} were observed inside of boots"
        most = None if duration["max"] is None else _millis(duration["max"])
        if reported.good is None or reported.end is None:
            if most is not None:
                yield f"at most {most} ms, but one of its ends is open"
        else:
            yield from self._most(most, _millis(reported.end.end - reported.good.start))
        estimate = duration["estimate"]
        if most is not None and (estimate is None or not least <= _millis(estimate) <= most):
            yield f"its estimate is not between its bounds: {duration}"
        yield from self._clock()
        yield from self._times()

    def _most(self, most: Millis | None, outer: Millis) -> Iterator[str]:
        if most is None:
            if not self.rebooted or self.known:
                yield f"no maximum, although {'the clocks were known' if self.rebooted else 'no reboot was in it'}"
        elif most < outer - ROUNDING or (not self.rebooted and most > outer + ROUNDING):
            yield f"at most {most} ms, but {outer} passed from the last good to the first good one"

    @property
    def known(self) -> bool:
        """Whether in the boots of both ends an observation knew how wrong the wall clock was."""
        known = {fact.clock.boot for fact in self._facts if fact.clock and fact.clock.bound is not None}
        ends = [fact.clock.boot for fact in (self._facts[0], self._facts[-1]) if fact.clock]
        return all(boot in known for boot in ends)

    @property
    def known_throughout(self) -> bool:
        """Whether an observation of each boot knew how wrong its clock was."""
        boots = {fact.clock.boot for fact in self._facts if fact.clock}
        return boots == {fact.clock.boot for fact in self._facts if fact.clock and fact.clock.bound is not None}

    def _observed(self) -> Millis:
        """What surely passed between the first and the last failure, boot by boot."""
        low, high = self._reported.bad.end, self._reported.last.start
        found: dict[str, list[float]] = {}
        for fact in self._facts:
            end = fact_end(fact)
            assert end.clock is not None
            at = self._clocks.true_time(end.boot, end.clock)
            found.setdefault(end.boot, []).append(min(max(at, low), high))
        return sum(int((max(ends) - min(ends)) * 1000) for ends in found.values())

    def _clock(self) -> Iterator[str]:
        """Say what is wrong with what is reported of the wall clock."""
        reported = self._reported.json.get("clock")
        if reported is None:
            yield "nothing is said of its clock"
            return
        boots = {fact.clock.boot for fact in self._facts if fact.clock}
        if reported["reboots"] != len(boots) - 1:
            yield f"{reported['reboots']} reboots are reported, and it has observations of {len(boots)} boots"
        apart = 0.0
        for before, after in pairwise(fact_end(fact) for fact in self._facts):
            if before.boot == after.boot and before.offset is not None and after.offset is not None:
                apart += abs(after.offset - before.offset) / 1000
        if abs(reported["stepped"] - apart) > 1.0 and not (reported["stepped"] < apart < 2 * STEP_MS / 1000):
            yield f"its clock was set by {apart:.3f} s in all, and {reported['stepped']:.3f} are reported"

    def _times(self) -> Iterator[str]:
        """Say what is wrong with its four times, which are on one wall clock."""
        reported = self._reported
        json: dict[str, object] = {**reported.json}
        times = {key: parse_rfc3339(str(json[key])) for key in TIMES if json[key] is not None}
        if sorted(times.values()) != list(times.values()):
            yield f"its times are not in order: {times}"
        true = {"first_bad": reported.bad.end, "last_bad": max(reported.last.start, reported.bad.end)}
        true |= {"last_good": reported.good.start} if reported.good else {}
        true |= {"first_good": reported.end.end} if reported.end else {}
        offsets = [offset for at, offset in self._clocks.offsets if self._begin < at <= self._end]
        offsets.append(self._clocks.offset_at(self._begin))
        if all(abs(offset) <= SYNCHRONISED_WITHIN for offset in offsets):
            for key, at in times.items():
                if abs(at - EPOCH - true[key] * 1000) > SYNCHRONISED_WITHIN * 1000 + ROUNDING:
                    yield f"{key} was {true[key]:.3f} s, by a clock that was right"
        if self.rebooted:
            return
        bounds = [fact.clock.bound for fact in self._facts if fact.clock and fact.clock.bound is not None]
        near = 2 * (STEP_MS + ROUNDING + min(bounds, default=0))
        for (one, here), (other, there) in pairwise(times.items()):
            if abs(there - here - (true[other] - true[one]) * 1000) > near:
                passed = true[other] - true[one]
                yield f"from {one} to {other} {passed:.3f} s passed, by its times {there - here} ms"


class Unseen:
    """What could not be seen within an outage: its longest stretch, and all of it."""

    def __init__(
        self, reported: ReportedOutage, facts: Facts, probes: dict[int, TrueProbe], clocks: Clocks
    ) -> None:
        self._reported = reported
        self.largest, self.total, self.pieces, self.rebooted = 0.0, 0.0, 0, False
        before: TrueProbe | None = None
        blind = False
        for index, fact in facts:
            if isinstance(fact, TargetChange):
                continue
            if isinstance(fact, Gap) or fact.outcome is Outcome.UNKNOWN:
                blind = True
                continue
            probe = probes[index]
            if before is not None:
                self._stretch(probe.start - before.end, blind, clocks.booted_between(before.end, probe.start))
            before, blind = probe, False

    def _stretch(self, seconds: float, blind: bool, rebooted: bool) -> None:
        self.largest = max(self.largest, seconds)
        self.total += seconds if blind else 0.0
        self.pieces += 1
        self.rebooted |= rebooted

    def faults(self, known: bool) -> Iterator[str]:
        """Yield what is wrong; `known`: the wall clock's error was on record in all of its boots."""
        if self.rebooted and not known:
            return
        gap, total = self._reported.json["largest_gap"], self._reported.json["unobserved"]
        if gap < self.largest - ROUNDING / 1000:
            yield f"its largest gap was {self.largest:.3f} s, not {gap}"
        if total < self.total - ROUNDING * self.pieces / 1000:
            yield f"{self.total:.3f} s of it were not observed, not {total}"


def true_span(fact: Observation | Gap, clocks: Clocks, before: float) -> tuple[float, float]:
    """Return when a fact began and ended in true time; `before` for one that began in an earlier boot."""
    start, end = fact_start(fact), fact_end(fact)
    assert end.clock is not None
    ended = clocks.true_time(end.boot, end.clock)
    return (before if start.clock is None else clocks.true_time(start.boot, start.clock)), ended


def _millis(seconds: float) -> Millis:
    return round(seconds * 1000)
