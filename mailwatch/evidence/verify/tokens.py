"""Checks each timestamp token of a bundle: over its checkpoint, named by its entry, signed by whom."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mailwatch.evidence.verify.archive import Refused
from mailwatch.evidence.verify.ledger import Shown
from mailwatch.ledger.timestamp import Anchors, TimestampError, Token, check, verify
from mailwatch.models import Millis, rfc3339


@dataclass(frozen=True, slots=True)
class Stamp:
    """A token that fits: the entry that names it, the size it is over, its time, and on whose word it rests."""

    entry: int
    checkpoint: int
    token: Token
    trusted: str


def stamps(
    listed: Any,
    replies: dict[str, bytes],
    notes: dict[int, str],
    entries: Sequence[Shown],
    trust: Anchors,
    enclosed: Anchors | None,
) -> list[Stamp]:
    """Check every token. `enclosed`: what the bundle itself holds, if that may be the end of a chain.

    Raises Refused at the first that does not fit.
    """
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise Refused("proof.json: tokens is not a list of objects")
    named = {entry.payload.get("reply"): entry for entry in entries if entry.kind == "token"}
    found, files = [], set()
    for one in listed:
        name, size, index = one.get("file"), one.get("checkpoint"), one.get("entry")
        if not isinstance(name, str) or not isinstance(size, int) or not isinstance(index, int):
            raise Refused("proof.json: a token without file, checkpoint and entry")
        if name not in replies or size not in notes:
            raise Refused(f"{name[:80]}: the file or its checkpoint {size} is missing")
        files.add(name)
        reply = replies[name]
        entry = named.get(hashlib.sha256(reply).hexdigest())
        if entry is not None and (entry.index, entry.payload.get("checkpoint")) != (index, size):
            raise Refused(f"{name}: entry {entry.index} names it for checkpoint {entry.payload.get('checkpoint')}")
        found.append(_stamp(name, reply, notes[size], index if entry else -1, size, trust, enclosed))
        if entry is not None and entry.payload.get("time") != found[-1].token.time:
            raise Refused(f"{name}: entry {index} tells another time than the token")
    if spare := replies.keys() - files:
        raise Refused(f"{min(spare)} is not named in proof.json")
    return found


def _stamp(
    name: str,
    reply: bytes,
    note: str,
    index: int,
    size: int,
    trust: Anchors,
    enclosed: Anchors | None,
) -> Stamp:
    try:
        token = check(reply, note)
    except TimestampError as error:
        raise Refused(f"{name}: {error}") from None
    try:
        verify(reply, note, trust)
        return Stamp(index, size, token, "trusted")
    except TimestampError as error:
        reason = str(error)
    if enclosed is None:
        raise Refused(f"{name}: {reason}")
    try:
        verify(reply, note, enclosed)
    except TimestampError:
        raise Refused(f"{name}: {reason}; give the authority's certificate with --trust") from None
    return Stamp(index, size, token, "enclosed")


def outside_times(found: Sequence[Stamp], first: int, last: int) -> dict[str, str | None]:
    """Compute between which outside times the entries `first` to `last` were written."""
    before: list[Millis] = [stamp.token.time for stamp in found if 0 <= stamp.entry <= first]
    after: list[Millis] = [stamp.token.time for stamp in found if stamp.checkpoint > last]
    return {
        "not_before": rfc3339(max(before)) if before else None,
        "not_after": rfc3339(min(after)) if after else None,
    }
