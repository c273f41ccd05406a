"""Is the reported availability true? Its shares are summed up anew, from when the probes truly began and ended.

Between two probes that say the same no change is assumed: what hides there nobody can see
(docs/explanation/campaign.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mailwatch.model import Fact, Gap, Outcome, TargetChange, TargetEvent
from mailwatch.store import Reader, queries
from mailwatch.times import Millis
from tests.campaign.reported_outage import ROUNDING
from tests.campaign.run import Run
from tests.campaign.simulated_probes import TrueProbe
from tests.campaign.virtual import EPOCH_NS

EVER: Millis = 4_000_000_000_000
"""Later than any wall clock of any world."""
Facts = Sequence[tuple[int, Fact]]


class Accounts:
    """Sums up one world."""

    def __init__(
        self, run: Run, reader: Reader, facts: Mapping[str, Facts], probes: Mapping[int, TrueProbe]
    ) -> None:
        self._run, self._reader, self._facts, self._probes = run, reader, facts, probes

    def faults(self) -> Iterator[str]:
        """Yield what is wrong."""
        for name, facts in self._facts.items():
            (result,) = queries.availability(self._reader, [name], 0, EVER)
            down, undecided, covered, changes = self._sums(facts)
            if result["downtime"]["min"] is None and covered > 0:
                yield f"{name}: the downtime is not known, though {covered:.3f} s were observed"
            reported = _seconds(result)
            slack = ROUNDING * (changes + 1) / 1000
            if abs(reported["min"] - down) > slack or abs(reported["max"] - down - undecided) > slack:
                yield f"{name}: down for {reported} s, but it was {down:.3f} and {undecided:.3f} undecided"
            share = result["coverage"] or 0.0
            seen = result["unobserved"] * share / (1 - share)
            if abs(seen - covered) > slack + covered * 1e-6:
                yield f"{name}: {covered:.3f} s were observed, not {seen:.3f}"
            yield from self._parts(name, reported, slack)

    def _parts(self, name: str, whole: dict[str, float], slack: float) -> Iterator[str]:
        """Two windows that make up the whole count no time twice, and forget none."""
        middle = EPOCH_NS // 1_000_000 + round(self._run.world.end * 500)
        parts = [queries.availability(self._reader, [name], *part)[0] for part in ((0, middle), (middle, EVER))]
        for key in ("min", "max"):
            total = sum(_seconds(part)[key] for part in parts)
            lost = whole[key] - total
            # Where the clock was set from one window to the other between two probes, neither sees both.
            if lost < -slack or (lost > slack and not self._run.clocks.was_wrong):
                yield f"{name}: down for {total:.3f} s in two windows, {whole[key]:.3f} in one ({key})"

    def _sums(self, facts: Facts) -> tuple[float, float, float, int]:
        """Return the seconds down, undecided and observed, and how many stretches these are."""
        spent = {Outcome.UP: 0.0, Outcome.DOWN: 0.0, Outcome.UNKNOWN: 0.0}
        pieces, reach, reached = 0, 0.0, 0.0
        before: TrueProbe | None = None
        reply: Outcome | None = None
        side: Outcome | None = None
        for index, fact in facts:
            if isinstance(fact, TargetChange):
                reach = fact.settings.interval / 1000 * 1.5 + 1
                if fact.event in (TargetEvent.BEGIN, TargetEvent.END):
                    self._own(spent, before, reply, side, None)
                    before = reply = side = None
                continue
            if isinstance(fact, Gap) or fact.outcome is Outcome.UNKNOWN:
                self._own(spent, before, reply, side, None)
                before = reply = side = None
                continue
            probe, between = self._probes[index], None
            if before is not None and self._adjoin(before, probe, max(reach, reached)):
                between = fact.outcome if fact.outcome is reply else Outcome.UNKNOWN
                spent[between] += probe.start - before.end
                pieces += between is not side
            self._own(spent, before, reply, side, between)
            before, reply, side, reached = probe, fact.outcome, between, reach
        return spent[Outcome.DOWN], spent[Outcome.UNKNOWN], sum(spent.values()), 2 * pieces

    def _adjoin(self, before: TrueProbe, probe: TrueProbe, reach: float) -> bool:
        near = probe.start - before.end <= reach
        return near and not self._run.clocks.booted_between(before.start, probe.end)

    @staticmethod
    def _own(
        spent: dict[Outcome, float],
        probe: TrueProbe | None,
        outcome: Outcome | None,
        before: Outcome | None,
        after: Outcome | None,
    ) -> None:
        """Count what a probe itself took, by what was on its two sides."""
        if probe is None or outcome is None:
            return
        if Outcome.UNKNOWN in (before, after):
            spent[Outcome.UNKNOWN] += probe.end - probe.start
        elif before is not None and after is not None:
            spent[outcome] += probe.end - probe.start


def _seconds(reported: Mapping[str, Any]) -> dict[str, float]:
    """What is reported as down; of time in which nothing was observed, none."""
    return {key: reported["downtime"][key] or 0.0 for key in ("min", "max")}
