"""Makes one joint zip of what the members of a hub pushed: of a confirmed outage, or of a window of time.

One member at a time is read, so hundreds need no more memory than the facts that the joint case keeps of each.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from mailwatch.analysis.confirmation import ConfirmedOutage
from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.joint.bundle import write_joint
from mailwatch.evidence.joint.hub_case import ConfirmedJson, HubCaseJson, HubMemberJson
from mailwatch.evidence.joint.member import JointMember, read_member
from mailwatch.evidence.joint.quorum import group_channels, joint_statement, partition_members
from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.evidence.rendering import Rendering
from mailwatch.evidence.report.joint import joint_report
from mailwatch.evidence.shipped import ShippedCatalogue
from mailwatch.evidence.verify import Trust, examine
from mailwatch.hub.member_bundle import AbsentError, Asked, Contribution, pushed_by, write_contribution
from mailwatch.ledger.consent import Consent
from mailwatch.store import Reader, Tokens
from mailwatch.store.hub_register import HubMember
from mailwatch.store.keys import Keys
from mailwatch.store.place import Place
from mailwatch.times import Millis, rfc3339, rfc3339_or_none

MARGIN_MS: Millis = 600_000
"""Milliseconds before and after a confirmed outage that its evidence shows."""
NAME_CHARS = 60


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub as evidence is made of it. `agreements`: what members agreed to send, by the name of the ledger."""

    place: Place
    keys: Keys
    reader: Reader
    tokens: Tokens
    vantage_point: str
    members: Sequence[HubMember]
    agreements: Mapping[str, Consent] = field(default_factory=dict)


@dataclass(slots=True)
class Part:
    """A member, or the hub itself, and its bundle. `reason`: why there is none; `detail`: the same, not to be
    published.
    """

    name: str
    ledger: str
    vantage_point: str
    opened: Callable[[], AbstractContextManager[Contribution]]
    reason: str = ""
    detail: str = ""
    path: Path | None = None
    read: JointMember | None = None


@dataclass(frozen=True, slots=True)
class JointCase:
    """A joint zip before it is written. `absent`: the parts without a bundle in it."""

    files: list[File]
    bundles: list[tuple[JointMember, Path]]
    absent: list[Part]
    keys: Keys

    def write(self, out: IO[bytes]) -> None:
        """Write it, with the bundles inside."""
        write_joint(out, self.files, self.bundles, enclose=True, key=self.keys.private)


def asked_of(outage: ConfirmedOutage, latest: Millis) -> Asked:
    """Return what the evidence of a confirmed outage is about. `latest`: where the hub's record ends."""
    begun = outage.begun
    start = min(at for at in (begun.not_before, begun.since, begun.at) if at is not None)
    end = latest if outage.ended_at is None else outage.ended_at
    channel = begun.channel
    return Asked((start - MARGIN_MS, end + MARGIN_MS), channel.provider, channel.kind, channel.target)


