"""The metric families of the witnesses that cosign this ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mailwatch.metrics.exposition import NO_LABELS, Family, Labels, Row
from mailwatch.times import Millis

OUTCOMES = ("cosigned", "failed", "refused", "conflict")


@dataclass(slots=True)
class WitnessRecord:
    """The answers of one witness by outcome, and what it cosigned last: size, and time in seconds by its clock."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    size: int | None = None
    time: float | None = None
    conflict: bool = False

    def count(self, outcome: str, size: int | None, time_ms: Millis | None) -> None:
        """Count an answer."""
        self.counts[outcome] += 1
        if outcome in ("cosigned", "conflict"):
            self.conflict = outcome == "conflict"
        if size is not None and time_ms is not None:
            self.restore(size, time_ms)

    def restore(self, size: int, time_ms: Millis) -> None:
        """Set what it cosigned last."""
        self.size, self.time = size, time_ms / 1000


def witness_families(witnesses: Mapping[str, WitnessRecord]) -> Iterator[Family]:
    """Yield the families; before its first cosignature a witness has no size and time."""
    records = [(Labels.of(witness=name), record) for name, record in witnesses.items()]
    counts: list[Row] = [
        ("", NO_LABELS, Labels.of(witness=name, outcome=outcome), count)
        for name, record in witnesses.items()
        for outcome, count in record.counts.items()
    ]
    yield Family("mailwatch_witness_requests_total", "counter", "Requests to a witness by outcome.", counts)
    simple = (
        ("conflict", "Whether a witness says that it has seen another history of this ledger.",
         [(labels, int(record.conflict)) for labels, record in records]),
        ("cosigned_entries", "Entries of the ledger that a witness cosigned.",
         [(labels, record.size) for labels, record in records if record.size is not None]),
        ("last_cosignature_timestamp_seconds", "When a witness last cosigned, by its clock.",
         [(labels, record.time) for labels, record in records if record.time is not None]),
    )  # fmt: skip
    for name, text, rows in simple:
        yield Family(
            f"mailwatch_witness_{name}", "gauge", text, [("", NO_LABELS, labels, value) for labels, value in rows]
        )
