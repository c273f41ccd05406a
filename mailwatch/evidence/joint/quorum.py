"""Groups members by provider and channel, counts the vantage points that observed it down, and builds joint.json.

A vantage point is a ledger and counts once, however many bundles it has. Surely down is from `first_bad` to
`last_bad` of an outage (its minimum), possibly down from `last_good` to `first_good` (its maximum).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mailwatch import __version__
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import outage_json
from mailwatch.evidence.joint.forks import (
    MemberOpener,
    copied_ledgers,
    forked_ledgers,
    member_file,
    shared_machines,
)
from mailwatch.evidence.joint.member import BundleChannel, JointMember
from mailwatch.evidence.stated import ReportJson
from mailwatch.times import Millis, Window, intersect_windows, merge_windows, rfc3339, total_length

CoverageStep = tuple[Millis, int]
"""A time, and the count from then on until the next step."""


def coverage_steps(points: Iterable[Sequence[Window]]) -> list[CoverageStep]:
    """Return the number of vantage points with a span at each time; each counts once. Ends with a step to 0."""
    changes: dict[Millis, int] = {}
    for spans in points:
        for start, end in merge_windows(spans):
            changes[start] = changes.get(start, 0) + 1
            changes[end] = changes.get(end, 0) - 1
    found, count = [], 0
    for at in sorted(changes):
        if changes[at]:
            count += changes[at]
            found.append((at, count))
    return found


def at_least_k(steps: Sequence[CoverageStep], most: int) -> list[list[Window]]:
    """Return, for each k from 1 to `most`, the times at which the count is at least k, in O(crossings)."""
    found: list[list[Window]] = [[] for _ in range(most)]
    begun: list[Millis] = [0] * most
    before = 0
    for at, count in steps:
        for level in range(before, count):
            begun[level] = at
        for level in range(count, before):
            found[level].append((begun[level], at))
        before = count
    return found


FORMAT = "mailwatch-joint/1"
MAX_STATED_ADDRESSES = 20
"""Most addresses stated of a member, the most frequent first."""
OUTAGE_KEYS = ("id", "vantage_point", "state", "last_good", "first_bad", "last_bad", "first_good", "duration")
"""Keys stated of a member's outage, without the target, whose name may be a mail address."""


@dataclass(slots=True)
class VantageView:
    """One vantage point's view of a channel. `outages`: by id."""

    ledger: str
    vantage: str
    channels: list[BundleChannel] = field(default_factory=list)
    outages: dict[str, OutageRecord] = field(default_factory=dict)
    surely: list[Window] = field(default_factory=list)
    possibly: list[Window] = field(default_factory=list)
    up: list[Window] = field(default_factory=list)


@dataclass(slots=True)
class Contradiction:
    """A vantage point that observed the channel surely up while up to `down` others observed it surely down."""

    ledger: str
    vantage: str
    span: Window
    down: int


