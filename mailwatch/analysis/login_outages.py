"""Outages of the login that are proven afterwards: the very secret that was accepted is rejected, then accepted.

While it is rejected nobody can tell a mistyped or changed password from a broken login, so that the looks are
unknown. Accepted again unchanged, it was good all along. The bounds are as wide as the back-off between logins
made them: `last_good` is the last accepted login, `first_bad` and `last_bad` the first and last rejected one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mailwatch.analysis.outage import Outage, bounds_of, outage_id
from mailwatch.analysis.outage_counters import NOTHING, Look, Tally
from mailwatch.model import Cause, Fact, Gap, Observation, Outcome, Phase, WatchChange, WatchEvent

PROVEN = "proven afterwards"
"""What the name of such an outage begins with, before it is hashed."""
_AFTER_LOGIN = frozenset({Phase.MAILBOX, Phase.FETCH, Phase.SUBMIT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is known of one target's login: the last accepted look, and what was rejected since."""

    secret: str = ""
    accepted: Look | None = None
    first_rejected: Look | None = None
    last_rejected: Look | None = None
    tally: Tally = NOTHING


def advance_proof(proof: Proof, index: int, fact: Fact, is_open: bool) -> tuple[Proof, Outage | None]:
    """Return the proof after one more fact, and the outage that it proves, if any.

    `is_open`: whether the outage rules have an outage open after that fact. A rejected look that is down already
    (rejected together with other accounts) then belongs to it: what was rejected before lies within its bounds
    and is not told twice. Such looks that are too few to open one are proven afterwards like the others.
    """
    if isinstance(fact, WatchChange):
        # Another login, or none, from now on.
        return (Proof() if fact.event in (WatchEvent.BEGIN, WatchEvent.END) else proof), None
    if isinstance(fact, Gap):
        return _blind(proof, index, fact), None
    if not fact.with_login or not fact.secret:
        return _blind(proof, index, fact), None
    if fact.outcome is Outcome.UP:
        proven = _proven(proof, index, fact) if fact.secret == proof.secret else None
        seen = Tally.after(index, fact)
        return Proof(secret=fact.secret, accepted=Look.of(index, fact, seen), tally=seen), proven
    if not _rejects_password(fact) or fact.secret != proof.secret or proof.accepted is None:
        return _blind(proof, index, fact), None
    if fact.outcome is Outcome.DOWN and is_open:
        return Proof(secret=proof.secret, accepted=proof.accepted, tally=proof.tally), None
    tally = proof.tally.failed(index, fact)
    look = Look.of(index, fact, tally)
    first = proof.first_rejected or look
    return replace(proof, first_rejected=first, last_rejected=look, tally=tally), None


def _rejects_password(fact: Observation) -> bool:
    """Whether the password itself was rejected.

    An account that is locked, or a setting of the owner's that keeps the mailbox shut, says nothing of the
    password: the owner may have undone it later, and the provider's login was never broken.
    """
    if fact.cause is not Cause.CREDENTIALS or fact.failed_phase in _AFTER_LOGIN:
        return False
    deciding = fact.deciding
    return deciding is None or "owner" not in (deciding.facts or {})


def _blind(proof: Proof, index: int, fact: Observation | Gap) -> Proof:
    # Until something is rejected there is nothing to count, and a healthy target costs nothing; but how the clocks
    # go from the last accepted login on is known of all that follows it.
    if not proof.first_rejected:
        good = isinstance(fact, Observation) and fact.outcome is Outcome.UP
        return proof if good or proof.accepted is None else replace(proof, tally=proof.tally.lived(fact))
    tally = proof.tally.blind(index, fact)
    # A gap in between is one more time in which nobody could tell.
    return replace(proof, tally=replace(tally, unknown=proof.tally.unknown + 1))


def _proven(proof: Proof, index: int, fact: Observation) -> Outage | None:
    good, bad, last = proof.accepted, proof.first_rejected, proof.last_rejected
    if good is None or bad is None or last is None:
        return None
    tally = proof.tally.seen(index, fact)
    bounds = bounds_of(good, bad, last, Look.of(index, fact, tally), tally)
    return Outage(
        id=outage_id(PROVEN, bad),
        target=bad.target,
        last_good=bounds.last_good,
        first_bad=bounds.first_bad,
        last_bad=bounds.last_bad,
        first_good=bounds.first_good,
        down=tally.down,
        up=0,
        unknown=tally.unknown,
        largest_gap=tally.largest_gap,
        unobserved=tally.unobserved,
        causes=tally.causes,
        phases=tally.phases,
        replies=tally.replies,
        first_index=good.index,
        last_index=index,
        first_detail=bad.detail,
        durations=bounds.durations,
        clock=bounds.clock,
        anchor=bounds.anchor,
        proven_afterwards=True,
    )
