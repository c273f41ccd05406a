"""When a target was down: a pure function of the ledger and the rules; a replay gives what was told live.

A look lasts from its start to its end, and the server may break or come back in the middle of it. A good
look proves only that the server was up at some time within it, a bad one that it was down at some time
within it. Hence the four times of an outage:

    last_good   start of the last good look      first_bad   end of the first bad look
    last_bad    start of the last bad look       first_good  end of the first good look

It began between last_good and first_bad and ended between last_bad and first_good. At least it lasted
last_bad - first_bad, at most first_good - last_good; anyone can check the sums in the JSON. Where the last
bad look began before the first one ended (a single look), last_bad is shown as first_bad: at least 0.
Times that run backwards because the clock was set are held at the later one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from mailwatch.analysis.login_outages import PROVEN, Proof, advance_proof
from mailwatch.analysis.outage import (
    Outage,
    Steps,
    bounds_of,
    defended,
    durations,
    named_after,
    outage_id,
    outage_json,
    outage_payload,
    payload_json,
    stepped,
    told_json,
)
from mailwatch.analysis.outage_counters import NOTHING, Look, Tally
from mailwatch.ledger.payloads import read_rules, written_rules
from mailwatch.model import Cause, Fact, Gap, Observation, Outcome, Phase, Rules, WatchChange, WatchEvent

__all__ = [
    "PROVEN",
    "Event",
    "Outage",
    "Proof",
    "Rules",
    "State",
    "Steps",
    "Transition",
    "advance",
    "advance_proof",
    "defended",
    "detect",
    "durations",
    "named_after",
    "next_delay",
    "outage_json",
    "outage_payload",
    "payload_json",
    "read_rules",
    "stepped",
    "told_json",
    "written_rules",
]

_BEFORE_LOGIN = frozenset({Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING})
_UNTIL_LOGIN = _BEFORE_LOGIN | {Phase.AUTH}
StateName = Literal["up", "suspect", "down", "recovering", "unknown"]


@dataclass(frozen=True, slots=True)
class Event:
    """A fact of one target and its place in the ledger."""

    index: int
    fact: Fact


@dataclass(frozen=True, slots=True)
class Transition:
    """An outage that opened, closed (its `first_good` is set), or whose target is watched no longer."""

    outage: Outage


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a target stands. All of it follows from the events since the last good look."""

    name: StateName = "unknown"
    is_open: bool = False
    last_good: Look | None = None
    first_bad: Look | None = None
    last_bad: Look | None = None
    first_good: Look | None = None
    streak: int = 0
    """Bad looks in a row that may open, or good ones in a row that may close."""
    doubts: int = 0
    """Looks since the first of that streak, the unknown ones among them."""
    throttled: int = 0
    """Looks in a row that the server slowed down or turned away."""
    tally: Tally = NOTHING
    ending: Tally | None = None
    """The tally when the first good look came: the final one, should that look be confirmed."""

    @property
    def outage(self) -> Outage | None:
        """The open outage as of the latest event, None when there is none."""
        return _outage(self, None, self.tally) if self.is_open else None


def advance(state: State, event: Event, rules: Rules) -> tuple[State, Transition | None]:
    """Return the state after one more event, and the outage it opened or closed, if any.

    A change is dated to the look that began the streak, not to the one that confirmed it. Gaps and unknown
    looks neither count in a streak nor break it. Only `name` forgets: it tells what the latest event saw.
    A rejected login, or a look that does without, breaks a streak of failures to get that far: the server
    answered us. Scattered failures would else add up to an outage while a login is held back.
    """
    fact, index = event.fact, event.index
    if isinstance(fact, WatchChange):
        return _watched(state, index, fact)
    if isinstance(fact, Gap):
        return replace(state, name="unknown", tally=state.tally.blind(index, fact)), None
    if fact.outcome is Outcome.UNKNOWN:
        if fact.cause is Cause.CREDENTIALS and not state.is_open:
            state = _answered(state, _UNTIL_LOGIN if fact.with_login else _BEFORE_LOGIN)
        unknown = replace(
            state,
            name="unknown",
            doubts=state.doubts + 1,
            throttled=state.throttled + 1 if fact.cause is Cause.THROTTLED else 0,
            tally=state.tally.blind(index, fact),
        )
        return unknown, None
    if fact.outcome is Outcome.DOWN:
        return _down(state, index, fact, rules)
    return _up(state, index, fact, rules)


