"""Reads the ledger of a member of a hub, up to the newest push: its owner signed each push."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from mailwatch.ledger.merkle import CompactRange
from mailwatch.store.entry_rows import CheckpointRow
from mailwatch.store.errors import damaged
from mailwatch.store.member_ledger import NEWEST
from mailwatch.store.reader import Reader


class MemberReader(Reader):
    """A reader in which the checkpoint of the newest push is the last one.

    The table has one each ten minutes (member_ledger.py), and a member may be silent since. Which push is the
    newest is read once, so that all questions are about the same ledger.
    """

    @functools.cached_property
    def _newest(self) -> CheckpointRow | None:
        """The checkpoint of the newest push, None where the table has it or a later one."""
        kept, before = self.kept(NEWEST, ""), super().last_checkpoint()
        if kept is None or (before is not None and kept.index <= before.size):
            return None
        tree = CompactRange() if before is None else CompactRange.from_bytes(before.size, before.hashes)
        for part in self.tree_parts(tree.size, kept.index):
            tree.extend(part)
        if tree.root().hex() != kept.leaf:
            what = f"the first {kept.index} entries do not give the root that their owner signed"
            self.note_damage(what)
            raise damaged(self._name, what)
        try:
            latest = self.latest_time(tree.size - 1, tree.size)
        except ValueError:
            # It was pruned before it was pushed.
            latest = 0 if before is None else before.time_ms
        return CheckpointRow(tree.size, latest, kept.text, tree.to_bytes())

    def checkpoints(self, first: int = 0, last: int | None = None) -> Iterator[CheckpointRow]:
        """Yield the checkpoints of `first` to `last` entries, as `Reader.checkpoints`."""
        newest = self._newest
        end = last if newest is None or last is None else min(last, newest.size - 1)
        yield from super().checkpoints(first, end)
        if newest is not None and first <= newest.size and (last is None or newest.size <= last):
            yield newest

    def checkpoint(self, *, at_most: int | None = None, at_least: int | None = None) -> CheckpointRow | None:
        """Return the largest checkpoint of `at_most` entries, or else the smallest of `at_least`."""
        newest = self._newest
        if at_most is not None:
            is_newest = newest is not None and newest.size <= at_most
            return newest if is_newest else super().checkpoint(at_most=at_most)
        found = super().checkpoint(at_least=at_least)
        if newest is None or newest.size < (at_least or 0):
            return found
        return newest if found is None or found.size > newest.size else found

    def last_checkpoint(self) -> CheckpointRow | None:
        """Return the checkpoint of the newest push; None before the first one."""
        return self._newest or super().last_checkpoint()
