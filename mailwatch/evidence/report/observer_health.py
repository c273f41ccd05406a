"""The state of our own line, clock and password, and the effect of a doubtful clock on the times."""

from __future__ import annotations

import math

from mailwatch.analysis.outage import Outage
from mailwatch.evidence.report.facts import ReportFacts
from mailwatch.evidence.report.formatting import texts
from mailwatch.i18n import Formatter, Texts
from mailwatch.times import Millis

SHOWN_IN_MS: Millis = 10_000
"""An offset of the clock below this is shown in milliseconds."""


def observer_health_rows(facts: ReportFacts, writing: Formatter, *, proven: bool = False) -> list[list[str]]:
    """Return the rows of the section. `proven`: the outage was proven afterwards, so it has no down
    observations.
    """
    w = texts(writing.language)
    return [
        [w["line"], w["line_proven"] if proven else _line(facts, w)],
        [w["clock"], _clock(facts, w, writing)],
        [w["password"], _password(facts, w)],
    ]


def is_steady_clock(outage: Outage) -> bool:
    """Return whether durations were measured by a steady clock, independent of the wall clock."""
    return outage.clock is not None and not outage.clock.is_wall


def clock_lines(facts: ReportFacts, outage: Outage, writing: Formatter) -> list[str]:
    """Return what happened to the clock during the outage, and which clock measured it."""
    w, clock = texts(writing.language), outage.clock
    if clock is None:
        return []
    by = writing.format_duration(clock.stepped, up=True)
    if clock.is_wall:
        return [w["clock_wall"].format(time=by)]
    lines = [w["clock_set"].format(time=by)] if clock.stepped else []
    if clock.reboots:
        # Another machine has another clock, as a machine has after a restart.
        key = "clock_handovers" if any(node.former for node in facts.nodes) else "clock_reboots"
        lines.append(w[key].format(n=clock.reboots))
    return [*lines, w["clock_steady"]]


def clock_doubt(facts: ReportFacts) -> Millis:
    """Return the possible error of each time; 0 for a good clock, or if unknown."""
    return -(-facts.bound_us // 1000) if facts.degraded and not facts.unbounded else 0


def widened_duration(facts: ReportFacts, outage: Outage) -> tuple[Millis, Millis | None]:
    """Return the minimum and maximum duration, widened by the possible error of a doubtful clock at both ends.

    The errors at the two ends may have opposite signs, since the clock may have been set in between. A steady
    clock needs no widening.
    """
    twice, duration = 0 if is_steady_clock(outage) else 2 * clock_doubt(facts), outage.durations
    return max(0, duration.least - twice), None if duration.most is None else duration.most + twice


def widened_uncertainty(facts: ReportFacts, outage: Outage) -> Millis:
    """Return the expanded uncertainty (k = 2) of the estimate, including a doubtful clock at both ends.

    The clock error is taken as uniform within its bound, like the times between two observations (GUM 4.3.7):
    variance bound**2 / 3 each.
    """
    uncertainty, off = outage.durations.uncertainty or 0, 0 if is_steady_clock(outage) else clock_doubt(facts)
    return math.ceil(math.sqrt(uncertainty**2 + 4 * 2 * off**2 / 3))


def clock_doubt_lines(facts: ReportFacts, outage: Outage, writing: Formatter) -> list[str]:
    """Return the effect of a doubtful clock on times and duration; [] for a good clock."""
    w, duration = texts(writing.language), outage.durations
    if not facts.degraded:
        return []
    if facts.unbounded:
        return [w["doubt_unknown_times" if is_steady_clock(outage) else "doubt_unknown"]]
    bound = clock_doubt(facts)
    if is_steady_clock(outage):
        return [w["doubt_times"].format(bound=writing.format_duration(bound, up=True))]
    given = {
        "bound": writing.format_duration(bound, up=True),
        "twice": writing.format_duration(2 * bound, up=True),
        "least": writing.format_duration(duration.least, exact=True),
    }
    if duration.most is None:
        return [w["doubt_open"].format(**given)]
    return [w["doubt"].format(**given, most=writing.format_duration(duration.most, up=True, exact=True))]


def _line(facts: ReportFacts, w: Texts) -> str:
    lines = [w["line_none"]]
    if facts.guarded:
        controls = ", ".join(sorted(facts.controls)[:8])
        lines = [w["line_asked"].format(n=facts.guarded, all=facts.down, controls=controls)]
        if rest := facts.down - facts.guarded:
            lines.append(w["line_rest"].format(n=rest))
    elif facts.doubts.only_local:
        controls = ", ".join(sorted(facts.doubts.local_controls)[:8])
        lines = [w["line_local"].format(n=facts.doubts.only_local, all=facts.down, controls=controls)]
    if facts.answered:
        lines.append(w["line_answered"].format(n=facts.answered, all=facts.down))
    if facts.offline:
        lines.append(w["line_offline"].format(n=facts.offline))
    return " ".join(lines)


def _clock(facts: ReportFacts, w: Texts, writing: Formatter) -> str:
    clock = w["clock_none"]
    if facts.surveys:
        bound = f"{writing.number(f'{facts.bound_us / 1000:.1f}')} ms"
        if facts.bound_us >= 1_000_000:
            bound = writing.format_duration(-(-facts.bound_us // 1000), up=True)
        servers = ", ".join(sorted(facts.servers)[:8]) or w["clock_servers_none"]
        given = {"n": facts.surveys, "bound": bound, "servers": servers}
        clock = w["clock_asked" if facts.unbounded else "clock_bound"].format(**given)
    if facts.degraded:
        clock += " " + w["clock_degraded"].format(n=facts.degraded)
    if facts.steps:
        clock += " " + w["clock_steps"].format(n=facts.steps)
    if facts.offsets:
        least, most = (_offset(at, w, writing) for at in (min(facts.offsets), max(facts.offsets)))
        clock += " " + w["offset" if least == most else "offset_range"].format(least=least, most=most)
    return clock


def _offset(millis: int, w: Texts, writing: Formatter) -> str:
    """Return how far a clock was off, in words. `millis`: its time less that of a token."""
    if not millis:
        return w["clock_exact"]
    time = f"{abs(millis)} ms" if abs(millis) < SHOWN_IN_MS else writing.format_duration(abs(millis))
    return w["clock_ahead" if millis > 0 else "clock_behind"].format(time=time)


def _password(facts: ReportFacts, w: Texts) -> str:
    if not facts.used and not facts.with_login:
        return w["password_none"]
    if facts.used and facts.used <= facts.accepted_before:
        both = facts.used <= facts.accepted_after
        return w["password_same"] if both else w["password_before"]
    return w["password_unknown"]
