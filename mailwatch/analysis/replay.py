"""Replay of targets entry by entry: their outages, and the segments of their time.

`TargetReplay` follows one target. Nearly all entries are up observations that follow up observations. Such an
entry only becomes the latest observation, so only the first and the last of a run are parsed as facts. A property
test compares this with the rules applied to one observation at a time.

`PeriodReplay` follows several targets through a window. Its memory grows with the number of outages, not of
observations. Bundles are made and verified by this code, which reads only the entries, the window, the intervals
and the initial rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NotRequired, Protocol, TypedDict, cast

from mailwatch.analysis.availability import Availability, AvailabilityMeter
from mailwatch.analysis.detector import Detector, IndexedFact, State
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_record import (
    SUBJECT_KEYS,
    ClockSteps,
    OutagePayload,
    OutageRecord,
    clock_steps_between,
    subject_from,
    widen_for_clock_steps,
)
from mailwatch.analysis.segments import INTERVAL_SAMPLE_SIZE, GoodObservations, Segment, usual_interval
from mailwatch.ledger.payloads import FACT_KINDS, ObservationPayload, TargetChangePayload, fact_from
from mailwatch.ledger.settings_payloads import rules_on_record, rules_payload
from mailwatch.model import Fact, Observation, Outcome, Rules, TargetEvent
from mailwatch.times import Millis, rfc3339

UP = Outcome.UP.value
FactListener = Callable[[str, Fact, list[Segment]], None]
"""Called with a target's name, a fact, and the segments that the fact decides. From a run of up observations it
gets the first and the last, with all segments and without attempts.
"""


class _SegmentSource(Protocol):
    """Divides time by facts: a Segmenter, or the meter of a window."""

    def feed(self, fact: Fact) -> list[Segment]: ...
    def feed_up(self, payload: ObservationPayload) -> bool: ...
    def feed_ups(self, stretch: GoodObservations, at: int) -> int: ...
    def flush(self) -> list[Segment]: ...


class TargetReplay:
    """The replay of one target. `outages`: all that opened, closed or were proven, each in its latest form."""

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
        """Whether a further up observation would only become the latest."""
        self._deferred: tuple[int, ObservationPayload] | None = None
        self._deferred_login: tuple[int, ObservationPayload] | None = None
        """Observations not yet parsed: the latest up observation, and the latest with a secret."""

    def feed(self, index: int, kind: str, payload: Mapping[str, object], rules: Rules) -> None:
        """Process the next fact. Raises KeyError, TypeError, ValueError or AttributeError."""
        self.observation_count += kind != "watch"
        if self._is_steady_up and kind == "observation":
            observation = cast(ObservationPayload, payload)
            if observation["outcome"] == UP and self._segments.feed_up(observation):
                self._deferred = index, observation
                if observation["login"] and observation.get("secret"):
                    self._deferred_login = self._deferred
                return
        self.flush(rules)
        fact = _fact(kind, payload)
        self.detector, changed = self.detector.feed(IndexedFact(index, fact), rules)
        self.outages.update((outage.id, outage) for outage in changed)
        self._listener(fact.target, fact, self._segments.feed(fact))
        good = isinstance(fact, Observation) and fact.outcome is Outcome.UP
        self._is_steady_up = good and not self.state.is_open and self.detector.login_history.first_rejected is None

    def feed_ups(self, stretch: GoodObservations, at: int) -> int:
        """Process observations of a stretch from `at` on that would only become the latest; return how many."""
        taken = self._segments.feed_ups(stretch, at) if self._is_steady_up else 0
        if taken:
            self.observation_count += taken
            last = at + taken - 1
            self._deferred = stretch.indices[last], stretch.payload(last)
            if stretch.with_secret:
                self._deferred_login = self._deferred
        return taken

    def flush(self, rules: Rules) -> None:
        """Process the deferred observations; call it after the last entry. Raises like `feed`."""
        if self._deferred is None:
            return
        # The latest with a secret changes the login history; the latest of all changes the state.
        if self._deferred_login is not None and self._deferred_login is not self._deferred:
            self._feed_up(*self._deferred_login, rules)
        fact = self._feed_up(*self._deferred, rules)
        self._deferred = self._deferred_login = None
        self._listener(fact.target, fact, self._segments.flush())

    def _feed_up(self, index: int, payload: ObservationPayload, rules: Rules) -> Fact:
        fact = _fact("observation", payload)
        self.detector, _ = self.detector.feed(IndexedFact(index, fact), rules)
        return fact

    @property
    def state(self) -> State:
        """The state of the target after the facts processed so far."""
        return self.detector.state

    @property
    def all_outages(self) -> dict[str, Outage]:
        """All outages by id, the open one in its current form."""
        now = self.state.outage
        return self.outages if now is None else self.outages | {now.id: now}


def _fact(kind: str, payload: Mapping[str, object]) -> Fact:
    if kind == "observation" and payload["outcome"] == UP:
        # Nothing here uses the attempts of an up observation.
        payload = {**payload, "attempts": ()}
    return fact_from(kind, payload)


MONITOR_KINDS = ("node", "clock")
"""Kinds of MailWatch's own entries that the replay uses."""


