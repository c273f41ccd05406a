"""The account of a window, entry by entry: availability and outages of several targets at once.

The memory that it takes does not grow with the number of looks, only with that of the outages. The bundle is
made and checked by this code; it reads nothing but the entries, the window, the beats and the first rules.

One target followed entry by entry: its outages, and how its time divides.

Nearly all entries are good looks that follow good looks. Such a one leaves nothing behind but that it was the
latest, so that only the first and the last of them are read as facts: tests/test_course.py holds this against
the rules taken one look at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mailwatch.analysis.availability import Availability, Meter
from mailwatch.analysis.detector import Event, State, advance
from mailwatch.analysis.login_outages import Proof, advance_proof
from mailwatch.analysis.outage import Outage, Steps, defended, outage_payload, stepped
from mailwatch.analysis.segments import GUESS_FROM, Stretch, usual_interval
from mailwatch.ledger.payloads import FACTS, fact_from, read_rules, written_rules
from mailwatch.model import Fact, Kind, Observation, Outcome, Rules, WatchEvent
from mailwatch.times import Millis, rfc3339

UP = Outcome.UP.value
Seen = Callable[[str, Fact, list[Stretch]], None]
"""Told of facts of a target, and of the stretches of time that are decided. Of good looks in a row it is told of
the first and the last, with all their stretches; what their attempts were is left out."""


class _Division(Protocol):
    """Divides time by facts: a walk, or the meter of a window."""

    def add(self, fact: Fact) -> list[Stretch]: ...
    def good(self, payload: dict[str, Any]) -> bool: ...
    def settle(self) -> list[Stretch]: ...


class Course:
    """Where a target stands. `outages` are those that opened, closed or were proven, each as it was told last."""

    __slots__ = ("_division", "_latest", "_login", "_plain", "_seen", "looks", "outages", "proof", "state")

    def __init__(self, division: _Division, seen: Seen) -> None:
        self._division, self._seen = division, seen
        self.state, self.proof = State(), Proof()
        self.outages: dict[str, Outage] = {}
        self.looks = 0
        self._plain = False
        """Whether a good look now would change nothing but which was the latest."""
        self._latest: tuple[int, dict[str, Any]] | None = None
        self._login: tuple[int, dict[str, Any]] | None = None
        """Those not read yet: the latest good look, and the latest that proves a secret."""

    def take(self, index: int, kind: str, payload: dict[str, Any], rules: Rules) -> None:
        """Take in the next observation or gap. Raises KeyError, TypeError, ValueError or AttributeError."""
        self.looks += kind != "watch"
        if self._plain and kind == "observation" and payload["outcome"] == UP and self._division.good(payload):
            self._latest = index, payload
            if payload["login"] and payload.get("secret"):
                self._login = self._latest
            return
        self.settle(rules)
        fact = _fact(kind, payload)
        self.state, transition = advance(self.state, Event(index, fact), rules)
        self.proof, proven = advance_proof(self.proof, index, fact, self.state.is_open)
        for outage in (transition.outage if transition else None, proven):
            if outage is not None:
                self.outages[outage.id] = outage
        self._seen(fact.target, fact, self._division.add(fact))
        good = isinstance(fact, Observation) and fact.outcome is Outcome.UP
        self._plain = good and not self.state.is_open and self.proof.first_rejected is None

    def settle(self, rules: Rules) -> None:
        """Read what was put off; to be called when all entries were taken in. Raises as `take`."""
        if self._latest is None:
            return
        index, payload = self._latest
        fact = _fact("observation", payload)
        self.state, _ = advance(self.state, Event(index, fact), rules)
        if self._login is not None:
            index, payload = self._login
            self.proof, _ = advance_proof(self.proof, index, _fact("observation", payload), False)
        self._latest = self._login = None
        self._seen(fact.target, fact, self._division.settle())

    @property
    def known(self) -> dict[str, Outage]:
        """All outages by their id, the open one as it stands now."""
        now = self.state.outage
        return self.outages if now is None else self.outages | {now.id: now}


def _fact(kind: str, payload: dict[str, Any]) -> Fact:
    if kind == "observation" and payload["outcome"] == UP:
        # Nothing here asks how a good look went.
        payload = {**payload, "attempts": ()}
    return fact_from(kind, payload)


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
