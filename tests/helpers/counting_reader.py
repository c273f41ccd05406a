"""A reader that counts, since what it returns is what a start or a page costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mailwatch.store import Entry, Reader


class CountingReader(Reader):
    """Counts the entries that it returns."""

    returned = 0

    def entries(self, **asked: Any) -> Iterator[Entry]:
        for entry in super().entries(**asked):
            self.returned += 1
            yield entry
