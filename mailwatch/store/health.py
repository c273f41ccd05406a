"""What ails the store of a running MailWatch, as any of its parts meets it."""

from __future__ import annotations

import os
from collections.abc import Callable

from mailwatch.store.faults import StoreBroken, StoreError, StoreMoved


class Health:
    """Shared by all who use one store. Safe to be told from any thread.

    `damage` stays once something damaged was met: only a person can put that right. `alarm` is called with what a
    person must be told of, once for each finding; set it before anything can fail. `log` is the write-ahead log
    that the writer vouches for, None without a writer: connections to any other one are not used.
    """

    def __init__(self) -> None:
        self.damage: StoreBroken | None = None
        self.alarm: Callable[[StoreError], None] = lambda _error: None
        self.log: os.stat_result | None = None
        self._told: set[str] = set()

    def met(self, error: StoreError) -> None:
        """Take note of an error. Each is told once, however often it comes."""
        if isinstance(error, StoreBroken):
            first, self.damage = self.damage is None, self.damage or error
            if first:
                self.alarm(error)
        elif isinstance(error, StoreMoved) and error.why not in self._told:
            self._told.add(error.why)
            self.alarm(error)
