"""Compares the states that are kept beside the ledger (kept_states.py) with what the entries give."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mailwatch.ledger.entry import target_id
from mailwatch.store import symptom_states
from mailwatch.store.announcements import read_announcements
from mailwatch.store.audit import Finding
from mailwatch.store.availability_history import KIND as AVAILABILITY
from mailwatch.store.availability_history import Subject, audit_history
from mailwatch.store.detector_states import KIND as DETECTOR
from mailwatch.store.reader import Reader
from mailwatch.store.replay import audit_detector, audit_outage_index, rule_book
from mailwatch.store.symptom_states import audit_symptoms
from mailwatch.times import DAY_MS, Millis

HISTORIES_A_DAY = 10
"""Targets whose availability is counted again in a day: that of a thousand would take all day."""


def audit_kept_states(
    reader: Reader, secret: bytes, at: Millis, progress: Callable[[int], None] = lambda _index: None
) -> Iterator[Finding]:
    """Yield where a kept state differs from its entries: those of detectors and symptoms, the index of outages,
    and the availability of HISTORIES_A_DAY targets, each day of others.

    `progress` gets an index now and then, and may wait. Raises StoreError.
    """
    yield from audit_damaged_states(reader)
    book = rule_book(reader)
    for target in reader.kept_subjects(DETECTOR):
        progress(0)
        yield from audit_detector(reader, book, target, progress)
    yield from audit_outage_index(reader)
    yield from audit_kept_symptoms(reader, progress)
    announced = read_announcements(reader)
    for target in due_histories(reader.kept_subjects(AVAILABILITY), at):
        progress(0)
        yield from audit_history(reader, Subject(target, target_id(secret, target), announced), None, progress)


def audit_damaged_states(reader: Reader) -> list[Finding]:
    """Return a finding if kept states cannot be read or are not as they were written. Raises StoreError."""
    damaged = reader.damaged_states()
    if not damaged:
        return []
    which = f"{len(damaged)} of the states kept beside the ledger ({', '.join(damaged[:3])})"
    return [Finding(None, f"{which} cannot be read, and are not used; after the next start they are made anew")]


def audit_kept_symptoms(
    reader: Reader, progress: Callable[[int], None] = lambda _index: None
) -> Iterator[Finding]:
    """Yield where the kept symptoms of an outage differ from its observations. Raises StoreError."""
    for identity in reader.kept_subjects(symptom_states.KIND):
        progress(0)
        if (head := reader.outages.get(identity)) is not None:
            yield from audit_symptoms(reader, reader.outages.records([head])[0][0], progress)


def due_histories(names: list[str], at: Millis) -> list[str]:
    """Return the names whose turn it is on the day of a time: in as many days as it takes, each comes once."""
    rounds = max(1, -(-len(names) // HISTORIES_A_DAY))
    return names[at // DAY_MS % rounds :: rounds]
