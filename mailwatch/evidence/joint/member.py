"""One bundle of a joint case: verified, then reduced to its outages and the times its channels were observed
up.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.replay import FactListener
from mailwatch.analysis.segments import Segment, SegmentState
from mailwatch.errors import is_local_failure
from mailwatch.evidence.joint.source import MemberSource, SourceObserver
from mailwatch.evidence.stated import PeriodStatement
from mailwatch.evidence.verify import UNEXPECTED_PREFIX, Claim, Trust, VerificationResult, examine
from mailwatch.evidence.verify.entries import EntryObserver
from mailwatch.evidence.verify.witness import VerifiedCosignature
from mailwatch.evidence.warnings import Caveat
from mailwatch.ledger.succession import ChainJson
from mailwatch.model import Fact, Gap, TargetChange
from mailwatch.times import Window, merge_windows

logger = logging.getLogger(__name__)

MAX_CLOCK_ERROR_SECONDS = 600.0
"""Largest accepted clock error of a member, in seconds."""


MAX_FAR_PAIRS_SHARE = 0.5
"""Largest accepted share of good observations that follow one another beyond the interval on record: after such
a time MailWatch records a gap.
"""


@dataclass(slots=True)
class BundleChannel:
    """One target in a bundle. `surely`, `possibly`: times down; `possibly` contains `surely`. `up`: times surely
    up.
    """

    provider: str
    kind: str
    surely: Sequence[Window]
    possibly: Sequence[Window]
    up: Sequence[Window]
    outages: list[OutageRecord]
    target: str = ""


@dataclass(slots=True)
class JointMember:
    """A bundle. If it is not valid: `reason`, the claim `failed_claim`, and all else empty."""

    name: str
    sha256: str
    size: int
    reason: str = ""
    failed_claim: str = ""
    ledger: str = ""
    vantage: str = ""
    first: int = 0
    end: int = 0
    signed: dict[int, bytes] = field(default_factory=dict)
    channels: list[BundleChannel] = field(default_factory=list)
    source: MemberSource | None = None
    chain: Sequence[ChainJson] = ()
    """The ledgers before its own, oldest first."""
    pages: Claim | None = None
    """The claim on the pages of its report, None where they were not compared."""
    caveats: Sequence[Caveat] = ()
    """Those that belong on a first page."""
    cosignatures: Sequence[VerifiedCosignature] = ()
    own_witness: str = ""
    """The key with which its MailWatch cosigns ledgers of others, "" without one."""

    @property
    def content_key(self) -> tuple[object, ...]:
        """Key that is equal for two bundles with the same content."""
        contents = [
            (one.provider, one.kind, *sorted(outage.id for outage in one.outages)) for one in self.channels
        ]
        return self.ledger, self.first, self.end, self.signed[self.end], tuple(contents)


class _UpTimes:
    """Collects the times in which each target was surely up, during the replay."""

    def __init__(self) -> None:
        self.facts: dict[str, Window] = {}
        self.up: dict[str, list[Window]] = {}

    def add(self, target: str, fact: Fact, stretches: list[Segment]) -> None:
        if isinstance(fact, TargetChange):
            self._join(target, stretches)
            return
        start, end = (fact.start, fact.end) if isinstance(fact, Gap) else (fact.started_at, fact.ended_at)
        known = self.facts.get(target, (start, end))
        self.facts[target] = min(known[0], start), max(known[1], end)
        self._join(target, stretches)

    def _join(self, target: str, stretches: list[Segment]) -> None:
        up = self.up.setdefault(target, [])
        for begun, ended, share in stretches:
            if share is SegmentState.UP and up and up[-1][1] == begun:
                up[-1] = up[-1][0], ended
            elif share is SegmentState.UP:
                up.append((begun, ended))


class Examine(Protocol):
    """Verifies a bundle as `examine` does, with or without the pages of its report."""

    def __call__(
        self, path: Path, trust: Trust, listener: FactListener, observer: EntryObserver | None
    ) -> VerificationResult: ...


def read_member(path: Path, trust: Trust, examine_bundle: Examine = examine) -> JointMember:
    """Verify a bundle by `examine_bundle`, and keep the facts for the joint case. Raises OSError."""
    with path.open("rb") as file:
        member = JointMember(path.name, hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
    up_times, observer = _UpTimes(), SourceObserver()
    examined = examine_bundle(path, trust, up_times.add, observer)
    bad = next((claim for claim in examined.claims if not claim.valid), None)
    if bad is not None:
        member.failed_claim, member.reason = bad.claim, f"{bad.claim}: {bad.detail}"
        return member
    try:
        _keep_facts(member, examined, up_times)
        member.source = observer.source(path, examined)
        member.failed_claim, member.reason = _doubt(member.source, examined)
    except Exception as error:
        if is_local_failure(error):
            raise
        # Parts of the statement that verification does not cover may have any content.
        logger.info("%s could not be read", path.name, exc_info=error)
        member.failed_claim, member.reason = (
            "outage",
            f"outage: {UNEXPECTED_PREFIX} {type(error).__name__} {str(error)[:120]}",
        )
    return member


def _doubt(source: MemberSource, examined: VerificationResult) -> tuple[str, str]:
    """Return the claim and the reason why a valid bundle does not count, "" and "" if it does."""
    error = source.clock_error or 0
    if error > MAX_CLOCK_ERROR_SECONDS:
        # Its times cannot be compared with those of others.
        return "times", f"times: its clock was off by {error:g} s, by its own tokens"
    stated, replay = examined.statement, examined.replay
    if replay is None:
        return "", ""
    for one in cast(PeriodStatement, stated)["targets"]:
        usual = replay.inferred_interval(one["target"]) / 1000
        # A short interval leaves no time in which the target was surely up, and hides that it contradicts others.
        # No entry proves that of statements from before 2026-11, and who holds the key writes the entries.
        if "intervals" not in one and one["interval"] < usual / 2:
            reason = f"its observations are {usual:g} s apart, not {one['interval']:g} s as it states"
            return "period", f"period: {reason}"
        if replay.accounts[one["target"]].meter.far_pairs_share > MAX_FAR_PAIRS_SHARE:
            return "period", "period: its observations are further apart than the intervals on record allow"
    return "", ""


def _keep_facts(member: JointMember, examined: VerificationResult, up_times: _UpTimes) -> None:
    stated = examined.statement
    assert stated is not None
    member.ledger, member.signed = stated["ledger"], examined.signed
    member.first, member.end = stated["range"]["first"], stated["range"]["end"]
    member.chain = stated.get("chain", ())
    member.pages = next((claim for claim in examined.claims if claim.claim == "pages"), None)
    member.caveats = [one for one in examined.caveats if one.grave]
    member.own_witness = str(stated.get("own_witness", ""))
    member.cosignatures = () if examined.witnesses is None else examined.witnesses.cosignatures
    if "outage" in stated:
        (record,) = examined.outages
        member.vantage = record.vantage_point
        member.channels = [_channel(record.provider, record.kind.value, record.target, [record], up_times)]
        return
    member.vantage = str(stated.get("vantage_point"))
    for one in stated["targets"]:
        outages = [record for record in examined.outages if record.target == one["target"]]
        # Provider and kind recorded with an outage take precedence over the config at the time of the bundle.
        provider = outages[0].provider if outages else str(one.get("provider"))
        kind = outages[0].kind.value if outages else str(one.get("kind"))
        member.channels.append(_channel(provider, kind, one["target"], outages, up_times))
    if any(record.vantage_point for record in examined.outages):
        member.vantage = examined.outages[0].vantage_point


def _channel(
    provider: str, kind: str, target: str, outages: list[OutageRecord], up_times: _UpTimes
) -> BundleChannel:
    begun, ended = up_times.facts[target]
    surely, possibly = [], []
    for outage in outages:
        bad, last, least = outage.first_bad, outage.last_bad, outage.durations.least
        good, over = outage.last_good, outage.first_good
        if least >= last - bad:
            surely.append((bad, last))
        elif outage.clock is None or not outage.clock.is_wall:
            # Over a restart the two may be closer than by the wall clock: exclude the uncertain time on either
            # side.
            uncertain = last - bad - least
            surely.append((bad + uncertain, last - uncertain))
        # Never observed up before or after: possibly down as far as there are observations.
        possibly.append((min(begun, bad) if good is None else good, max(ended, last) if over is None else over))
    return BundleChannel(
        provider,
        kind,
        merge_windows(surely),
        merge_windows(possibly),
        merge_windows(up_times.up[target]),
        outages,
        target,
    )
