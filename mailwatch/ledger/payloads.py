"""Observations, gaps and target changes as entry payloads, and back. Integers only: milliseconds and microseconds.

Empty fields are left out, which halves an entry; reading restores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict, cast

from mailwatch.facts import AttemptFacts, ObservationFacts
from mailwatch.ledger.settings_payloads import SettingsPayload, settings_from, settings_payload
from mailwatch.model import (
    Attempt,
    Cause,
    ClockSpan,
    ConnectivityResult,
    Fact,
    Gap,
    GapReason,
    Observation,
    Outcome,
    Phase,
    TargetChange,
    TargetEvent,
    TlsFacts,
)
from mailwatch.times import Millis


class ClockPayload(TypedDict):
    """A span of the steady clock in a payload (`ClockSpan`)."""

    boot: str
    end: Millis
    start: NotRequired[Millis]
    bound: NotRequired[Millis]


class TargetChangePayload(TypedDict):
    """The payload of a target change (`TargetChange`)."""

    target: str
    at: Millis
    event: str
    settings: SettingsPayload
    reason: NotRequired[str]
    clock: NotRequired[ClockPayload]


class GapPayload(TypedDict):
    """The payload of a gap (`Gap`)."""

    target: str
    start: Millis
    end: Millis
    reason: str
    clock: NotRequired[ClockPayload]


class TlsPayload(TypedDict):
    """Facts of a TLS handshake in a payload (`TlsFacts`)."""

    version: str
    cipher: str
    fingerprint: str
    not_after: Millis | None


class AttemptPayload(TypedDict):
    """An attempt in an observation's payload (`Attempt`)."""

    start: Millis
    end: Millis
    peer: str
    phases_us: dict[str, int]
    cause: NotRequired[str]
    failed_phase: NotRequired[str]
    detail: NotRequired[str]
    replies: NotRequired[list[str]]
    tls: NotRequired[TlsPayload]
    facts: NotRequired[AttemptFacts]


class ConnectivityPayload(TypedDict):
    """The guard's result in an observation's payload (`ConnectivityResult`)."""

    asked: Millis
    online: bool | None
    controls: dict[str, str]
    answered: NotRequired[Millis]
    online4: NotRequired[bool]
    online6: NotRequired[bool]
    resolver: NotRequired[str]
    lie: NotRequired[list[str]]


class ObservationPayload(TypedDict):
    """The payload of an observation (`Observation`)."""

    target: str
    scheduled: Millis
    start: Millis
    end: Millis
    outcome: str
    login: bool
    attempts: list[AttemptPayload]
    cause: NotRequired[str]
    failed_phase: NotRequired[str]
    detail: NotRequired[str]
    addresses: NotRequired[list[str]]
    secret: NotRequired[str]
    partial: NotRequired[list[str]]
    guard: NotRequired[ConnectivityPayload]
    facts: NotRequired[ObservationFacts]
    interval: NotRequired[Millis]
    clock: NotRequired[ClockPayload]
    node: NotRequired[str]


FactPayload = ObservationPayload | GapPayload | TargetChangePayload


def fact_payload(fact: Fact) -> FactPayload:
    """Return a fact as the payload of its entry."""
    if isinstance(fact, TargetChange):
        return _change_payload(fact)
    return _gap_payload(fact) if isinstance(fact, Gap) else _observation_payload(fact)


def _change_payload(fact: TargetChange) -> TargetChangePayload:
    change: TargetChangePayload = {
        "target": fact.target,
        "at": fact.at,
        "event": fact.event.value,
        "settings": settings_payload(fact.settings),
        "reason": fact.reason,
    }
    if fact.clock is not None:
        change["clock"] = _clock_payload(fact.clock)
    return change


def _gap_payload(fact: Gap) -> GapPayload:
    gap: GapPayload = {
        "target": fact.target,
        "start": fact.start,
        "end": fact.end,
        "reason": fact.reason.value,
    }
    if fact.clock is not None:
        gap["clock"] = _clock_payload(fact.clock)
    return gap


def _observation_payload(fact: Observation) -> ObservationPayload:
    payload: ObservationPayload = {
        "target": fact.target,
        "scheduled": fact.scheduled_at,
        "start": fact.started_at,
        "end": fact.ended_at,
        "outcome": fact.outcome.value,
        "login": fact.with_login,
        "attempts": [_attempt_payload(attempt) for attempt in fact.attempts],
    }
    if fact.cause is not None:
        payload["cause"] = fact.cause.value
    if fact.failed_phase is not None:
        payload["failed_phase"] = fact.failed_phase.value
    if fact.detail:
        payload["detail"] = fact.detail
    if fact.addresses:
        payload["addresses"] = list(fact.addresses)
    if fact.secret:
        payload["secret"] = fact.secret
    if fact.partial:
        payload["partial"] = list(fact.partial)
    if fact.guard is not None:
        payload["guard"] = _guard_payload(fact.guard)
    if fact.facts:
        payload["facts"] = fact.facts
    if fact.interval is not None:
        payload["interval"] = fact.interval
    if fact.clock is not None:
        payload["clock"] = _clock_payload(fact.clock)
    if fact.node:
        payload["node"] = fact.node
    return payload


def _clock_payload(span: ClockSpan) -> ClockPayload:
    written: ClockPayload = {"boot": span.boot, "end": span.end}
    if span.start is not None:
        written["start"] = span.start
    if span.bound is not None:
        written["bound"] = span.bound
    return written


def change_from(written: Mapping[str, object]) -> TargetChange:
    """Parse the payload of a target change. Raises KeyError, TypeError or ValueError for anything else."""
    payload = cast(TargetChangePayload, written)
    at = payload["at"]
    if type(at) is not int:
        raise TypeError("its time is not whole milliseconds")
    return TargetChange(
        target=payload["target"],
        at=at,
        event=TargetEvent(payload["event"]),
        settings=settings_from(payload["settings"]),
        reason=str(payload.get("reason", "")),
        clock=clock_from(payload),
    )


