"""Times at which at least k of n overlap: one sweep over the ends of spans, in O(m log m). Pure.

Spans are half-open [start, end) in milliseconds; empty ones say nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailwatch.models import Millis

Span = tuple[Millis, Millis]
Step = tuple[Millis, int]
"""From this time on so many, until the next step."""


def united(spans: Iterable[Span]) -> list[Span]:
    """Return spans that neither overlap nor touch and cover the same time, oldest first."""
    found: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def steps(points: Iterable[Sequence[Span]]) -> list[Step]:
    """Count at how many points a span lies over each time; each point counts once. Ends with a step to 0."""
    changes: dict[Millis, int] = {}
    for spans in points:
        for start, end in united(spans):
            changes[start] = changes.get(start, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    found, count = [], 0
    for at in sorted(changes):
        if changes[at]:
            count += changes[at]
            found.append((at, count))
    return found


def at_least(counted: Sequence[Step], most: int) -> list[list[Span]]:
    """Return for each k from 1 to `most` the times at which the count is at least k, all in O(crossings)."""
    found: list[list[Span]] = [[] for _ in range(most)]
    begun: list[Millis] = [0] * most
    before = 0
    for at, count in counted:
        for level in range(before, count):
            begun[level] = at
        for level in range(count, before):
            found[level].append((begun[level], at))
        before = count
    return found


def common(first: Sequence[Span], second: Sequence[Span]) -> list[Span]:
    """Return the times that lie in both; each must be as `united` gives it."""
    found, a, b = [], 0, 0
    while a < len(first) and b < len(second):
        start, end = max(first[a][0], second[b][0]), min(first[a][1], second[b][1])
        if start < end:
            found.append((start, end))
        if first[a][1] <= second[b][1]:
            a += 1
        else:
            b += 1
    return found


def length(spans: Iterable[Span]) -> Millis:
    """Add up."""
    return sum(end - start for start, end in spans)