def detect(events: Iterable[Event], rules: Rules) -> list[Outage]:
    """Return the outages of one target, oldest first; the last may be open.

    Two of them share no certain time. With `close_after` 1 a single good look may end one and precede the
    next, so that their uncertain edges meet within that look.
    """
    state, found = State(), []
    for event in events:
        state, transition = advance(state, event, rules)
        if transition is not None and transition.outage.state != "open":
            found.append(transition.outage)
    return found if state.outage is None else [*found, state.outage]


def next_delay(state: State, interval: float, rules: Rules) -> float:
    """Return the seconds until the next look; more than `interval` only for a server that slows us down.

    In doubt (suspect or recovering) looks come sooner, and unknown ones do not put an end to the doubt.
    In an outage they come at the last of `recheck`, so that its end is dated as tightly as its beginning.
    A server that throttles us is left alone for twice the interval, then four times, up to sixteen.
    """
    if state.throttled:
        return interval * 2.0 ** min(state.throttled, 4)
    if state.first_bad is None or not rules.recheck:
        return interval
    in_doubt = not state.is_open or state.first_good is not None
    step = min(state.doubts, len(rules.recheck)) - 1 if in_doubt else -1
    return min(interval, rules.recheck[step])


def _watched(state: State, index: int, change: WatchChange) -> tuple[State, Transition | None]:
    """Another service, or none, is watched from now on: what is known of the old one says nothing of it.

    An open outage becomes unwatched: down up to its last failure, and nobody knows how much longer. This entry is
    its last: without it the outage would be open.
    """
    if change.event in (WatchEvent.CONTINUE, WatchEvent.CHANGE):
        return state, None
    tally = replace(state.tally, last_index=index)
    left = _outage(state, None, tally, unwatched=True) if state.is_open else None
    return State(), None if left is None else Transition(left)


def _answered(state: State, phases: frozenset[Phase]) -> State:
    """The server answered in these phases: failures in them are forgotten, unless others came with them."""
    if not phases.issuperset(state.tally.phases):
        return state
    return replace(state, first_bad=None, last_bad=None, streak=0, doubts=0, tally=state.tally.forgiven())


def _down(state: State, index: int, fact: Observation, rules: Rules) -> tuple[State, Transition | None]:
    # Unknown looks before anything was known belong to no outage.
    tally = (state.tally if state.last_good or state.first_bad else NOTHING).failed(index, fact)
    look = Look.of(index, fact, tally)
    streak = 0 if state.is_open else state.streak + 1
    is_open = state.is_open or streak >= rules.open_after
    after = replace(
        state,
        name="down" if is_open else "suspect",
        is_open=is_open,
        first_bad=state.first_bad or look,
        last_bad=look,
        first_good=None,
        streak=0 if is_open else streak,
        doubts=0 if is_open else (state.doubts if state.first_bad else 0) + 1,
        throttled=0,
        tally=tally,
        ending=None,
    )
    opened = after.outage if is_open and not state.is_open else None
    return after, None if opened is None else Transition(opened)


def _up(state: State, index: int, fact: Observation, rules: Rules) -> tuple[State, Transition | None]:
    begun = Tally.after(index, fact)
    healthy = State(name="up", last_good=Look.of(index, fact, begun), tally=begun)
    if not state.is_open:
        return healthy, None
    tally = state.tally.seen(index, fact)
    streak = state.streak + 1
    first_good, ending = state.first_good or Look.of(index, fact, tally), state.ending or tally
    if streak >= rules.close_after:
        return healthy, Transition(_outage(state, first_good, ending))
    recovering = replace(
        state,
        name="recovering",
        first_good=first_good,
        streak=streak,
        doubts=(state.doubts if state.first_good else 0) + 1,
        throttled=0,
        tally=replace(tally, up=tally.up + 1),
        ending=ending,
    )
    return recovering, None


def _outage(state: State, end: Look | None, tally: Tally, *, unwatched: bool = False) -> Outage:
    good, bad, last = state.last_good, state.first_bad, state.last_bad
    assert bad is not None
    assert last is not None
    bounds = bounds_of(good, bad, last, end, tally)
    return Outage(
        id=outage_id("", bad),
        target=bad.target,
        last_good=bounds.last_good,
        first_bad=bounds.first_bad,
        last_bad=bounds.last_bad,
        first_good=bounds.first_good,
        down=tally.down,
        up=tally.up,
        unknown=tally.unknown,
        largest_gap=tally.largest_gap,
        unobserved=tally.unobserved,
        causes=tally.causes,
        phases=tally.phases,
        replies=tally.replies,
        first_index=(good or bad).index,
        last_index=tally.last_index,
        first_detail=bad.detail,
        durations=bounds.durations,
        unwatched=unwatched,
        clock=bounds.clock,
        anchor=bounds.anchor,
    )
