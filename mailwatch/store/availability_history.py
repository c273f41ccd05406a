"""The last 90 days of a target as a start needs them, kept beside the ledger (kept_states.py) some times a day.

A start then reads what came after. The state says from which entry on it was counted, so that the audit can count
the same entries.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mailwatch.analysis.maintenance import Announcements
from mailwatch.analysis.response_series import ResponseMemory, ResponseSeries
from mailwatch.analysis.rolling_availability import AvailabilityMemory, RollingAvailability
from mailwatch.analysis.state_json import state_from, state_json
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.payloads import FACT_KINDS
from mailwatch.store.audit import Finding
from mailwatch.store.detector_states import entry_at
from mailwatch.store.kept_states import KeptState, leaf_of
from mailwatch.store.pruning import pruned_packs
from mailwatch.store.queries import inferred_interval, recorded_change_at
from mailwatch.store.reader import Reader
from mailwatch.times import DAY_MS, Millis

KIND = "availability"
STATE_VERSION = 1
"""Raise it with every change that counts the same facts in another way."""
HISTORY_MS: Millis = 90 * DAY_MS
FOREVER_MS: Millis = 2**52


@dataclass(slots=True)
class History:
    """The facts of a target from entry `first` to entry `last`, counted; -1 for none. `read`: how many just now.

    `watched`: the entry of the target's settings in force before the first. `interval`: the one inferred without.
    `header`: that of entry `last`, where it was read just now.
    """

    availability: RollingAvailability
    responses: ResponseSeries = field(default_factory=ResponseSeries)
    interval: Millis = 0
    first: int = -1
    last: int = -1
    watched: int | None = None
    read: int = 0
    header: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A target with its opaque id, and the maintenance announced for it."""

    name: str
    opaque: str
    announced: Announcements

    @property
    def announcements(self) -> str:
        """A digest of what is announced."""
        written = [[one.at, [rule.payload() for rule in one.rules]] for one in self.announced.announcements]
        return digest(canonical(written))


def read_history(reader: Reader, subject: Subject, at: Millis) -> History:
    """Count the facts of the 90 days before `at`, from a kept state on where one fits."""
    found = _kept(reader, subject)
    if found is None:
        found = _begun(reader, subject, at - HISTORY_MS)
        begin, _ = reader.between(subject.name, at - HISTORY_MS, FOREVER_MS)
    else:
        begin = found.last + 1
    _count(reader, subject, found, begin, None, at - DAY_MS)
    return found


def history_to_keep(subject: Subject, history: History) -> KeptState | None:
    """Return the state to keep, None where nothing new was counted."""
    if not history.read:
        return None
    written = {
        "version": STATE_VERSION,
        "announced": subject.announcements,
        "interval": history.interval,
        "first": history.first,
        "watched": history.watched,
        "availability": state_json(history.availability.memory),
        "responses": state_json(history.responses.memory),
    }
    return KeptState(KIND, subject.name, history.last, leaf_of(history.header), canonical(written))


def audit_history(
    reader: Reader,
    subject: Subject,
    size: int | None = None,
    progress: Callable[[int], None] = lambda _index: None,
) -> list[Finding]:
    """Count the entries of a kept state again, and compare; not where some of them were pruned.

    `progress` gets the index now and then, and may wait.
    """
    kept = _kept(reader, subject)
    if kept is None or (size is not None and kept.last >= size):
        return []
    if any(pack.first + (1 << pack.level) > kept.first for pack in pruned_packs(reader, kept.last + 1)):
        return []
    again = _empty(reader, subject, kept.interval, kept.watched)
    _count(reader, subject, again, kept.first, kept.last + 1, FOREVER_MS, progress)
    if again.availability.memory == kept.availability.memory:
        return []
    what = f"the availability of {subject.name} kept with entry {kept.last} differs from its entries"
    return [Finding(None, what)]


def _kept(reader: Reader, subject: Subject) -> History | None:
    state = reader.kept(KIND, subject.name)
    last = None if state is None else entry_at(reader, state.index)
    if state is None or last is None or last.target != subject.name or leaf_of(last.header) != state.leaf:
        return None
    try:
        written: dict[str, Any] = json.loads(state.text)
        if written["version"] != STATE_VERSION or written["announced"] != subject.announcements:
            return None
        memory = state_from(AvailabilityMemory, written["availability"])
        availability = RollingAvailability.of(memory, excluded=partial(_excluded, subject))
        responses = ResponseSeries.of(state_from(ResponseMemory, written["responses"]))
        return History(
            availability, responses, int(written["interval"]), int(written["first"]), state.index,
            written["watched"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _begun(reader: Reader, subject: Subject, since: Millis) -> History:
    # Where no interval is recorded, infer it from the record: today's interval says nothing about the past.
    watched = recorded_change_at(reader, subject.name, since)
    interval = inferred_interval(reader, subject.name, since)
    return _empty(reader, subject, interval, None if watched is None else watched.entry)


def _empty(reader: Reader, subject: Subject, interval: Millis, watched: int | None) -> History:
    availability = RollingAvailability(
        interval=interval / 1000, excluded=partial(_excluded, subject), infer=watched is None
    )
    held = None if watched is None else entry_at(reader, watched)
    if held is not None and (fact := held.fact) is not None:
        availability.feed(fact)
    return History(availability, interval=interval, watched=watched)


def _excluded(subject: Subject, start: Millis, end: Millis) -> tuple[tuple[Millis, Millis], ...]:
    return subject.announced.windows_of(subject.opaque, start, end)


def _count(
    reader: Reader,
    subject: Subject,
    history: History,
    from_index: int,
    to_index: int | None,
    recent: Millis,
    progress: Callable[[int], None] = lambda _index: None,
) -> None:
    """Count further entries. `recent`: response times count from then on."""
    for entry in reader.entries(target=subject.name, kinds=FACT_KINDS, from_index=from_index, to_index=to_index):
        fact, history.last, history.read = entry.fact, entry.index, history.read + 1
        history.header = entry.header
        history.first = entry.index if history.first < 0 else history.first
        if history.read % 1000 == 0:
            progress(entry.index)
        if fact is not None:
            history.availability.feed(fact)
            if entry.time >= recent:
                history.responses.feed(fact)
