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

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mailwatch.models import Cause, Gap, Kind, Millis, Observation, Outcome, rfc3339

REPLIES = 5
"""How many of the server's latest distinct words an outage keeps."""

DURATIONS = ("min", "max", "estimate", "uncertainty")

StateName = Literal["up", "suspect", "down", "recovering", "unknown"]


@dataclass(frozen=True, slots=True)
class Rules:
    """When an outage opens and closes, and the seconds between looks that are in doubt, first to last."""

    open_after: int = 3
    close_after: int = 2
    recheck: tuple[float, ...] = (5.0, 10.0, 20.0)


@dataclass(frozen=True, slots=True)
class Event:
    """A fact of one target and its place in the ledger."""

    index: int
    fact: Observation | Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A measured time in which a target was down; open while `first_good` is None.

    1. `down`, `up` and `unknown` count the looks between the last good and the first good one; without a
       last good one, from the first bad one on.
    2. `largest_gap` is the longest stretch from the end of a conclusive look (up or down) to the start of
       the next: a shorter recovery cannot be excluded.
    3. `unobserved` is the total length of those stretches that hold an unknown look or a gap, each counted
       whole: nobody can say how long before and after it we would have seen nothing.
    4. `causes` and `phases` count the bad looks; `replies` are the last words of the server on them.
    """

    id: str
    target: str
    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None
    down: int
    up: int
    unknown: int
    largest_gap: Millis
    unobserved: Millis
    causes: Mapping[str, int]
    phases: Mapping[str, int]
    replies: tuple[str, ...]
    first_index: int
    last_index: int
    first_detail: str


@dataclass(frozen=True, slots=True)
class Transition:
    """An outage that opened, or closed when its `first_good` is set."""

    outage: Outage


@dataclass(frozen=True, slots=True)
class _Look:
    """What an outage needs to know of one of its four looks."""

    index: int
    target: str
    start: Millis
    end: Millis
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tally:
    """What was seen since the last good look, in a size that does not grow with the outage."""

    last_index: int = 0
    down: int = 0
    up: int = 0
    unknown: int = 0
    largest_gap: Millis = 0
    unobserved: Millis = 0
    causes: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, int] = field(default_factory=dict)
    replies: tuple[str, ...] = ()
    seen_until: Millis | None = None
    blind_until: Millis | None = None

    def blind(self, index: int, until: Millis, unknown: int) -> _Tally:
        """Take in a gap or an unknown look."""
        told = replace(self, last_index=index, unknown=self.unknown + unknown)
        if self.seen_until is None:
            return told
        counted = self.seen_until if self.blind_until is None else self.blind_until
        return replace(
            told,
            largest_gap=max(self.largest_gap, until - self.seen_until),
            unobserved=self.unobserved + max(0, until - counted),
            blind_until=max(counted, until),
        )

    def seen(self, index: int, look: Observation) -> _Tally:
        """Take in the time since the last conclusive look, without counting this one."""
        start, end = look.started_at, look.ended_at
        since = start if self.seen_until is None else self.seen_until
        counted = start if self.blind_until is None else self.blind_until
        return replace(
            self,
            last_index=index,
            largest_gap=max(self.largest_gap, start - since),
            unobserved=self.unobserved + max(0, start - counted),
            seen_until=max(since, end),
            blind_until=None,
        )

    def failed(self, index: int, look: Observation) -> _Tally:
        """Take in a bad look."""
        words = [word for attempt in look.attempts[-1:] for word in attempt.replies[-1:]]
        return replace(
            self.seen(index, look),
            down=self.down + 1,
            causes=_counted(self.causes, look.cause),
            phases=_counted(self.phases, look.failed_phase),
            replies=tuple([word for word in self.replies if word not in words] + words)[-REPLIES:],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Where a target stands. All of it follows from the events since the last good look."""

    name: StateName = "unknown"
    is_open: bool = False
    last_good: _Look | None = None
    first_bad: _Look | None = None
    last_bad: _Look | None = None
    first_good: _Look | None = None
    streak: int = 0
    """Bad looks in a row that may open, or good ones in a row that may close."""
    doubts: int = 0
    """Looks since the first of that streak, the unknown ones among them."""
    throttled: bool = False
    tally: _Tally = _Tally()
    ending: _Tally | None = None
    """The tally when the first good look came: the final one, should that look be confirmed."""

    @property
    def outage(self) -> Outage | None:
        """The open outage as of the latest event, None when there is none."""
        return _outage(self, None, self.tally) if self.is_open else None


def advance(state: State, event: Event, rules: Rules) -> tuple[State, Transition | None]:
    """Return the state after one more event, and the outage it opened or closed, if any.

    A change is dated to the look that began the streak, not to the one that confirmed it. Gaps and unknown
    looks neither count in a streak nor break it. Only `name` forgets: it tells what the latest event saw.
    """
    fact, index = event.fact, event.index
    if isinstance(fact, Gap):
        return replace(state, name="unknown", tally=state.tally.blind(index, fact.end, 0)), None
    if fact.outcome is Outcome.UNKNOWN:
        unknown = replace(
            state,
            name="unknown",
            doubts=state.doubts + 1,
            throttled=fact.cause is Cause.THROTTLED,
            tally=state.tally.blind(index, fact.ended_at, 1),
        )
        return unknown, None
    look = _Look(index, fact.target, fact.started_at, fact.ended_at, fact.detail)
    if fact.outcome is Outcome.DOWN:
        return _down(state, look, fact, rules)
    return _up(state, look, fact, rules)


