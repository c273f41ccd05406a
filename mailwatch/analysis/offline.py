"""Periods when our own line was down: a pure function of the guard's entries, with bounds like those of an outage.

A round of checks takes time, and the line may fail or recover during it. Hence the four times, as in detector.py:

    last_online   start of the last good round      first_offline  end of the first silent round
    last_offline  start of the last silent round    first_online   end of the first good round

The period began between the first two and ended between the last two. Durations are by the steady clock
(elapsed.py). On records without it, if the clock was set back, a time earlier than its predecessor is raised to
it. Between two runs of MailWatch there were no checks: that time is `unobserved`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict, cast

from mailwatch.analysis.elapsed import (
    NO_EPOCHS,
    Durations,
    ElapsedBounds,
    Epochs,
    Moment,
    elapsed_between,
    on_one_wall_clock,
    outage_durations,
    refine_epochs,
)
from mailwatch.model import ClockSpan, ControlState, ResolverState
from mailwatch.times import Millis

LinePart = Literal["line", "ipv4", "ipv6", "names"]
PARTS: tuple[LinePart, ...] = ("line", "ipv4", "ipv6", "names")
_FAMILIES = ("ipv4", "ipv6")
_NAMES: dict[str, bool] = {
    ControlState.OK: True,
    ResolverState.LIES: True,
    ResolverState.SILENT: False,
    ResolverState.POISONED: False,
}


class GuardClockPayload(TypedDict, total=False):
    """The steady clock in an entry of the guard: when it asked, was answered, and had checked last."""

    boot: str
    asked: Millis
    answered: Millis
    checked: Millis
    bound: Millis


class GuardPayload(TypedDict):
    """The payload of an entry of the guard (guard_log.py)."""

    asked_at: Millis
    online: bool | None
    controls: dict[str, str]
    answered_at: NotRequired[Millis | None]
    checked_at: NotRequired[Millis | None]
    online4: NotRequired[bool | None]
    online6: NotRequired[bool | None]
    resolver: NotRequired[str]
    clock: NotRequired[GuardClockPayload]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflinePeriod:
    """A time in which a part of our own line was down; open while `first_online` is None.

    `unobserved` is how much of it lies between two runs of MailWatch; `reasons` are what the controls answered.
    """

    part: LinePart
    last_online: Millis | None
    first_offline: Millis
    last_offline: Millis
    first_online: Millis | None
    durations: Durations
    unobserved: Millis
    reasons: tuple[str, ...]
    first_index: int
    last_index: int

    @property
    def state(self) -> Literal["open", "closed"]:
        """Whether it goes on."""
        return "open" if self.first_online is None else "closed"


@dataclass(slots=True)
class _OpenPeriod:
    """An offline period that has not ended."""

    last_online: Moment | None
    first_offline: Moment
    last_offline: Moment
    first_index: int
    last_index: int
    reasons: set[str]
    unobserved: Millis = 0


@dataclass(slots=True)
class _PartTracker:
    """Tracks one part of the line through the entries."""

    part: LinePart
    found: list[OfflinePeriod] = field(default_factory=list)
    online: bool | None = None
    last_online: Moment | None = None
    observed_until: Moment | None = None
    period: _OpenPeriod | None = None
    epochs: Epochs = field(default_factory=dict)

    def feed(self, index: int, payload: GuardPayload) -> None:
        """Process one entry: it confirms the old state until `checked_at`, and gives the new state."""
        clock: GuardClockPayload = payload.get("clock") or {}
        boot = clock.get("boot", "")
        asked = Moment(payload["asked_at"], clock.get("asked"), boot)
        answered = Moment(payload.get("answered_at") or payload["asked_at"], clock.get("answered"), boot)
        if answered.clock is not None:
            span = ClockSpan(boot, asked.clock, answered.clock, clock.get("bound"))
            self.epochs = refine_epochs(self.epochs, span, answered.wall)
        checked_at = payload.get("checked_at")
        if checked_at is not None and self.online is not None:
            checked = Moment(checked_at, clock.get("checked"), boot)
            self._note_state(self.online, checked, checked, index)
        elif checked_at is None and self.period is not None and self.observed_until is not None:
            self.period.unobserved += _longest(self.observed_until, asked, self.epochs)
        self.online = _online(self.part, payload)
        if self.online is not None:
            self._note_state(self.online, asked, answered, index)
            if self.period is not None:
                self.period.reasons |= _reasons(self.part, payload)
        elif self.period is None:
            self.epochs = NO_EPOCHS

    def _note_state(self, online: bool, start: Moment, end: Moment, index: int) -> None:
        self.observed_until = end if self.observed_until is None else _later_of(self.observed_until, end)
        period = self.period
        if online:
            if period is not None:
                period.last_index = index
                self.found.append(_period(self.part, period, end, self.epochs))
                self.period = None
            self.last_online = start
        elif period is None:
            self.period = _OpenPeriod(self.last_online, end, end, index, index, set())
        else:
            period.last_offline, period.last_index = _later_of(period.last_offline, start), index


def offline_periods(entries: Iterable[tuple[int, Mapping[str, object]]]) -> list[OfflinePeriod]:
    """Return the offline periods of the guard's entries (index, payload), oldest first; milliseconds.

    Each belongs to one part: "line" (no address family works), "ipv4", "ipv6", or "names" (control names resolve
    wrongly or not at all). An address family that never worked is not available on this line, and is not reported
    as offline.
    """
    followers = [_PartTracker(part) for part in PARTS]
    for index, payload in entries:
        for follower in followers:
            follower.feed(index, cast(GuardPayload, payload))
    found = [one for follower in followers for one in follower.found]
    found += [_period(each.part, each.period, None, each.epochs) for each in followers if each.period is not None]
    one = [period for period in found if period.part not in _FAMILIES or period.last_online is not None]
    return sorted(one, key=lambda period: period.first_offline)


def _period(part: LinePart, period: _OpenPeriod, end: Moment | None, epochs: Epochs) -> OfflinePeriod:
    good, bad, last = period.last_online, period.first_offline, period.last_offline
    first_offline = on_one_wall_clock(bad, bad, epochs)
    last_offline = max(on_one_wall_clock(last, bad, epochs), first_offline)
    last_online = None if good is None else min(on_one_wall_clock(good, bad, epochs), first_offline)
    first_online = None if end is None else max(on_one_wall_clock(end, bad, epochs), last_offline)
    if bad.clock is None or last.clock is None:
        # Wall times only: differences of the four times.
        down = ElapsedBounds(last_offline - first_offline, last_offline - first_offline)
        lasted = outage_durations(
            down, _elapsed(last_online, first_offline), _elapsed(last_offline, first_online), _elapsed(last_online,
            first_online),
        )  # fmt: skip
    else:
        lasted = outage_durations(
            elapsed_between(bad, last, epochs),
            None if good is None else elapsed_between(good, bad, epochs),
            None if end is None else elapsed_between(last, end, epochs),
            None if good is None or end is None else elapsed_between(good, end, epochs),
        )
    return OfflinePeriod(
        part=part,
        last_online=last_online,
        first_offline=first_offline,
        last_offline=last_offline,
        first_online=first_online,
        durations=lasted,
        unobserved=period.unobserved,
        reasons=tuple(sorted(period.reasons)),
        first_index=period.first_index,
        last_index=period.last_index,
    )


def _elapsed(start: Millis | None, end: Millis | None) -> ElapsedBounds | None:
    return None if start is None or end is None else ElapsedBounds(end - start, end - start)


def _later_of(one: Moment, other: Moment) -> Moment:
    if one.clock is not None and other.clock is not None:
        return one if one.boot == other.boot and one.clock > other.clock else other
    return one if one.wall > other.wall else other


def _longest(start: Moment, end: Moment, epochs: Epochs) -> Millis:
    apart = elapsed_between(start, end, epochs)
    return max(0, apart.most if apart.most is not None else max(apart.least, end.wall - start.wall))


def _online(part: LinePart, payload: GuardPayload) -> bool | None:
    if part == "names":
        return _NAMES.get(payload.get("resolver", ""))
    if part == "ipv4":
        return payload.get("online4")
    return payload.get("online6") if part == "ipv6" else payload.get("online")


def _reasons(part: LinePart, payload: GuardPayload) -> set[str]:
    """Return why the control servers of a part were not reached."""
    reasons = set()
    for name, reason in payload["controls"].items():
        if part == "names":
            fits = name.startswith("dns:")
        else:
            fits = not name.startswith(("dns:", "target:")) and part in ("line", _family(name))
        if fits and reason not in (ControlState.OK, ControlState.NOT_AWAITED):
            reasons.add(reason)
    return reasons


def _family(control: str) -> LinePart:
    return "ipv6" if control.startswith("[") or control.endswith("(IPv6)") else "ipv4"
