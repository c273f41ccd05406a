"""Detects outages: a pure function of ledger and rules, so that a replay gives the same result as live detection.

A probe takes time, and the server may fail or recover during it. An up observation proves only that the server was
up at some moment within it, a down observation that it was down at some moment within it. Hence the four times of
an outage:

    last_good   start of the last up observation      first_bad   end of the first down observation
    last_bad    start of the last down observation    first_good  end of the first up observation

It began between last_good and first_bad and ended between last_bad and first_good. Its duration is at least
last_bad - first_bad and at most first_good - last_good; anyone can check this in the JSON. If the last down
observation began before the first one ended (a single one), last_bad equals first_bad: at least 0. If the clock
was set back, a time earlier than its predecessor is raised to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from mailwatch.analysis.login_outages import LoginHistory, advance_login_history
from mailwatch.analysis.outage import (
    Outage,
    outage_bounds,
    outage_id,
)
from mailwatch.analysis.outage_counters import EMPTY_COUNTERS, ObservationRef, OutageCounters
from mailwatch.model import Cause, Fact, Gap, Observation, Outcome, Phase, Rules, TargetChange, TargetEvent

_BEFORE_LOGIN = frozenset({Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING})
_UNTIL_LOGIN = _BEFORE_LOGIN | {Phase.AUTH}
StateName = Literal["up", "suspect", "down", "recovering", "unknown"]


@dataclass(frozen=True, slots=True)
class IndexedFact:
    """A fact of one target and its place in the ledger."""

    index: int
    fact: Fact


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The detection state of a target. It follows from the facts since the last up observation alone."""

    name: StateName = "unknown"
    is_open: bool = False
    last_good: ObservationRef | None = None
    first_bad: ObservationRef | None = None
    last_bad: ObservationRef | None = None
    first_good: ObservationRef | None = None
    streak: int = 0
    """Consecutive down observations that may open an outage, or up observations that may close it."""
    rechecks: int = 0
    """Observations since the first of that streak, including unknown ones."""
    throttled: int = 0
    """Consecutive observations that the server throttled."""
    counters: OutageCounters = EMPTY_COUNTERS
    closing_counters: OutageCounters | None = None
    """The counters at the first up observation: final if that is confirmed."""

    @property
    def is_suspect(self) -> bool:
        """Whether there are failures that opened no outage yet; unknown observations may have followed."""
        return self.first_bad is not None and not self.is_open

    @property
    def outage(self) -> Outage | None:
        """The open outage as of the latest fact, None if there is none."""
        return _outage_of(self, None, self.counters) if self.is_open else None


def _advance(state: State, indexed: IndexedFact, rules: Rules) -> tuple[State, Outage | None]:
    """Return the state after one more fact, and the outage that opened, closed (`first_good` set), or became
    unwatched.

    A change is dated to the observation that began the streak, not to the observation that confirmed it. Gaps and
    unknown observations neither count in a streak nor break it; only `name` always follows the latest fact. A
    rejected login, or a probe without login, breaks a streak of failures in earlier phases, since the server
    answered. Otherwise scattered failures would add up to an outage while logins are held back.
    """
    fact, index = indexed.fact, indexed.index
    if isinstance(fact, TargetChange):
        return _on_target_change(state, index, fact)
    if isinstance(fact, Gap):
        return replace(state, name="unknown", counters=state.counters.skip_unknown(index, fact)), None
    if fact.outcome is Outcome.UNKNOWN:
        if fact.cause is Cause.CREDENTIALS and not state.is_open:
            state = _reset_answered_failures(state, _UNTIL_LOGIN if fact.with_login else _BEFORE_LOGIN)
        unknown = replace(
            state,
            name="unknown",
            rechecks=state.rechecks + 1,
            throttled=state.throttled + 1 if fact.cause is Cause.THROTTLED else 0,
            counters=state.counters.skip_unknown(index, fact),
        )
        return unknown, None
    if fact.outcome is Outcome.DOWN:
        return _on_down(state, index, fact, rules)
    return _on_up(state, index, fact, rules)


_NOTHING_OBSERVED = State()
_NO_LOGINS = LoginHistory()


@dataclass(frozen=True, slots=True)
class Detector:
    """Follows one target fact by fact: live, at a restart, in an audit and in a verifier, always by `feed`."""

    state: State = _NOTHING_OBSERVED
    login_history: LoginHistory = _NO_LOGINS

    def feed(self, indexed: IndexedFact, rules: Rules) -> tuple[Detector, tuple[Outage, ...]]:
        """Return the detector after one more fact, and the changed outages in the order of recording.

        1. The state machine: an outage that opened, closed or became unwatched.
        2. The login history, which needs to know whether an outage is open now: an outage proven afterwards.
        """
        state, outage = _advance(self.state, indexed, rules)
        history, proven = advance_login_history(self.login_history, indexed.index, indexed.fact, state.is_open)
        changed = () if outage is None else (outage,)
        return Detector(state, history), changed if proven is None else (*changed, proven)


