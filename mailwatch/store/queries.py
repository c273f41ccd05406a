"""What is on record, as the JSON of docs/reference/api.md: the same answers for the command line and the API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mailwatch.analysis.availability import Meter
from mailwatch.analysis.elapsed import Moment
from mailwatch.analysis.incidents import Incident, Member, turns
from mailwatch.analysis.incidents import incidents as incidents_of
from mailwatch.analysis.login_outages import PROVEN
from mailwatch.analysis.offline import offline_payloads
from mailwatch.analysis.outage import Outage, Steps, defended, named_after, outage_payload, stepped, told_json
from mailwatch.analysis.replay import Course
from mailwatch.analysis.segments import GUESS_FROM, Stretch, usual_interval
from mailwatch.config.recorded_targets import SEE_CONFIG, NoSuchTarget
from mailwatch.ledger.payloads import FACTS, clock_from
from mailwatch.model import Fact, Kind, Observation, Outcome, WatchChange
from mailwatch.store import Reader
from mailwatch.store.replay import RuleBook, notices, resume, rule_book
from mailwatch.times import Millis, overlap, rfc3339

Live = Mapping[str, Mapping[str, Any]]
"""Payloads of open outages by their ids, as whoever follows every look has them."""
NOTHING_LIVE: Live = {}


def outage_payloads(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NOTHING_LIVE,
) -> list[dict[str, Any]]:
    """Return the outages on record, newest first; those that touch [start, end) when given.

    A closed outage is told as its ledger entry tells it, and so is one that was watched no longer: it touches what
    lies before its last failure. An open one is replayed to the last entry, unless `live`
    has it: that takes a second for ten thousand looks.
    """
    found = []
    for told in _latest(reader, live):
        over = told["last_bad"] if told["state"] == "unwatched" else told["first_good"]
        if only_open and told["state"] != "open":
            continue
        if start is not None and over is not None and over <= start:
            continue
        if end is not None and told["first_bad"] >= end:
            continue
        found.append(told)
    return sorted(found, key=lambda told: int(told["first_bad"]), reverse=True)


def _latest(reader: Reader, live: Live) -> list[dict[str, Any]]:
    """Return each outage as it stands now, in the order in which they came on record."""
    latest: dict[str, dict[str, Any]] = {}
    opaque: dict[str, str] = {}
    for entry in reader.entries(kinds=["outage"]):
        payload = entry.payload
        latest[payload["id"]] = payload
        opaque[payload["target"]] = entry.opaque
    still_open = {identity for identity, payload in latest.items() if payload["state"] == "open"}
    book = rule_book(reader) if still_open - live.keys() else None
    announced = notices(reader)
    found, steps = [], None
    for identity, payload in latest.items():
        told = payload
        if identity in still_open and identity in live:
            told = _with_account(live[identity], payload)
        elif identity in still_open and book:
            told = _as_of_now(reader, book, payload)
        if "clock" not in told:
            steps = steps_of(reader) if steps is None else steps
            told = defended(told, *stepped(steps, told["ledger"]["first"], told["ledger"]["last"]))
        begin, end = told["first_bad"], told["last_bad"]
        excused = overlap(announced.of(opaque[told["target"]], begin, end), begin, end)
        found.append(told | {"maintenance_ms": excused} if excused else told)
    return found


def steps_of(reader: Reader) -> Steps:
    """Read by how much the wall clock was set, and in which entries."""
    told = ((entry.index, entry.payload) for entry in reader.entries(kinds=["clock"]))
    return [(index, payload["milliseconds"]) for index, payload in told if payload["event"] == "step"]


def incidents(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NOTHING_LIVE,
) -> list[Incident]:
    """Return the incidents, newest first; those that touch [start, end) when given."""
    found = []
    for incident in incidents_of(Member.of(order, told) for order, told in enumerate(_latest(reader, live))):
        over = incident.until
        if only_open and incident.state != "open":
            continue
        if start is not None and over is not None and over <= start:
            continue
        if end is not None and incident.first_bad >= end:
            continue
        found.append(incident)
    return found[::-1]


def in_full(reader: Reader, incident: Incident) -> Incident:
    """Look up how the trouble of each outage changed: it reads every look of the incident."""
    members = (replace(member, turns=turns(_bad_looks(reader, member))) for member in incident.members)
    return replace(incident, members=tuple(members))


def _bad_looks(reader: Reader, member: Member) -> Iterator[tuple[Millis, str | None]]:
    for entry in reader.entries(target=member.target, kinds=["observation"], from_index=member.first_index):
        if entry.index > member.last_index:
            return
        payload = entry.payload
        if payload["outcome"] == Outcome.DOWN.value:
            yield payload["end"], payload.get("failed_phase")


def outages(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NOTHING_LIVE,
) -> list[dict[str, Any]]:
    """Return `outage_payloads` as the API tells them."""
    found = outage_payloads(reader, only_open=only_open, start=start, end=end, live=live)
    return [told_json(payload) for payload in found]


def offline(reader: Reader, *, start: Millis | None = None, end: Millis | None = None) -> list[dict[str, Any]]:
    """Return the times in which our own line was down, newest first; those that touch [start, end) when given."""
    entries = ((entry.index, entry.payload) for entry in reader.entries(kinds=["guard"]))
    found = []
    for told in reversed(offline_payloads(entries)):
        over = told["first_online"]
        if (start is None or over is None or over > start) and (end is None or told["first_offline"] < end):
            found.append(_offline_json(told))
    return found


def _offline_json(told: dict[str, Any]) -> dict[str, Any]:
    times = ("last_online", "first_offline", "last_offline", "first_online")
    lasted = told["duration_ms"].items()
    return {
        "part": told["part"],
        "state": told["state"],
        **{key: None if told[key] is None else rfc3339(told[key]) for key in times},
        "duration": {key: None if millis is None else millis / 1000 for key, millis in lasted},
        "unobserved": told["unobserved_ms"] / 1000,
        "reasons": told["reasons"],
        "ledger": told["ledger"],
    }


def _as_of_now(reader: Reader, book: RuleBook, payload: dict[str, Any]) -> dict[str, Any]:
    replayed = resume(reader, payload["target"], book)
    outage: Outage | None = replayed.state.outage
    if outage is None or outage.id != payload["id"]:
        # It closed a moment ago, and the entry that says so is being written.
        outage = next((closed for closed in replayed.missing if closed.id == payload["id"]), None)
    if outage is None:
        return payload
    told = outage_payload(outage, payload["provider"], Kind(payload["kind"]), payload["vantage_point"])
    return _with_account(told, payload)


def _with_account(told: Mapping[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    return {**told, **{key: payload[key] for key in ("account", "watch") if key in payload}}


def observation_json(observation: Observation, provider: str, kind: str) -> dict[str, Any]:
    """Return an observation as `mailwatch probe --json` and the API tell it; durations in seconds."""
    last = observation.deciding
    tls = last.tls if last else None
    return {
        "target": observation.target,
        "kind": kind,
        "provider": provider,
        "started_at": rfc3339(observation.started_at),
        "outcome": observation.outcome.value,
        "cause": observation.cause.value if observation.cause else None,
        "failed_phase": observation.failed_phase.value if observation.failed_phase else None,
        "detail": observation.detail,
        "phases": {phase.value: spent / 1e6 for phase, spent in last.phases.items()} if last else {},
        "duration": (observation.ended_at - observation.started_at) / 1000,
        "peer": last.peer if last else "",
        "tls": None
        if tls is None
        else {
            "version": tls.version,
            "cipher": tls.cipher,
            "fingerprint": tls.fingerprint,
            "not_after": rfc3339(tls.not_after) if tls.not_after is not None else None,
        },
        "attempts": len(observation.attempts),
        "partial": list(observation.partial),
        "replies": list(last.replies) if last else [],
        "guard": None if observation.guard is None else observation.guard.online,
    }


def observations(
    reader: Reader,
    known: dict[str, tuple[str, str]],
    *,
    target: str | None,
    start: Millis | None,
    end: Millis | None,
    limit: int,
    outcome: Outcome | None = None,
    before: int | None = None,
    after: int | None = None,
) -> list[dict[str, Any]]:
    """Return observations, newest first, with their index. `known` gives provider and kind of a target.

    Of the entries from index `after` to that before `before`, if given.
    """
    found = []
    for entry in reader.entries(
        target=target, kinds=["observation"], outcome=outcome, start_ms=start, end_ms=end, from_index=after,
        to_index=before, descending=True, limit=limit,
    ):  # fmt: skip
        fact = entry.fact
        if isinstance(fact, Observation):
            provider, kind = known.get(fact.target, ("", ""))
            found.append({"index": entry.index, **observation_json(fact, provider, kind)})
    return found


def wanted_targets(
    reader: Reader, name: str | None, configured: Sequence[str], *, see: str = SEE_CONFIG
) -> list[str]:
    """Return the targets that are asked for: all in the config, or the one of that name, which may be on record
    only. `see` is for NoSuchTarget, which it raises.
    """
    if name is None:
        return list(configured)
    if name not in configured and name not in (on_record := reader.targets()):
        raise NoSuchTarget(name, {*configured, *on_record}, see=see)
    return [name]


def guessed_interval(reader: Reader, target: str, start: Millis | None = None, *, index: int = 0) -> Millis:
    """Return the interval of a target where it is not on record: as it was observed from a time or entry on."""
    entries = reader.entries(
        target=target, kinds=["observation"], start_ms=start, from_index=index, limit=GUESS_FROM
    )
    return usual_interval([entry.payload["scheduled"] for entry in entries])


def availability(reader: Reader, targets: Iterable[str], start: Millis, end: Millis) -> list[dict[str, Any]]:
    """Return the availability of each target in [start, end).

    Each observation is judged by the interval on record, or where there is none by how it was observed. Announced
    maintenance is left out, as far as the record goes; where there was any, `with_maintenance` has the same with
    its time counted as any other.
    """
    book, announced = rule_book(reader), notices(reader)
    last = next((entry.time for entry in reader.entries(descending=True, limit=1)), 0)
    answers = []
    for name in targets:
        settings = watched_at(reader, name, start)
        length = settings.fact.settings.interval if settings else guessed_interval(reader, name, start)
        # An observation before the window speaks for its beginning.
        margin = 3 * length + 60_000
        # All entries from the first to the last of the window's, whatever the wall clock was set to in between: of
        # two that do not follow one another nothing is known.
        first, after = reader.between(name, start - margin, end + margin)
        held = reader.latest(name, "watch", at_most=first)
        change = None if held is None else held.fact
        interval = (change.settings.interval if isinstance(change, WatchChange) else length) / 1000
        opaque = next((entry.opaque for entry in reader.entries(target=name, limit=1)), "")
        excluded = announced.of(opaque, start - margin, min(end, last))
        without, whole = (
            Meter(start, end, interval=interval, excluded=left_out, infer=change is None)
            for left_out in (excluded, ())
        )
        course, rules = Course(_Both(without, whole), lambda *_: None), book.at(0)
        for entry in reader.entries(target=name, kinds=FACTS, from_index=first, to_index=after):
            rules = book.at(entry.index)
            course.take(entry.index, entry.kind, entry.payload, rules)
        course.settle(rules)
        found = [outage for outage in course.known.values() if not outage.proven_afterwards]
        told = without.read(found).as_told()
        if told.get("maintenance"):
            counted = whole.read(found).as_told()
            told["with_maintenance"] = {key: counted[key] for key in _COUNTED}
        answers.append({"target": name, "from": rfc3339(start), "to": rfc3339(end), **told})
    return answers


def anchor_of(reader: Reader, payload: Mapping[str, Any]) -> Moment | None:
    """Return the first failure of an outage as it is shown; None on records with wall times only."""
    kind = PROVEN if payload.get("proven_afterwards") else ""
    first, last = payload["ledger"]["first"], payload["ledger"]["last"]
    name = payload["target"]
    for entry in reader.entries(target=name, kinds=["observation"], from_index=first, to_index=last + 1):
        told = entry.payload
        if named_after(kind, name, entry.index, told["start"]) == payload["id"]:
            clock = clock_from(told)
            return None if clock is None else Moment(payload["first_bad"], clock.end, clock.boot)
    return None


class WatchedAt(NamedTuple):
    """What was on record of the watching of a target at a time, and in which entry."""

    entry: int
    fact: WatchChange


def watched_at(reader: Reader, target: str, at: Millis) -> WatchedAt | None:
    """Return the latest change of what is watched before `at`, None where the record has none."""
    for entry in reader.entries(target=target, kinds=["watch"], end_ms=at, descending=True, limit=1):
        if isinstance(fact := entry.fact, WatchChange):
            return WatchedAt(entry.index, fact)
    return None


_COUNTED = ("availability", "coverage", "downtime", "unobserved", "mttr", "mtbf")


class _Both:
    """Two accounts of the same facts: with announced maintenance left out, and with all time counted."""

    def __init__(self, one: Meter, other: Meter) -> None:
        self._one, self._other = one, other

    def add(self, fact: Fact) -> list[Stretch]:
        self._other.add(fact)
        return self._one.add(fact)

    def good(self, payload: dict[str, Any]) -> bool:
        # Both or neither: what they leave out does not decide it.
        return self._one.good(payload) and self._other.good(payload)

    def settle(self) -> list[Stretch]:
        self._other.settle()
        return self._one.settle()
