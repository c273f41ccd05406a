"""Replays the looks of a bundle by the rules on record, and compares the outage with what is stated."""

from __future__ import annotations

from typing import Any

from mailwatch.config.durations import parse
from mailwatch.config.mistakes import Fault
from mailwatch.evidence.claims import stated as claims
from mailwatch.evidence.course import FACTS, Course, Seen
from mailwatch.evidence.verify.archive import Refused
from mailwatch.evidence.verify.ledger import Shown, Walk
from mailwatch.models import Kind
from mailwatch.outages import Outage, Rules, outage_payload, payload_json, read_rules, written_rules
from mailwatch.service_level import stretches

DEFAULT_BEAT = 60.0


def replayed(found: Walk, stated: dict[str, Any], seen: Seen = lambda *_: None) -> str:
    """Return what was replayed, in words; `seen` is told of each fact. Raises Refused if it is another outage."""
    told = _typed(stated, "outage", dict)
    target = _typed(told, "target", str)
    entries = found.shown.get(target)
    if not entries:
        raise Refused(f"no entry of {target[:80]} is in the bundle")
    rules, recorded = _rules(found, entries, str(told.get("id")))
    if stated.get("rules") != written_rules(rules):
        raise Refused("the stated rules are not those on record")
    course = Course(stretches.Walk(_beat(stated.get("service"))), seen)
    outage, looks = _outage(course, entries, rules, str(told.get("id")))
    names = recorded or told
    try:
        payload = outage_payload(outage, names["provider"], Kind(names["kind"]), names["vantage_point"])
    except (KeyError, ValueError, TypeError) as error:
        raise Refused(f"the outage does not say what it is of: {error}") from None
    given = payload_json(payload) | {
        key: told[key] for key in told if key not in payload_json(payload) and key in _ADDED
    }
    if given != told:
        wrong = [key for key in given.keys() | told.keys() if given.get(key) != told.get(key)]
        raise Refused(f"a replay of {looks} looks gives another outage in: {', '.join(sorted(wrong))}")
    for key in ("replies", "first_detail"):
        if stated.get(key) != payload[key]:
            raise Refused(f"a replay gives another {key}")
    words = f"{looks} looks of {target} replayed by the rules on record give the outage as stated"
    if "claim" in stated:
        try:
            words += f"; the claim is {claims.check(stated['claim'], told)}"
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise Refused(f"the claim does not hold: {error}"[:200]) from None
    return words


_ADDED = ("maintenance",)
"""What may be told beside the outage and follows from other entries."""


def _outage(course: Course, entries: list[Shown], rules: Rules, wanted: str) -> tuple[Outage, int]:
    entry = entries[0]
    try:
        for entry in entries:
            if entry.kind in FACTS:
                course.take(entry.index, entry.kind, entry.payload, rules)
        course.settle(rules)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise Refused(f"entry {entry.index} is no {entry.kind}: {type(error).__name__} {error}"[:200]) from None
    if wanted not in course.known:
        raise Refused(f"a replay of {course.looks} looks gives no outage {wanted[:20]}")
    return course.known[wanted], course.looks


def _rules(found: Walk, entries: list[Shown], wanted: str) -> tuple[Rules, dict[str, Any] | None]:
    """Return the rules in force, as the outage's own entry has them, else the last start of MailWatch."""
    recorded = [e.payload for e in entries if e.kind == "outage" and e.payload.get("id") == wanted]
    starts = [e.payload for e in found.shown.get("", []) if e.kind == "node"]
    for payload in (*recorded, *reversed(starts)):
        if "rules" in payload:
            try:
                return read_rules(payload["rules"]), recorded[-1] if recorded else None
            except (KeyError, ValueError, TypeError):
                raise Refused("the rules on record cannot be read") from None
    raise Refused("no entry of the bundle says by which rules it was judged")


def _beat(service: Any) -> float:
    """The seconds between two looks, as the config had it: those further apart say nothing of the time between."""
    try:
        return parse(service.get("interval")) if isinstance(service, dict) else DEFAULT_BEAT
    except Fault:
        return DEFAULT_BEAT


def _typed(value: dict[str, Any], key: str, kind: type[Any]) -> Any:
    if not isinstance(value.get(key), kind):
        raise Refused(f"outage.json has no {key}")
    return value[key]
