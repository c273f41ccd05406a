"""When could a fault be seen at all? What excuses an outage from being found, and nothing else does.

A fault is a promise to be found where it can be probed: its time without the stretches in which no probe could
have reported it. These, by name:

not running     MailWatch was off or killed, until its first probe after the start
asleep          the machine was suspended, or the process stood still
clock           the clock was set: a probe across that moment is in doubt
our line        our own line, or our resolver, was down
not watched     the config did not have it, or its watching had just begun
throttled       the provider turned us away, and the probes that we leave out for it (at most 16 intervals)
login held back faults of login or mailbox only: the password in the config was wrong, or the login was
                rejected and is not tried again yet

In each stretch that is left, a probe must come within one interval and one timeout; and when a probe met the fault
and the stretch lasts for as many further probes as open an outage, each a recheck and a timeout after the one
before, the outage must be on record.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from mailwatch.guard.clock import TICK_SECONDS
from mailwatch.model import Cause, Phase, Rules
from tests.campaign.run import History
from tests.campaign.simulated_probes import TrueProbe
from tests.campaign.world import Service, Span, World

OVERHEAD = 1.0
"""Seconds from the end of a probe to its being on disk."""
FIRST_PROBE_WITHIN = 2.0
"""Seconds from the start of MailWatch to its first probe of each target."""
LOGINS_AT_ONCE = 3


class Truth:
    """What could be seen in a world through which MailWatch lived."""

    def __init__(self, world: World, history: History, taken: Iterable[TrueProbe]) -> None:
        self.world = world
        self.probes: dict[str, list[TrueProbe]] = {name: [] for name in world.services}
        for probe in taken:
            self.probes[probe.target].append(probe)
        self._starts = {name: [probe.start for probe in probes] for name, probes in self.probes.items()}
        ours = [Span(off.start, off.end + FIRST_PROBE_WITHIN, "not running") for off in history.off]
        for span in history.disturbed:
            ours.append(
                Span(span.start, span.end + 2 * TICK_SECONDS, "clock" if span.kind == "step" else "asleep")
            )
        for span in (*world.line.all, *world.resolver.all):
            ours.append(Span(span.start, span.end, "our line"))
        self._configs = history.configs
        self._ours = sorted(ours, key=lambda span: span.start)
        self._blind: dict[tuple[str, bool], list[Span]] = {}

    def stretches(self, service: Service, fault: Span) -> tuple[list[Span], dict[str, float]]:
        """Return the stretches of a fault that could be probed, and the seconds of it lost by reason."""
        found, lost, at = [], dict[str, float](), fault.start
        for span in self._blind_spans(service, fault.kind in ("login", "mailbox")):
            if span.end <= at or span.start >= fault.end:
                continue
            if span.start > at:
                found.append(Span(at, span.start))
            until = min(span.end, fault.end)
            lost[span.kind] = lost.get(span.kind, 0.0) + until - max(at, span.start)
            at = until
        if at < fault.end:
            found.append(Span(at, fault.end))
        return found, lost

    def within(self, name: str, start: float, end: float) -> list[TrueProbe]:
        """Return the probes that began at or after `start` and ended by `end`."""
        probes, first = self.probes[name], bisect_left(self._starts[name], start)
        return [probe for probe in probes[first : bisect_left(self._starts[name], end)] if probe.end <= end]

    def is_disturbed(self, probe: TrueProbe) -> bool:
        """Whether our line, our machine or our clock was in trouble at any time of the probe."""
        troubles = (span for span in self._ours if span.start <= probe.end and probe.start <= span.end)
        return next(troubles, None) is not None

    def probe_due(self, service: Service, start: float) -> float:
        """Return the seconds from `start` within which a probe must begin: the interval, and a probe under way."""
        before = [each for each in self._configs if each.start <= start][-1:]
        after = [each for each in self._configs if start < each.start <= start + service.longest]
        intervals = [each.entries[service.key][1] for each in (*before, *after) if service.key in each.entries]
        return max(intervals, default=service.longest) + self._one_probe(service)

    def rest_needed(self, service: Service, met: TrueProbe) -> float:
        """Return the seconds that must remain after a probe that met a fault, for it to be found for sure."""
        doubts, probes = 1, self.probes[service.target.name]
        for probe in reversed(probes[: self._starts[service.target.name].index(met.start)]):
            if probe.cause is None:
                break
            doubts += 1
        rules = self.world.rules
        rechecks = [recheck(rules, service, doubts + more) for more in range(rules.open_after - 1)]
        return sum(rechecks) + len(rechecks) * self._one_probe(service)

    def _one_probe(self, service: Service) -> float:
        sharing = [s for s in self.world.services.values() if s.account and s.account is service.account]
        queue = service.target.timeout if len(sharing) > LOGINS_AT_ONCE else 0.0
        return service.target.timeout + queue + OVERHEAD

    def _blind_spans(self, service: Service, logging_in: bool) -> list[Span]:
        key = service.target.name, logging_in
        if key not in self._blind:
            spans = [*self._ours, *self._throttled(service), *self._not_watched(service)]
            if logging_in and service.account:
                spans += self._held_back(service)
            self._blind[key] = sorted(spans, key=lambda span: span.start)
        return self._blind[key]

    def is_watched(self, service: Service, fault: Span) -> bool:
        """Whether the config had the service at any time of a fault."""
        ends = [*(applied.start for applied in self._configs[1:]), self.world.end]
        return any(
            service.key in applied.entries and applied.start < fault.end and fault.start < end
            for applied, end in zip(self._configs, ends, strict=True)
        )

    def _not_watched(self, service: Service) -> list[Span]:
        found, since, name = [], 0.0, ""
        for applied in self._configs:
            here = applied.entries.get(service.key, ("", 0.0))[0]
            if here != name:
                # Another name is another target: what was seen under the old one does not count for it.
                since = applied.start if name else since
                if here:
                    found.append(Span(since, applied.end + FIRST_PROBE_WITHIN, "not watched"))
                name = here
        return found if name else [*found, Span(since, self.world.end, "not watched")]

    def _throttled(self, service: Service) -> list[Span]:
        found = []
        for span in service.throttled.all:
            end = span.end
            if any(probe.why == "throttled" for probe in self._around(service, span)):
                longest = span.end + 16 * service.longest + self._one_probe(service)
                end = min(self._next_probe(service, span.end), longest)
            found.append(Span(span.start, end, "throttled"))
        return found

    def _held_back(self, service: Service) -> list[Span]:
        """From a probe that was rejected, or taken without the login, to the next one with it."""
        found, since, why = [], None, ""
        for probe in self.probes[service.target.name]:
            held = not probe.with_login or probe.cause is Cause.CREDENTIALS
            if held and since is None:
                since, why = probe.start, "login held back"
            elif not held and since is not None:
                found.append(Span(since, probe.start, why))
                since = None
        return found if since is None else [*found, Span(since, self.world.end, why)]

    def _around(self, service: Service, span: Span) -> list[TrueProbe]:
        return self.within(
            service.target.name, span.start - service.target.timeout, span.end + service.target.timeout
        )

    def _next_probe(self, service: Service, moment: float) -> float:
        starts = self._starts[service.target.name]
        place = bisect_left(starts, moment)
        return starts[place] if place < len(starts) else self.world.end


def recheck(rules: Rules, service: Service, doubts: int) -> float:
    """Return the seconds to the next probe after so many probes in doubt, at the most."""
    if not rules.recheck:
        return service.longest
    return min(service.longest, rules.recheck[min(doubts, len(rules.recheck)) - 1])


def shortest(rules: Rules, service: Service) -> float:
    """Return (open_after - 1) rechecks, in seconds: shorter outages nobody promised to find."""
    return sum(recheck(rules, service, doubts) for doubts in range(1, rules.open_after))


def needs_login(service: Service, what: str) -> bool:
    """Whether only a probe that logs in can meet such a fault."""
    return what in ("login", "mailbox") and Phase.AUTH in service.phases