@dataclass(slots=True)
class ChannelGroup:
    """A provider's channel as observed by all its vantage points."""

    provider: str
    kind: str
    views: list[VantageView]
    surely: list[CoverageStep] = field(default_factory=list)
    possibly: list[CoverageStep] = field(default_factory=list)
    up: list[CoverageStep] = field(default_factory=list)
    surely_spans: list[list[Window]] = field(default_factory=list)
    possibly_spans: list[list[Window]] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Most vantage points at which the channel was surely down at the same time."""
        return max((count for _, count in self.surely), default=0)


def partition_members(
    members: Iterable[JointMember], opener: MemberOpener = member_file
) -> tuple[list[JointMember], list[tuple[JointMember, str]]]:
    """Return the members that count, and the members left out with the reason.

    Left out are invalid bundles, bundles with the same content as another, and all bundles of a ledger that signed
    different histories, or that shares entries with another ledger.
    """
    fine: list[JointMember] = []
    out: list[tuple[JointMember, str]] = []
    seen: dict[tuple[object, ...], str] = {}
    for member in members:
        if member.reason:
            out.append((member, member.reason))
        elif member.content_key in seen:
            out.append((member, f"the same range of the same ledger as {seen[member.content_key]}"))
        else:
            seen[member.content_key] = member.name
            fine.append(member)
    wrong = copied_ledgers(fine) | forked_ledgers(fine, opener)
    wrong |= _unappointed([one for one in fine if one.ledger not in wrong])
    out += [(one, wrong[one.ledger]) for one in fine if one.ledger in wrong]
    return [one for one in fine if one.ledger not in wrong], out


def _unappointed(members: Sequence[JointMember]) -> dict[str, str]:
    """Return the ledgers that say without a signature that they go on for another member's ledger.

    To count both would count one owner twice. To count them as one would let anyone join the ledger of another.
    """
    ledgers, found = {one.ledger for one in members}, dict[str, str]()
    for one in members:
        for link in one.chain:
            if not link["appointed"] and link["ledger"] in ledgers - {one.ledger}:
                reason = f"it goes on for {link['ledger']}, which is counted, by its owner's word alone"
                found.setdefault(one.ledger, reason)
    return found


def counted_as(members: Iterable[JointMember]) -> dict[str, str]:
    """Return for each ledger that by which its vantage point is counted: the oldest of the members' ledgers that
    leads to it, each of which appointed the next.
    """
    members = list(members)
    ledgers = {one.ledger for one in members}
    found = {ledger: ledger for ledger in ledgers}
    for one in members:
        for link in reversed(one.chain):
            if not link["appointed"]:
                break
            if link["ledger"] in ledgers:
                found[one.ledger] = link["ledger"]
    return found


def group_channels(members: Iterable[JointMember], *, alike: bool = True, target: str = "") -> list[ChannelGroup]:
    """Return the channels, those with the most vantage points first. `alike`: provider names that differ only in
    case and blanks are one provider. `target`: servers without a provider that all observe by this name are one.

    Of two bundles of a ledger that state one outage, that with the larger SHA-256 counts.
    """
    members = sorted(members, key=lambda one: one.sha256)
    names = _provider_names(channel.provider for member in members for channel in member.channels)
    points_of = counted_as(members)
    found: dict[tuple[str, str], dict[str, VantageView]] = {}
    for member in members:
        ledger = points_of[member.ledger]
        for channel in member.channels:
            provider = names[plain_provider(channel.provider)] if alike else channel.provider
            # Servers without a known provider are unrelated to each other, unless a hub compares them by name.
            shared = target if target == channel.target else ""
            points = found.setdefault((provider or shared or ledger, channel.kind), {})
            point = points.setdefault(ledger, VantageView(ledger, member.vantage))
            point.channels.append(channel)
            point.outages |= {outage.id: outage for outage in channel.outages}
    groups = [ChannelGroup(*key, _merged_views(points.values())) for key, points in found.items()]
    for one in groups:
        one.surely = coverage_steps(point.surely for point in one.views)
        one.possibly = coverage_steps(point.possibly for point in one.views)
        one.up = coverage_steps(point.up for point in one.views)
        one.surely_spans, one.possibly_spans = (
            at_least_k(one.surely, len(one.views)),
            at_least_k(one.possibly, len(one.views)),
        )
        one.contradictions = sorted(_contradictions(one), key=lambda found: (found.span, found.ledger))
    return sorted(groups, key=lambda one: (-len(one.views), one.provider, one.kind))


def plain_provider(provider: str) -> str:
    """Return the form of a provider's name in which case and blanks make no difference."""
    return " ".join(unicodedata.normalize("NFKC", provider).casefold().split())


def _provider_names(providers: Iterable[str]) -> dict[str, str]:
    """Return one spelling of each provider: its plain one if that occurs, as keys of the catalogue are plain."""
    found: dict[str, str] = {}
    for provider in sorted(set(providers)):
        plain = plain_provider(provider)
        found[plain] = plain if plain == provider else found.get(plain, provider)
    return found


def _merged_views(points: Iterable[VantageView]) -> list[VantageView]:
    for point in points:
        for kind in ("surely", "possibly", "up"):
            setattr(
                point, kind, merge_windows(span for channel in point.channels for span in getattr(channel, kind))
            )
    return sorted(points, key=lambda point: (point.vantage, point.ledger))


def _contradictions(group: ChannelGroup) -> Iterator[Contradiction]:
    """Yield the times at which a vantage point observed the channel up and others down."""
    any_down = group.surely_spans[0] if group.surely_spans else []
    starts = [at for at, _ in group.surely]
    for point in group.views:
        for start, end in intersect_windows(point.up, any_down):
            # Another mailbox of the same vantage point may be the one down; that is stated as well.
            over = slice(max(0, bisect_right(starts, start) - 1), bisect_left(starts, end))
            down = max(count for _, count in group.surely[over])
            yield Contradiction(point.ledger, point.vantage, (start, end), down)


