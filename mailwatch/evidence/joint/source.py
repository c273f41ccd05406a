"""What a member shows of where it comes from: its ledger, its machine, its tokens, the servers that it observed.

Two ledgers cannot have the same salt by chance: each entry of a target has 128 random bits. Nor can they have the
same boot unless they were written on one machine, or in containers of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailwatch.evidence.verify import VerificationResult
from mailwatch.ledger.merkle import CompactRange
from mailwatch.times import Millis

MAX_SEALS = 4096
"""Most seals of a kind that are kept of a member. Of more the smallest are kept, so that two members with many
entries in common have some of these in common.
"""
SEAL_CHARS = 16
"""Hexadecimal characters of a digest or salt that are compared: 64 bits."""
MAX_ADDRESSES = 1000


@dataclass(frozen=True, slots=True)
class AuthorityTokens:
    """The tokens of one authority in a bundle: how many, and the time of the first and the last."""

    authority: str
    count: int
    first: Millis
    last: Millis


@dataclass(frozen=True, slots=True)
class MemberSource:
    """Where a member comes from. `path`: its bundle. `start`: the tree before its entries, the first of which is
    of the time `begun`. `clock_error`: in seconds, None without a token. `addresses`: attempts by address.
    """

    path: Path
    start: CompactRange
    begun: Millis
    seals: frozenset[str]
    boots: frozenset[str]
    tokens: tuple[AuthorityTokens, ...]
    clock_error: float | None
    addresses: Mapping[str, int]
    public_addresses: Mapping[str, Sequence[Millis]] = field(default_factory=dict)
    """The observer's own addresses: first and last time, and number of entries."""


class SourceObserver:
    """Collects the seals and addresses of a bundle while it is verified."""

    def __init__(self) -> None:
        self._digests, self._salts = _Smallest(), _Smallest()
        self._addresses: Counter[str] = Counter()

    def on_seal(self, digest: bytes) -> None:
        """Keep a payload digest."""
        self._digests.add(digest[:SEAL_CHARS].decode())

    def on_payload(self, payload: Mapping[str, object]) -> None:
        """Keep the salt and the addresses of a payload."""
        salt, attempts = payload.get("salt"), payload.get("attempts")
        if isinstance(salt, str) and len(salt) >= SEAL_CHARS:
            self._salts.add(salt[:SEAL_CHARS])
        for attempt in attempts if isinstance(attempts, list) else ():
            peer = attempt.get("peer") if isinstance(attempt, dict) else None
            if isinstance(peer, str) and peer:
                self._add_address(peer)

    def _add_address(self, peer: str) -> None:
        if peer in self._addresses or len(self._addresses) < MAX_ADDRESSES:
            self._addresses[peer] += 1

    def source(self, path: Path, examined: VerificationResult) -> MemberSource:
        """Return what is known of a valid bundle."""
        scan, stated = examined.scan, examined.statement
        assert scan is not None
        assert stated is not None
        errors = [token.clock_error / 1000 for token in examined.tokens]
        if "clock_error" in stated:
            errors.append(stated["clock_error"])
        seals = frozenset(f"payload {one}" for one in self._digests.kept())
        seals |= {f"salt {one}" for one in self._salts.kept()}
        return MemberSource(
            path, scan.start, scan.first_time or 0, seals, scan.readings.boots, _by_authority(examined),
            max(errors, default=None), dict(self._addresses), scan.public_addresses,
        )  # fmt: skip


class _Smallest:
    """The smallest of all texts, each once."""

    def __init__(self) -> None:
        self._texts: set[str] = set()

    def add(self, text: str) -> None:
        """Keep a text if it is among the smallest."""
        self._texts.add(text)
        if len(self._texts) > 2 * MAX_SEALS:
            self._texts = set(self.kept())

    def kept(self) -> list[str]:
        """Return the smallest."""
        return sorted(self._texts)[:MAX_SEALS]


def _by_authority(examined: VerificationResult) -> tuple[AuthorityTokens, ...]:
    times: dict[str, list[Millis]] = {}
    for token in examined.tokens:
        times.setdefault(token.authority, []).append(token.time)
    return tuple(AuthorityTokens(name, len(of), min(of), max(of)) for name, of in sorted(times.items()))
