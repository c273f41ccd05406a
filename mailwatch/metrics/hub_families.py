"""The metric families of a hub: what its members pushed, what they confirm; and of a vantage point at its hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mailwatch.analysis.confirmation import Channel
from mailwatch.metrics.exposition import NO_LABELS, Family, Labels, Row
from mailwatch.times import Millis


@dataclass(slots=True)
class PushRecord:
    """How many entries of a ledger are at a hub, when the last push was taken, and if there are two histories.

    None before a push was taken.
    """

    size: int | None = None
    at: Millis | None = None
    conflict: bool = False


@dataclass(slots=True)
class HubFigures:
    """The figures. `members`: of a hub, by their names. `pushed`: of this ledger, by the name of its hub."""

    members: dict[str, PushRecord] = field(default_factory=dict)
    confirmed: set[Channel] = field(default_factory=set)
    pushed: dict[str, PushRecord] = field(default_factory=dict)

    def confirm(self, channel: Channel, is_confirmed: bool) -> None:
        """Set whether a channel is confirmed down."""
        (self.confirmed.add if is_confirmed else self.confirmed.discard)(channel)


def hub_families(figures: HubFigures) -> Iterator[Family]:
    """Yield the families; without rows where there is no hub."""
    confirmed: list[Row] = [
        ("", NO_LABELS, Labels.of(provider=one.provider, kind=one.kind, target=one.target), 1)
        for one in sorted(figures.confirmed, key=str)
    ]
    yield Family("mailwatch_hub_confirmed_down", "gauge", "Whether enough vantage points confirm it.", confirmed)
    for label, records, name, text in (
        ("member", figures.members, "member_entries", "Entries of a member's ledger that this hub has."),
        ("hub", figures.pushed, "pushed_entries", "Entries of this ledger that the hub has."),
    ):
        sizes: list[Row] = [
            ("", NO_LABELS, Labels.of(**{label: each}), record.size)
            for each, record in records.items()
            if record.size is not None
        ]
        yield Family(f"mailwatch_hub_{name}", "gauge", text, sizes)
    for label, records, name, text in (
        ("member", figures.members, "member_last_push", "When a member's last push was taken."),
        ("hub", figures.pushed, "last_push", "When the hub took the last push of this ledger."),
    ):
        times: list[Row] = [
            ("", NO_LABELS, Labels.of(**{label: each}), record.at / 1000)
            for each, record in records.items()
            if record.at is not None
        ]
        yield Family(f"mailwatch_hub_{name}_timestamp_seconds", "gauge", text, times)
    conflicts: list[Row] = [
        ("", NO_LABELS, Labels.of(hub=each), int(record.conflict)) for each, record in figures.pushed.items()
    ]
    yield Family("mailwatch_hub_conflict", "gauge", "Whether the hub or this ledger has two histories.", conflicts)
