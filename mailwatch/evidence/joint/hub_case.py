"""The key `hub` of joint.json: what a hub made a joint zip of, and what each of its members agreed to send.

It is the hub's word, under its signature: no bundle shows which members there are, or why one has no bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from mailwatch.evidence.stated import WindowJson

KEYS = frozenset(("ledger", "vantage_point", "window", "provider", "kind", "target", "confirmed", "members"))
MEMBER_KEYS = frozenset(("name", "ledger", "vantage_point", "send", "agreed", "reason"))


class HubMemberJson(TypedDict):
    """A member of a hub. `send`: what it agreed to send, "all", "checkpoints" or a number of targets, since
    `agreed` (RFC 3339); null where it stated nothing. `reason`: why no bundle of it is there, "" if one is.
    """

    name: str
    ledger: str
    vantage_point: str
    send: str | int | None
    agreed: str | None
    reason: str


class ConfirmedJson(TypedDict):
    """An outage that the hub confirmed: from when to when, and how many vantage points had to observe it."""

    k: int
    since: str | None
    confirmed: str
    ended: str | None


class HubCaseJson(TypedDict):
    """What a hub made evidence of. `provider`, `kind`, `target`: "" for any."""

    ledger: str
    vantage_point: str
    window: WindowJson
    provider: str
    kind: str
    target: str
    confirmed: ConfirmedJson | None
    members: list[HubMemberJson]


def hub_fault(stated: Mapping[str, Any], ledgers: Sequence[str]) -> str:
    """Return what is wrong with the key `hub` of joint.json, "" if nothing. `ledgers`: of the bundles."""
    hub = stated["hub"]
    if not isinstance(hub, dict) or hub.keys() != KEYS or hub["ledger"] != stated.get("merged_by"):
        return "`hub` is not what the one who merged can state"
    if not all(isinstance(hub[key], str) for key in ("vantage_point", "provider", "kind", "target")):
        return "`hub` does not say what the evidence is about"
    members = hub["members"]
    if not isinstance(members, list) or not all(map(_is_member, members)):
        return "`hub` lists no members"
    with_bundle = {one["ledger"] for one in members if not one["reason"]}
    if with_bundle != set(ledgers):
        return "`hub` lists other members than there are bundles of"
    return ""


def _is_member(one: object) -> bool:
    if not isinstance(one, dict) or one.keys() != MEMBER_KEYS:
        return False
    send, agreed = one["send"], one["agreed"]
    scoped = send is None or send in ("all", "checkpoints") or (type(send) is int and send > 0)
    texts = all(isinstance(one[key], str) for key in ("name", "ledger", "vantage_point", "reason"))
    return texts and scoped and (agreed is None or isinstance(agreed, str))
