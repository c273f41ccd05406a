"""One bundle of a joint case: verified, then reduced to its outages and the times its channels were observed
up.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailwatch.analysis.public_json import OutageJson
from mailwatch.analysis.segments import Segment, SegmentState
from mailwatch.errors import is_local_failure
from mailwatch.evidence.verify import UNEXPECTED_PREFIX, Trust, VerificationResult, examine
from mailwatch.model import Fact, Gap, TargetChange
from mailwatch.times import Millis, Window, merge_windows, parse_rfc3339

logger = logging.getLogger(__name__)

MAX_CLOCK_ERROR_SECONDS = 600.0
"""Largest accepted clock error of a member, in seconds."""


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
    outages: list[OutageJson]


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

    @property
    def content_key(self) -> tuple[object, ...]:
        """Key that is equal for two bundles with the same content."""
        contents = [
            (one.provider, one.kind, *sorted(outage["id"] for outage in one.outages)) for one in self.channels
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


def read_member(path: Path, trust: Trust) -> JointMember:
    """Verify a bundle and keep the facts needed for the joint case. Raises OSError."""
    with path.open("rb") as file:
        member = JointMember(path.name, hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)
    up_times = _UpTimes()
    examined = examine(path, trust, up_times.add)
    bad = next((claim for claim in examined.claims if not claim.valid), None)
    if bad is not None:
        member.failed_claim, member.reason = bad.claim, f"{bad.claim}: {bad.detail}"
        return member
    try:
        error = 0 if examined.statement is None else examined.statement.get("clock_error", 0)
        if error > MAX_CLOCK_ERROR_SECONDS:
            # Its times cannot be compared with those of others.
            member.failed_claim, member.reason = (
                "times",
                f"times: its clock was off by {error:g} s, by its own tokens",
            )
            return member
        _keep_facts(member, examined, up_times)
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


def _keep_facts(member: JointMember, examined: VerificationResult, up_times: _UpTimes) -> None:
    stated = examined.statement
    assert stated is not None
    member.ledger, member.signed = stated["ledger"], examined.signed
    member.first, member.end = stated["range"]["first"], stated["range"]["end"]
    if "outage" in stated:
        one_outage = stated["outage"]
        name = one_outage["target"]
        member.vantage = one_outage["vantage_point"]
        member.channels = [_channel(one_outage["provider"], one_outage["kind"], name, [one_outage], up_times)]
        return
    member.vantage = str(stated.get("vantage_point"))
    for one in stated["targets"]:
        outages = [outage for outage in stated["outages"] if outage["target"] == one["target"]]
        # Provider and kind recorded with an outage take precedence over the config at the time of the bundle.
        provider, kind = (outages[0][key] if outages else str(one.get(key)) for key in ("provider", "kind"))
        member.channels.append(_channel(provider, kind, one["target"], outages, up_times))
    if any(outage["vantage_point"] for outage in stated["outages"]):
        member.vantage = stated["outages"][0]["vantage_point"]


def _channel(
    provider: str, kind: str, target: str, outages: list[OutageJson], up_times: _UpTimes
) -> BundleChannel:
    begun, ended = up_times.facts[target]
    surely, possibly = [], []
    for outage in outages:
        bad, last = parse_rfc3339(outage["first_bad"]), parse_rfc3339(outage["last_bad"])
        good, over = _time(outage["last_good"]), _time(outage["first_good"])
        least = round(outage["duration"]["min"] * 1000)
        if least >= last - bad:
            surely.append((bad, last))
        elif not outage.get("clock", {}).get("wall"):
            # Over a restart the two may be closer than by the wall clock: exclude the uncertain time on either
            # side.
            uncertain = last - bad - least
            surely.append((bad + uncertain, last - uncertain))
        # Never observed up before or after: possibly down as far as there are observations.
        possibly.append((min(begun, bad) if good is None else good, max(ended, last) if over is None else over))
    return BundleChannel(
        provider, kind, merge_windows(surely), merge_windows(possibly), merge_windows(up_times.up[target]), outages
    )


def _time(text: str | None) -> Millis | None:
    return None if text is None else parse_rfc3339(text)