StatedInterval = TypedDict(
    "StatedInterval", {"from": str | None, "interval": float, "inferred": NotRequired[bool]}
)
"""The interval (seconds) in force from a time on, in the form of period.json."""


class ReplayError(Exception):
    """An entry is malformed or contradicts the replay. The message says which and how."""


@dataclass(slots=True)
class TargetAccount:
    """The replay of one target so far. The indexes are those of its facts inside the window."""

    meter: AvailabilityMeter
    replay: TargetReplay
    recorded: dict[str, Mapping[str, object]] = field(default_factory=dict)
    """The subject of each recorded outage as its entry has it, by the outage's id; parsed by `records`."""
    intervals: list[tuple[Millis | None, Millis]] = field(default_factory=list)
    """Each interval on record with the time from which it was in force; None if the time is not on record."""
    due_times: list[Millis] = field(default_factory=list)
    """Due times of the first observations."""
    first_seen_at: Millis | None = None
    """Time of the target's first fact in the range."""
    first_index: int | None = None
    last_index: int | None = None

    def learn_interval(self, kind: str, payload: Mapping[str, object]) -> None:
        """Note the interval of the next entry. Raises KeyError, TypeError or ValueError."""
        if kind == "watch" and payload["event"] != TargetEvent.END.value:
            change = cast(TargetChangePayload, payload)
            interval = change["settings"]["interval"]
            if not self.intervals or self.intervals[-1][1] != interval:
                self.intervals.append((change["at"], interval))
        elif kind == "observation" and len(self.due_times) < INTERVAL_SAMPLE_SIZE:
            due_time = cast(ObservationPayload, payload)["scheduled"]
            if type(due_time) is not int:
                raise TypeError("its due time is not whole milliseconds")
            self.due_times.append(due_time)
            if not self.intervals:
                self.intervals.append((None, 0))


MAX_LATER_RULES = 1000


