"""The numbers of /metrics for one target: cheap to update, converted to text only on request.

Every failure that a target can have starts at 0, so that its first occurrence is visible as an increase.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.kinds import KINDS
from mailwatch.metrics.exposition import Labels
from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.settings import Target

LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_CAUSES_WITHOUT_PHASE = frozenset({Cause.OFFLINE, Cause.MONITOR})


@dataclass(slots=True)
class Histogram:
    """Counts of values up to each bound; the last count is for all higher values."""

    bounds: Sequence[float]
    total: float = 0.0
    counts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class TargetRecord:
    """The numbers of one target. An unknown number is None, and has no series."""

    name: str
    provider: str
    labels: Labels
    interval: float
    failures: dict[tuple[str, str], int]
    state: str = "unknown"
    success: int | None = None
    duration: float | None = None
    phases: dict[Phase, int] = field(default_factory=dict)
    last: float | None = None
    last_success: float | None = None
    certificate_not_after: float | None = None
    observations: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BUCKETS))
    delivery: float | None = None
    gap_seconds: float = 0.0
    maintenance: int = 0
    paused: int = 0
    availability: dict[str, tuple[float | None, float | None, float | None]] = field(default_factory=dict)
    open: OutageRecord | None = None
    open_seconds: float = 0.0
    """The open outage's minimum duration in seconds so far: a down observation may increase it."""
    closed: set[str] = field(default_factory=set)
    closed_before: int = 0
    closed_seconds: float = 0.0
    outage_count: int = 0
    outage_seconds: float = 0.0

    @classmethod
    def of(cls, target: Target) -> TargetRecord:
        """Create the record of a target, with all counters at 0."""
        failures = dict.fromkeys(possible_failures(target), 0)
        made = cls(target.name, target.provider, labels_of(target), target.interval, failures)
        made._pause(target.paused)
        return made

    def change(self, target: Target) -> None:
        """Apply changed settings."""
        self.provider, self.labels, self.interval = target.provider, labels_of(target), target.interval
        self.failures = dict.fromkeys(possible_failures(target), 0) | self.failures
        self._pause(target.paused)

    def _pause(self, paused: bool) -> None:
        if paused or self.paused:
            self.mark_unknown()
        self.paused = int(paused)
        if paused:
            self.state = "paused"

    def observed(self, observation: Observation, state: str, least: float | None = None) -> None:
        """Count an observation; `least` is the minimum duration of the open outage in seconds."""
        outcome = observation.outcome
        self.state = state
        self.observations[outcome] += 1
        self.success = None if outcome is Outcome.UNKNOWN else int(outcome is Outcome.UP)
        self.last = observation.started_at / 1000
        self._time(observation)
        latency = (observation.facts or {}).get("latency_ms")
        self.delivery = None if latency is None else latency / 1000
        if outcome is Outcome.UP:
            self.last_success = self.last
            if self.duration is not None:
                self.latency.observe(self.duration)
        elif observation.cause is not None:
            self._failed(observation.cause, observation.failed_phase)
        if outcome is Outcome.DOWN and self.open is not None:
            grown = (observation.started_at - self.open.first_bad) / 1000 if least is None else least
            self._grow(grown)

    def mark_unknown(self) -> None:
        """Mark the state as unknown."""
        self.state, self.success = "unknown", None

    def _time(self, observation: Observation) -> None:
        phases: dict[Phase, int] = {}
        for attempt in observation.attempts:
            for phase, took in attempt.phases.items():
                phases[phase] = phases.get(phase, 0) + took
            if attempt.tls is not None and attempt.tls.not_after is not None:
                self.certificate_not_after = attempt.tls.not_after / 1000
        self.phases = phases
        self.duration = sum(phases.values()) / 1_000_000 if phases else None

    def _failed(self, cause: Cause, phase: Phase | None) -> None:
        # A failure of our line or of MailWatch says nothing about a phase of the mail service.
        where = "none" if phase is None or cause in _CAUSES_WITHOUT_PHASE else phase.value
        key = (cause.value, where)
        if key not in self.failures:
            # A new dict, since a scrape in another thread may be iterating over the old one.
            self.failures = self.failures | {key: 0}
        self.failures[key] += 1

    def _grow(self, seconds: float) -> None:
        if seconds > self.open_seconds:
            self.open_seconds = seconds
            self._sum()

    def count_earlier(self, count: int, seconds: float) -> None:
        """Count the closed outages on record that `outages` will not name, with their minimum durations."""
        self.closed_before, self.closed_seconds = count, self.closed_seconds + seconds

    def outages(self, records: Sequence[OutageRecord]) -> list[OutageRecord]:
        """Replace the outages by those on record; return the newly closed ones."""
        fresh, still_open = [], None
        for outage in records:
            if outage.state == "open":
                still_open = outage
            elif outage.id not in self.closed:
                self.closed.add(outage.id)
                self.closed_seconds += outage.durations.least / 1000
                if outage.first_good is not None:
                    # An outage whose target is no longer watched has no known end.
                    fresh.append(outage)
        # Set all at once: else a scrape in another thread might miss an open outage, or count one twice.
        self.open, self.open_seconds = still_open, 0.0 if still_open is None else still_open.durations.least / 1000
        count = self.closed_before + len(self.closed) + (still_open is not None)
        self.outage_count = max(self.outage_count, count)
        self._sum()
        return fresh

    def _sum(self) -> None:
        # Never decrease it: Prometheus would assume a restart and count everything again.
        self.outage_seconds = max(self.outage_seconds, self.closed_seconds + self.open_seconds)


