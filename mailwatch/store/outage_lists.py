"""The outages on record as lists and pages need them: heads, sorted, by target and by state; only in memory."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.times import Millis

MAX_SELECTIONS = 64
"""Selections that are kept until the next change."""
MANY_CHANGES = 50
"""Changes above which all is sorted again."""


@dataclass(frozen=True, slots=True)
class OutageHead:
    """An outage as lists need it. `opened` and `index`: its first and its latest entry.

    `until`: the latest time at which it may have ended while monitored, None while it is open. `least`: its
    minimum duration, of an open one as of its latest entry.
    """

    id: str
    target: str
    provider: str
    kind: str
    state: str
    begin: Millis
    first_bad: Millis
    until: Millis | None
    least: Millis
    opened: int
    index: int

    @property
    def recorded_target(self) -> RecordedTarget:
        """The target."""
        return RecordedTarget(self.target, self.provider, self.kind)

    @property
    def place(self) -> tuple[int, int]:
        """Its place in a list with the newest first; of two that began together, the one recorded first."""
        return -self.first_bad, self.opened

    def touches(self, start: Millis | None, end: Millis | None) -> bool:
        """Return whether the outage may overlap [start, end) while monitored; None is no bound."""
        over = self.until
        return (start is None or over is None or over > start) and (end is None or self.first_bad < end)


def head_of(record: OutageRecord, opened: int, index: int) -> OutageHead:
    """Return the head of an outage, from the record in its latest entry."""
    return OutageHead(
        record.id, record.target, record.provider, record.kind.value, record.state, record.begin,
        record.first_bad, record.until, record.durations.least, opened, index,
    )  # fmt: skip


class RecordedTarget(NamedTuple):
    """A target that outages are on record of. One name may have had several providers and kinds."""

    target: str
    provider: str
    kind: str


_PLACE = attrgetter("place")


class OutageLists:
    """All outages at one moment. Nothing of it changes: `with_changed` makes the lists of the next moment.

    So any number of threads may read it, and what a page needs is sorted once after each change.
    """

    __slots__ = ("_names", "_selected", "by_id", "by_target", "newest_first")

    def __init__(
        self,
        newest_first: Sequence[OutageHead] = (),
        by_id: Mapping[str, OutageHead] = MappingProxyType({}),
        by_target: Mapping[RecordedTarget, Sequence[OutageHead]] = MappingProxyType({}),
    ) -> None:
        self.newest_first, self.by_id, self.by_target = newest_first, by_id, by_target
        self._selected: dict[tuple[frozenset[RecordedTarget] | None, str], Sequence[OutageHead]] = {}
        names: dict[str, list[RecordedTarget]] = {}
        for subject in by_target:
            names.setdefault(subject.target, []).append(subject)
        self._names = names

    @classmethod
    def of(cls, heads: Iterable[OutageHead]) -> OutageLists:
        """Return the lists of these outages."""
        newest_first = sorted(heads, key=_PLACE)
        by_target: dict[RecordedTarget, list[OutageHead]] = {}
        for head in newest_first:
            by_target.setdefault(head.recorded_target, []).append(head)
        return cls(newest_first, {head.id: head for head in newest_first}, by_target)

    def with_changed(self, changed: Collection[OutageHead]) -> OutageLists:
        """Return the lists in which these heads are new, or take the place of those with their ids."""
        by_id = dict(self.by_id)
        if len(changed) > MANY_CHANGES:
            by_id.update((head.id, head) for head in changed)
            return OutageLists.of(by_id.values())
        newest_first, by_target = list(self.newest_first), dict(self.by_target)
        for head in changed:
            if (before := by_id.get(head.id)) is not None:
                del newest_first[bisect_left(newest_first, before.place, key=_PLACE)]
                others = [one for one in by_target.pop(before.recorded_target) if one.id != head.id]
                if others:
                    by_target[before.recorded_target] = others
            by_id[head.id] = head
            insort(newest_first, head, key=_PLACE)
            own = list(by_target.get(head.recorded_target, ()))
            insort(own, head, key=_PLACE)
            by_target[head.recorded_target] = own
        return OutageLists(newest_first, by_id, by_target)

    def select(self, targets: Collection[RecordedTarget] | None = None, state: str = "") -> Sequence[OutageHead]:
        """Return the outages of these targets (None: of all) in a state ("" for any), newest first."""
        key = None if targets is None else frozenset(targets), state
        if (found := self._selected.get(key)) is None:
            found = self.newest_first if targets is None else self._of_targets(targets)
            if state:
                found = [head for head in found if head.state == state]
            if len(self._selected) >= MAX_SELECTIONS:
                self._selected.clear()
            self._selected[key] = found
        return found

    def _of_targets(self, targets: Collection[RecordedTarget]) -> Sequence[OutageHead]:
        parts = [self.by_target[subject] for subject in set(targets) if subject in self.by_target]
        return parts[0] if len(parts) == 1 else sorted(chain.from_iterable(parts), key=_PLACE)

    def of_name(self, target: str) -> Sequence[OutageHead]:
        """Return the outages of the target with this name, newest first."""
        return self.select(self._names.get(target, ()))

    def place_of(self, identity: str, among: Sequence[OutageHead]) -> int | None:
        """Return the place of an outage in a selection of these lists, None if it is not in it."""
        if (head := self.by_id.get(identity)) is None:
            return None
        place = bisect_left(among, head.place, key=_PLACE)
        return place if place < len(among) and among[place] is head else None
