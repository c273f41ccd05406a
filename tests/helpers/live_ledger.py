"""A ledger that is written as the monitor writes it, observation by observation, for tests of its replay."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import Cause, Gap, GapReason, Kind, Observation, Outcome, Rules
from mailwatch.store import NewEntry, Reader, Store
from tests.helpers.records import payload_of

SECOND = 1000
MARKS = st.text("+-?~", min_size=1, max_size=25)


def fact(mark: str, at: int) -> Observation | Gap:
    """+ up, - down, ? unknown, ~ a gap; each a second after the last."""
    start = at * 10 * SECOND
    if mark == "~":
        return Gap(target="t", start=start, end=start + 5 * SECOND, reason=GapReason.MISSED)
    cause = {"+": None, "-": Cause.TIMEOUT, "?": Cause.OFFLINE}[mark]
    outcome = Outcome.UP if cause is None else cause.outcome
    return Observation(
        target="t", scheduled_at=start, started_at=start, ended_at=start + SECOND, outcome=outcome, cause=cause
    )


class Live:
    """What the monitor does with each fact, without its waiting."""

    def __init__(self, store: Store, rules: Rules) -> None:
        self.store, self.rules, self.detector = store, rules, Detector()
        self.start()

    def start(self) -> None:
        """Put the rules of a start on record."""
        payload = {"event": "start", "rules": rules_payload(self.rules)}
        self.store.append_batch([NewEntry(kind="node", time=1, target=None, payload=payload)])

    def take(self, observation: Observation | Gap, *, crash: bool = False) -> None:
        """Record a fact and what follows from it; a crash comes between the two."""
        kind = "gap" if isinstance(observation, Gap) else "observation"
        (entry,) = self.store.append_batch([NewEntry(kind=kind, time=1, target="t", payload=observation)])
        self.detector, changed = self.detector.feed(IndexedFact(entry.index, observation), self.rules)
        for outage in changed if not crash else ():
            payload = payload_of(outage, "lab", Kind.IMAP, "here")
            self.store.append_batch([NewEntry(kind="outage", time=1, target="t", payload=payload)])


@contextmanager
def ledger() -> Iterator[tuple[Store, Reader]]:
    with tempfile.TemporaryDirectory() as name:
        store = Store.open(Path(name))
        reader = Reader.open(Path(name))
        yield store, reader
        reader.close()
        store.close()
