"""How often a password may be tried: counted per peer, and in all, since an attacker has many addresses."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque

WRONG_AT_MOST = 10
"""Of one peer, within a minute."""
WRONG_IN_ALL = 60
"""Of all peers, within a minute: what argon2 may cost. Peers that were right before do not wait for others."""
WITHIN = 60.0
"""Seconds."""
_PEERS_AT_MOST = 1000


class Tries:
    """Remembers who was wrong, and when. A try counts from its beginning, so that many at once gain nothing."""

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=WRONG_IN_ALL)
        self._right: OrderedDict[str, None] = OrderedDict()

    def must_wait(self, peer: str) -> bool:
        """Whether what a peer sends is not even looked at."""
        since = time.monotonic() - WITHIN
        own = self._wrong.get(peer)
        if own is not None and len(own) == WRONG_AT_MOST and own[0] > since:
            return True
        return peer not in self._right and len(self._all) == WRONG_IN_ALL and self._all[0] > since

    def begin(self, peer: str) -> float:
        """Count a try as wrong until it turns out right."""
        at = time.monotonic()
        self._wrong.setdefault(peer, deque(maxlen=WRONG_AT_MOST)).append(at)
        self._wrong.move_to_end(peer)
        self._all.append(at)
        while len(self._wrong) > _PEERS_AT_MOST:
            self._wrong.popitem(last=False)
        return at

    def take_back(self, peer: str, begun: float) -> None:
        """It was right after all."""
        for times in (self._wrong.get(peer), self._all):
            if times is not None and begun in times:
                times.remove(begun)

    def right(self, peer: str) -> None:
        """Know a peer from now on."""
        self._right[peer] = None
        self._right.move_to_end(peer)
        while len(self._right) > _PEERS_AT_MOST:
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
