"""Whether a channel is confirmed down: at least k vantage points observe it down at the same time.

A pure function of what each vantage point has on record up to some entry, of when that arrived, and of the time.
So an audit that reads the same entries comes to the same decision. A vantage point is

- down while an outage of its own is open, by its own rules, its latest check is recent and not unknown, and one
  failed since it last was unknown: a first good check after that confirms nothing;
- up while no outage is open, and its latest check is recent and succeeded;
- silent while nothing arrives of it, and unknown else: its line is down, it is paused, or waits for a login.

Unknown and silent count on neither side. What one vantage point says never changes what another one has on record.

A vantage point dates its entries by its own clock. Where these dates do not fit the time at which they arrived,
it is unknown, because of its clock. Where it says that its clock may be off by so much, the bounds are wider
by that; where it does not know, they are from its last push on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mailwatch.ledger.payloads import change_from
from mailwatch.model import PAUSED, Outcome, TargetEvent
from mailwatch.times import Millis

FOLLOWED_KINDS = ("observation", "gap", "outage", "watch")
"""Kinds of entries from which it follows."""
GRACE_MS: Millis = 30_000
"""Milliseconds beyond two intervals for which a check is recent: it waits for the next push."""
AHEAD_MS: Millis = 30_000
"""Milliseconds by which an entry may be dated after its arrival: neither clock is exact."""
LATE_MS: Millis = 120_000
"""Milliseconds, or an interval and GRACE_MS if that is longer, by which the newest entry may be older than its
arrival. It is pushed as soon as it is there: an older one was held up, or its clock is behind.
"""
MAX_MILLIS: Millis = 10**14
"""Most milliseconds of a time that is one: the year 5138."""
MAX_PROVIDER_CHARS = 1000
CLOCK = "clock"
"""Why a vantage point is unknown whose entries are dated otherwise than they arrived."""


def is_ahead(newest: Millis, arrived: Millis) -> bool:
    """Whether entries are dated after they arrived."""
    return newest - arrived > AHEAD_MS


def is_late(newest: Millis, arrived: Millis, interval: Millis = 0) -> bool:
    """Whether the newest entry is dated long before it arrived."""
    return arrived - newest > max(LATE_MS, interval + GRACE_MS)


class Sight(StrEnum):
    """What a vantage point says about a channel."""

    DOWN = "down"
    UP = "up"
    UNKNOWN = "unknown"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Channel:
    """What several vantage points observe: a kind of service of a provider, or of a target of that name."""

    provider: str
    kind: str
    target: str = ""

    def __str__(self) -> str:
        return f"{self.target or self.provider}/{self.kind}"


@dataclass(slots=True)
class TargetView:
    """The newest of each kind of entry of one target of a vantage point. Times by its own clock."""

    channel: Channel | None = None
    interval: Millis = 0
    is_observed: bool = False
    outcome: Outcome | None = None
    seen_at: Millis = 0
    """When its latest check ended; `outcome` is None after a gap."""
    is_open: bool = False
    last_good: Millis | None = None
    first_bad: Millis = 0
    last_bad: Millis = 0
    first_good: Millis | None = None
    outage_entry: int = -1
    """The entry of its newest outage; the bounds above are of that outage."""
    error: Millis | None = None
    """How far off its clock was at the first failure of that outage, at the most; None if unknown."""
    is_failing: bool = False
    """Whether a check failed since the latest good one."""
    is_certain: bool = False
    """Whether a check failed since the latest unknown one, or gap."""
    failing_error: Millis | None = None
    """How far off its clock was at the first of these, at the most; None if unknown."""

    def note_check(self, outcome: Outcome, error: Millis | None) -> None:
        """Follow the first failure since a good check, and the first since an unknown one."""
        self.is_certain = outcome is Outcome.DOWN or (self.is_certain and outcome is Outcome.UP)
        if outcome is Outcome.UP:
            self.is_failing, self.failing_error = False, None
        elif outcome is Outcome.DOWN and not self.is_failing:
            self.is_failing, self.failing_error = True, error


@dataclass(frozen=True, slots=True)
class MemberView:
    """What a vantage point says about a channel, and the bounds of the outage from which that follows.

    `reason`: why it is unknown, CLOCK or "". `down_since`, `up_until`: the bounds by a right clock, as far as that
    can be said; `up_until` is None where it cannot.
    """

    ledger: str
    sight: Sight
    last_good: Millis | None = None
    first_bad: Millis = 0
    entry: int = -1
    reason: str = ""
    down_since: Millis = field(default=0, compare=False)
    up_until: Millis | None = field(default=None, compare=False)


@dataclass(slots=True)
class MemberRecord:
    """What is on record of one vantage point: its first `size` entries, of which the last arrived at `pushed_at`.

    `pushed_at` is by the hub's clock; `newest` is the time of the last entry by its own, None for the hub itself.
    """

    ledger: str
    size: int = 0
    pushed_at: Millis = 0
    targets: dict[str, TargetView] = field(default_factory=dict)
    newest: Millis | None = None

    def feed(self, index: int, kind: str, target: str, payload: Mapping[str, Any]) -> None:
        """Follow one entry of FOLLOWED_KINDS. Of one that cannot be read nothing is known from then on: its owner
        answers for it.
        """
        view = self.targets.setdefault(target, TargetView())
        try:
            _FOLLOW[kind](view, index, target, payload)
        except (KeyError, TypeError, ValueError, AttributeError):
            # As if nothing of the kind had been before: read again later, only the newest of each kind is read.
            if kind == "watch":
                view.channel, view.interval, view.is_observed = None, 0, False
            elif kind == "outage":
                view.is_open, view.outage_entry, view.error = False, index, None
                view.last_good, view.first_bad, view.last_bad, view.first_good = None, 0, 0, None
            else:
                view.outcome, view.seen_at = None, 0

    def view_of(self, channel: Channel, at: Millis) -> MemberView | None:
        """Return what it says of a channel at a time by the hub's clock; None if it does not observe it."""
        targets = [view for view in self.targets.values() if view.channel == channel and view.is_observed]
        if not targets:
            return None
        sights = [(self._sight(view, at), view) for view in targets]
        down = [view for sight, view in sights if sight is Sight.DOWN]
        if down:
            return self._down_view(min(down, key=lambda view: (view.first_bad, view.outage_entry)), at)
        found = {sight for sight, _ in sights}
        said = next(sight for sight in (Sight.UP, Sight.UNKNOWN, Sight.SILENT) if sight in found)
        is_clock = said is Sight.UNKNOWN and any(self._is_misdated(view) for _, view in sights)
        return MemberView(self.ledger, said, reason=CLOCK if is_clock else "")

    def _down_view(self, view: TargetView, at: Millis) -> MemberView:
        error = 0 if self.newest is None else view.error
        if error is None:
            since, until = self.pushed_at, None
        else:
            since, until = view.first_bad + error, None if view.last_good is None else view.last_good - error
        return MemberView(
            self.ledger, Sight.DOWN, view.last_good, view.first_bad, view.outage_entry, "", min(since, at), until
        )

    def channels(self) -> set[Channel]:
        """Return the channels that it observes."""
        return {view.channel for view in self.targets.values() if view.channel is not None and view.is_observed}

    def _sight(self, view: TargetView, at: Millis) -> Sight:
        recent = at - 2 * view.interval - GRACE_MS
        if self.pushed_at < recent:
            return Sight.SILENT
        if view.seen_at < recent or self._is_misdated(view):
            return Sight.UNKNOWN
        if view.outcome is None or view.outcome is Outcome.UNKNOWN:
            return Sight.UNKNOWN
        if view.is_open:
            # Also after a first good check: its own rules say when it is over.
            return Sight.DOWN if view.is_certain else Sight.UNKNOWN
        return Sight.UP if view.outcome is Outcome.UP else Sight.UNKNOWN

    def _is_misdated(self, view: TargetView) -> bool:
        """Whether its entries are dated otherwise than they arrived."""
        if self.newest is None:
            return False
        dated = max(self.newest, view.seen_at, view.first_bad if view.is_open else 0)
        return is_ahead(dated, self.pushed_at) or is_late(self.newest, self.pushed_at, view.interval)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the vantage points of a channel say together, at a time by the hub's clock.

    `since`: of a confirmed one, from when on at least k were surely down; `not_before`: the last time at which
    surely fewer were, None where that is unknown. Both are as wide as their clocks may have been wrong.
    """

    channel: Channel
    at: Millis
    k: int
    views: tuple[MemberView, ...]
    confirmed: bool
    since: Millis | None = None
    not_before: Millis | None = None

    def count(self, sight: Sight) -> int:
        """Return how many vantage points say so."""
        return sum(view.sight is sight for view in self.views)

    @property
    def contradicting(self) -> tuple[MemberView, ...]:
        """The vantage points that observe it up while it is confirmed down."""
        return tuple(view for view in self.views if self.confirmed and view.sight is Sight.UP)


@dataclass(frozen=True, slots=True)
class ConfirmedOutage:
    """An outage from its confirmation on. `ended_at`: by the hub's clock; None while confirmed. `entry`: of the
    hub's ledger, by which it was confirmed.
    """

    begun: Confirmation
    ended_at: Millis | None = None
    entry: int = -1


def confirm(channel: Channel, members: Iterable[MemberRecord], k: int, at: Millis) -> Confirmation:
    """Decide about a channel by the records of its vantage points, each of which counts once."""
    found = (member.view_of(channel, at) for member in members)
    views = tuple(sorted((view for view in found if view is not None), key=lambda view: view.ledger))
    down = [view for view in views if view.sight is Sight.DOWN]
    if len(down) < k:
        return Confirmation(channel, at, k, views, confirmed=False)
    since = sorted(view.down_since for view in down)[k - 1]
    return Confirmation(channel, at, k, views, True, since, _not_before(down, k))


def _not_before(down: Sequence[MemberView], k: int) -> Millis | None:
    """Return the last time at which surely fewer than k were down: each was up at its last good check."""
    known = sorted(view.up_until for view in down if view.up_until is not None)
    unknown = len(down) - len(known)
    # Those without a good check before may have been down for ever.
    return known[k - 1 - unknown] if unknown < k <= len(down) else None


def _follow_watch(view: TargetView, _index: int, target: str, payload: Mapping[str, Any]) -> None:
    is_other = payload["event"] in (TargetEvent.BEGIN, TargetEvent.END)
    if is_other:
        view.is_failing, view.failing_error = False, None
    change = change_from(payload)
    settings = change.settings
    if len(settings.provider) > MAX_PROVIDER_CHARS:
        raise ValueError("its provider has a name that is too long")
    view.interval = _millis(settings.interval)
    view.channel = Channel(settings.provider, settings.kind.value, "" if settings.provider else target)
    view.is_observed = change.event is not TargetEvent.END and change.reason != PAUSED


def _follow_outage(view: TargetView, index: int, _target: str, payload: Mapping[str, Any]) -> None:
    bounds = (payload[key] for key in ("last_good", "first_bad", "last_bad", "first_good"))
    last_good, first_bad, last_bad, first_good = (None if at is None else _millis(at) for at in bounds)
    if first_bad is None or last_bad is None:
        raise ValueError("an outage without a failure")
    view.is_open, view.outage_entry = payload["state"] == "open", index
    view.last_good, view.first_bad, view.last_bad, view.first_good = last_good, first_bad, last_bad, first_good
    view.error = view.failing_error


def _follow_observation(view: TargetView, _index: int, _target: str, payload: Mapping[str, Any]) -> None:
    outcome, clock = Outcome(payload["outcome"]), payload.get("clock")
    error = clock.get("bound") if isinstance(clock, dict) else None
    is_error = type(error) is int and 0 <= error <= MAX_MILLIS
    view.note_check(outcome, error if is_error else None)
    view.outcome, view.seen_at = outcome, _millis(payload["end"])


def _follow_gap(view: TargetView, _index: int, _target: str, payload: Mapping[str, Any]) -> None:
    view.is_certain = False
    view.outcome, view.seen_at = None, _millis(payload["end"])


_FOLLOW = {
    "watch": _follow_watch,
    "outage": _follow_outage,
    "observation": _follow_observation,
    "gap": _follow_gap,
}


def _millis(value: object) -> Millis:
    """Return a time of an entry, if it is one. Raises ValueError."""
    if type(value) is not int or abs(value) > MAX_MILLIS:
        raise ValueError("it is no time")
    return value
