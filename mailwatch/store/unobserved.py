"""The times without observations within an outage, by the gaps on record, and the pause of a target."""

from __future__ import annotations

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.model import Gap, TargetChange
from mailwatch.store.reader import Reader
from mailwatch.times import Millis, Window


def unobserved_windows(reader: Reader, outage: OutageRecord) -> tuple[Window, ...]:
    """Return the gaps (milliseconds) on record from the entry of an outage's first failure to its last: pauses,
    stops of MailWatch, and what it missed. Raises StoreError.
    """
    entries = reader.entries(
        target=outage.target, kinds=["gap"], from_index=outage.first_index, to_index=outage.last_index + 1
    )
    return tuple((gap.start, gap.end) for entry in entries if isinstance(gap := entry.fact, Gap))


def paused_since(reader: Reader, target: str) -> Millis | None:
    """Return since when a target is paused by the record, None if it is not. Raises StoreError."""
    since = None
    for entry in reader.entries(target=target, kinds=["watch"], descending=True):
        # While a target is paused, each of its changes says so.
        if not isinstance(change := entry.fact, TargetChange) or not change.paused:
            break
        since = change.at
    return since
