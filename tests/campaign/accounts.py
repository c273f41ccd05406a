"""Is the reported availability true? Its shares are summed up anew, from when the probes truly began and ended.

Between two probes that say the same no change is assumed: what hides there nobody can see (docs/campaign.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mailwatch import records
from mailwatch.models import Gap, Millis, Observation, Outcome
from mailwatch.store import Reader
from tests.campaign.looks import Taken
from tests.campaign.run import Run
from tests.campaign.told import ROUNDING
from tests.campaign.virtual import EPOCH_NS
from tests.campaign.world import Service

EVER: Millis = 4_000_000_000_000
"""Later than any wall clock of any world."""
Facts = Sequence[tuple[int, Observation | Gap]]


class Accounts:
    """Sums up one world."""

    def __init__(self, run: Run, reader: Reader, facts: Mapping[str, Facts], looks: Mapping[int, Taken]) -> None:
        self._run, self._reader, self._facts, self._looks = run, reader, facts, looks

    def faults(self) -> Iterator[str]:
        """Yield what is wrong."""
        for name, service in self._run.world.services.items():
            wanted = [(name, service.target.interval)]
            (told,) = records.availability(self._reader, wanted, 0, EVER)
            down, undecided, covered, changes = self._sums(service)
            reported = told["downtime"]
            slack = ROUNDING * (changes + 1) / 1000
            if abs(reported["min"] - down) > slack or abs(reported["max"] - down - undecided) > slack:
                yield f"{name}: down for {reported} s, but it was {down:.3f} and {undecided:.3f} undecided"
            share = told["coverage"] or 0.0
            seen = told["unobserved"] * share / (1 - share)
            if abs(seen - covered) > slack + covered * 1e-6:
                yield f"{name}: {covered:.3f} s were observed, not {seen:.3f}"
            yield from self._parts(wanted, reported, slack)

    def _parts(self, wanted: list[tuple[str, float]], whole: dict[str, float], slack: float) -> Iterator[str]:
        """Two windows that make up the whole count no time twice, and forget none."""
        middle = EPOCH_NS // 1_000_000 + round(self._run.world.end * 500)
        parts = [records.availability(self._reader, wanted, *part)[0] for part in ((0, middle), (middle, EVER))]
        for key in ("min", "max"):
            total = sum(part["downtime"][key] for part in parts)
            lost = whole[key] - total
            # Where the clock was set from one window to the other between two probes, neither sees both.
            if lost < -slack or (lost > slack and not self._run.clocks.was_wrong):
                yield f"{wanted[0][0]}: down for {total:.3f} s in two windows, {whole[key]:.3f} in one ({key})"

    def _sums(self, service: Service) -> tuple[float, float, float, int]:
        """Return the seconds down, undecided and observed, and how many stretches these are."""
        spent = {Outcome.UP: 0.0, Outcome.DOWN: 0.0, Outcome.UNKNOWN: 0.0}
        pieces = 0
        before: Taken | None = None
        said: Outcome | None = None
        side: Outcome | None = None
        for index, fact in self._facts[service.target.name]:
            if isinstance(fact, Gap) or fact.outcome is Outcome.UNKNOWN:
                self._own(spent, before, said, side, None)
                before = said = side = None
                continue
            look, between = self._looks[index], None
            if before is not None and self._adjoin(service, before, look):
                between = fact.outcome if fact.outcome is said else Outcome.UNKNOWN
                spent[between] += look.start - before.end
                pieces += between is not side
            self._own(spent, before, said, side, between)
            before, said, side = look, fact.outcome, between
        return spent[Outcome.DOWN], spent[Outcome.UNKNOWN], sum(spent.values()), 2 * pieces

    def _adjoin(self, service: Service, before: Taken, look: Taken) -> bool:
        near = look.start - before.end <= service.target.interval * 1.5 + 1
        return near and not self._run.clocks.booted_between(before.start, look.end)

    @staticmethod
    def _own(
        spent: dict[Outcome, float],
        look: Taken | None,
        said: Outcome | None,
        before: Outcome | None,
        after: Outcome | None,
    ) -> None:
        """Count what a look itself took, by what was on its two sides."""
        if look is None or said is None:
            return
        if Outcome.UNKNOWN in (before, after):
            spent[Outcome.UNKNOWN] += look.end - look.start
        elif before is not None and after is not None:
            spent[said] += look.end - look.start