FACT_KINDS = ("observation", "gap", "watch")
"""Kinds of entries that determine everything known about a target."""


def fact_from(kind: str, payload: Mapping[str, object]) -> Fact:
    """Parse a payload of a kind in FACT_KINDS. Raises KeyError, TypeError or ValueError for anything else."""
    match kind:
        case "observation":
            return observation_from(payload)
        case "gap":
            return gap_from(payload)
        case "watch":
            return change_from(payload)
    raise ValueError(f"{kind} is no kind of fact")


def clock_from(payload: Mapping[str, object]) -> ClockSpan | None:
    """Parse the clock reading of a fact; None on an old record.

    Raises KeyError, TypeError or ValueError for wrong types, or an end before the start.
    """
    written = cast(ClockPayload | None, payload.get("clock"))
    if written is None:
        return None
    boot, start, end, bound = written["boot"], written.get("start"), written["end"], written.get("bound")
    whole = all(type(value) is int and value >= 0 for value in (start, end, bound) if value is not None)
    if not isinstance(boot, str) or not whole or end is None:
        raise TypeError("its clock is not a boot with whole milliseconds")
    if start is not None and end < start:
        raise ValueError("its clock ends before it starts")
    return ClockSpan(boot, start, end, bound)


def _guard_payload(answer: ConnectivityResult) -> ConnectivityPayload:
    written: ConnectivityPayload = {
        "asked": answer.asked_at,
        "online": answer.online,
        "controls": answer.controls,
    }
    if answer.answered_at is not None:
        written["answered"] = answer.answered_at
    if answer.online4 is not None:
        written["online4"] = answer.online4
    if answer.online6 is not None:
        written["online6"] = answer.online6
    if answer.resolver:
        written["resolver"] = answer.resolver
    if answer.spoofed:
        written["lie"] = list(answer.spoofed)
    return written


def _attempt_payload(attempt: Attempt) -> AttemptPayload:
    written: AttemptPayload = {
        "start": attempt.started_at,
        "end": attempt.ended_at,
        "peer": attempt.peer,
        "phases_us": {phase.value: spent for phase, spent in attempt.phases.items()},
    }
    if attempt.cause is not None:
        written["cause"] = attempt.cause.value
    if attempt.failed_phase is not None:
        written["failed_phase"] = attempt.failed_phase.value
    if attempt.detail:
        written["detail"] = attempt.detail
    if attempt.replies:
        written["replies"] = list(attempt.replies)
    if (tls := attempt.tls) is not None:
        written["tls"] = {
            "version": tls.version,
            "cipher": tls.cipher,
            "fingerprint": tls.fingerprint,
            "not_after": tls.not_after,
        }
    if attempt.facts:
        written["facts"] = attempt.facts
    return written


def observation_from(written: Mapping[str, object]) -> Observation:
    """Parse the payload of an observation. Raises KeyError, TypeError or ValueError for anything else."""
    payload = cast(ObservationPayload, written)
    guard = payload.get("guard")
    return Observation(
        target=payload["target"],
        scheduled_at=payload["scheduled"],
        started_at=payload["start"],
        ended_at=payload["end"],
        outcome=Outcome(payload["outcome"]),
        cause=Cause(payload["cause"]) if "cause" in payload else None,
        failed_phase=Phase(payload["failed_phase"]) if "failed_phase" in payload else None,
        detail=payload.get("detail", ""),
        attempts=tuple(_attempt_from(attempt) for attempt in payload["attempts"]),
        addresses=tuple(payload.get("addresses", ())),
        partial=tuple(payload.get("partial", ())),
        with_login=payload["login"],
        secret=payload.get("secret", ""),
        guard=_guard_from(guard) if guard else None,
        facts=payload.get("facts"),
        clock=clock_from(payload),
        interval=_interval_from(payload),
        node=payload.get("node", ""),
    )


def _interval_from(payload: ObservationPayload) -> Millis | None:
    interval = payload.get("interval")
    if interval is not None and (type(interval) is not int or interval <= 0):
        raise TypeError("its interval is not whole milliseconds")
    return interval


def _guard_from(written: ConnectivityPayload) -> ConnectivityResult:
    return ConnectivityResult(
        asked_at=written["asked"],
        online=written["online"],
        controls=written["controls"],
        answered_at=written.get("answered"),
        online4=written.get("online4"),
        online6=written.get("online6"),
        resolver=written.get("resolver", ""),
        spoofed=tuple(written.get("lie", ())),
    )


def _attempt_from(written: AttemptPayload) -> Attempt:
    tls = written.get("tls")
    # Canonical JSON sorts by name; restore the phases in the order in which they ran.
    phases = {phase: written["phases_us"][phase] for phase in Phase if phase in written["phases_us"]}
    return Attempt(
        started_at=written["start"],
        ended_at=written["end"],
        peer=written["peer"],
        phases=phases,
        cause=Cause(written["cause"]) if "cause" in written else None,
        failed_phase=Phase(written["failed_phase"]) if "failed_phase" in written else None,
        detail=written.get("detail", ""),
        replies=tuple(written.get("replies", ())),
        tls=TlsFacts(**tls) if tls else None,
        facts=written.get("facts"),
    )


def gap_from(written: Mapping[str, object]) -> Gap:
    """Parse the payload of a gap. Raises KeyError or ValueError for anything else."""
    payload = cast(GapPayload, written)
    return Gap(
        target=payload["target"],
        start=payload["start"],
        end=payload["end"],
        reason=GapReason(payload["reason"]),
        clock=clock_from(payload),
    )
