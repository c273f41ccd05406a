"""The one writer: takes drafts from the event loop, commits them in batches, says when they are on disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from mailwatch.ledger.checkpoint import Checkpoint
from mailwatch.store.reader import Entry
from mailwatch.store.store import Draft, Store

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.1
"""How long the first draft of a batch waits for others; with the commit itself it stays below 200 ms."""
MAX_BATCH = 5_000
MAX_PENDING = 100_000
RETRY_SECONDS = 5.0


class StoreFull(Exception):
    """So many entries wait for the disk that no more are taken."""


class Writer:
    """Appends to a store of which it is the only user. A failed commit is tried again until it succeeds."""

    def __init__(self, store: Store, on_commit: Callable[[float, int], None] = lambda *_: None) -> None:
        self._store = store
        self._on_commit = on_commit
        self._waiting: list[tuple[Draft, asyncio.Future[Entry]]] = []
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        # One thread: SQLite's connection and the tree are never touched by two at a time.
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._task: asyncio.Task[None] | None = None
        self.healthy = True

    @property
    def pending(self) -> int:
        """How many drafts are not yet on disk."""
        return len(self._waiting)

    async def start(self) -> None:
        """Begin to commit."""
        self._task = asyncio.create_task(self._run())

    def submit(self, draft: Draft) -> asyncio.Future[Entry]:
        """Hand in a draft; the future is done when its entry is on disk. Raises StoreFull."""
        if len(self._waiting) >= MAX_PENDING:
            raise StoreFull(f"{len(self._waiting)} entries wait for the disk; is it full?")
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting.append((draft, future))
        self._wake.set()
        return future

    async def checkpoint(self) -> Checkpoint | None:
        """Sign what is committed; None when nothing was added since the last time, or the disk takes it not."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._store.checkpoint)
        except sa.exc.OperationalError as error:
            logger.error("the checkpoint cannot be written: %s; the next one will cover it", error.orig)
            return None

    async def close(self) -> None:
        """Commit what waits, sign it, close the store. Gives up on a disk that does not take it."""
        self._closing.set()
        self._wake.set()
        if self._task:
            await self._task
        await self.checkpoint()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._closing.is_set():
                await asyncio.sleep(BATCH_SECONDS)
            batch = self._waiting[:MAX_BATCH]
            if batch and not await self._commit(batch):
                if self._closing.is_set():
                    return
                # Of a batch taken apart, some may be on disk already.
                self._waiting = [waiting for waiting in self._waiting if not waiting[1].done()]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_SECONDS):
                        await self._closing.wait()
                continue
            del self._waiting[: len(batch)]
            if not self._waiting:
                self._wake.clear()
                if self._closing.is_set():
                    return

    async def _commit(self, batch: list[tuple[Draft, asyncio.Future[Entry]]]) -> bool:
        """Commit a batch; False when the disk does not take it now."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        try:
            written = await loop.run_in_executor(
                self._thread, self._store.append_batch, [draft for draft, _ in batch]
            )
        except sa.exc.OperationalError as error:
            self.healthy = False
            # Not logger.exception: the statement's parameters would drown the one line that matters.
            logger.error("the ledger cannot be written: %s; %d entries wait in memory", error.orig, self.pending)
            return False
        except Exception as error:
            return await self._without_faulty(batch, error)
        self.healthy = True
        self._on_commit(time.monotonic() - began, len(written))
        for entry, (_, future) in zip(written, batch, strict=True):
            if not future.done():
                future.set_result(entry)
        return True

    async def _without_faulty(self, batch: list[tuple[Draft, asyncio.Future[Entry]]], error: Exception) -> bool:
        """An entry that cannot be written at all is its maker's bug: it must not hold up the others."""
        if len(batch) > 1:
            return all([await self._commit([one]) for one in batch if not one[1].done()])
        future = batch[0][1]
        if not future.done():
            future.set_exception(error)
        return True
