"""An outage as a fact, with its ledger payload and its JSON."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailwatch.analysis.elapsed import (
    Durations,
    ElapsedBounds,
    Moment,
    elapsed_between,
    on_one_wall_clock,
    outage_durations,
)
from mailwatch.analysis.outage_counters import ObservationRef, OutageCounters
from mailwatch.model import Kind
from mailwatch.times import Millis, rfc3339

DURATIONS = ("min", "max", "estimate", "uncertainty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A measured period in which a target was down; open while `first_good` is None.

    1. `down`, `up` and `unknown` count the observations between the last good and the first good one; without a
       last good one, from the first bad one on. Failures that an answer reset before the outage opened do not
       count.
    2. `largest_gap`: longest time from the end of a conclusive observation (up or down) to the start of the next.
       A shorter recovery cannot be excluded.
    3. `unobserved`: total length of such times with an unknown observation or a gap between, each counted whole,
       since it is not known how much of it would have been observed.
    4. `causes` and `phases` count the down observations; `replies`: the server's latest replies in them.
    5. `proven_afterwards`: its observations were unknown at the time (login_outages.py).
    6. `durations`: by the steady clock. `clock`: what happened to the wall clock, None on records without a steady
       clock (analysis/elapsed.py).
    7. `unwatched`: monitoring of the target ended during the outage, so its end is unknown.
    """

    id: str
    target: str
    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None
    down: int
    up: int
    unknown: int
    largest_gap: Millis
    unobserved: Millis
    causes: Mapping[str, int]
    phases: Mapping[str, int]
    replies: tuple[str, ...]
    first_index: int
    last_index: int
    first_detail: str
    durations: Durations
    proven_afterwards: bool = False
    unwatched: bool = False
    clock: ClockFacts | None = None
    anchor: Moment | None = None
    """The first failure as displayed, with its steady clock; None on records with wall times only."""

    @property
    def state(self) -> str:
        """Return "open", "closed" or "unwatched"."""
        if self.unwatched:
            return "unwatched"
        return "open" if self.first_good is None else "closed"


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """Events of the wall clock since the last good observation.

    It was set by `stepped` milliseconds in all, and the machine was restarted `reboots` times.
    """

    stepped: Millis
    reboots: int

    def as_payload(self) -> dict[str, int]:
        """Return the clock facts as a ledger payload."""
        return {"stepped_ms": self.stepped, "reboots": self.reboots}


@dataclass(frozen=True, slots=True)
class OutageBounds:
    """The four times of an outage, on one wall clock, with the durations between them."""

    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None
    durations: Durations
    clock: ClockFacts | None
    anchor: Moment | None


def outage_bounds(
    good: ObservationRef | None,
    bad: ObservationRef,
    last: ObservationRef,
    end: ObservationRef | None,
    counters: OutageCounters,
) -> OutageBounds:
    """Return the bounds from the last good, first bad, last bad and first good observation."""
    epochs = counters.epochs
    observed = last.elapsed - bad.elapsed - ((bad.end.clock or 0) - (bad.start.clock or 0))
    down = elapsed_between(bad.end, last.start, epochs, max(0, observed))
    first_bad = on_one_wall_clock(bad.end, bad.end, epochs)
    # A single failure ends after it began, so the minimum is 0.
    last_bad = max(on_one_wall_clock(last.start, bad.end, epochs), first_bad)
    last_good = None if good is None else min(on_one_wall_clock(good.start, bad.end, epochs), first_bad)
    first_good = None if end is None else max(on_one_wall_clock(end.end, bad.end, epochs), last_bad)
    clock = (
        None if bad.end.clock is None or last.end.clock is None else ClockFacts(counters.stepped, counters.reboots)
    )
    anchor = None if clock is None else Moment(first_bad, bad.end.clock, bad.end.boot)
    if clock is None:
        # Wall times only: differences of the four times, which anyone can check.
        before = None if last_good is None else ElapsedBounds(first_bad - last_good, first_bad - last_good)
        after = None if first_good is None else ElapsedBounds(first_good - last_bad, first_good - last_bad)
        whole = None if last_good is None or first_good is None else ElapsedBounds(0, first_good - last_good)
        down = ElapsedBounds(last_bad - first_bad, last_bad - first_bad)
    else:
        before = None if good is None else elapsed_between(good.start, bad.end, epochs)
        after = None if end is None else elapsed_between(last.start, end.end, epochs)
        if bad.index == last.index and after is not None and end is not None:
            after = elapsed_between(bad.end, end.end, epochs)
        whole = None if good is None or end is None else elapsed_between(good.start, end.end, epochs)
    return OutageBounds(
        last_good, first_bad, last_bad, first_good, outage_durations(down, before, after, whole), clock, anchor
    )


def outage_id(kind: str, first_bad: ObservationRef) -> str:
    """Return the id of an outage, from its first failure: 12 hex digits, the same in every replay."""
    return outage_id_of(kind, first_bad.target, first_bad.index, first_bad.start.wall)