class PeriodReplay:
    """Replays the entries of a range in order. `targets` maps each name to its interval in seconds.

    That interval applies where none is on record; with `infer` it is a guess, corrected by the observations.
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
        """Raises ValueError if the window is empty."""
        self.window, self.rules = window, rules
        self.later_rules: list[Rules] = []
        """Rules that came into force within the range, in order, each time that they changed."""
        self.steps: ClockSteps = []
        """Steps of the wall clock (milliseconds), by entry index."""
        self.ended: Millis | None = None
        """Time of the range's last entry: the window is counted only up to it."""
        self.accounts = {}
        for name, interval in targets.items():
            meter = AvailabilityMeter(*window, interval=interval, infer=infer)
            self.accounts[name] = TargetAccount(meter, TargetReplay(meter, listener))

    def feed(self, index: int, kind: str, time: Millis, target: str | None, payload: Mapping[str, object]) -> None:
        """Process the next entry; of MailWatch's own entries only rules and clock steps count. Raises
        ReplayError.
        """
        try:
            account = None if target is None else self.accounts.get(target)
            if account is None:
                if kind == "node":
                    self._follow_rules(rules_on_record(payload))
                elif kind == "clock" and payload.get("event") == "step":
                    self.steps.append((index, int(cast(Millis, payload["milliseconds"]))))
            elif kind in FACT_KINDS:
                if account.first_seen_at is None:
                    account.first_seen_at = time
                if self.window[0] <= time < self.window[1]:
                    account.first_index = index if account.first_index is None else account.first_index
                    account.last_index = index
                account.replay.feed(index, kind, payload, self.rules)
                if kind == "watch" or len(account.due_times) < INTERVAL_SAMPLE_SIZE:
                    account.learn_interval(kind, payload)
            elif kind == "outage":
                subject = {key: payload[key] for key in SUBJECT_KEYS}
                account.recorded[cast(OutagePayload, payload)["id"]] = subject
                if payload.get("rules", rules_payload(self.rules)) != rules_payload(self.rules):
                    raise ReplayError(f"entry {index} names other rules than were in force")
            else:
                raise ValueError("it is nothing that a target can have")
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise ReplayError(f"entry {index} is no {kind}: {type(error).__name__} {error}"[:200]) from None

    def feed_stretch(self, target: str, stretch: GoodObservations) -> None:
        """Process good observations that follow each other, as `feed` would one by one. Raises ReplayError."""
        account = self.accounts.get(target)
        if account is None:
            return
        at, start, end = 0, *self.window
        while at < len(stretch.indices):
            known = account.first_seen_at is not None and len(account.due_times) >= INTERVAL_SAMPLE_SIZE
            taken = account.replay.feed_ups(stretch, at) if known else 0
            if taken:
                inside = [
                    index
                    for index, time in zip(
                        stretch.indices[at : at + taken], stretch.times[at : at + taken], strict=True
                    )
                    if start <= time < end
                ]
                if inside:
                    account.first_index = inside[0] if account.first_index is None else account.first_index
                    account.last_index = inside[-1]
            else:
                payload = cast(Mapping[str, object], stretch.payload(at))
                self.feed(stretch.indices[at], "observation", stretch.times[at], target, payload)
            at += taken or 1

    def _follow_rules(self, rules: Rules | None) -> None:
        if rules is not None and rules != self.rules:
            self.rules = rules
            if len(self.later_rules) < MAX_LATER_RULES:
                self.later_rules.append(rules)

    def flush(self) -> None:
        """Process deferred observations; call it after the last entry. Raises ReplayError."""
        for name, account in self.accounts.items():
            try:
                account.replay.flush(self.rules)
            except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
                raise ReplayError(
                    f"the last observation of {name} is no observation: {type(error).__name__} {error}"[:200]
                ) from None

    def bounds(self) -> tuple[int, int] | None:
        """Return the indexes of the first and last fact in the window; None if there are none."""
        found = [a for a in self.accounts.values() if a.first_index is not None]
        if not found:
            return None
        return min(a.first_index or 0 for a in found), max(a.last_index or 0 for a in found)

    def inferred_interval(self, name: str) -> Millis:
        """Return the interval of a target, inferred from its first observations in the range."""
        return usual_interval(self.accounts[name].due_times)

    def intervals_of(self, name: str) -> list[StatedInterval]:
        """Return the intervals (seconds) in force in the window, each with its beginning, as evidence states them.

        An interval that is not on record is inferred from the observations and marked `inferred`. Raises
        ValueError or OverflowError for a beginning that is not a time.
        """
        start, end = self.window
        found = self.accounts[name].intervals
        stated: list[StatedInterval] = []
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
        """Return the outages of a target that overlap the window and are on record, oldest first."""
        account, (start, end) = self.accounts[name], self.window
        touching = [
            one
            for one in account.replay.all_outages.values()
            if one.id in account.recorded and one.touches(start, end)
        ]
        return sorted(touching, key=lambda one: (one.first_bad, one.first_index))

    def outages(self) -> list[Outage]:
        """Return the outages of all targets."""
        return [outage for name in self.accounts for outage in self.outages_of(name)]

    def availability_of(self, name: str, *, formerly: bool = False) -> Availability:
        """Return the availability of a target; `formerly`: as version 0.2.0 stated it."""
        return self.accounts[name].meter.result(self.outages_of(name), self.ended, formerly=formerly)

    def records(self) -> list[OutageRecord]:
        """Return the outages of all targets as records, oldest first. Raises ReplayError."""
        made = []
        for name, account in self.accounts.items():
            for outage in self.outages_of(name):
                try:
                    # Only here: an outage outside the window may be of a kind that this version does not know.
                    subject = subject_from(account.recorded[outage.id])
                except (KeyError, ValueError, TypeError) as error:
                    raise ReplayError(f"outage {outage.id} does not say what it is of: {error}") from None
                steps = clock_steps_between(self.steps, outage.first_index, outage.last_index)
                made.append(widen_for_clock_steps(OutageRecord.of(outage, subject), *steps))
        return sorted(made, key=lambda record: (record.first_bad, record.target))
