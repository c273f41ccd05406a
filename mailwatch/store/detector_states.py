"""The detector's state of a target, kept beside the ledger while its replay would be long (kept_states.py).

A target that is up replays two observations. One that is down, or unknown, for a year would replay a year: so its
state is kept each KEEP_AFTER facts. It is always the result of a replay, never of what a process had in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.state_json import state_from, state_json
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import Fact, Gap, Observation, Rules, TargetEvent
from mailwatch.store.entry_rows import Entry
from mailwatch.store.kept_states import KeptState, leaf_of
from mailwatch.store.reader import Reader

T = TypeVar("T", Observation, Gap)
KIND = "detector"
STATE_VERSION = 1
"""Raise it with every change of the rules that gives another state for the same facts."""
KEEP_AFTER = 500
"""Facts replayed after which the state is kept: about 20 ms of a start."""


@dataclass(slots=True)
class TargetHistory:
    """What follows from a target's facts up to entry `index`: what a start needs to go on.

    `latest` and `gap`: the entries of the latest observation, and of the latest gap after it, None without one
    since monitoring began. `facts`: how many were processed to get here.
    """

    detector: Detector = field(default_factory=Detector)
    index: int = -1
    latest: int | None = None
    gap: int | None = None
    facts: int = 0
    latest_fact: Observation | None = None
    gap_fact: Gap | None = None

    def feed(self, index: int, fact: Fact, rules: Rules) -> tuple[Outage, ...]:
        """Process the next fact; return the outages that it changed."""
        self.detector, changed = self.detector.feed(IndexedFact(index, fact), rules)
        self.index, self.facts = index, self.facts + 1
        if isinstance(fact, Observation):
            self.latest, self.latest_fact, self.gap, self.gap_fact = index, fact, None, None
        elif isinstance(fact, Gap):
            self.gap, self.gap_fact = index, fact
        elif fact.event in (TargetEvent.BEGIN, TargetEvent.END):
            self.latest = self.latest_fact = self.gap = self.gap_fact = None
        return changed

    def describes(self, other: TargetHistory) -> bool:
        """Return whether both say the same of the target, however they were replayed."""
        mine, theirs = ((one.detector, one.index, one.latest, one.gap) for one in (self, other))
        return mine == theirs


def keep_detector(target: str, history: TargetHistory, header: str, rules: Rules) -> KeptState:
    """Return the state to keep. `header`: of the history's last entry. `rules`: those in force at it."""
    written = {
        "version": STATE_VERSION,
        "rules": rules_payload(rules),
        "detector": state_json(history.detector),
        "latest": history.latest,
        "gap": history.gap,
    }
    return KeptState(KIND, target, history.index, leaf_of(header), canonical(written))


def read_detector(
    reader: Reader, target: str, rules_at: Callable[[int], Rules], size: int | None = None
) -> TargetHistory | None:
    """Return the kept state of a target, None without one that fits.

    It fits if it is of this version, if its last entry is among the first `size` entries (by default all) and is
    the target's, unchanged, and if `rules_at` gives the same rules there.
    """
    state = reader.kept(KIND, target)
    if state is None or (size is not None and state.index >= size):
        return None
    last = entry_at(reader, state.index)
    if last is None or last.target != target or leaf_of(last.header) != state.leaf:
        return None
    try:
        return _history(reader, target, state, rules_at(state.index))
    except (ValueError, KeyError, TypeError):
        return None


def _history(reader: Reader, target: str, state: KeptState, rules: Rules) -> TargetHistory | None:
    """Parse a state. Raises ValueError, KeyError or TypeError for a text of another version."""
    written: dict[str, Any] = json.loads(state.text)
    if written["version"] != STATE_VERSION or written["rules"] != rules_payload(rules):
        return None
    detector = state_from(Detector, written["detector"])
    latest = _fact(reader, target, written["latest"], Observation)
    gap = _fact(reader, target, written["gap"], Gap)
    return TargetHistory(detector, state.index, written["latest"], written["gap"], 0, latest, gap)


def _fact(reader: Reader, target: str, index: int | None, kind: type[T]) -> T | None:
    if index is None:
        return None
    entry = entry_at(reader, index)
    fact = None if entry is None or entry.target != target else entry.fact
    if not isinstance(fact, kind):
        raise ValueError(f"entry {index} is no {kind.__name__} of {target}")
    return fact


def entry_at(reader: Reader, index: int) -> Entry | None:
    """Return the entry with that index, None if there is none."""
    return next(iter(reader.entries(from_index=index, to_index=index + 1)), None)
