"""Compares the root of each pack with its entries, as an audit remakes them."""

from __future__ import annotations

from collections.abc import Iterable

from mailwatch.ledger.merkle import CompactRange
from mailwatch.store.packs import PackSubtree


class PackRoots:
    """Follows the leaves of a ledger, from the first on."""

    def __init__(self, packs: Iterable[PackSubtree]) -> None:
        self._packs = {pack.first: pack for pack in packs}
        self._current: PackSubtree | None = None
        self._tree = CompactRange()

    def add(self, index: int, leaf: bytes) -> str:
        """Add the next leaf; return what is wrong with the pack that it completes, "" if nothing is."""
        if self._current is None:
            self._current, self._tree = self._packs.get(index), CompactRange()
        if self._current is None:
            return ""
        self._tree.append(leaf)
        pack = self._current
        if self._tree.size < 1 << pack.level:
            return ""
        self._current = None
        if self._tree.root() == pack.root:
            return ""
        return f"the pack of the entries from {pack.first} on has another root than its entries"

    def skip(self) -> None:
        """Pass over an entry that cannot be read: its pack is not compared."""
        self._current = None
