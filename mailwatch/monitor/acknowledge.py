"""Acknowledges an outage or incident, for the command line and the pages: its reminders stop."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mailwatch.store import Reader, queries
from mailwatch.store.acknowledgements import AcknowledgementTable, subjects_of
from mailwatch.store.place import Place
from mailwatch.store.queries import NO_LIVE_OUTAGES, Live
from mailwatch.times import now


def acknowledge(
    reader: Reader,
    where: Path | Place,
    identity: str,
    note: str = "",
    *,
    withdraw: bool = False,
    live: Live = NO_LIVE_OUTAGES,
) -> str:
    """Acknowledge the outage or incident with an id, or a beginning of it; return its whole id.

    With `withdraw`, remind again. Not to be called in the event loop. Raises UnknownSubjectError, StoreError.
    """
    subjects = subjects_of(identity, queries.incidents(reader, live=live), withdraw=withdraw)
    with contextlib.closing(AcknowledgementTable(where)) as table:
        if withdraw:
            table.remove(subjects)
        else:
            table.put(subjects, now(), note.strip())
    return subjects[0]
