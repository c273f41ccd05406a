"""One target followed entry by entry: its outages, and how its time divides.

Nearly all entries are good looks that follow good looks. Such a one leaves nothing behind but that it was the
latest, so that only the first and the last of them are read as facts: tests/test_course.py holds this against
the rules taken one look at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mailwatch.ledger.facts import FACTS, fact_from
from mailwatch.models import Fact, Observation, Outcome
from mailwatch.outages import Event, Outage, Proof, Rules, State, advance, advance_proof
from mailwatch.service_level import Stretch

__all__ = ["FACTS", "Course", "Seen"]

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