def joint_statement(
    groups: list[ChannelGroup],
    members: list[JointMember],
    left_out: list[tuple[JointMember, str]],
    report: ReportJson | None = None,
    merged_by: object = None,
) -> dict[str, object]:
    """Return joint.json. It does not depend on the order of the members.

    `report`: how report.pdf is made. Without it joint.json is as before 2026-12, without the sources of members.
    `merged_by`: the ledger whose key signs the zip.
    """
    whole, points_of = report is not None, counted_as(members)
    stated: dict[str, object] = {
        "format": FORMAT,
        "made_by": f"MailWatch {__version__}",
        "members": [
            _member_json(one) | (source_json(one, points_of[one.ledger]) if whole else {})
            for one in sorted(members, key=lambda one: one.sha256)
        ],
        "left_out": [
            # The reason a bundle is invalid may name its target: it is printed when merging, not published.
            {
                "file": one.name,
                "sha256": one.sha256,
                "reason": f"not valid: {one.failed_claim}" if one.failed_claim else reason,
            }
            for one, reason in sorted(left_out, key=lambda pair: pair[0].sha256)
        ],
        "groups": [_group_json(one) for one in groups],
    }
    if whole:
        stated |= {"same_machine": shared_machines(members), "merged_by": merged_by, "report": report}
    return stated


def known_as(vantage_point: str, ledger: str) -> str:
    """Return the name of a vantage point, with enough of its ledger's."""
    return f"{vantage_point} ({ledger.rpartition('/')[2][:8]})"


def _member_json(one: JointMember) -> dict[str, object]:
    return {
        "file": one.name,
        "sha256": one.sha256,
        "size": one.size,
        "ledger": one.ledger,
        "vantage_point": one.vantage,
        "range": {"first": one.first, "end": one.end},
    }


def source_json(one: JointMember, counted: str) -> dict[str, object]:
    """Return where a member comes from, as joint.json states it. `counted`: the ledger of its vantage point."""
    source = one.source
    assert source is not None
    often = sorted(source.addresses.items(), key=lambda found: (-found[1], found[0]))
    return {
        **({"counted_as": counted} if counted != one.ledger else {}),
        "begun": {"entry": one.first, "time": rfc3339(source.begun)},
        "tokens": [
            {
                "authority": found.authority,
                "count": found.count,
                "first": rfc3339(found.first),
                "last": rfc3339(found.last),
            }
            for found in source.tokens
        ],
        "clock_error": source.clock_error,
        "addresses": dict(often[:MAX_STATED_ADDRESSES]),
        "address_count": len(often),
        "public_addresses": [
            {"address": address, "first": rfc3339(first), "last": rfc3339(last), "count": count}
            for address, (first, last, count) in [*source.public_addresses.items()][:MAX_STATED_ADDRESSES]
        ],
        # Whether tokens are trusted depends on who asks.
        "caveats": [
            {"code": caveat.code, "figures": dict(caveat.figures)}
            for caveat in one.caveats
            if caveat.code != "untrusted_tokens"
        ],
    }


def _group_json(group: ChannelGroup) -> dict[str, object]:
    return {
        "provider": group.provider,
        "kind": group.kind,
        "vantage_points": [{"ledger": point.ledger, "vantage_point": point.vantage} for point in group.views],
        "outages": [
            _outage_json(ledger, outage)
            for ledger, outage in sorted(
                ((point.ledger, outage) for point in group.views for outage in point.outages.values()),
                key=lambda found: (found[1].first_bad, found[0]),
            )
        ],
        "at_least": [
            {"k": k + 1, "surely": _span_json(surely), "possibly": _span_json(possibly)}
            for k, (surely, possibly) in enumerate(zip(group.surely_spans, group.possibly_spans, strict=True))
        ],
        "contradictions": [
            {
                "ledger": found.ledger,
                "vantage_point": found.vantage,
                "from": rfc3339(found.span[0]),
                "to": rfc3339(found.span[1]),
                "down": found.down,
            }
            for found in group.contradictions
        ],
    }


def _outage_json(ledger: str, outage: OutageRecord) -> dict[str, object]:
    stated: dict[str, object] = {**outage_json(outage)}
    return {"ledger": ledger} | {key: stated[key] for key in OUTAGE_KEYS}


def _span_json(spans: list[Window]) -> dict[str, object]:
    return {
        "seconds": total_length(spans) / 1000,
        "times": [[rfc3339(start), rfc3339(end)] for start, end in spans],
    }