def labels_of(target: Target) -> Labels:
    """Return the labels of a target's series."""
    return Labels.of(target=target.name, provider=target.provider, kind=target.kind.value)


def main_cause(outage: OutageRecord) -> str:
    """Return the most frequent cause; among equals, the first by name."""
    causes = outage.causes
    return min(causes, key=lambda cause: (-causes[cause], cause), default="")


_CONNECTION_CAUSES = (Cause.TIMEOUT, Cause.DISCONNECTED)


_ANSWERED = (*_CONNECTION_CAUSES, Cause.PROTOCOL, Cause.UNAVAILABLE, Cause.THROTTLED)


_CAUSES: dict[Phase, tuple[Cause, ...]] = {
    Phase.RESOLVE: (Cause.DNS, Cause.TIMEOUT),
    Phase.CONNECT: (*_CONNECTION_CAUSES, Cause.REFUSED, Cause.UNREACHABLE),
    Phase.TLS: (*_CONNECTION_CAUSES, Cause.TLS),
    Phase.GREETING: _ANSWERED,
    Phase.AUTH: (*_ANSWERED, Cause.CREDENTIALS, Cause.MAILBOX),
    Phase.MAILBOX: (*_ANSWERED, Cause.MAILBOX, Cause.CREDENTIALS),
    Phase.FETCH: (*_ANSWERED, Cause.MAILBOX),
    Phase.SUBMIT: (*_ANSWERED, Cause.REJECTED, Cause.CREDENTIALS),
    Phase.DELIVER: (*_CONNECTION_CAUSES, Cause.UNDELIVERED, Cause.REJECTED),
}


_WEBMAIL_FAILURES = ((Cause.TLS, Phase.GREETING), *((cause, Phase.FETCH) for cause in _ANSWERED))


"""Failures of webmail: a redirect to a page without TLS, and failures of the page itself."""


def possible_failures(target: Target) -> tuple[tuple[str, str], ...]:
    """Return the (cause, phase) pairs with which a target of this kind, encryption and login can fail."""
    # A round trip uses the logins of its two ends.
    return _possible(target.kind, target.tls, any(end.login is not None for end in target.endpoints))


@cache
def _possible(kind: Kind, tls: TlsMode, login: bool) -> tuple[tuple[str, str], ...]:
    phases = [Phase.RESOLVE, Phase.CONNECT, Phase.GREETING]
    if tls is not TlsMode.NONE:
        phases.append(Phase.TLS)
    if login:
        # A round trip can fail at its mailbox too, but then it would have more than 40 counters.
        more = KINDS[kind].login_phases
        phases.extend(phase for phase in more if kind is not Kind.ROUNDTRIP or phase is not Phase.MAILBOX)
    if kind is Kind.MX:
        phases.append(Phase.SUBMIT)
    found = [(cause.value, phase.value) for phase in phases for cause in _CAUSES[phase]]
    if tls is TlsMode.STARTTLS:
        # STARTTLS is a command, so it can get any answer.
        found.extend((cause.value, Phase.TLS.value) for cause in _ANSWERED if cause not in _CONNECTION_CAUSES)
    if kind is Kind.WEBMAIL:
        found.extend((cause.value, phase.value) for cause, phase in _WEBMAIL_FAILURES)
    if kind is Kind.MX:
        # A null MX, and a server that refuses our HELO.
        found.extend((Cause.REJECTED.value, phase.value) for phase in (Phase.RESOLVE, Phase.GREETING))
    # A suspended login is no failure of a phase, and neither are our own failures.
    found.extend((cause.value, "none") for cause in (Cause.OFFLINE, Cause.MONITOR))
    if login:
        found.append((Cause.CREDENTIALS.value, "none"))
    return tuple(found)