def detect(events: Iterable[IndexedFact], rules: Rules) -> list[Outage]:
    """Return the outages of one target, oldest first; the last may be open.

    No two of them share certain time. With `close_after` 1 a single up observation may end one outage and precede
    the next, so that their uncertain edges meet within that observation.
    """
    state, found = State(), []
    for event in events:
        state, outage = _advance(state, event, rules)
        if outage is not None and outage.state != "open":
            found.append(outage)
    return found if state.outage is None else [*found, state.outage]


def next_delay(state: State, interval: float, rules: Rules) -> float:
    """Return the seconds until the next probe; more than `interval` only if the server throttles us.

    When suspect or recovering, probes come sooner, and unknown observations do not end that. During an outage they
    come at the last value of `recheck`, so that its end is dated as tightly as its beginning. A throttling server
    is left alone for twice the interval, then four times, up to sixteen times.
    """
    if state.throttled:
        return interval * 2.0 ** min(state.throttled, 4)
    if state.first_bad is None or not rules.recheck:
        return interval
    needs_recheck = not state.is_open or state.first_good is not None
    step = min(state.rechecks, len(rules.recheck)) - 1 if needs_recheck else -1
    return min(interval, rules.recheck[step])


def _on_target_change(state: State, index: int, change: TargetChange) -> tuple[State, Outage | None]:
    """Handle a target that begins or ends: facts about the old service say nothing about a new one.

    An open outage becomes unwatched: down up to its last failure, unknown from then on. This entry becomes its
    last entry, since without it the outage would be open.
    """
    if change.event in (TargetEvent.CONTINUE, TargetEvent.CHANGE):
        return state, None
    counters = replace(state.counters, last_index=index)
    left = _outage_of(state, None, counters, unwatched=True) if state.is_open else None
    return State(), left


def _reset_answered_failures(state: State, phases: frozenset[Phase]) -> State:
    """Forget failures in `phases`, in which the server has now answered, unless there were failures in others."""
    if not phases.issuperset(state.counters.phases):
        return state
    return replace(
        state, first_bad=None, last_bad=None, streak=0, rechecks=0, counters=state.counters.reset_failures()
    )


def _on_down(state: State, index: int, fact: Observation, rules: Rules) -> tuple[State, Outage | None]:
    # Unknown observations before the first conclusive one belong to no outage.
    counters = (state.counters if state.last_good or state.first_bad else EMPTY_COUNTERS).count_failure(
        index, fact
    )
    ref = ObservationRef.of(index, fact, counters)
    streak = 0 if state.is_open else state.streak + 1
    is_open = state.is_open or streak >= rules.open_after
    after = replace(
        state,
        name="down" if is_open else "suspect",
        is_open=is_open,
        first_bad=state.first_bad or ref,
        last_bad=ref,
        first_good=None,
        streak=0 if is_open else streak,
        rechecks=0 if is_open else (state.rechecks if state.first_bad else 0) + 1,
        throttled=0,
        counters=counters,
        closing_counters=None,
    )
    opened = after.outage if is_open and not state.is_open else None
    return after, opened


def _on_up(state: State, index: int, fact: Observation, rules: Rules) -> tuple[State, Outage | None]:
    begun = OutageCounters.after(index, fact)
    healthy = State(name="up", last_good=ObservationRef.of(index, fact, begun), counters=begun)
    if not state.is_open:
        return healthy, None
    counters = state.counters.add_observed_time(index, fact)
    streak = state.streak + 1
    first_good, ending = (
        state.first_good or ObservationRef.of(index, fact, counters),
        state.closing_counters or counters,
    )
    if streak >= rules.close_after:
        return healthy, _outage_of(state, first_good, ending)
    recovering = replace(
        state,
        name="recovering",
        first_good=first_good,
        streak=streak,
        rechecks=(state.rechecks if state.first_good else 0) + 1,
        throttled=0,
        counters=replace(counters, up=counters.up + 1),
        closing_counters=ending,
    )
    return recovering, None


def _outage_of(
    state: State, end: ObservationRef | None, counters: OutageCounters, *, unwatched: bool = False
) -> Outage:
    good, bad, last = state.last_good, state.first_bad, state.last_bad
    assert bad is not None
    assert last is not None
    bounds = outage_bounds(good, bad, last, end, counters)
    return Outage(
        id=outage_id("", bad),
        target=bad.target,
        last_good=bounds.last_good,
        first_bad=bounds.first_bad,
        last_bad=bounds.last_bad,
        first_good=bounds.first_good,
        down=counters.down,
        up=counters.up,
        unknown=counters.unknown,
        largest_gap=counters.largest_gap,
        unobserved=counters.unobserved,
        causes=counters.causes,
        phases=counters.phases,
        replies=counters.replies,
        first_index=(good or bad).index,
        last_index=counters.last_index,
        first_detail=bad.detail,
        durations=bounds.durations,
        unwatched=unwatched,
        clock=bounds.clock,
        anchor=bounds.anchor,
    )
