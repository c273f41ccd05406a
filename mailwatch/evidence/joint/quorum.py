"""Groups members by provider and channel, counts who saw it down when, and states it as joint.json.

A vantage point is a ledger: however many bundles are of it, it counts once. Surely down is from `first_bad` to
`last_bad` of an outage (its minimum), possibly down from `last_good` to `first_good` (its maximum).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mailwatch import __version__
from mailwatch.evidence.joint.member import Channel, Member
from mailwatch.times import Millis, Span, common, length, rfc3339, united

Step = tuple[Millis, int]
"""From this time on so many, until the next step."""


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


FORMAT = "mailwatch-joint/1"
TIMES = ("id", "vantage_point", "state", "last_good", "first_bad", "last_bad", "first_good", "duration")
"""What is told of a member's outage: nothing of its target, whose name may be an address."""


@dataclass(slots=True)
class Point:
    """One vantage point's view of a channel. `outages` by id."""

    ledger: str
    vantage: str
    channels: list[Channel] = field(default_factory=list)
    outages: dict[str, dict[str, Any]] = field(default_factory=dict)
    surely: list[Span] = field(default_factory=list)
    possibly: list[Span] = field(default_factory=list)
    up: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class Contradiction:
    """A vantage point that saw the channel surely up while as many as `down` others saw it surely down."""

    ledger: str
    vantage: str
    span: Span
    down: int


@dataclass(slots=True)
class Group:
    """A provider's channel as all its vantage points saw it."""

    provider: str
    kind: str
    points: list[Point]
    surely: list[Step] = field(default_factory=list)
    possibly: list[Step] = field(default_factory=list)
    up: list[Step] = field(default_factory=list)
    least: list[list[Span]] = field(default_factory=list)
    most: list[list[Span]] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """At how many points it was surely down at the same time, at most."""
        return max((count for _, count in self.surely), default=0)


def sort_out(members: Iterable[Member]) -> tuple[list[Member], list[tuple[Member, str]]]:
    """Part those that count from those that do not, each with the reason.

    Left out are bundles that are not valid, that say what another one says, and all of a ledger of which two
    bundles sign different histories.
    """
    fine: list[Member] = []
    out: list[tuple[Member, str]] = []
    seen: dict[Any, str] = {}
    roots: dict[str, dict[int, bytes]] = {}
    forked = set()
    for member in members:
        if member.reason:
            out.append((member, member.reason))
            continue
        known = roots.setdefault(member.ledger, {})
        if any(known.setdefault(size, root) != root for size, root in member.signed.items()):
            forked.add(member.ledger)
        if member.same in seen:
            out.append((member, f"the same range of the same ledger as {seen[member.same]}"))
        else:
            seen[member.same] = member.name
            fine.append(member)
    told = [(one, "its ledger signs two different histories") for one in fine if one.ledger in forked]
    return [one for one in fine if one.ledger not in forked], out + told


def group(members: Iterable[Member]) -> list[Group]:
    """Return the channels, those that most vantage points know first."""
    found: dict[tuple[str, str], dict[str, Point]] = {}
    for member in members:
        for channel in member.channels:
            # Servers of no known provider have nothing to do with one another.
            points = found.setdefault((channel.provider or member.ledger, channel.kind), {})
            point = points.setdefault(member.ledger, Point(member.ledger, member.vantage))
            point.channels.append(channel)
            point.outages |= {outage["id"]: outage for outage in channel.outages}
    groups = [Group(*key, _points(points.values())) for key, points in found.items()]
    for one in groups:
        one.surely = steps(point.surely for point in one.points)
        one.possibly = steps(point.possibly for point in one.points)
        one.up = steps(point.up for point in one.points)
        one.least, one.most = at_least(one.surely, len(one.points)), at_least(one.possibly, len(one.points))
        one.contradictions = sorted(_contradictions(one), key=lambda found: (found.span, found.ledger))
    return sorted(groups, key=lambda one: (-len(one.points), one.provider, one.kind))


def _points(points: Iterable[Point]) -> list[Point]:
    for point in points:
        for kind in ("surely", "possibly", "up"):
            setattr(point, kind, united(span for channel in point.channels for span in getattr(channel, kind)))
    return sorted(points, key=lambda point: (point.vantage, point.ledger))


def _contradictions(one: Group) -> Iterator[Contradiction]:
    """Yield the times at which a vantage point saw it up and others down, with how many at most."""
    anybody = one.least[0] if one.least else []
    starts = [at for at, _ in one.surely]
    for point in one.points:
        for start, end in common(point.up, anybody):
            # Another mailbox of the same vantage point may be the one that is down; that is told as well.
            over = slice(max(0, bisect_right(starts, start) - 1), bisect_left(starts, end))
            down = max(count for _, count in one.surely[over])
            yield Contradiction(point.ledger, point.vantage, (start, end), down)


def statement(groups: list[Group], members: list[Member], left_out: list[tuple[Member, str]]) -> dict[str, Any]:
    """Return joint.json. The same members give the same, in whatever order they were named."""
    return {
        "format": FORMAT,
        "made_by": f"MailWatch {__version__}",
        "members": [
            {
                "file": one.name,
                "sha256": one.sha256,
                "size": one.size,
                "ledger": one.ledger,
                "vantage_point": one.vantage,
                "range": {"first": one.first, "end": one.end},
            }
            for one in sorted(members, key=lambda one: one.sha256)
        ],
        "left_out": [
            # What does not hold of a bundle may name its target: it is said when merging, not to all.
            {"file": one.name, "sha256": one.sha256, "reason": f"not valid: {one.bad}" if one.bad else reason}
            for one, reason in sorted(left_out, key=lambda pair: pair[0].sha256)
        ],
        "groups": [_group(one) for one in groups],
    }


def _group(one: Group) -> dict[str, Any]:
    return {
        "provider": one.provider,
        "kind": one.kind,
        "vantage_points": [{"ledger": point.ledger, "vantage_point": point.vantage} for point in one.points],
        "outages": sorted(
            (
                {"ledger": point.ledger} | {key: told[key] for key in TIMES}
                for point in one.points
                for told in point.outages.values()
            ),
            key=lambda told: (told["first_bad"], told["ledger"]),
        ),
        "at_least": [
            {"k": k + 1, "surely": _times(surely), "possibly": _times(possibly)}
            for k, (surely, possibly) in enumerate(zip(one.least, one.most, strict=True))
        ],
        "contradictions": [
            {
                "ledger": found.ledger,
                "vantage_point": found.vantage,
                "from": rfc3339(found.span[0]),
                "to": rfc3339(found.span[1]),
                "down": found.down,
            }
            for found in one.contradictions
        ],
    }


def _times(spans: list[Span]) -> dict[str, Any]:
    return {"seconds": length(spans) / 1000, "times": [[rfc3339(start), rfc3339(end)] for start, end in spans]}
