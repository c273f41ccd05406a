"""Computes a period's availability and outages again while its entries are read: as period.json states?"""

from __future__ import annotations

from typing import Any

from mailwatch.course import Seen
from mailwatch.elapsed import Moment
from mailwatch.evidence.period.replay import Odd, Replay
from mailwatch.evidence.verify.archive import Archive, Refused
from mailwatch.evidence.verify.ledger import Walk
from mailwatch.models import parse_rfc3339
from mailwatch.outages import payload_json, read_rules, written_rules

MAX_TARGETS = 1000
MAX_OUTAGES = 20_000
"""Of one target: fifty a day for a year."""


class Period:
    """What period.json claims, and the replay of it. A fault waits until asked for: other claims go first."""

    def __init__(self, archive: Archive, seen: Seen) -> None:
        self.stated: dict[str, Any] = {}
        self.anchors: dict[str, Moment | None] = {}
        """A moment of each outage as it is shown, once they were compared."""
        self._fault = ""
        self._replay: Replay | None = None
        try:
            self.stated = archive.json("period.json")
            self._replay = _begin(self.stated, seen)
        except Refused as error:
            self._fault = str(error)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            self._fault = f"period.json has no window, targets and rules: {type(error).__name__} {error}"[:200]

    @property
    def entries(self) -> dict[str, int]:
        """The first and the last entry of the window."""
        placed: dict[str, int] = self.stated["entries"]
        return placed

    def take(self, index: int, kind: str, time: int, target: str, payload: dict[str, Any]) -> None:
        """Take in an entry that was shown."""
        if self._fault or self._replay is None:
            return
        try:
            self._replay.take(index, kind, time, target or None, payload)
        except Odd as error:
            self._fault = str(error)
        account = self._replay.accounts.get(target)
        if account is not None and max(len(account.course.outages), len(account.recorded)) > MAX_OUTAGES:
            self._fault = f"{target[:80]} has more than {MAX_OUTAGES} outages"

    def compared(self, walk: Walk) -> str:
        """Return what was compared, in words. Raises Refused when it is not what is stated."""
        replay = self._replay
        if self._fault or replay is None:
            raise Refused(self._fault)
        try:
            replay.settle()
        except Odd as error:
            raise Refused(str(error)) from None
        _covered(walk, replay)
        replay.ended = walk.last_time
        _intervals(self.stated["targets"], replay)
        if walk.first_rules is not None and self.stated["rules"] != walk.first_rules:
            raise Refused("the stated rules are not those on record")
        if missing := sorted(replay.accounts.keys() - set(walk.names.values())):
            raise Refused(f"no entry of {missing[0][:80]} is in the bundle")
        bounds = replay.bounds()
        if bounds is None or self.stated.get("entries") != {"first": bounds[0], "last": bounds[1]}:
            raise Refused(f"the entries of the window are {bounds}, not as stated")
        told, looks = [], 0
        for name in replay.accounts:
            known = replay.availability_of(name)
            looks += sum(known.looks.values())
            told.append({"target": name} | known.as_json())
        if self.stated.get("availability") != told:
            raise Refused("a replay gives another availability")
        try:
            outages = [payload_json(payload) for payload in replay.payloads()]
        except (Odd, ValueError, OverflowError) as error:
            raise Refused(str(error)[:200]) from None
        self.anchors = {outage.id: outage.anchor for outage in replay.outages()}
        if self.stated.get("outages") != outages:
            raise Refused(f"a replay of {looks} looks gives other outages ({len(outages)})")
        channels = f"{len(told)} channels" if len(told) > 1 else "1 channel"
        return f"{looks} looks of {channels} replayed give the availability and {len(outages)} outages as stated"


def _begin(stated: dict[str, Any], seen: Seen) -> Replay:
    window = parse_rfc3339(stated["window"]["from"]), parse_rfc3339(stated["window"]["to"])
    targets = {one["target"]: one["interval"] for one in stated["targets"]}
    if not 0 < len(targets) == len(stated["targets"]) <= MAX_TARGETS:
        raise Refused("period.json names no target, too many, or one twice")
    for name, beat in targets.items():
        if not isinstance(name, str) or isinstance(beat, bool) or not isinstance(beat, int | float) or beat <= 0:
            raise Refused("period.json: a target without name and interval")
    if written_rules(read_rules(stated["rules"])) != stated["rules"]:
        raise Refused("the stated rules are not written as rules are")
    # Statements from before 2026-11 have one interval, by which all is judged.
    infer = {"intervals" in one for one in stated["targets"]}
    if len(infer) != 1:
        raise Refused("period.json: only some of the targets have intervals")
    return Replay(window, targets, read_rules(stated["rules"]), seen, infer=infer.pop())


def _intervals(targets: list[dict[str, Any]], replay: Replay) -> None:
    """Stated intervals must be those on record, or those that the observations give."""
    for one in targets:
        if "intervals" not in one:
            return
        name = one["target"]
        try:
            intervals, guess = replay.intervals_of(name), replay.guess_of(name) / 1000
        except (ValueError, OverflowError) as error:
            raise Refused(f"the intervals of {name[:80]} begin at no time: {error}"[:200]) from None
        if (one["intervals"], one["interval"]) != (intervals, guess):
            raise Refused(f"the intervals of {name[:80]} are not those on record")


def _covered(walk: Walk, replay: Replay) -> None:
    """The range must reach over the window on both sides: else looks could be left out at its ends.

    Where the clock was set meanwhile, its first entry need not be the earliest, nor its last the latest.
    """
    start, end = replay.window
    if walk.first_time is None or walk.last_time is None:
        raise Refused("there are no entries")
    if walk.start.size and min([walk.first_time, *(span.earliest for span in walk.spans)]) > start:
        raise Refused("the range begins inside the window, and not at the first entry of the ledger")
    if max([walk.last_time, *(span.latest for span in walk.spans)]) < end:
        raise Refused("the range ends inside the window")
