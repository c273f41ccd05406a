"""Login outages proven afterwards: a secret was accepted, then rejected, then accepted again unchanged.

While the secret is rejected, a mistyped or changed password cannot be distinguished from a broken login, so the
observations are unknown. Once it is accepted again unchanged, it was right all along. The back-off between logins
determines the bounds: `last_good` is the last accepted login, `first_bad` and `last_bad` are the first and last
rejected login.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mailwatch.analysis.outage import Outage, outage_bounds, outage_id
from mailwatch.analysis.outage_counters import EMPTY_COUNTERS, ObservationRef, OutageCounters
from mailwatch.model import Cause, Fact, Gap, Observation, Outcome, Phase, TargetChange, TargetEvent

PROVEN_AFTERWARDS = "proven afterwards"
"""Prefix of the text that is hashed into the id of such an outage."""
_AFTER_LOGIN = frozenset({Phase.MAILBOX, Phase.FETCH, Phase.SUBMIT})


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginHistory:
    """The history of one target's login: the last observation with it accepted, and the rejections since."""

    secret: str = ""
    accepted: ObservationRef | None = None
    first_rejected: ObservationRef | None = None
    last_rejected: ObservationRef | None = None
    counters: OutageCounters = EMPTY_COUNTERS


def advance_login_history(
    history: LoginHistory, index: int, fact: Fact, is_open: bool
) -> tuple[LoginHistory, Outage | None]:
    """Return the history after one more fact, and the outage that the fact proves, if any.

    `is_open`: whether an outage is open after that fact. A rejected login that counts as down (rejected together
    with other accounts) then belongs to that outage: earlier rejections lie within its bounds and are not reported
    twice. If such observations are too few to open an outage, they are proven afterwards like the others.
    """
    if isinstance(fact, TargetChange):
        # From now on the target has another login, or none.
        return (LoginHistory() if fact.event in (TargetEvent.BEGIN, TargetEvent.END) else history), None
    if isinstance(fact, Gap):
        return _skip_unknown(history, index, fact), None
    if not fact.with_login or not fact.secret:
        return _skip_unknown(history, index, fact), None
    if fact.outcome is Outcome.UP:
        proven = _confirmed_outage(history, index, fact) if fact.secret == history.secret else None
        is_conclusive = OutageCounters.after(index, fact)
        return LoginHistory(
            secret=fact.secret, accepted=ObservationRef.of(index, fact, is_conclusive), counters=is_conclusive
        ), proven
    if not _rejects_password(fact) or fact.secret != history.secret or history.accepted is None:
        return _skip_unknown(history, index, fact), None
    if fact.outcome is Outcome.DOWN and is_open:
        return LoginHistory(secret=history.secret, accepted=history.accepted, counters=history.counters), None
    counters = history.counters.count_failure(index, fact)
    ref = ObservationRef.of(index, fact, counters)
    first = history.first_rejected or ref
    return replace(history, first_rejected=first, last_rejected=ref, counters=counters), None


def _rejects_password(fact: Observation) -> bool:
    """Return whether the password itself was rejected.

    A locked account, or a setting of the owner's that disables the mailbox, says nothing about the password: the
    owner may have changed it later, and the provider's login was never broken.
    """
    if fact.cause is not Cause.CREDENTIALS or fact.failed_phase in _AFTER_LOGIN:
        return False
    deciding = fact.deciding_attempt
    return deciding is None or "owner" not in (deciding.facts or {})


def _skip_unknown(history: LoginHistory, index: int, fact: Observation | Gap) -> LoginHistory:
    # Before the first rejection there is nothing to count, and a healthy target costs nothing. The clocks,
    # however, are followed from the last accepted login on.
    if not history.first_rejected:
        good = isinstance(fact, Observation) and fact.outcome is Outcome.UP
        return (
            history
            if good or history.accepted is None
            else replace(history, counters=history.counters.advance_clocks(fact))
        )
    counters = history.counters.skip_unknown(index, fact)
    # A gap counts as one more unknown observation.
    return replace(history, counters=replace(counters, unknown=history.counters.unknown + 1))


def _confirmed_outage(history: LoginHistory, index: int, fact: Observation) -> Outage | None:
    good, bad, last = history.accepted, history.first_rejected, history.last_rejected
    if good is None or bad is None or last is None:
        return None
    counters = history.counters.add_observed_time(index, fact)
    bounds = outage_bounds(good, bad, last, ObservationRef.of(index, fact, counters), counters)
    return Outage(
        id=outage_id(PROVEN_AFTERWARDS, bad),
        target=bad.target,
        last_good=bounds.last_good,
        first_bad=bounds.first_bad,
        last_bad=bounds.last_bad,
        first_good=bounds.first_good,
        down=counters.down,
        up=0,
        unknown=counters.unknown,
        largest_gap=counters.largest_gap,
        unobserved=counters.unobserved,
        causes=counters.causes,
        phases=counters.phases,
        replies=counters.replies,
        first_index=good.index,
        last_index=index,
        first_detail=bad.detail,
        durations=bounds.durations,
        clock=bounds.clock,
        anchor=bounds.anchor,
        proven_afterwards=True,
    )
