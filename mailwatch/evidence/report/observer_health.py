"""Whether our own line, clock and password were in order, and what a clock in doubt does to the times."""

from __future__ import annotations

import math
from typing import Any

from mailwatch.evidence.report.facts import Sightings
from mailwatch.evidence.report.formatting import Writing, words
from mailwatch.times import Millis


def ours(seen: Sightings, writing: Writing, *, proven: bool = False) -> list[list[str]]:
    """Return the rows of the section; of an outage `proven` afterwards no look is down."""
    w = words(writing.language)
    return [
        [w["line"], str(w["line_proven"]) if proven else _line(seen, w)],
        [w["clock"], _clock(seen, w, writing)],
        [w["password"], _password(seen, w)],
    ]


def steady(outage: dict[str, Any]) -> bool:
    """Whether durations were measured by a clock that nobody can set, whatever the wall clock did."""
    return "clock" in outage and not outage["clock"].get("wall")


def of_the_clock(outage: dict[str, Any], writing: Writing) -> list[str]:
    """Say what happened to the clock within the outage, and by which clock it was measured."""
    w, clock = words(writing.language), outage.get("clock")
    if clock is None:
        return []
    by = writing.span(clock["stepped_ms"], up=True)
    if clock.get("wall"):
        return [str(w["clock_wall"].format(time=by))]
    told = [w["clock_set"].format(time=by)] if clock["stepped_ms"] else []
    if clock["reboots"]:
        told.append(w["clock_reboots"].format(n=clock["reboots"]))
    return [str(one) for one in (*told, w["clock_steady"])]


def doubt(seen: Sightings) -> Millis:
    """By how much each time may be off more than is worth telling; 0 for a good clock, or where nobody knows."""
    return -(-seen.bound_us // 1000) if seen.degraded and not seen.unbounded else 0


def widened(seen: Sightings, outage: dict[str, Any]) -> tuple[Millis, Millis | None]:
    """Return the least and the most that it lasted, wider by what a clock in doubt may be off at both ends.

    One end may be off to either side of the other: the clock may have been set in between. Not so where a clock
    that nobody can set measured it.
    """
    twice, duration = 0 if steady(outage) else 2 * doubt(seen), outage["duration_ms"]
    return max(0, duration["min"] - twice), None if duration["max"] is None else duration["max"] + twice


def spread(seen: Sightings, outage: dict[str, Any]) -> Millis:
    """Return the expanded uncertainty (k = 2) of the estimate with that of a clock in doubt at both of its ends.

    Its bound is taken as uniform, as the times between two looks are (GUM 4.3.7): variance bound**2 / 3 each.
    """
    uncertainty, off = outage["duration_ms"]["uncertainty"], 0 if steady(outage) else doubt(seen)
    return math.ceil(math.sqrt(uncertainty**2 + 4 * 2 * off**2 / 3))


def in_doubt(seen: Sightings, outage: dict[str, Any], writing: Writing) -> list[str]:
    """Say what a clock in doubt does to the times and the duration; nothing for a good one."""
    w, duration = words(writing.language), outage["duration_ms"]
    if not seen.degraded:
        return []
    if seen.unbounded:
        return [str(w["doubt_unknown_times" if steady(outage) else "doubt_unknown"])]
    bound = doubt(seen)
    if steady(outage):
        return [str(w["doubt_times"].format(bound=writing.span(bound, up=True)))]
    given = {
        "bound": writing.span(bound, up=True),
        "twice": writing.span(2 * bound, up=True),
        "least": writing.span(duration["min"], exact=True),
    }
    if duration["max"] is None:
        return [str(w["doubt_open"].format(**given))]
    return [str(w["doubt"].format(**given, most=writing.span(duration["max"], up=True, exact=True)))]


def _line(seen: Sightings, w: dict[str, Any]) -> str:
    lines = [w["line_none"]]
    if seen.guarded:
        controls = ", ".join(sorted(seen.controls)[:8])
        lines = [w["line_asked"].format(n=seen.guarded, all=seen.down, controls=controls)]
        if rest := seen.down - seen.guarded:
            lines.append(w["line_rest"].format(n=rest))
    if seen.answered:
        lines.append(w["line_answered"].format(n=seen.answered, all=seen.down))
    if seen.offline:
        lines.append(w["line_offline"].format(n=seen.offline))
    return " ".join(lines)


def _clock(seen: Sightings, w: dict[str, Any], writing: Writing) -> str:
    clock = str(w["clock_none"])
    if seen.surveys:
        bound = f"{writing.number(f'{seen.bound_us / 1000:.1f}')} ms"
        if seen.bound_us >= 1_000_000:
            bound = writing.span(-(-seen.bound_us // 1000), up=True)
        servers = ", ".join(sorted(seen.servers)[:8]) or w["clock_servers_none"]
        given = {"n": seen.surveys, "bound": bound, "servers": servers}
        clock = w["clock_asked" if seen.unbounded else "clock_bound"].format(**given)
    if seen.degraded:
        clock += " " + w["clock_degraded"].format(n=seen.degraded)
    if seen.steps:
        clock += " " + w["clock_steps"].format(n=seen.steps)
    if seen.offsets:
        clock += " " + w["offset"].format(least=min(seen.offsets), most=max(seen.offsets))
    return clock


def _password(seen: Sightings, w: dict[str, Any]) -> str:
    if not seen.used and not seen.with_login:
        return str(w["password_none"])
    if seen.used and seen.used <= seen.accepted_before:
        both = seen.used <= seen.accepted_after
        return str(w["password_same"] if both else w["password_before"])
    return str(w["password_unknown"])
