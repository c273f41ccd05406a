"""Replays the looks of a bundle while they are read, and compares the outage with what is stated."""

from __future__ import annotations

from typing import Any

from mailwatch.config.durations import parse_duration
from mailwatch.course import FACTS, Course, Seen
from mailwatch.elapsed import Moment
from mailwatch.evidence.claims import stated as claims
from mailwatch.evidence.verify.archive import Archive, Refused
from mailwatch.evidence.verify.ledger import Walk
from mailwatch.models import Kind
from mailwatch.outages import Outage, defended, outage_payload, payload_json, read_rules, stepped, written_rules
from mailwatch.service_level import stretches

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
            self._course = Course(stretches.Walk(_beat(self.stated.get("service")), infer=True), seen)
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