def outage_id_of(kind: str, target: str, index: int, start: Millis) -> str:
    """Return the id of an outage whose first failure is entry `index`, begun at `start`. `kind`: "" or
    PROVEN_AFTERWARDS.
    """
    text = "\n".join(filter(None, (kind, target, str(index), str(start))))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def outage_payload(outage: Outage, provider: str, kind: Kind, vantage_name: str) -> dict[str, Any]:
    """Return the outage as a ledger payload: integers only, since floats have no canonical form here."""
    payload = {
        "id": outage.id,
        "target": outage.target,
        "provider": provider,
        "kind": kind.value,
        "vantage_point": vantage_name,
        "state": outage.state,
        "last_good": outage.last_good,
        "first_bad": outage.first_bad,
        "last_bad": outage.last_bad,
        "first_good": outage.first_good,
        "duration_ms": outage.durations.as_payload(),
        "observations": {"down": outage.down, "up": outage.up, "unknown": outage.unknown},
        "largest_gap_ms": outage.largest_gap,
        "unobserved_ms": outage.unobserved,
        "causes": dict(sorted(outage.causes.items())),
        "phases": dict(sorted(outage.phases.items())),
        "ledger": {"first": outage.first_index, "last": outage.last_index},
        "replies": list(outage.replies),
        "first_detail": outage.first_detail,
    }
    if outage.clock is not None:
        payload["clock"] = outage.clock.as_payload()
    return payload | {"proven_afterwards": True} if outage.proven_afterwards else payload


def evidence_json(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ledger payload as the JSON of evidence: times in RFC 3339, durations in seconds.

    Old bundles are verified against it, so further public keys go into `public_outage_json`. `maintenance_ms`,
    added by queries.py, is the part of the minimum duration announced as maintenance.
    """
    return {
        **{key: payload[key] for key in ("id", "target", "provider", "kind", "vantage_point", "state")},
        **{key: _time(payload[key]) for key in ("last_good", "first_bad", "last_bad", "first_good")},
        "duration": {key: _seconds(payload["duration_ms"][key]) for key in DURATIONS},
        "observations": payload["observations"],
        "largest_gap": _seconds(payload["largest_gap_ms"]),
        "unobserved": _seconds(payload["unobserved_ms"]),
        **{key: payload[key] for key in ("causes", "phases", "ledger")},
        **{key: payload[key] for key in ("proven_afterwards",) if key in payload},
        **({"clock": _clock_json(payload["clock"])} if "clock" in payload else {}),
        **({"maintenance": _seconds(payload["maintenance_ms"])} if payload.get("maintenance_ms") else {}),
    }


def public_outage_json(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outage in the public JSON of `mailwatch outages --json` and the API, with the target's settings
    then.

    The settings omit the digests of login name and task, which are useless outside. They are left out if not on
    record.
    """
    json = evidence_json(payload)
    settings = payload.get("watch")
    return json if settings is None else json | {"watch": _settings_json(settings)}


def _settings_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    rules = settings["rules"]
    return {
        **{key: settings[key] for key in ("kind", "provider", "host", "port", "tls")},
        **{key: _seconds(settings[key]) for key in ("interval", "timeout")},
        **{key: settings[key] for key in ("catalogue", "own_ca")},
        "rules": {
            **{key: rules[key] for key in ("open_after", "close_after")},
            "recheck": [millis / 1000 for millis in rules["recheck_ms"]],
        },
    }


ClockSteps = list[tuple[int, Millis]]
"""Steps of the wall clock (milliseconds), by entry index."""


def clock_steps_between(steps: ClockSteps, first: int, last: int) -> tuple[Millis, Millis]:
    """Return the total steps ahead and back (milliseconds) in the entries after `first` up to `last`."""
    inside = [millis for index, millis in steps if first < index <= last]
    return sum(max(0, millis) for millis in inside), sum(max(0, -millis) for millis in inside)


def widen_for_clock_steps(payload: dict[str, Any], ahead: Millis, back: Millis) -> dict[str, Any]:
    """Return an outage with wall times only, its bounds widened to remain defensible.

    The clock was set `ahead` and `back` by those total milliseconds during it, by the record. A step ahead may
    make up all of the minimum, and a step back may have repeated time.
    """
    if "clock" in payload or not (ahead or back):
        return payload
    known = payload["duration_ms"]
    least = max(0, known["min"] - ahead)
    most = None if known["max"] is None else max(known["max"] + back, least)
    estimate = uncertainty = None
    if most is not None:
        estimate, uncertainty = round((least + most) / 2), round((most - least) / math.sqrt(3))
    durations = Durations(least, most, estimate, uncertainty)
    clock = {"stepped_ms": ahead + back, "reboots": 0, "wall": True}
    return {**payload, "duration_ms": durations.as_payload(), "clock": clock}


def _clock_json(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the seconds the wall clock was set, the number of reboots, and whether there is no steady clock."""
    wall = {"wall": True} if payload.get("wall") else {}
    return {"stepped": _seconds(payload["stepped_ms"]), "reboots": payload["reboots"]} | wall


def outage_json(outage: Outage, provider: str, kind: Kind, vantage_name: str) -> dict[str, Any]:
    """Return the outage in the public JSON of `mailwatch outages --json` and the API."""
    return evidence_json(outage_payload(outage, provider, kind, vantage_name))


def durations(good: Millis | None, bad: Millis, last: Millis, end: Millis | None) -> dict[str, int | None]:
    """Return minimum, maximum, estimate and twice its standard uncertainty, from four times on one clock.

    The times: last good, first bad, last bad and first good, in milliseconds.
    """

    def apart(start: Millis | None, until: Millis | None) -> ElapsedBounds | None:
        return None if start is None or until is None else ElapsedBounds(until - start, until - start)

    down = ElapsedBounds(last - bad, last - bad)
    return outage_durations(down, apart(good, bad), apart(last, end), apart(good, end)).as_payload()


def _time(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)


def _seconds(millis: Millis | None) -> float | None:
    return None if millis is None else millis / 1000
