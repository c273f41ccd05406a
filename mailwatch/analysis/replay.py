"""Targets followed entry by entry: their outages, and how their time divides.

`TargetReplay` follows one target. Nearly all entries are up observations that follow up observations. Such a one
changes nothing but which was the latest, so that only the first and the last of them are read as facts: a property
test holds this against the rules applied to one observation at a time.

`PeriodReplay` follows several targets through a window. Its memory does not grow with the number of observations,
only with that of the outages. The bundle is made and checked by this code; it reads nothing but the entries, the
window, the intervals and the first rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mailwatch.analysis.availability import Availability, AvailabilityMeter
from mailwatch.analysis.detector import Detector, IndexedFact, State
from mailwatch.analysis.outage import (
    ClockSteps,
    Outage,
    clock_steps_between,
    outage_payload,
    widen_for_clock_steps,
)
from mailwatch.analysis.segments import INTERVAL_SAMPLE_SIZE, Segment, usual_interval
from mailwatch.ledger.payloads import FACT_KINDS, fact_from, rules_from, rules_payload
from mailwatch.model import Fact, Kind, Observation, Outcome, Rules, TargetEvent
from mailwatch.times import Millis, rfc3339

UP = Outcome.UP.value
FactListener = Callable[[str, Fact, list[Segment]], None]
"""Called with facts of a target, and with the segments that are decided. Of up observations in a row it gets
the first and the last, with all their stretches; what their attempts were is left out."""


class _SegmentSource(Protocol):
    """Divides time by facts: a walk, or the meter of a window."""

    def feed(self, fact: Fact) -> list[Segment]: ...
    def feed_up(self, payload: dict[str, Any]) -> bool: ...
    def flush(self) -> list[Segment]: ...


class TargetReplay:
    """The state of a target. `outages` are those that opened, closed or were proven, each in its latest form."""

    __slots__ = (
        "_deferred",
        "_deferred_login",
        "_is_steady_up",
        "_listener",
        "_segments",
        "detector",
        "observation_count",
        "outages",
    )

    def __init__(self, segments: _SegmentSource, listener: FactListener) -> None:
        self._segments, self._listener = segments, listener
        self.detector = Detector()
        self.outages: dict[str, Outage] = {}
        self.observation_count = 0
        self._is_steady_up = False
        """Whether an up observation now would change nothing but which was the latest."""
        self._deferred: tuple[int, dict[str, Any]] | None = None
        self._deferred_login: tuple[int, dict[str, Any]] | None = None
        """Those not read yet: the latest up observation, and the latest that proves a secret."""

    def feed(self, index: int, kind: str, payload: dict[str, Any], rules: Rules) -> None:
        """Take in the next observation or gap. Raises KeyError, TypeError, ValueError or AttributeError."""
        self.observation_count += kind != "watch"
        if (
            self._is_steady_up
            and kind == "observation"
            and payload["outcome"] == UP
            and self._segments.feed_up(payload)
        ):
            self._deferred = index, payload
            if payload["login"] and payload.get("secret"):
                self._deferred_login = self._deferred
            return
        self.flush(rules)
        fact = _fact(kind, payload)
        self.detector, changed = self.detector.feed(IndexedFact(index, fact), rules)
        self.outages.update((outage.id, outage) for outage in changed)
        self._listener(fact.target, fact, self._segments.feed(fact))
        good = isinstance(fact, Observation) and fact.outcome is Outcome.UP
        self._is_steady_up = good and not self.state.is_open and self.detector.login_history.first_rejected is None

    def flush(self, rules: Rules) -> None:
        """Read what was put off; to be called when all entries were taken in. Raises as `feed`."""
        if self._deferred is None:
            return
        # The latest with a secret changes the login history, and the latest of all the state.
        if self._deferred_login is not None and self._deferred_login is not self._deferred:
            self._feed_up(*self._deferred_login, rules)
        fact = self._feed_up(*self._deferred, rules)
        self._deferred = self._deferred_login = None
        self._listener(fact.target, fact, self._segments.flush())

    def _feed_up(self, index: int, payload: dict[str, Any], rules: Rules) -> Fact:
        fact = _fact("observation", payload)
        self.detector, _ = self.detector.feed(IndexedFact(index, fact), rules)
        return fact

    @property
    def state(self) -> State:
        """Where the target stands after what was taken in."""
        return self.detector.state

    @property
    def all_outages(self) -> dict[str, Outage]:
        """All outages by their id, the open one as it stands now."""
        now = self.state.outage
        return self.outages if now is None else self.outages | {now.id: now}


def _fact(kind: str, payload: dict[str, Any]) -> Fact:
    if kind == "observation" and payload["outcome"] == UP:
        # Nothing here asks how an up observation went.
        payload = {**payload, "attempts": ()}
    return fact_from(kind, payload)


RECORDED_KEYS = ("provider", "kind", "vantage_point")
"""What of an outage does not follow from its observations."""


MONITOR_KINDS = ("node", "clock")
"""Kinds of MailWatch's own entries that count here."""