def detect(events: Iterable[Event], rules: Rules) -> list[Outage]:
    """Return the outages of one target, oldest first; the last may be open.

    Two of them share no certain time. With `close_after` 1 a single good look may end one and precede the
    next, so that their uncertain edges meet within that look.
    """
    state, found = State(), []
    for event in events:
        state, transition = advance(state, event, rules)
        if transition is not None and transition.outage.first_good is not None:
            found.append(transition.outage)
    return found if state.outage is None else [*found, state.outage]


def next_delay(state: State, interval: float, rules: Rules) -> float:
    """Return the seconds until the next look; never more than `interval`.

    In doubt (suspect or recovering) looks come sooner, and unknown ones do not put an end to the doubt.
    In an outage they come at the last of `recheck`, so that its end is dated as tightly as its beginning.
    A server that throttles us is left alone for the whole interval.
    """
    if state.first_bad is None or state.throttled or not rules.recheck:
        return interval
    in_doubt = not state.is_open or state.first_good is not None
    step = min(state.doubts, len(rules.recheck)) - 1 if in_doubt else -1
    return min(interval, rules.recheck[step])


def outage_payload(outage: Outage, provider: str, kind: Kind, vantage_name: str) -> dict[str, Any]:
    """Return the outage as the ledger keeps it: whole numbers only, since floats have no canonical form."""
    return {
        "id": outage.id,
        "target": outage.target,
        "provider": provider,
        "kind": kind.value,
        "vantage_point": vantage_name,
        "state": "open" if outage.first_good is None else "closed",
        "last_good": outage.last_good,
        "first_bad": outage.first_bad,
        "last_bad": outage.last_bad,
        "first_good": outage.first_good,
        "duration_ms": _durations(outage),
        "observations": {"down": outage.down, "up": outage.up, "unknown": outage.unknown},
        "largest_gap_ms": outage.largest_gap,
        "unobserved_ms": outage.unobserved,
        "causes": dict(sorted(outage.causes.items())),
        "phases": dict(sorted(outage.phases.items())),
        "ledger": {"first": outage.first_index, "last": outage.last_index},
        "replies": list(outage.replies),
        "first_detail": outage.first_detail,
    }


def payload_json(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a payload of the ledger into the public JSON: times in RFC 3339, durations in seconds."""
    return {
        **{key: payload[key] for key in ("id", "target", "provider", "kind", "vantage_point", "state")},
        **{key: _time(payload[key]) for key in ("last_good", "first_bad", "last_bad", "first_good")},
        "duration": {key: _seconds(payload["duration_ms"][key]) for key in DURATIONS},
        "observations": payload["observations"],
        "largest_gap": _seconds(payload["largest_gap_ms"]),
        "unobserved": _seconds(payload["unobserved_ms"]),
        **{key: payload[key] for key in ("causes", "phases", "ledger")},
    }


def outage_json(outage: Outage, provider: str, kind: Kind, vantage_name: str) -> dict[str, Any]:
    """Return the outage as `mailwatch outages --json` and the API tell it."""
    return payload_json(outage_payload(outage, provider, kind, vantage_name))


def _down(state: State, look: _Look, fact: Observation, rules: Rules) -> tuple[State, Transition | None]:
    # Unknown looks before anything was known belong to no outage.
    tally = state.tally if state.last_good or state.first_bad else _Tally()
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
        throttled=False,
        tally=tally.failed(look.index, fact),
        ending=None,
    )
    opened = after.outage if is_open and not state.is_open else None
    return after, None if opened is None else Transition(opened)


def _up(state: State, look: _Look, fact: Observation, rules: Rules) -> tuple[State, Transition | None]:
    tally = state.tally.seen(look.index, fact)
    healthy = State(name="up", last_good=look, tally=_Tally(last_index=look.index, seen_until=look.end))
    if not state.is_open:
        return healthy, None
    streak = state.streak + 1
    first_good, ending = state.first_good or look, state.ending or tally
    if streak >= rules.close_after:
        return healthy, Transition(_outage(state, first_good, ending))
    recovering = replace(
        state,
        name="recovering",
        first_good=first_good,
        streak=streak,
        doubts=(state.doubts if state.first_good else 0) + 1,
        throttled=False,
        tally=replace(tally, up=tally.up + 1),
        ending=ending,
    )
    return recovering, None


def _outage(state: State, end: _Look | None, tally: _Tally) -> Outage:
    good, bad, last = state.last_good, state.first_bad, state.last_bad
    assert bad is not None
    assert last is not None
    last_bad = max(last.start, bad.end)
    digest = hashlib.sha256(f"{bad.target}\n{bad.index}\n{bad.start}".encode()).hexdigest()
    return Outage(
        id=digest[:12],
        target=bad.target,
        last_good=None if good is None else min(good.start, bad.end),
        first_bad=bad.end,
        last_bad=last_bad,
        first_good=None if end is None else max(end.end, last_bad),
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
    )


def _durations(outage: Outage) -> dict[str, int | None]:
    """Minimum, maximum, estimate and twice its standard uncertainty (GUM, type B, uniform)."""
    good, bad, last, end = outage.last_good, outage.first_bad, outage.last_bad, outage.first_good
    if good is None or end is None:
        return {"min": last - bad, "max": None, "estimate": None, "uncertainty": None}
    return {
        "min": last - bad,
        "max": end - good,
        "estimate": round((end + last - bad - good) / 2),
        "uncertainty": round(2 * math.sqrt(((bad - good) ** 2 + (end - last) ** 2) / 12)),
    }


def _counted(counts: Mapping[str, int], name: str | None) -> Mapping[str, int]:
    return counts if name is None else {**counts, str(name): counts.get(name, 0) + 1}


def _time(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)


def _seconds(millis: Millis | None) -> float | None:
    return None if millis is None else millis / 1000
