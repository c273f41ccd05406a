"""Computes a period's availability and outages again while its entries are read: as period.json states?

Replays the looks of a bundle while they are read, and compares the outage with what is stated.
"""

from __future__ import annotations

from typing import Any

from mailwatch.analysis import segments
from mailwatch.analysis.elapsed import Moment
from mailwatch.analysis.outage import Outage, defended, outage_payload, payload_json, stepped
from mailwatch.analysis.replay import Course, Odd, Replay, Seen
from mailwatch.evidence.claims import format as claims
from mailwatch.evidence.verify.archive import Archive, Refused
from mailwatch.evidence.verify.entries import Walk
from mailwatch.ledger.payloads import FACTS, read_rules, written_rules
from mailwatch.model import Kind
from mailwatch.times import parse_duration, parse_rfc3339

DEFAULT_BEAT = 60.0


class Single:
    """What outage.json claims, and the replay of it. A fault waits until asked for: other claims go first."""

    def __init__(self, archive: Archive, seen: Seen) -> None:
        self.stated: dict[str, Any] = {}
        self.anchors: dict[str, Moment | None] = {}
        """A moment of each outage as it is shown, once it was compared."""
        self._fault = self._target = self._id = ""
        self._recorded: dict[str, Any] | None = None
        try:
            self.stated = archive.json("outage.json")
            told = _typed(self.stated, "outage", dict)
            self._target, self._id = _typed(told, "target", str), str(told.get("id"))
            self._rules = read_rules(_typed(self.stated, "rules", dict))
            if written_rules(self._rules) != self.stated["rules"]:
                raise Refused("the stated rules are not written as rules are")
            self._course = Course(segments.Walk(_beat(self.stated.get("service")), infer=True), seen)
        except Refused as error:
            self._fault = str(error)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            self._fault = f"outage.json has no rules that can be read: {type(error).__name__} {error}"[:200]

    @property
    def entries(self) -> dict[str, int]:
        """The first and the last entry of the outage."""
        placed: dict[str, int] = self.stated["outage"]["ledger"]
        return placed

    def take(self, index: int, kind: str, time: int, target: str, payload: dict[str, Any]) -> None:
        """Take in an entry that was shown."""
        if self._fault or target != self._target:
            return
        try:
            if kind in FACTS:
                self._course.take(index, kind, payload, self._rules)
                for other in self._course.outages.keys() - {self._id}:
                    del self._course.outages[other]
            elif kind == "outage" and payload.get("id") == self._id:
                self._recorded = payload
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            self._fault = f"entry {index} is no {kind}: {type(error).__name__} {error}"[:200]

    def compared(self, walk: Walk) -> str:
        """Return what was compared, in words. Raises Refused when it is not what is stated."""
        if self._fault:
            raise Refused(self._fault)
        if self._target not in walk.names.values():
            raise Refused(f"no entry of {self._target[:80]} is in the bundle")
        if self.stated["rules"] != _on_record(walk, self._recorded):
            raise Refused("the stated rules are not those on record")
        outage, looks = self._outage()
        self.anchors = {outage.id: outage.anchor}
        told = self.stated["outage"]
        names = self._recorded or told
        try:
            payload = outage_payload(outage, names["provider"], Kind(names["kind"]), names["vantage_point"])
            payload = _defended(payload, walk, told)
            public = payload_json(payload)
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise Refused(f"the outage does not say what it is of: {error}"[:200]) from None
        given = public | {key: told[key] for key in told if key not in public and key in _ADDED}
        if given != told:
            wrong = [key for key in given.keys() | told.keys() if given.get(key) != told.get(key)]
            raise Refused(f"a replay of {looks} looks gives another outage in: {', '.join(sorted(wrong))}")
        for key in ("replies", "first_detail"):
            if self.stated.get(key) != payload[key]:
                raise Refused(f"a replay gives another {key}")
        words = f"{looks} looks of {self._target} replayed by the rules on record give the outage as stated"
        if "claim" in self.stated:
            try:
                words += f"; the claim is {claims.check(self.stated['claim'], told)}"
            except (KeyError, ValueError, TypeError, OverflowError) as error:
                raise Refused(f"the claim does not hold: {error}"[:200]) from None
        return words

    def _outage(self) -> tuple[Outage, int]:
        try:
            self._course.settle(self._rules)
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
            raise Refused(f"the last look is none: {type(error).__name__} {error}"[:200]) from None
        looks, known = self._course.looks, self._course.known
        if self._id not in known:
            raise Refused(f"a replay of {looks} looks gives no outage {self._id[:20]}")
        return known[self._id], looks


def _defended(payload: dict[str, Any], walk: Walk, told: dict[str, Any]) -> dict[str, Any]:
    """Widen the bounds of an outage that has only wall times by what the clock was set in it."""
    ahead, back = stepped(walk.steps, payload["ledger"]["first"], payload["ledger"]["last"])
    wide = defended(payload, ahead, back)
    if wide is not payload and "clock" not in told:
        raise Refused(f"the clock was set by {ahead + back} ms within the outage, which its durations leave out")
    return wide


_ADDED = ("maintenance",)
"""What may be told beside the outage and follows from other entries."""


def _on_record(walk: Walk, recorded: dict[str, Any] | None) -> Any:
    """Return the rules in force, as the outage's own entry has them, else the last start of MailWatch."""
    if recorded and "rules" in recorded:
        return recorded["rules"]
    if walk.rules is None:
        raise Refused("no entry of the bundle says by which rules it was judged")
    return walk.rules


def _beat(service: Any) -> float:
    """The seconds between two looks, as the config had it: those further apart say nothing of the time between."""
    try:
        return parse_duration(service.get("interval")) if isinstance(service, dict) else DEFAULT_BEAT
    except ValueError:
        return DEFAULT_BEAT


def _typed(value: dict[str, Any], key: str, kind: type[Any]) -> Any:
    if not isinstance(value.get(key), kind):
        raise Refused(f"outage.json has no {key}")
    return value[key]


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
