"""Rate limit for password attempts: counted per peer and in total, since an attacker has many addresses."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque

MAX_WRONG_PER_PEER = 10
"""Wrong attempts of one peer within WINDOW_SECONDS."""
MAX_WRONG_TOTAL = 60
"""Wrong attempts of all peers within WINDOW_SECONDS: bounds the cost of argon2. Peers that once succeeded are
exempt.
"""
WINDOW_SECONDS = 60.0
"""Seconds that a wrong attempt counts."""
_MAX_PEERS = 1000


class LoginRateLimit:
    """Remembers wrong attempts by peer. An attempt counts from its start, so parallel attempts gain nothing."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=MAX_WRONG_TOTAL)
        self._right: OrderedDict[str, None] = OrderedDict()

    def must_wait(self, peer: str) -> bool:
        """Return whether to reject a peer's password unchecked."""
        since = time.monotonic() - WINDOW_SECONDS
        own = self._wrong.get(peer)
        if own is not None and len(own) == MAX_WRONG_PER_PEER and own[0] > since:
            return True
        return peer not in self._right and len(self._all) == MAX_WRONG_TOTAL and self._all[0] > since

    def begin_attempt(self, peer: str) -> float:
        """Count an attempt as wrong until `undo`; return its time."""
        at = time.monotonic()
        self._wrong.setdefault(peer, deque(maxlen=MAX_WRONG_PER_PEER)).append(at)
        self._wrong.move_to_end(peer)
        self._all.append(at)
        while len(self._wrong) > _MAX_PEERS:
            self._wrong.popitem(last=False)
        return at

    def undo(self, peer: str, begun: float) -> None:
        """Uncount the attempt begun at `begun`: the password was right."""
        for times in (self._wrong.get(peer), self._all):
            if times is not None and begun in times:
                times.remove(begun)

    def note_success(self, peer: str) -> None:
        """Exempt a peer from the total limit from now on."""
        self._right[peer] = None
        self._right.move_to_end(peer)
        while len(self._right) > _MAX_PEERS:
            self._right.popitem(last=False)


def peer_key(address: str) -> str:
    """Return the key that peers are counted by: an IPv4 address, or the /64 of an IPv6 address, since one client
    has very many IPv6 addresses.
    """
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
