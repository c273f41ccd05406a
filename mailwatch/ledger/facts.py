"""Observations and gaps as entry payloads, and back. Whole numbers only: milliseconds and microseconds.

What is empty is left out, which halves an entry; reading fills it in again.
"""

from __future__ import annotations

from typing import Any

from mailwatch.models import (
    Attempt,
    Cause,
    Gap,
    GapReason,
    GuardAnswer,
    Observation,
    Outcome,
    Phase,
    TlsFacts,
)


def payload_of(fact: Observation | Gap) -> dict[str, Any]:
    """Write a fact as the payload of its entry."""
    if isinstance(fact, Gap):
        return {"target": fact.target, "start": fact.start, "end": fact.end, "reason": fact.reason.value}
    payload: dict[str, Any] = {
        "target": fact.target,
        "scheduled": fact.scheduled_at,
        "start": fact.started_at,
        "end": fact.ended_at,
        "outcome": fact.outcome.value,
        "login": fact.with_login,
        "attempts": [_attempt(attempt) for attempt in fact.attempts],
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
        payload["guard"] = _guard(fact.guard)
    if fact.facts:
        payload["facts"] = fact.facts
    return payload


def _guard(answer: GuardAnswer) -> dict[str, Any]:
    written: dict[str, Any] = {"asked": answer.asked_at, "online": answer.online, "controls": answer.controls}
    apart = {"answered": answer.answered_at, "online4": answer.online4, "online6": answer.online6}
    written |= {key: value for key, value in apart.items() if value is not None}
    if answer.resolver:
        written["resolver"] = answer.resolver
    if answer.lie:
        written["lie"] = list(answer.lie)
    return written


def _attempt(attempt: Attempt) -> dict[str, Any]:
    written: dict[str, Any] = {
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


def observation_from(payload: dict[str, Any]) -> Observation:
    """Read what `payload_of` wrote of an observation. Raises KeyError or ValueError for anything else."""
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
        attempts=tuple(_attempt_from(written) for written in payload["attempts"]),
        addresses=tuple(payload.get("addresses", ())),
        partial=tuple(payload.get("partial", ())),
        with_login=payload["login"],
        secret=payload.get("secret", ""),
        guard=_guard_from(guard) if guard else None,
        facts=payload.get("facts"),
    )


def _guard_from(written: dict[str, Any]) -> GuardAnswer:
    return GuardAnswer(
        asked_at=written["asked"],
        online=written["online"],
        controls=written["controls"],
        answered_at=written.get("answered"),
        online4=written.get("online4"),
        online6=written.get("online6"),
        resolver=written.get("resolver", ""),
        lie=tuple(written.get("lie", ())),
    )


def _attempt_from(written: dict[str, Any]) -> Attempt:
    tls = written.get("tls")
    # Canonical JSON sorts by name; phases are told in the order in which they are walked.
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


def gap_from(payload: dict[str, Any]) -> Gap:
    """Read what `payload_of` wrote of a gap. Raises KeyError or ValueError for anything else."""
    return Gap(
        target=payload["target"],
        start=payload["start"],
        end=payload["end"],
        reason=GapReason(payload["reason"]),
    )