class ReplayError(Exception):
    """An entry is not what its kind promises, or contradicts the replay; says which and how."""


@dataclass(slots=True)
class TargetAccount:
    """One target, as far as its entries were read. Indexes are those of its facts inside the window."""

    meter: AvailabilityMeter
    replay: TargetReplay
    recorded: dict[str, dict[str, Any]] = field(default_factory=dict)
    intervals: list[tuple[Millis | None, Millis]] = field(default_factory=list)
    """From when on which interval was in force, by the record; None as far as that does not say."""
    due_times: list[Millis] = field(default_factory=list)
    """When the first observations were due."""
    first_seen_at: Millis | None = None
    """When it was first observed, as far as the entries reach."""
    first_index: int | None = None
    last_index: int | None = None

    def learn_interval(self, kind: str, payload: dict[str, Any]) -> None:
        """Learn the intervals from the next entry. Raises KeyError, TypeError or ValueError."""
        if kind == "watch" and payload["event"] != TargetEvent.END.value:
            interval = payload["settings"]["interval"]
            if not self.intervals or self.intervals[-1][1] != interval:
                self.intervals.append((payload["at"], interval))
        elif kind == "observation" and len(self.due_times) < INTERVAL_SAMPLE_SIZE:
            due_time = payload["scheduled"]
            if type(due_time) is not int:
                raise TypeError("its due time is not whole milliseconds")
            self.due_times.append(due_time)
            if not self.intervals:
                self.intervals.append((None, 0))


