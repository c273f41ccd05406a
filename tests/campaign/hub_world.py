"""What is true in a world of the hub's campaign: one provider, and three vantage points with a hub.

All times are seconds of true time since the world began. One vantage point lies at times: it makes outages up,
hides some, or dates them two days back by a clock that it calls right. Another is cut off for hours to days.
Each has troubles of its own: its line fails, it is off, its login is rejected, its clock is wrong.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from mailwatch.model import Rules
from tests.campaign.world import DAY, HOUR, MINUTE, WEEK, Span, Spans

NAMES = ("home", "office", "friend")
K = 2
PUSH_SECONDS = 30.0
"""How long an entry waits for its push at most, as a fresh install has it."""


@dataclass(slots=True)
class VantageTruth:
    """What is true of a vantage point. `known_clock`: it asks time servers, so it knows when its clock is off."""

    name: str
    lies: Spans = field(default_factory=Spans)
    cut: Spans = field(default_factory=Spans)
    offline: Spans = field(default_factory=Spans)
    off: Spans = field(default_factory=Spans)
    login: Spans = field(default_factory=Spans)
    clock: Spans = field(default_factory=Spans)
    """While it is wrong: `kind` is the number of seconds by which it is ahead."""
    known_clock: bool = True

    def offset(self, moment: float) -> float:
        """Return by how many seconds its clock is ahead."""
        span = self.clock.at(moment)
        return 0.0 if span is None else float(span.kind)

    def is_connected(self, moment: float) -> bool:
        """Whether it reaches the hub."""
        return all(spans.at(moment) is None for spans in (self.cut, self.offline, self.off))


@dataclass(slots=True)
class HubWorld:
    """All that is true. `interval`: seconds between two probes."""

    seed: str
    end: float
    interval: float
    rules: Rules
    faults: Spans
    members: tuple[VantageTruth, ...]
    chance: random.Random


def make_hub_world(seed: str, weeks: float, liars: int = 1) -> HubWorld:
    """Draw a world in which so many of the three lie."""
    draw = _HubDraw(seed, weeks * WEEK)
    return draw.world(liars)


class _HubDraw:
    def __init__(self, seed: str, end: float) -> None:
        self.seed, self.end = seed, end
        self.chance = random.Random(f"hub {seed}")
        self.faults: list[Span] = []

    def world(self, liars: int) -> HubWorld:
        chance = self.chance
        interval = float(round(self._log_uniform(15 * MINUTE, HOUR)))
        rechecks = chance.choice([(5.0, 10.0, 20.0), (5.0, 10.0, 20.0), (interval / 6, interval / 3), ()])
        rules = Rules(chance.choice([2, 3, 3, 4]), chance.choice([1, 2, 2, 3]), rechecks)
        self.faults = self._spans(4, MINUTE, 2 * DAY)
        faults = Spans(self.faults)
        members = tuple(self._member(name) for name in NAMES)
        order = chance.sample(members, len(members))
        # Several say the same: who lies alone confirms nothing.
        lies = Spans(self._lies() if liars else ())
        for one in order[:liars]:
            one.lies = lies
        order[liars % 3].cut = Spans(self._spans(2, HOUR, 4 * DAY))
        return HubWorld(self.seed, self.end, interval, rules, faults, members, random.Random(f"run {self.seed}"))

    def _member(self, name: str) -> VantageTruth:
        chance = self.chance
        return VantageTruth(
            name,
            offline=Spans(self._spans(2, 10.0, 6 * HOUR)),
            off=Spans(self._spans(0.7, 10.0, DAY)),
            login=Spans(self._spans(0.4, MINUTE, DAY)),
            clock=Spans(self._clocks()),
            known_clock=chance.random() < 0.6,
        )

    def _lies(self) -> list[Span]:
        """It hides some outages, makes others up, and dates some of these two days back."""
        chance, found = self.chance, []
        for fault in self.faults:
            if chance.random() < 0.4:
                found.append(Span(fault.start - HOUR, fault.end + HOUR, "hide"))
        for span in self._spans(6, MINUTE, DAY):
            found.append(Span(span.start, span.end, chance.choice(["invent", "invent", "date"])))
        return found

    def _clocks(self) -> list[Span]:
        found = []
        for at in self._times(0.6):
            begin = self._near(at)
            ahead = self.chance.choice([-1, 1]) * self._log_uniform(0.6, 30 * DAY)
            found.append(Span(begin, begin + self._log_uniform(MINUTE, 2 * DAY), f"{ahead:.3f}"))
        return found

    def _log_uniform(self, least: float, most: float) -> float:
        return math.exp(self.chance.uniform(math.log(least), math.log(most)))

    def _times(self, a_week: float) -> list[float]:
        found, at = [], 0.0
        while (at := at + self.chance.expovariate(a_week / WEEK)) < self.end:
            found.append(at)
        return found

    def _spans(self, a_week: float, least: float, most: float) -> list[Span]:
        starts: Sequence[float] = [self._near(at) for at in self._times(a_week)]
        return [Span(at, at + self._log_uniform(least, most)) for at in starts]

    def _near(self, at: float) -> float:
        """Half of all troubles come within two minutes of the beginning or end of an outage."""
        edges = [edge for fault in self.faults for edge in (fault.start, fault.end)]
        if edges and self.chance.random() < 0.5:
            return max(1.0, self.chance.choice(edges) + self.chance.uniform(-120, 120))
        return at
