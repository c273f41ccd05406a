"""Checks the predecessors of a bundle's ledger: the first entry, its place, its signatures, and the statement."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import orjson

from mailwatch.evidence.verify.archive import Archive, VerificationError
from mailwatch.ledger.consistency import ConsistencyError, verify_consistency
from mailwatch.ledger.entry_line import ENTRY_LINE
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.succession import KIND, Link, SuccessionError, predecessors

MAX_PROOF = 64
"""Most hashes in a proof: a ledger has fewer than 2**64 entries."""


@dataclass(frozen=True, slots=True)
class FirstEntry:
    """The first entry of a successor. `proof`: None if the range begins with it."""

    header: bytes
    predecessors: tuple[Link, ...]
    proof: tuple[bytes, ...] | None


def read_first_entry(archive: Archive, key: str) -> FirstEntry | None:
    """Return the first entry of the ledger with the verifier key `key`, None if the bundle shows no predecessor.

    Whether the ledger begins with it is left to `check_chain`. Raises VerificationError.
    """
    proof = archive.json("proof.json")
    first, start = proof.get("first"), proof.get("start")
    if first is not None:
        return _parse_first(first, key)
    if not isinstance(start, dict) or start.get("size") != 0:
        return None
    line = next(archive.lines("entries.jsonl"), b"")
    match = ENTRY_LINE.fullmatch(line)
    if match is None or match[5] != KIND.encode():
        return None
    return _entry(line, key, None)


def _parse_first(first: object, key: str) -> FirstEntry:
    try:
        assert isinstance(first, dict)
        line = orjson.dumps({name: first[name] for name in ("header", "payload")}, option=orjson.OPT_SORT_KEYS)
        path = tuple(bytes.fromhex(one) for one in first["proof"])
        if len(path) > MAX_PROOF or any(len(one) != hashlib.sha256().digest_size for one in path):
            raise ValueError
    except (AssertionError, KeyError, ValueError, TypeError, AttributeError):
        raise VerificationError("proof.json: first is not an entry with its proof") from None
    return _entry(line + b"\n", key, path)


def _entry(line: bytes, key: str, proof: tuple[bytes, ...] | None) -> FirstEntry:
    match = ENTRY_LINE.fullmatch(line)
    if match is None:
        raise VerificationError("the first entry is not an entry in canonical form")
    header, _, _, index, kind, _, digest, _, target, *_, payload = match.groups()
    if index != b"0" or kind != KIND.encode() or target is not None:
        raise VerificationError("the entry that names the predecessors is not the first")
    if payload is None or hashlib.sha256(payload).hexdigest().encode() != digest:
        raise VerificationError("the payload of the first entry is not the one that its header seals")
    try:
        return FirstEntry(header, predecessors(orjson.loads(payload), key), proof)
    except SuccessionError as error:
        raise VerificationError(f"the first entry: {error}") from None


def check_chain(
    first: FirstEntry | None, start: CompactRange, later: Collection[int], stated: Mapping[str, object]
) -> str:
    """Return the ledgers before this one, in words. `later`: successor entries behind the first.

    Raises VerificationError if the ledger does not begin with `first`, or if the statement names others.
    """
    if later:
        raise VerificationError(f"entry {min(later)} names a predecessor, which only the first entry may")
    links = () if first is None else first.predecessors
    if stated.get("chain", []) != [link.as_json() for link in links]:
        raise VerificationError("the statement names other predecessors than the first entry of the ledger")
    if first is None:
        return "the ledger's first entry names no predecessor" if start.size == 0 else "no predecessor is named"
    if first.proof is not None:
        if start.size == 0:
            raise VerificationError("proof.json: first is in the range itself")
        try:
            verify_consistency(1, start.size, first.proof, leaf_hash(first.header), start.root())
        except ConsistencyError as error:
            raise VerificationError(f"the ledger does not begin with the entry shown: {error}") from None
    return "; ".join(link_text(link) for link in reversed(links))


def link_text(link: Link) -> str:
    """Return a predecessor in words."""
    name = link.origin or "a ledger whose name is lost"
    known = f"{link.size} entries signed" if link.size else "no signed entry known"
    kept = "" if link.kept is None else f", {link.kept} kept"
    signed = "which appointed its successor" if link.appointed else "by the word of the owner alone"
    return f"goes on for {name} ({link.reason.replace('_', ' ')}; {known}{kept}), {signed}"


def leads_from(links: Collection[Link], trusted: Collection[str]) -> str:
    """Return the latest predecessor whose key is trusted, "" if a ledger from it on did not appoint the next."""
    for link in reversed(tuple(links)):
        if not link.appointed:
            return ""
        if link.key in trusted:
            return link.origin
    return ""
