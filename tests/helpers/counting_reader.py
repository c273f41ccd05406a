"""A reader that counts, since what it returns is what a start or a page costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mailwatch.store import Entry, Reader


class CountingReader(Reader):
    """Counts the entries that it returns: those that a query found, and those asked for by their index."""

    returned = 0
    by_index = 0

    def entries(self, **asked: Any) -> Iterator[Entry]:
        for entry in super().entries(**asked):
            self.returned += 1
            yield entry

    def entries_at(self, indices: Sequence[int]) -> Iterator[Entry]:
        for entry in super().entries_at(indices):
            self.by_index += 1
            yield entry
