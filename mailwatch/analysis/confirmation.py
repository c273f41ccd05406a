"""Whether a channel is confirmed down: at least k vantage points observe it down at the same time.

A pure function of what each vantage point has on record up to some entry, of when that arrived, and of the time.
So an audit that reads the same entries comes to the same decision. A vantage point is

- down while an outage of its own is open, by its own rules, and its latest check is recent and not unknown;
- up while no outage is open, and its latest check is recent and succeeded;
- silent while nothing arrives of it, and unknown else: its line is down, it is paused, or waits for a login.

Unknown and silent count on neither side. What one vantage point says never changes what another one has on record.
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


@dataclass(frozen=True, slots=True)
class MemberView:
    """What a vantage point says about a channel, and the bounds of the outage from which that follows."""

    ledger: str
    sight: Sight
    last_good: Millis | None = None
    first_bad: Millis = 0
    entry: int = -1


@dataclass(slots=True)
class MemberRecord:
    """What is on record of one vantage point: its first `size` entries, of which the last arrived at `pushed_at`.

    `pushed_at` is by the hub's clock.
    """

    ledger: str
    size: int = 0
    pushed_at: Millis = 0
    targets: dict[str, TargetView] = field(default_factory=dict)

    def feed(self, index: int, kind: str, target: str, payload: Mapping[str, Any]) -> None:
        """Follow one entry of FOLLOWED_KINDS. One that cannot be read is passed over: its owner answers for it."""
        view = self.targets.setdefault(target, TargetView())
        try:
            if kind == "watch":
                _follow_watch(view, target, payload)
            elif kind == "outage":
                _follow_outage(view, index, payload)
            elif kind == "observation":
                view.outcome, view.seen_at = Outcome(payload["outcome"]), int(payload["end"])
            elif kind == "gap":
                view.outcome, view.seen_at = None, int(payload["end"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return

    def view_of(self, channel: Channel, at: Millis) -> MemberView | None:
        """Return what it says of a channel at a time by the hub's clock; None if it does not observe it."""
        targets = [view for view in self.targets.values() if view.channel == channel and view.is_observed]
        if not targets:
            return None
        sights = [(self._sight(view, at), view) for view in targets]
        down = [view for sight, view in sights if sight is Sight.DOWN]
        if down:
            first = min(down, key=lambda view: (view.first_bad, view.outage_entry))
            return MemberView(self.ledger, Sight.DOWN, first.last_good, first.first_bad, first.outage_entry)
        found = {sight for sight, _ in sights}
        said = next(sight for sight in (Sight.UP, Sight.UNKNOWN, Sight.SILENT) if sight in found)
        return MemberView(self.ledger, said)

    def channels(self) -> set[Channel]:
        """Return the channels that it observes."""
        return {view.channel for view in self.targets.values() if view.channel is not None and view.is_observed}

    def _sight(self, view: TargetView, at: Millis) -> Sight:
        recent = at - 2 * view.interval - GRACE_MS
        if self.pushed_at < recent:
            return Sight.SILENT
        if view.seen_at < recent:
            return Sight.UNKNOWN
        if view.outcome is None or view.outcome is Outcome.UNKNOWN:
            return Sight.UNKNOWN
        if view.is_open:
            # Also after a first good check: its own rules say when it is over.
            return Sight.DOWN
        return Sight.UP if view.outcome is Outcome.UP else Sight.UNKNOWN


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What the vantage points of a channel say together, at a time by the hub's clock.

    `since`: of a confirmed one, from when on at least k were down, by their clocks; `not_before`: the last time at
    which that was surely not so yet, None where that is unknown.
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
    """An outage from its confirmation on. `ended_at`: by the hub's clock; None while confirmed."""

    begun: Confirmation
    ended_at: Millis | None = None


def confirm(channel: Channel, members: Iterable[MemberRecord], k: int, at: Millis) -> Confirmation:
    """Decide about a channel by the records of its vantage points, each of which counts once."""
    found = (member.view_of(channel, at) for member in members)
    views = tuple(sorted((view for view in found if view is not None), key=lambda view: view.ledger))
    down = [view for view in views if view.sight is Sight.DOWN]
    if len(down) < k:
        return Confirmation(channel, at, k, views, confirmed=False)
    since = sorted(view.first_bad for view in down)[k - 1]
    return Confirmation(channel, at, k, views, True, since, _not_before(down, k))


def _not_before(down: Sequence[MemberView], k: int) -> Millis | None:
    """Return the last time at which surely fewer than k were down: each was up at its last good check."""
    known = sorted(view.last_good for view in down if view.last_good is not None)
    unknown = len(down) - len(known)
    # Those without a good check before may have been down for ever.
    return known[k - 1 - unknown] if unknown < k <= len(down) else None


def _follow_watch(view: TargetView, target: str, payload: Mapping[str, Any]) -> None:
    change = change_from(payload)
    settings = change.settings
    named = Channel(settings.provider, settings.kind.value, "" if settings.provider else target)
    view.channel, view.interval = named, settings.interval
    view.is_observed = change.event is not TargetEvent.END and change.reason != PAUSED


def _follow_outage(view: TargetView, index: int, payload: Mapping[str, Any]) -> None:
    view.is_open, view.outage_entry = payload["state"] == "open", index
    view.last_good, view.first_good = payload["last_good"], payload["first_good"]
    view.first_bad, view.last_bad = int(payload["first_bad"]), int(payload["last_bad"])
