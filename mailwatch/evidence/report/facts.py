"""What a range of entries shows of one target and of ourselves, read once, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mailwatch.analysis.elapsed import Moment, as_shown, end_of, length_of, start_of
from mailwatch.ledger.payloads import gap_from, observation_from
from mailwatch.model import Gap, Observation, Outcome, Phase
from mailwatch.store import Entry
from mailwatch.times import Millis

MAX_RUNS = 5000


@dataclass(slots=True)
class Run:
    """Looks in a row that saw the same. `what` is up, down, unknown, or gap."""

    what: str
    start: Millis
    end: Millis
    count: int
    detail: str


@dataclass(slots=True)
class Sightings:
    """What was found. `runs` are in order; when there are too many, `more` counts those left out.

    Of `down` looks, `guarded` found other operators to answer, and in `answered` the server took the connection;
    in `unknown_words` it said what is in no row of the table of replies.
    Of `surveys` of the clock, `degraded` left it in doubt; `unbounded` of these do not say how far it was off.
    """

    runs: list[Run] = field(default_factory=list)
    more: int = 0
    looks: int = 0
    first: Millis | None = None
    last: Millis | None = None
    gaps: list[Gap] = field(default_factory=list)
    down: int = 0
    guarded: int = 0
    answered: int = 0
    unknown_words: int = 0
    controls: set[str] = field(default_factory=set)
    offline: int = 0
    is_offline: bool = False
    surveys: int = 0
    degraded: int = 0
    unbounded: int = 0
    bound_us: int = 0
    steps: int = 0
    reference: Moment | None = None
    offsets: list[int] = field(default_factory=list)
    accepted_before: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    accepted_after: set[str] = field(default_factory=set)
    with_login: bool = False
    servers: set[str] = field(default_factory=set)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    node_before: dict[str, Any] | None = None
    tokens: dict[int, dict[str, Any]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    ciphers: set[str] = field(default_factory=set)


def sight(
    entries: Iterable[Entry], target: str, payload: dict[str, Any], reference: Moment | None = None
) -> Sightings:
    """Read the range around the outage that `payload` tells; times by the wall clock of `reference`."""
    found = Sightings(reference=reference)
    for entry in entries:
        if entry.target == target and entry.kind == "observation":
            _look(found, entry.index, observation_from(entry.payload), payload)
        elif entry.target == target and entry.kind == "gap":
            gap = gap_from(entry.payload)
            found.gaps.append(gap)
            until = as_shown(end_of(gap), reference)
            _run(found, "gap", until - length_of(gap), until, gap.reason)
        elif entry.target is None:
            _ours(found, entry)
    return found


def _look(found: Sightings, index: int, look: Observation, payload: dict[str, Any]) -> None:
    found.looks += 1
    start, end = as_shown(start_of(look), found.reference), as_shown(end_of(look), found.reference)
    found.first = start if found.first is None else found.first
    found.last = end
    first, last = payload["ledger"]["first"], payload["ledger"]["last"]
    inside = first < index <= last
    if look.secret and look.outcome is Outcome.UP:
        if index <= first:
            found.accepted_before.add(look.secret)
        elif index >= last:
            # The last entry of an outage that is over is the good look that ended it.
            found.accepted_after.add(look.secret)
    elif look.secret and inside:
        found.used.add(look.secret)
    if inside and look.outcome is Outcome.DOWN:
        _failed(found, look)
    for attempt in look.attempts:
        if attempt.peer:
            found.addresses[attempt.peer] = found.addresses.get(attempt.peer, 0) + 1
        if attempt.tls is not None:
            found.fingerprints[attempt.peer] = attempt.tls.fingerprint
            found.ciphers.add(f"{attempt.tls.version}, {attempt.tls.cipher}")
    _run(found, look.outcome.value, start, end, look.cause.value if look.cause else "")


def _failed(found: Sightings, look: Observation) -> None:
    found.down += 1
    found.with_login |= look.with_login
    deciding = look.deciding
    found.unknown_words += (deciding.facts or {}).get("words") == "unknown" if deciding else 0
    found.answered += look.failed_phase not in (Phase.RESOLVE, Phase.CONNECT)
    if look.guard is not None and look.guard.online:
        found.guarded += 1
        found.controls |= {name for name, told in look.guard.controls.items() if str(told) == "ok"}


def _run(found: Sightings, what: str, start: Millis, end: Millis, detail: str) -> None:
    last = found.runs[-1] if found.runs else None
    if last is not None and (last.what, last.detail) == (what, detail) and what != "gap":
        last.end, last.count = end, last.count + 1
    elif len(found.runs) < MAX_RUNS:
        found.runs.append(Run(what, start, end, 1, detail))
    else:
        found.more += 1


def _ours(found: Sightings, entry: Entry) -> None:
    payload = entry.payload
    if entry.kind == "guard":
        # A time offline has several entries: signs of life, and changes of its parts.
        offline = payload.get("online") is False
        found.offline += offline and not found.is_offline
        found.is_offline = offline
    elif entry.kind == "clock" and "degraded" in payload:
        found.surveys += 1
        found.degraded += bool(payload["degraded"])
        found.unbounded += payload.get("error_bound_us") is None
        found.bound_us = max(found.bound_us, int(payload.get("error_bound_us") or 0))
        found.servers |= {str(one["server"]) for one in payload.get("servers", ())}
    elif entry.kind == "clock":
        found.steps += 1
    elif entry.kind == "token":
        found.offsets.append(int(payload["offset_ms"]))
    elif entry.kind == "node":
        found.nodes.append(payload)
