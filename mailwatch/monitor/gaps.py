"""Computes the gaps, the times without a probe of a target. Pure; the pipeline records them."""

from __future__ import annotations

from collections.abc import Sequence

from mailwatch.guard.attribution import Disruption
from mailwatch.model import ClockSpan, Gap, GapReason
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.times import Millis

SHORTEST_GAP_MS: Millis = 1000


def gap_before_first_probe(runtime: TargetRuntime, wall: Millis, here: ClockSpan) -> Gap | None:
    """Return the gap of a target that has not been probed since it is watched; None for other targets."""
    if runtime.latest is not None or runtime.trailing_gap is not None:
        return None
    start, length = runtime.settings_written, here.end - runtime.settings_written
    clock = ClockSpan(here.boot, start, here.end, here.bound)
    return Gap(target=runtime.target.name, start=wall - length, end=wall, reason=GapReason.MISSED, clock=clock)


def gaps_since_latest(
    runtime: TargetRuntime,
    wall: Millis,
    here: ClockSpan,
    disruptions: Sequence[Disruption],
    *,
    handover: bool = False,
) -> list[Gap]:
    """Return the gaps between the target's latest record and `here`, which is `wall` by the wall clock.

    `handover`: another node wrote the ledger before this process did.

    A time much longer than the interval is one gap, and so is a restart of the machine; in a shorter time only
    `disruptions` count. The interval is the one that was in force.
    """
    blind, latest = runtime.trailing_gap, runtime.latest
    if blind is None and (runtime.observed_until is None or latest is None):
        return []
    # A gap that is already on record is not recorded again.
    before = blind.clock if blind is not None else latest.clock if latest is not None else None
    seen_until = blind.end if blind is not None else runtime.observed_until or wall
    name = runtime.target.name
    assert here.start is not None
    if before is None or before.boot != here.boot:
        why = GapReason.HANDOVER if handover and runtime.observed_at is None else GapReason.NOT_RUNNING
        return [_gap_over_a_restart(name, min(seen_until, wall), wall, before, here, why)]
    shift = wall - here.start
    return [
        Gap(
            target=name,
            start=start + shift,
            end=end + shift,
            reason=reason,
            clock=ClockSpan(here.boot, start, end, here.bound),
        )
        for start, end, reason in _unprobed(runtime, before.end, here.start, disruptions)
    ]


def _gap_over_a_restart(
    name: str, start: Millis, end: Millis, before: ClockSpan | None, here: ClockSpan, reason: GapReason
) -> Gap:
    """Return the gap over a restart of the machine, to another machine, or after the record of an older MailWatch,
    by the wall clock.

    There is a gap even if the wall clock ran backwards: there was no probe while the machine was off, and no clock
    measures the time between two machines.
    """
    assert here.start is not None
    known = None not in (before and before.bound, here.bound)
    bound = (before.bound or 0) + (here.bound or 0) if before and known else None
    clock = ClockSpan(here.boot, None, here.start, bound)
    return Gap(target=name, start=start, end=end, reason=reason, clock=clock)


def _unprobed(
    runtime: TargetRuntime, since: Millis, until: Millis, disruptions: Sequence[Disruption]
) -> list[tuple[Millis, Millis, GapReason]]:
    """Return the periods without a probe, on the steady clock, and their reasons."""
    if runtime.observed_at is None and runtime.gap_recorded_at is None:
        return [(since, until, GapReason.NOT_RUNNING)] if until - since >= SHORTEST_GAP_MS else []
    found = [
        (max(each.start, since), min(each.end, until), each.reason)
        for each in disruptions
        if each.noticed >= (runtime.observed_at or runtime.gap_recorded_at or 0.0)
        and min(each.end, until) - max(each.start, since) >= SHORTEST_GAP_MS
    ]
    longest = max(runtime.target.interval, runtime.observed_interval) * 1500 + 1000
    if runtime.target.paused:
        # It ends now; without a gap, two good observations just around it would count as up in between.
        longest = 0
    if until - since > (SHORTEST_GAP_MS if runtime.trailing_gap else longest):
        why = GapReason.THROTTLED if runtime.state.throttled else GapReason.MISSED
        return [(since, until, found[-1][2] if found else why)]
    # A clock step is not a time without probes: the machine did not sleep.
    return [part for part in found if part[2] is not GapReason.CLOCK_STEP]
