"""Outages of the login that are proven afterwards: the very secret that was accepted is rejected, then accepted.

While it is rejected nobody can tell a mistyped or changed password from a broken login, so that the looks are
unknown. Accepted again unchanged, it was good all along. The bounds are as wide as the back-off between logins
made them: `last_good` is the last accepted login, `first_bad` and `last_bad` the first and last rejected one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mailwatch.models import Cause, Gap, Observation, Outcome
from mailwatch.outages.outage import Outage, outage_id
from mailwatch.outages.tally import NOTHING, Look, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What is known of one target's login: the last accepted look, and what was rejected since."""

    secret: str = ""
    accepted: Look | None = None
    first_rejected: Look | None = None
    last_rejected: Look | None = None
    tally: Tally = NOTHING


def advance_proof(proof: Proof, index: int, fact: Observation | Gap, is_open: bool) -> tuple[Proof, Outage | None]:
    """Return the proof after one more fact, and the outage that it proves, if any.

    `is_open`: whether the outage rules have an outage open after that fact. A rejected look that is down already
    (rejected together with other accounts) then belongs to it: what was rejected before lies within its bounds
    and is not told twice. Such looks that are too few to open one are proven afterwards like the others.
    """
    if isinstance(fact, Gap):
        return _blind(proof, index, fact.end), None
    if not fact.with_login or not fact.secret:
        return _blind(proof, index, fact.ended_at), None
    look = Look(index, fact.target, fact.started_at, fact.ended_at, fact.detail)
    if fact.outcome is Outcome.UP:
        proven = _proven(proof, look, fact) if fact.secret == proof.secret else None
        seen = Tally(last_index=index, seen_until=fact.ended_at)
        return Proof(secret=fact.secret, accepted=look, tally=seen), proven
    if fact.cause is not Cause.CREDENTIALS or fact.secret != proof.secret or proof.accepted is None:
        return _blind(proof, index, fact.ended_at), None
    if fact.outcome is Outcome.DOWN and is_open:
        return Proof(secret=proof.secret, accepted=proof.accepted, tally=proof.tally), None
    first = proof.first_rejected or look
    tally = proof.tally.failed(index, fact)
    return replace(proof, first_rejected=first, last_rejected=look, tally=tally), None


def _blind(proof: Proof, index: int, until: int) -> Proof:
    # Until something is rejected there is nothing to count, and a healthy target costs nothing.
    return replace(proof, tally=proof.tally.blind(index, until, 1)) if proof.first_rejected else proof


def _proven(proof: Proof, end: Look, fact: Observation) -> Outage | None:
    good, bad, last = proof.accepted, proof.first_rejected, proof.last_rejected
    if good is None or bad is None or last is None:
        return None
    tally = proof.tally.seen(end.index, fact)
    last_bad = max(last.start, bad.end)
    return Outage(
        id=outage_id("proven afterwards", bad),
        target=bad.target,
        last_good=min(good.start, bad.end),
        first_bad=bad.end,
        last_bad=last_bad,
        first_good=max(end.end, last_bad),
        down=tally.down,
        up=0,
        unknown=tally.unknown,
        largest_gap=tally.largest_gap,
        unobserved=tally.unobserved,
        causes=tally.causes,
        phases=tally.phases,
        replies=tally.replies,
        first_index=good.index,
        last_index=end.index,
        first_detail=bad.detail,
        proven_afterwards=True,
    )
