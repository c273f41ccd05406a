"""How long outages were observed down: their certain time without the times in which nothing was observed. Pure.

A pause, or a stop of MailWatch, between two failures of one outage is part of its minimum duration, since no good
observation came between. A message that reports a duration leaves such times out, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.times import Millis, Window, merge_windows, subtract_windows, total_length


@dataclass(frozen=True, slots=True)
class ObservedDowntime:
    """Milliseconds from the first to the last failure: those `observed`, and those not."""

    observed: Millis
    unobserved: Millis


def observed_downtime(
    outages: Iterable[OutageRecord], unobserved: Mapping[str, Iterable[Window]]
) -> ObservedDowntime:
    """Return how long at least one outage was down. `unobserved`: times without observations, by outage id."""
    whole, seen = list[Window](), list[Window]()
    for outage in outages:
        whole.append((outage.first_bad, outage.last_bad))
        blind = merge_windows(unobserved.get(outage.id, ()))
        seen += subtract_windows(blind, outage.first_bad, outage.last_bad)
    observed = total_length(merge_windows(seen))
    return ObservedDowntime(observed, total_length(merge_windows(whole)) - observed)
