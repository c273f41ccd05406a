"""Demands that members witness each other: each ledger was cosigned by another member before its first outage.

A vantage point made up afterwards, a second history or a ledger begun anew then shows as long as one other member
is honest. Two members of one owner who cosign each other do not show.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailwatch.evidence.joint.member import JointMember

REASON = "no other member cosigned it before its first outage"


def unwitnessed(members: Sequence[JointMember]) -> list[JointMember]:
    """Return the members that no other member of the rest cosigned in time."""
    rest = list(members)
    while out := [one for one in rest if not _is_witnessed(one, rest)]:
        rest = [one for one in rest if one not in out]
    return [one for one in members if one not in rest]


def _is_witnessed(member: JointMember, rest: Sequence[JointMember]) -> bool:
    # A member names its own witness's key. Naming that of another gains it nothing.
    others = {one.own_witness for one in rest if one.ledger != member.ledger and one.own_witness}
    outages = [outage.first_index for channel in member.channels for outage in channel.outages]
    first = min(outages, default=member.end)
    return any(one.witness in others and one.entry <= first for one in member.cosignatures)
