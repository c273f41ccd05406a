"""Everything that a Reader answers about a ledger, to be compared before and after what must change nothing."""

from __future__ import annotations

from typing import Any

from mailwatch.model import Outcome
from mailwatch.store import Reader

KINDS: tuple[tuple[str, ...], ...] = (
    (), ("observation",), ("gap",), ("outage",), ("node", "gap"), ("observation", "gap", "watch"),
)  # fmt: skip


def contents(reader: Reader, low: int, high: int) -> list[tuple[Any, ...]]:
    """The entries [low, high) as stored, but their headers."""
    rows = reader.raw_entries(low, high, headers=False)
    return [(index, kind, time, target, text) for index, kind, time, target, _, text in rows]


def answers(reader: Reader) -> dict[str, Any]:
    """The answers of a reader, by what was asked."""
    size = reader.size()
    found: dict[str, Any] = {"size": size, "targets": reader.targets()}
    all_entries = list(reader.entries())
    found["entries"] = all_entries
    found["raw"] = [tuple(row) for row in reader.raw_entries(0, size)]
    found["raw without headers"] = contents(reader, 0, size)
    found["leaves"] = list(reader.leaf_hashes(0, size))
    times = sorted({entry.time for entry in all_entries})
    moments = [times[0], times[len(times) // 3], times[len(times) // 2], times[-1] + 1]
    indices = [0, size // 3, size // 2, size]
    for low in indices:
        found[f"after {low}"] = [entry.index for entry in reader.entries(from_index=low, limit=3)]
        before = reader.entries(to_index=low, end_ms=moments[2], descending=True, limit=1)
        found[f"before {low}"] = [entry.index for entry in before]
        for high in indices:
            found[f"leaves {low}-{high}"] = list(reader.leaf_hashes(low, high))
            found[f"raw {low}-{high}"] = contents(reader, low, high)
            if low < high:
                found[f"latest time {low}-{high}"] = reader.latest_time(low, high)
    for target in (*reader.targets(), None):
        for kinds in KINDS:
            for descending in (False, True):
                asked = list(reader.entries(target=target, kinds=kinds, descending=descending))
                found[f"{target} {kinds} {descending}"] = asked
                within = reader.entries(
                    target=target, kinds=kinds, descending=descending, start_ms=moments[1], end_ms=moments[3],
                    from_index=1, to_index=size - 1, limit=4,
                )  # fmt: skip
                found[f"{target} {kinds} {descending} within"] = [entry.index for entry in within]
    for target in reader.targets():
        found |= _answers_about(reader, target, moments, indices)
    return found


def _answers_about(reader: Reader, target: str, moments: list[int], indices: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("gap", "outage", "watch"):
        found[f"latest {kind}"] = [reader.latest(target, kind, at_most=at) for at in (None, *indices)]
    for outcome in Outcome:
        found[outcome.value] = [e.index for e in reader.entries(target=target, outcome=outcome)]
        lasts = [reader.last_index(target=target, outcome=outcome, before=before) for before in (None, *indices)]
        found[f"last {outcome.value}"] = lasts
    windows = [(low, high) for low in moments for high in moments if low < high]
    found["between"] = [reader.between(target, low, high) for low, high in windows]
    found["payloads"] = [list(reader.observation_payloads(target, low, high)) for low, high in windows]
    found["times"] = [list(reader.observation_times(target, at)) for at in indices]
    return {f"{target}: {name}": answer for name, answer in found.items()}
