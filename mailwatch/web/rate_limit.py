"""How often a password may be tried: counted per peer, and in all, since an attacker has many addresses."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque

MAX_WRONG_PER_PEER = 10
"""Of one peer, within a minute."""
MAX_WRONG_TOTAL = 60
"""Of all peers, within a minute: what argon2 may cost. Peers that were right before do not wait for others."""
WINDOW_SECONDS = 60.0
"""Seconds."""
_MAX_PEERS = 1000


class LoginRateLimit:
    """Remembers who was wrong, and when. A try counts from its beginning, so that many at once gain nothing."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=MAX_WRONG_TOTAL)
        self._right: OrderedDict[str, None] = OrderedDict()

    def must_wait(self, peer: str) -> bool:
        """Whether what a peer sends is not even checked."""
        since = time.monotonic() - WINDOW_SECONDS
        own = self._wrong.get(peer)
        if own is not None and len(own) == MAX_WRONG_PER_PEER and own[0] > since:
            return True
        return peer not in self._right and len(self._all) == MAX_WRONG_TOTAL and self._all[0] > since

    def begin_attempt(self, peer: str) -> float:
        """Count a try as wrong until it turns out right."""
        at = time.monotonic()
        self._wrong.setdefault(peer, deque(maxlen=MAX_WRONG_PER_PEER)).append(at)
        self._wrong.move_to_end(peer)
        self._all.append(at)
        while len(self._wrong) > _MAX_PEERS:
            self._wrong.popitem(last=False)
        return at

    def undo(self, peer: str, begun: float) -> None:
        """It was right after all."""
        for times in (self._wrong.get(peer), self._all):
            if times is not None and begun in times:
                times.remove(begun)

    def note_success(self, peer: str) -> None:
        """Know a peer from now on."""
        self._right[peer] = None
        self._right.move_to_end(peer)
        while len(self._right) > _MAX_PEERS:
            self._right.popitem(last=False)


def peer_key(address: str) -> str:
    """Name who asks: an IPv4 address, or the /64 of an IPv6 address, of which one person has very many."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        if not parsed.is_loopback:
            return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
