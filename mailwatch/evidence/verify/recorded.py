"""Compares what a target's entries say of themselves with the replay: outages, and the causes of observations.

An outage that the replay gives and no entry has was never recorded by MailWatch: its rules, or the beginning of
the range, were chosen afterwards. An entry that the replay does not give is about an outage that the range cuts
off, or is made up.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping

from mailwatch.analysis.outage import Outage
from mailwatch.analysis.replay import TargetReplay
from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.model import Cause
from mailwatch.times import Millis, Window

TIMES = ("state", "last_good", "first_bad", "last_bad", "first_good")
"""Keys of an entry that equal the replay at its place. Not its counters: after a kill the next start writes it."""
MAX_OUTAGES = 20_000
"""Most outages of one target: fifty a day for a year."""


class RecordedOutages:
    """The entries about outages of one target, in order, beside its replay."""

    def __init__(self) -> None:
        self._different: list[tuple[Outage, str]] = []
        self._recorded: set[str] = set()
        self._foreign: dict[str, Mapping[str, object]] = {}
        """Payload of the latest entry about each outage that the replay did not give."""
        self._known = 0
        self._missing: set[str] = set()

    def before_observation(self, replay: TargetReplay) -> None:
        """Note the outages that have no entry by now. Call it before each observation is replayed."""
        if len(replay.outages) != self._known:
            self._known = len(replay.outages)
            self._missing |= replay.outages.keys() - self._recorded

    def feed(self, index: int, payload: Mapping[str, object], replay: TargetReplay) -> None:
        """Compare an entry with the replay at its place."""
        written = str(payload.get("id"))
        self._recorded.add(written)
        outage = replay.all_outages.get(written)
        if outage is None:
            if len(self._foreign) < MAX_OUTAGES:
                self._foreign[written] = payload
            return
        if (what := difference(index, payload, outage)) and len(self._different) < MAX_OUTAGES:
            self._different.append((outage, what))

    def faults_in(self, window: Window, replay: TargetReplay) -> Iterator[str]:
        """Return what is wrong with outages that overlap a window, after the last entry."""
        start, end = window
        for outage, what in self._different:
            if outage.touches(start, end):
                yield what
        known = replay.all_outages
        for one, payload in self._foreign.items():
            if one not in known and _may_touch(payload, start, end):
                yield f"outage {one[:20]} is on record in the window, but the range does not hold it whole"
        for one in sorted(self._missing - self._recorded):
            if known[one].touches(start, end):
                yield f"outage {one}, which a replay gives, has no entry"


def difference(index: int, payload: Mapping[str, object], outage: Outage) -> str:
    """Return how an entry about an outage differs from the replay at its place, "" if it does not."""
    # The last good observation may lie before the range: then the replay has none.
    known = {key: value for key in TIMES if (value := getattr(outage, key)) is not None or key != "last_good"}
    wrong = [key for key, value in known.items() if payload.get(key) != value]
    return f"entry {index} differs from a replay of outage {outage.id} in: {', '.join(wrong)}" if wrong else ""


_OUTCOMES: Mapping[str, Collection[str]] = {cause.value: (cause.outcome.value,) for cause in Cause} | {
    "credentials": ("unknown", "down")
}
"""`credentials` may be down: where several accounts of a provider were rejected together."""


def check_cause(index: int, fact: Mapping[str, object]) -> None:
    """Check that an observation that is not up has a cause, and one of its outcome: our own failures are never the
    provider's. Raises VerificationError.
    """
    outcome = fact.get("outcome", "up")
    if outcome != "up" and outcome not in _OUTCOMES.get(str(fact.get("cause")), ()):
        raise VerificationError(f"the cause of entry {index} does not go with its outcome")


def first_entry_of(payload: Mapping[str, object]) -> int:
    """Return the index of the first entry of a recorded outage; a very large one if it states none.

    It lies before the range if the range cuts the outage off.
    """
    place = payload.get("ledger")
    first = place.get("first") if isinstance(place, dict) else None
    return first if isinstance(first, int) else sys.maxsize


def _may_touch(payload: Mapping[str, object], start: Millis, end: Millis) -> bool:
    """Whether an outage on record overlaps a window; True if its times are none."""
    first, last, good = (payload.get(key) for key in ("first_bad", "last_bad", "first_good"))
    if not isinstance(first, int) or not isinstance(last, int):
        return True
    until = good if isinstance(good, int) else last if payload.get("state") == "unwatched" else end
    return first < end and until > start
