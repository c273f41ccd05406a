"""The members' ledgers that a hub has open: one thread at a time uses each, and the latest used stay open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mailwatch.ledger.cosignature import parse_verifier_key
from mailwatch.store.errors import StoreHealth
from mailwatch.store.hub_register import HubMember
from mailwatch.store.member_ledger import MemberLedger, member_place
from mailwatch.store.place import Place

MAX_OPEN = 64
"""Ledgers that stay open; each has a few file handles."""


@dataclass(slots=True)
class _Open:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0
    ledger: MemberLedger | None = None


class MemberLedgers:
    """The ledgers of a hub's members. `hub`: where the hub's own is. For any thread."""

    def __init__(self, hub: Path | Place, health: StoreHealth | None = None) -> None:
        self._hub, self._health = hub, health
        self._lock = threading.Lock()
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._closed = False

    @contextmanager
    def using(self, member: HubMember) -> Iterator[MemberLedger]:
        """Give a member's ledger to one thread, opened and checked where it is not. Raises StoreError, OSError."""
        with self._lock:
            slot = self._open.setdefault(member.origin, _Open())
            self._open.move_to_end(member.origin)
            slot.users += 1
        try:
            with slot.lock:
                if slot.ledger is None:
                    key = parse_verifier_key(member.key).public
                    slot.ledger = MemberLedger.open(member_place(self._hub, member.origin), key, self._health)
                try:
                    yield slot.ledger
                except BaseException:
                    # Opened again, it is checked again.
                    slot.ledger.close()
                    slot.ledger = None
                    raise
        finally:
            with self._lock:
                slot.users -= 1
                unused = self._unused()
        for one in unused:
            one.close()

    def close(self) -> None:
        """Close those that no thread uses; the others once they are no more used."""
        with self._lock:
            self._closed = True
            unused = self._unused()
        for one in unused:
            one.close()

    def _unused(self) -> list[MemberLedger]:
        """Take out what is to be closed: the longest unused, as far as there are too many. With the lock held."""
        keep = 0 if self._closed else MAX_OPEN
        found = []
        for origin, slot in list(self._open.items()):
            if len(self._open) <= keep:
                break
            if not slot.users:
                del self._open[origin]
                if slot.ledger is not None:
                    found.append(slot.ledger)
        return found