class PeriodReplay:
    """Reads the entries of a range in order. `targets` maps each name to its interval in seconds.

    That one counts as far as the record has none; with `infer` it is a guess, corrected by what was observed.
    """

    def __init__(
        self,
        window: tuple[Millis, Millis],
        targets: Mapping[str, float],
        rules: Rules,
        listener: FactListener = lambda *_: None,
        *,
        infer: bool = True,
    ) -> None:
        """Raises ValueError when the window is empty."""
        self.window, self.rules = window, rules
        self.steps: ClockSteps = []
        """By entry, how far the wall clock was set."""
        self.ended: Millis | None = None
        """The time of the last entry of the range: the window is counted no further than that."""
        self.accounts = {}
        for name, interval in targets.items():
            meter = AvailabilityMeter(*window, interval=interval, infer=infer)
            self.accounts[name] = TargetAccount(meter, TargetReplay(meter, listener))

    def feed(self, index: int, kind: str, time: Millis, target: str | None, payload: dict[str, Any]) -> None:
        """Take in the next entry; of MailWatch's own only its starts count. Raises ReplayError."""
        try:
            account = None if target is None else self.accounts.get(target)
            if account is None:
                if kind == "node" and "rules" in payload:
                    self.rules = rules_from(payload["rules"])
                elif kind == "clock" and payload.get("event") == "step":
                    self.steps.append((index, int(payload["milliseconds"])))
            elif kind in FACT_KINDS:
                if account.first_seen_at is None:
                    account.first_seen_at = time
                if self.window[0] <= time < self.window[1]:
                    account.first_index = index if account.first_index is None else account.first_index
                    account.last_index = index
                account.replay.feed(index, kind, payload, self.rules)
                account.learn_interval(kind, payload)
            elif kind == "outage":
                account.recorded[payload["id"]] = {key: payload[key] for key in RECORDED_KEYS}
                if payload.get("rules", rules_payload(self.rules)) != rules_payload(self.rules):
                    raise ReplayError(f"entry {index} names other rules than were in force")
            else:
                raise ValueError("it is nothing that a target can have")
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ReplayError(f"entry {index} is no {kind}: {type(error).__name__} {error}"[:200]) from None

    def flush(self) -> None:
        """To be called after the last entry. Raises ReplayError."""
        for name, account in self.accounts.items():
            try:
                account.replay.flush(self.rules)
            except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
                raise ReplayError(
                    f"the last look of {name} is none: {type(error).__name__} {error}"[:200]
                ) from None

    def bounds(self) -> tuple[int, int] | None:
        """The first and last entry of the window, None when there is none."""
        found = [a for a in self.accounts.values() if a.first_index is not None]
        if not found:
            return None
        return min(a.first_index or 0 for a in found), max(a.last_index or 0 for a in found)

    def inferred_interval(self, name: str) -> Millis:
        """The interval of a target by its first observations in the range."""
        return usual_interval(self.accounts[name].due_times)

    def intervals_of(self, name: str) -> list[dict[str, Any]]:
        """The intervals (seconds) in force in the window, as they are stated, each with its beginning.

        Where the record has none, what was observed gives it: that one is `inferred`, from the beginning on.
        Raises ValueError or OverflowError for a beginning that is no time.
        """
        start, end = self.window
        found = self.accounts[name].intervals
        stated: list[dict[str, Any]] = []
        for number, (at, interval) in enumerate(found):
            until = found[number + 1][0] if number + 1 < len(found) else None
            if (until is not None and until <= start) or (at is not None and at >= end):
                continue
            if at is None:
                stated.append({"from": None, "interval": self.inferred_interval(name) / 1000, "inferred": True})
            else:
                stated.append({"from": rfc3339(at), "interval": interval / 1000})
        return stated

    def outages_of(self, name: str) -> list[Outage]:
        """The outages of a target that touch the window and are on record as such, oldest first."""
        account, (start, end) = self.accounts[name], self.window
        touching = [
            one
            for one in account.replay.all_outages.values()
            if one.id in account.recorded
            and one.first_bad < end
            and (one.last_bad > start if one.unwatched else one.first_good is None or one.first_good > start)
        ]
        return sorted(touching, key=lambda one: (one.first_bad, one.first_index))

    def outages(self) -> list[Outage]:
        """The outages of all targets."""
        return [outage for name in self.accounts for outage in self.outages_of(name)]

    def availability_of(self, name: str) -> Availability:
        """The account of a target."""
        return self.accounts[name].meter.result(self.outages_of(name), self.ended)

    def payloads(self) -> list[dict[str, Any]]:
        """The outages of all targets as the ledger keeps them, oldest first. Raises ReplayError."""
        made = []
        for name, account in self.accounts.items():
            for outage in self.outages_of(name):
                recorded = account.recorded[outage.id]
                try:
                    payload = outage_payload(
                        outage, recorded["provider"], Kind(recorded["kind"]), recorded["vantage_point"]
                    )
                    made.append(
                        widen_for_clock_steps(
                            payload, *clock_steps_between(self.steps, outage.first_index, outage.last_index)
                        )
                    )
                except (KeyError, ValueError, TypeError) as error:
                    raise ReplayError(f"outage {outage.id} does not say what it is of: {error}") from None
        return sorted(made, key=lambda payload: (payload["first_bad"], payload["target"]))