@contextlib.contextmanager
def joint_case(
    hub: Hub,
    asked: Asked,
    how: Rendering,
    beside: Path,
    outage: ConfirmedOutage | None = None,
    on_member: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[JointCase]:
    """Make the joint case in a folder inside of `beside`, which is deleted afterwards. Raises EvidenceError.

    `on_member`: called with how many members are done, and of how many.
    """
    with tempfile.TemporaryDirectory(prefix=".mailwatch-joint-", dir=beside) as folder:
        parts = list(_parts(hub))
        for number, part in enumerate(parts):
            _make(part, Path(folder), number, asked, how)
            on_member(number + 1, len(parts))
        yield _joined(hub, asked, how, parts, outage)


def _parts(hub: Hub) -> Iterator[Part]:
    """Yield the hub itself, which is a vantage point too, and its members."""
    if hub.reader.targets():
        own = Contribution(hub.vantage_point, hub.vantage_point, hub.reader, hub.tokens, hub.keys)
        yield Part(own.name, hub.keys.origin, own.vantage_point, lambda: contextlib.nullcontext(own))
    for one in hub.members:
        opened = partial(pushed_by, hub.place, hub.keys, hub.vantage_point, one)
        yield Part(one.name, one.origin, one.vantage_point, opened)


def _make(part: Part, folder: Path, number: int, asked: Asked, how: Rendering) -> None:
    """Write and verify the bundle of a part, and keep the facts for the joint case."""
    path = folder / str(number) / f"{_file_name(part.name)}.zip"
    path.parent.mkdir()
    try:
        with part.opened() as contribution:
            write_contribution(path, contribution, asked, how)
    except AbsentError as error:
        part.reason, part.detail = str(error), error.detail
        path.unlink(missing_ok=True)
        return
    part.path = path
    part.read = read_member(path, Trust(), partial(examine, catalogue=ShippedCatalogue()))


def _file_name(name: str) -> str:
    """Return a member's name as that of a file."""
    return "".join(one if one.isalnum() or one in "-_. " else "_" for one in name)[:NAME_CHARS].strip(". ") or "_"


def _joined(
    hub: Hub, asked: Asked, how: Rendering, parts: Sequence[Part], outage: ConfirmedOutage | None
) -> JointCase:
    """Return the joint case of the parts that have a bundle. Raises EvidenceError if none has."""
    by_ledger = {part.ledger: part for part in parts if part.read is not None}
    members, left_out = partition_members(part.read for part in by_ledger.values() if part.read is not None)
    for one, reason in left_out:
        out = next(part for part in by_ledger.values() if part.read is one)
        out.reason, out.detail = reason, reason
        if one.failed_claim:
            # The reason may name its target.
            out.reason = f"not valid: {one.failed_claim}"
    if not members:
        raise _no_evidence(parts)
    groups = group_channels(members, target=asked.target)
    stated = joint_statement(groups, members, left_out, how.as_json(), hub.keys.origin)
    stated["hub"] = _statement(hub, asked, parts, outage)
    text = pretty_json(stated)
    files = [
        File("joint.json", text),
        File("report.pdf", joint_report(groups, stated, text, how.language, how.zone)),
    ]
    paths = {id(part.read): part.path for part in parts}
    pairs = [(one, path) for one in members if (path := paths[id(one)]) is not None]
    return JointCase(files, pairs, [part for part in parts if part.reason], hub.keys)


def _no_evidence(parts: Sequence[Part]) -> EvidenceError:
    if not parts:
        return EvidenceError("this hub has no members")
    reasons = "; ".join(f"{part.name}: {part.detail}" for part in parts[:3])
    return EvidenceError(f"no vantage point has evidence of it ({reasons})")


def _statement(hub: Hub, asked: Asked, parts: Iterable[Part], outage: ConfirmedOutage | None) -> HubCaseJson:
    return HubCaseJson(
        ledger=hub.keys.origin,
        vantage_point=hub.vantage_point,
        window={"from": rfc3339(asked.window[0]), "to": rfc3339(asked.window[1])},
        provider=asked.provider,
        kind=asked.kind,
        target=asked.target,
        confirmed=None if outage is None else _confirmed(outage),
        members=[_member(hub, part) for part in parts],
    )


def _confirmed(outage: ConfirmedOutage) -> ConfirmedJson:
    begun = outage.begun
    return ConfirmedJson(
        k=begun.k,
        since=rfc3339_or_none(begun.since),
        confirmed=rfc3339(begun.at),
        ended=rfc3339_or_none(outage.ended_at),
    )


def _member(hub: Hub, part: Part) -> HubMemberJson:
    agreed = hub.agreements.get(part.ledger)
    return HubMemberJson(
        name=part.name,
        ledger=part.ledger,
        vantage_point=part.vantage_point,
        send=None if agreed is None else agreed.amount,
        agreed=None if agreed is None else rfc3339(agreed.at),
        reason=part.reason,
    )
