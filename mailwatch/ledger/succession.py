"""The first entry of a ledger that goes on for one that was lost: which one, how far it is known, and why. Pure.

A key signs one root for each size. So a ledger whose database is gone, older than what was signed, or damaged, is
never continued under its key: a successor begins with a new key. Where the old key is still there, it signs the
appointment of the new one, as a note; anyone could claim to go on for a ledger otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.merkle import leaf_hash, node_hash

KIND = "successor"
"""The kind of the entry: only ever the first of a ledger."""
REASONS = ("database_lost", "database_older", "database_damaged", "keys_lost")
MAX_LINKS = 100
"""Most predecessors of a ledger."""
_ORIGIN = re.compile(r"mailwatch/[0-9a-f]{16}")
_ROOT = re.compile(r"[0-9a-f]{64}")


class SuccessionError(Exception):
    """What a ledger says of its predecessors is not valid. The message says why."""


class LinkPayload(TypedDict):
    """A predecessor. Keys are left out where the value was lost as well.

    `size`, `root` (hex), `checkpoint` (the note): the checkpoint signed last, as far as it is known; 0 if there is
    none. `kept`: entries of its database in the archive. `appointment`: the note by which its key appoints the
    ledger that follows.
    """

    reason: str
    size: int
    origin: NotRequired[str]
    key: NotRequired[str]
    root: NotRequired[str]
    checkpoint: NotRequired[str]
    kept: NotRequired[int]
    archive: NotRequired[str]
    appointment: NotRequired[str]


class SuccessorPayload(LinkPayload):
    """The payload of the entry: the direct predecessor, and those before it, oldest first."""

    earlier: NotRequired[list[LinkPayload]]


class ChainJson(TypedDict):
    """A predecessor in a statement. `appointed`: its key signed who goes on."""

    ledger: str
    key: str | None
    size: int
    root: str | None
    reason: str
    kept: int | None
    appointed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A checked predecessor. `origin` and `key` are "" if lost; `root` is None without a known checkpoint."""

    origin: str
    key: str
    size: int
    root: str | None
    reason: str
    kept: int | None
    appointed: bool

    def as_json(self) -> ChainJson:
        """Return the predecessor as in a statement."""
        return {
            "ledger": self.origin,
            "key": self.key or None,
            "size": self.size,
            "root": self.root,
            "reason": self.reason,
            "kept": self.kept,
            "appointed": self.appointed,
        }


def appoint(private: Ed25519PrivateKey, successor: str, size: int, root: str) -> str:
    """Return the note by which a ledger's key appoints the ledger with the verifier key `successor`."""
    origin = notes.origin_of(private.public_key())
    return notes.sign_text(_appointment(origin, successor, size, root), origin, private)


def _appointment(origin: str, successor: str, size: int, root: str) -> str:
    return f"{origin}\nsuccessor {successor}\n{size} {root}\n"


def predecessors(payload: Mapping[str, object], key: str) -> tuple[Link, ...]:
    """Check the payload of the first entry of the ledger with the verifier key `key`; return its predecessors.

    The oldest comes first. Raises SuccessionError.
    """
    earlier = payload.get("earlier", [])
    if not isinstance(earlier, list) or len(earlier) >= MAX_LINKS:
        raise SuccessionError("its earlier predecessors are not a list")
    links: list[Link] = []
    following = [*earlier[1:], payload, None] if earlier else [None]
    for written, after in zip((*earlier, payload), following, strict=True):
        if not isinstance(written, Mapping) or (written is not payload and "earlier" in written):
            raise SuccessionError("a predecessor is not an object")
        links.append(_link(written, key if after is None else after))
    names = [link.origin for link in links if link.origin]
    if len(set(names)) != len(names) or key.partition("+")[0] in names:
        raise SuccessionError("a ledger follows itself")
    return tuple(links)


def _link(written: Mapping[str, object], after: str | Mapping[str, object]) -> Link:
    reason, size, kept = written.get("reason"), written.get("size"), written.get("kept")
    origin, key, root = (written.get(name, "") for name in ("origin", "key", "root"))
    if reason not in REASONS:
        raise SuccessionError(f"{str(reason)[:40]} is no reason for a successor")
    if not isinstance(reason, str) or type(size) is not int or size < 0 or not (kept is None or _is_count(kept)):
        raise SuccessionError("the sizes of a predecessor are not whole numbers")
    if not all(isinstance(text, str) for text in (origin, key, root)):
        raise SuccessionError("a predecessor's name, key and root are not text")
    assert isinstance(origin, str)
    assert isinstance(key, str)
    assert isinstance(root, str)
    if (origin and not _ORIGIN.fullmatch(origin)) or (root and not _ROOT.fullmatch(root)):
        raise SuccessionError("a predecessor's name or root does not have the form of one")
    if bool(size) != bool(root) or (bool(size) != ("checkpoint" in written)):
        raise SuccessionError("a predecessor's size, root and checkpoint do not go together")
    if not key:
        if "appointment" in written or reason != "keys_lost":
            raise SuccessionError("the key of a predecessor is missing")
        appointed = False
    else:
        appointed = _check_signatures(written, key, origin, size, root, after)
    return Link(
        origin=origin,
        key=key,
        size=size,
        root=root or None,
        reason=reason,
        kept=kept if type(kept) is int else None,
        appointed=appointed,
    )


def _check_signatures(
    written: Mapping[str, object], key: str, origin: str, size: int, root: str, after: str | Mapping[str, object]
) -> bool:
    """Check a predecessor's checkpoint and appointment; return whether there is an appointment."""
    try:
        public = notes.parse_verifier_key(key)
        if notes.origin_of(public) != origin:
            raise SuccessionError(f"the key of {origin} is another one's")
        if size:
            signed = notes.verify(str(written["checkpoint"]), public)
            if (signed.size, signed.root.hex()) != (size, root):
                raise SuccessionError(f"the checkpoint of {origin} has another size or root")
        if "appointment" not in written:
            if written["reason"] != "keys_lost":
                raise SuccessionError(f"{origin} did not appoint its successor")
            return False
        text = notes.verify_text(str(written["appointment"]), public)
    except CheckpointError as error:
        raise SuccessionError(f"{origin}: {error}") from None
    next_key = after if isinstance(after, str) else str(after.get("key", ""))
    if not next_key or text != _appointment(origin, next_key, size, root):
        raise SuccessionError(f"{origin} did not appoint the ledger that follows it")
    return True


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def first_entry_root(header: bytes, path: Iterable[bytes]) -> bytes:
    """Return the root of the perfect subtree whose first leaf is `header`. `path`: its siblings, lowest first."""
    root = leaf_hash(header)
    for sibling in path:
        root = node_hash(root, sibling)
    return root
