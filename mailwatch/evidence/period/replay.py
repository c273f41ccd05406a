"""The account of a window, entry by entry: availability and outages of several targets at once.

The memory that it takes does not grow with the number of looks, only with that of the outages. The bundle is
made and checked by this code; it reads nothing but the entries, the window, the beats and the first rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mailwatch.course import FACTS, Course, Seen
from mailwatch.models import Kind, Millis, WatchEvent, rfc3339
from mailwatch.outages import Outage, Rules, Steps, defended, outage_payload, read_rules, stepped, written_rules
from mailwatch.service_level import GUESS_FROM, Availability, Meter, usual_interval

TOLD = ("provider", "kind", "vantage_point")
"""What of an outage does not follow from its looks."""


OWN = ("node", "clock")
"""Kinds of MailWatch's own entries that count here."""


class Odd(Exception):
    """An entry is not what its kind promises, or contradicts the replay; says which and how."""


@dataclass(slots=True)
class Account:
    """One target, as far as its entries were read. Indexes are those of its facts inside the window."""

    meter: Meter
    course: Course
    recorded: dict[str, dict[str, Any]] = field(default_factory=dict)
    intervals: list[tuple[Millis | None, Millis]] = field(default_factory=list)
    """From when on which interval was in force, by the record; None as far as that does not say."""
    due: list[Millis] = field(default_factory=list)
    """When the first observations were due."""
    begun: Millis | None = None
    """When it was first looked at, as far as the entries reach."""
    first_index: int | None = None
    last_index: int | None = None

    def note(self, kind: str, payload: dict[str, Any]) -> None:
        """Learn the intervals from the next entry. Raises KeyError, TypeError or ValueError."""
        if kind == "watch" and payload["event"] != WatchEvent.END.value:
            interval = payload["settings"]["interval"]
            if not self.intervals or self.intervals[-1][1] != interval:
                self.intervals.append((payload["at"], interval))
        elif kind == "observation" and len(self.due) < GUESS_FROM:
            due = payload["scheduled"]
            if type(due) is not int:
                raise TypeError("its due time is not whole milliseconds")
            self.due.append(due)
            if not self.intervals:
                self.intervals.append((None, 0))


class Replay:
    """Reads the entries of a range in order. `targets` maps each name to its interval in seconds.

    That one counts as far as the record has none; with `infer` it is a guess, corrected by what was observed.
    """

    def __init__(
        self,
        window: tuple[Millis, Millis],
        targets: Mapping[str, float],
        rules: Rules,
        seen: Seen = lambda *_: None,
        *,
        infer: bool = True,
    ) -> None:
        """Raises ValueError when the window is empty."""
        self.window, self.rules = window, rules
        self.steps: Steps = []
        """By entry, how far the wall clock was set."""
        self.ended: Millis | None = None
        """The time of the last entry of the range: the window is counted no further than that."""
        self.accounts = {}
        for name, beat in targets.items():
            meter = Meter(*window, interval=beat, infer=infer)
            self.accounts[name] = Account(meter, Course(meter, seen))

    def take(self, index: int, kind: str, time: Millis, target: str | None, payload: dict[str, Any]) -> None:
        """Take in the next entry; of MailWatch's own only its starts count. Raises Odd."""
        try:
            account = None if target is None else self.accounts.get(target)
            if account is None:
                if kind == "node" and "rules" in payload:
                    self.rules = read_rules(payload["rules"])
                elif kind == "clock" and payload.get("event") == "step":
                    self.steps.append((index, int(payload["milliseconds"])))
            elif kind in FACTS:
                if account.begun is None:
                    account.begun = time
                if self.window[0] <= time < self.window[1]:
                    account.first_index = index if account.first_index is None else account.first_index
                    account.last_index = index
                account.course.take(index, kind, payload, self.rules)
                account.note(kind, payload)
            elif kind == "outage":
                account.recorded[payload["id"]] = {key: payload[key] for key in TOLD}
                if payload.get("rules", written_rules(self.rules)) != written_rules(self.rules):
                    raise Odd(f"entry {index} names other rules than were in force")
            else:
                raise ValueError("it is nothing that a target can have")
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise Odd(f"entry {index} is no {kind}: {type(error).__name__} {error}"[:200]) from None

    def settle(self) -> None:
        """To be called after the last entry. Raises Odd."""
        for name, account in self.accounts.items():
            try:
                account.course.settle(self.rules)
            except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
                raise Odd(f"the last look of {name} is none: {type(error).__name__} {error}"[:200]) from None

    def bounds(self) -> tuple[int, int] | None:
        """The first and last entry of the window, None when there is none."""
        found = [a for a in self.accounts.values() if a.first_index is not None]
        if not found:
            return None
        return min(a.first_index or 0 for a in found), max(a.last_index or 0 for a in found)

    def guess_of(self, name: str) -> Millis:
        """The interval of a target by its first observations in the range."""
        return usual_interval(self.accounts[name].due)

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
                stated.append({"from": None, "interval": self.guess_of(name) / 1000, "inferred": True})
            else:
                stated.append({"from": rfc3339(at), "interval": interval / 1000})
        return stated

    def outages_of(self, name: str) -> list[Outage]:
        """The outages of a target that touch the window and are on record as such, oldest first."""
        account, (start, end) = self.accounts[name], self.window
        touching = [
            one
            for one in account.course.known.values()
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
        return self.accounts[name].meter.read(self.outages_of(name), self.ended)

    def payloads(self) -> list[dict[str, Any]]:
        """The outages of all targets as the ledger keeps them, oldest first. Raises Odd."""
        made = []
        for name, account in self.accounts.items():
            for outage in self.outages_of(name):
                told = account.recorded[outage.id]
                try:
                    payload = outage_payload(outage, told["provider"], Kind(told["kind"]), told["vantage_point"])
                    made.append(defended(payload, *stepped(self.steps, outage.first_index, outage.last_index)))
                except (KeyError, ValueError, TypeError) as error:
                    raise Odd(f"outage {outage.id} does not say what it is of: {error}") from None
        return sorted(made, key=lambda payload: (payload["first_bad"], payload["target"]))
