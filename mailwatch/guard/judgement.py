"""Whose failure was it? A pure function of what was seen and what the guard said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mailwatch.guard.controls import IPV4, IPV6, family_of, host_of, is_loopback, is_outside
from mailwatch.guard.names import LIES, POISONED, SILENT
from mailwatch.guard.reasons import INTERCEPTED, MONITOR
from mailwatch.models import Attempt, Cause, GuardAnswer, Observation, Outcome, Phase

Doubt = tuple[Cause, str]
"""Why a failure is not the provider's."""


def names_matter(observation: Observation, host: str) -> bool:
    """Whether a wrong answer of the resolver could have made this failure: then it is asked as well.

    Whoever showed the certificate of `host` is the provider, however the name came to its address.
    """
    if _of_names(observation):
        return True
    name = host.casefold().rstrip(".")
    if not name or name == "localhost" or family_of(host) is not None:
        return False
    return observation.deciding is None or observation.deciding.tls is None


def judge(observation: Observation, answer: GuardAnswer) -> Observation:
    """Return the observation with the answer; a failure while we were not surely online is unknown.

    Where a name has addresses of both families and one of them is broken here, what the other saw decides.
    """
    told = replace(observation, guard=answer)
    if observation.outcome is not Outcome.DOWN:
        return told
    if _of_names(observation):
        return _unknown(told, _line(answer) or _resolver(answer))
    failed = [attempt for attempt in observation.attempts if attempt.peer and attempt.cause is not None]
    if not failed:
        return _unknown(told, _line(answer))
    sure = [attempt for attempt in failed if _online(attempt, answer)]
    if not sure:
        return _unknown(told, _apart(failed, answer))
    if sure[-1] is not failed[-1]:
        last = sure[-1]
        told = replace(told, cause=last.cause, failed_phase=last.failed_phase, detail=last.detail)
    return _unknown(told, _misled(sure[-1], answer))


def _of_names(observation: Observation) -> bool:
    return observation.cause is Cause.DNS or observation.failed_phase is Phase.RESOLVE


def _unknown(observation: Observation, doubt: Doubt | None) -> Observation:
    if doubt is None:
        return observation
    cause, why = doubt
    detail = f"{why} (was: {observation.cause})"
    return replace(observation, outcome=Outcome.UNKNOWN, cause=cause, detail=detail)


def _line(answer: GuardAnswer) -> Doubt | None:
    if answer.online is None:
        return Cause.MONITOR, "we could not tell whether our own line was up"
    if answer.online:
        return None
    if INTERCEPTED in answer.controls.values():
        return Cause.OFFLINE, "a captive portal answered in the place of others"
    return Cause.OFFLINE, "our own line was down"


def _online(attempt: Attempt, answer: GuardAnswer) -> bool | None:
    """Whether we were online for the family of the attempt's address."""
    host = host_of(attempt.peer)
    online = answer.online6 if family_of(host) == IPV6 else answer.online4
    if online is not None:
        return online
    if is_loopback(host) or (answer.online4, answer.online6) == (None, None):
        return answer.online
    # Nobody was asked over this family. A connection that came about shows that it works as far as that.
    return None if attempt.failed_phase is Phase.CONNECT else answer.online


def _apart(failed: Sequence[Attempt], answer: GuardAnswer) -> Doubt:
    """Say why none of the attempts counts."""
    if not answer.online and (doubt := _line(answer)):
        return doubt
    families = sorted({family_of(host_of(attempt.peer)) or IPV4 for attempt in failed})
    names = " and ".join(f"IPv{family}" for family in families)
    if any(_online(attempt, answer) is None for attempt in failed):
        return Cause.MONITOR, f"we could not tell whether our own line was up over {names}"
    return Cause.OFFLINE, f"our own line was down over {names}"


def _resolver(answer: GuardAnswer) -> Doubt | None:
    if answer.resolver == SILENT:
        return Cause.OFFLINE, "names did not resolve here, not even the control names"
    if answer.resolver in (LIES, POISONED):
        return Cause.OFFLINE, _lies(answer)
    if answer.resolver == MONITOR:
        return Cause.MONITOR, "we could not tell whether names resolved here"
    return None


def _misled(attempt: Attempt, answer: GuardAnswer) -> Doubt | None:
    """Whether the resolver may have sent us to somebody else."""
    if attempt.tls is not None:
        return None
    host = host_of(attempt.peer)
    made_up = host in answer.lie or not is_outside(host)
    if answer.resolver == POISONED or (answer.resolver == LIES and made_up):
        return Cause.OFFLINE, f"{_lies(answer)}, and sent us to {host}"
    return None


def _lies(answer: GuardAnswer) -> str:
    where = f" with {', '.join(answer.lie[:3])}" if answer.lie else ""
    what = "the names of controls" if answer.resolver == POISONED else "a name that cannot exist"
    return f"the resolver lies: it answers {what}{where}"
