"""The only writer: accepts new entries from the event loop, commits them in batches, reports when they are on
disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mailwatch.ledger.checkpoint import Checkpoint
from mailwatch.store.entry_rows import Entry
from mailwatch.store.errors import DatabaseAwayError, EvictedError, StoreError
from mailwatch.store.kept_states import KeptState
from mailwatch.store.store import NewEntry, Store

logger = logging.getLogger(__name__)

BATCH_SECONDS = 0.1
"""Seconds that the first entry of a batch waits for others; with the commit this stays below 200 ms."""
MAX_BATCH = 5_000
MAX_PENDING = 100_000
RETRY_SECONDS = 5.0
AWAY_RETRY_SECONDS = 0.5
"""Seconds until a database that is away is asked again: a failover takes no longer than it must."""
HANG_SECONDS = 5.0
"""A shared database that has not answered a commit for so long counts as away."""
CUT_SECONDS = 10.0
"""Seconds after which the connections to such a database are cut; twice as many each further time."""
MAX_CUT_SECONDS = 120.0
LOG_AGAIN_SECONDS = 600.0
"""Seconds after which the log repeats a write failure that goes on."""

P = ParamSpec("P")
R = TypeVar("R")
PendingEntries = list[tuple[NewEntry, asyncio.Future[Entry]]]


class StoreFullError(Exception):
    """Too many entries wait for the disk; no more are accepted."""


class _InvalidEntryError(Exception):
    """One of the entries cannot be written, whatever the state of the disk."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Writer:
    """Appends to a store as its only user. A failed commit is retried until it succeeds.

    `failure`: why the latest commit failed, "" if it succeeded. A damaged database is handled alike: entries wait
    in memory, so that one lost disk page does not stop the detection and notification of outages. Once another
    node has taken over, all that waits is dropped, and nothing more is accepted (EvictedError).
    """

    def __init__(self, store: Store, on_commit: Callable[[float, int], None] = lambda *_: None) -> None:
        self._store = store
        self._on_commit = on_commit
        self._waiting: PendingEntries = []
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        # One thread: SQLite's connection and the tree are never used by two threads at once.
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop
        """The loop that `start` was called in."""
        self._keeping: set[asyncio.Task[bool]] = set()
        self._kept_elsewhere: set[asyncio.Future[Entry]] = set()
        self._logged_failure = float("-inf")
        self.failure = ""
        self.failing, self.working = asyncio.Event(), asyncio.Event()
        """Set while commits fail, and while they do not."""
        self.working.set()
        self.is_hurried = False
        """Whether a batch waits for no others: many entries wait for their turn."""
        self._evicted: EvictedError | None = None
        self._cut_seconds = CUT_SECONDS
        self._retry_seconds = RETRY_SECONDS
        self.on_checkpoint: list[Callable[[], None]] = []
        """Callbacks, called when a checkpoint was signed."""

    @property
    def healthy(self) -> bool:
        """Whether the latest commit succeeded and no damage was found."""
        return not self.problems()

    @property
    def pending(self) -> int:
        """Number of entries not yet on disk."""
        return len(self._waiting)

    def problems(self) -> list[str]:
        """Return what prevents writing or reading the ledger, without paths."""
        problems = []
        if self.failure:
            problems.append(f"the ledger cannot be written: {self.failure}; {self.pending} entries wait in memory")
        damage = self._store.health.damage
        if damage is not None and damage.public_reason != self.failure:
            problems.append(f"the ledger is damaged: {damage.public_reason}")
        return problems

    async def start(self) -> None:
        """Start the task that commits."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run())

    def submit(self, new: NewEntry) -> asyncio.Future[Entry]:
        """Submit a new entry. The future resolves once it is on disk. Raises StoreFullError, EvictedError."""
        if self._evicted is not None:
            raise self._evicted
        if len(self._waiting) >= MAX_PENDING:
            raise StoreFullError(f"{len(self._waiting)} entries wait for the disk; is it full?")
        future: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._waiting.append((new, future))
        self._wake.set()
        return future

    async def checkpoint(self) -> Checkpoint | None:
        """Sign the committed entries. Returns None if there are no new entries, or the write fails."""
        try:
            made = await self._in_thread(self._store.checkpoint)
            for notify in self.on_checkpoint if made else ():
                notify()
            return made
        except EvictedError as error:
            self._drop(error)
        except StoreError as error:
            logger.error("the checkpoint cannot be written: %s; the next one will cover it", error)
        except OSError as error:
            logger.error("the checkpoint cannot be stored beside the keys: %s", error.strerror or error)
        except Exception:
            # The entries are on record, so a failed checkpoint must not look like a failed commit to the caller.
            logger.exception("the checkpoint failed: internal error")
        return None

    async def index_outages(self) -> None:
        """Bring the index of outages up to date. Without it a list of outages only takes longer."""
        try:
            while await self._in_thread(self._store.index_outages):
                pass
        except (StoreError, OSError) as error:
            logger.warning("the index of outages was not brought up to date: %s", error)
        except (ValueError, KeyError, TypeError):
            # An entry that is no outage: the audit reports it, and lists read the entries.
            logger.exception("the index of outages was not brought up to date: internal error")

    async def keep(self, states: Sequence[KeptState]) -> bool:
        """Keep states beside the ledger; return whether they are on disk. Without them a start takes longer."""
        try:
            await self._in_thread(self._store.keep, states)
        except (StoreError, OSError) as error:
            logger.warning("the states that shorten a start were not kept: %s", error)
            return False
        return True

    async def remove_damaged_states(self) -> None:
        """Remove the kept states that cannot be read. They are not used, but the audit finds them."""
        try:
            await self._in_thread(self._store.remove_damaged_states)
        except (StoreError, OSError) as error:
            logger.warning("kept states that cannot be read were not removed: %s", error)

    async def in_turn(self, work: Callable[[Store], R]) -> R:
        """Work with the store in the thread that commits, between two commits; keep it short."""
        return await self._in_thread(work, self._store)

    def keep_soon(self, state: KeptState) -> None:
        """Keep a state as soon as possible. May be called from any thread; nothing waits for it."""
        with contextlib.suppress(RuntimeError):
            # Else the loop has ended, and MailWatch with it.
            self._loop.call_soon_threadsafe(self._keep_in_background, state)

    def _keep_in_background(self, state: KeptState) -> None:
        task = asyncio.create_task(self.keep([state]))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def close(self) -> None:
        """Commit the waiting entries, sign a checkpoint, close the store. Gives up if the write fails; see
        `unwritten`.
        """
        self._closing.set()
        self._wake.set()
        if self._task:
            await self._task
        if not self.failure and self._evicted is None:
            await self.checkpoint()
        await self._in_thread(self._store.close)
        self._thread.shutdown()

    @contextlib.contextmanager
    def keeping_elsewhere(self) -> Iterator[None]:
        """What waits here and is cancelled within the context is kept elsewhere: not lost with this process."""
        before = {future for _, future in self._waiting if future.cancelled()}
        try:
            yield
        finally:
            cancelled = {future for _, future in self._waiting if future.cancelled()}
            self._kept_elsewhere = (self._kept_elsewhere & cancelled) | (cancelled - before)

    def unwritten(self) -> str:
        """Return what would be lost if the process ended now, or the damage to the ledger; "" if neither."""
        if lost := sum(future not in self._kept_elsewhere for _, future in self._waiting):
            why = self.failure or "the process ended first"
            return f"{lost} entries could not be written and are lost: {why}"
        return self.damage()

    def damage(self) -> str:
        """Return the damage found in the ledger and what to do; "" if none."""
        damage = self._store.health.damage
        return "" if damage is None else str(damage)

    async def _run(self) -> None:
        apart = 0
        """Number of entries to commit one by one, since one of them is invalid."""
        while True:
            await self._wake.wait()
            if not self._closing.is_set() and not apart:
                await asyncio.sleep(0.0 if self.is_hurried else BATCH_SECONDS)
            batch = self._waiting[: 1 if apart else MAX_BATCH]
            try:
                if batch and not await self._commit(batch):
                    if self._closing.is_set():
                        return
                    await self._pause()
                    continue
            except EvictedError as error:
                self._drop(error)
                return
            except _InvalidEntryError as error:
                if len(batch) > 1:
                    apart = len(batch)
                    continue
                # An invalid entry is a bug of its creator and must not hold up the others.
                _, future = batch[0]
                if not future.done():
                    future.set_exception(error.cause)
            del self._waiting[: len(batch)]
            apart = max(0, apart - 1)
            if not self._waiting:
                self._wake.clear()
                if self._closing.is_set():
                    return

    async def _commit(self, batch: PendingEntries) -> bool:
        """Commit a batch; return False if the disk cannot take it now. Raises _InvalidEntryError, EvictedError."""
        began = time.monotonic()
        try:
            written = await self._append([draft for draft, _ in batch])
        except EvictedError:
            raise
        except (StoreError, OSError, MemoryError) as error:
            self._failed(error)
            return False
        except Exception as error:
            if isinstance(error, RuntimeError) and not isinstance(error, RecursionError):
                # The system cannot start a thread now.
                self._failed(error)
                return False
            raise _InvalidEntryError(error) from error
        if not await self._files_in_place():
            return False
        self._cut_seconds = CUT_SECONDS
        if self.failure:
            self.failure, self._logged_failure = "", float("-inf")
            self.failing.clear()
            self.working.set()
            logger.warning("the ledger can be written again")
        self._on_commit(time.monotonic() - began, len(written))
        for entry, (_, future) in zip(written, batch, strict=True):
            # A cancelled caller no longer waits; its entry is on record all the same.
            if not future.done():
                future.set_result(entry)
        return True

    async def _append(self, drafts: Sequence[NewEntry]) -> list[Entry]:
        """Append entries. Raises what appending raises.

        A shared database that neither answers nor refuses counts as away meanwhile: a statement may wait for a
        lock, or a pooler stand still, while the connection lives.
        """
        work = asyncio.ensure_future(self._in_thread(self._store.append_batch, drafts))
        if self._store.is_shared:
            await asyncio.wait((work,), timeout=HANG_SECONDS)
            if not work.done():
                self._failed(DatabaseAwayError("the database does not answer", "the database does not answer"))
                await asyncio.wait((work,), timeout=self._cut_seconds - HANG_SECONDS)
            while not work.done():
                self._cut_seconds = min(2 * self._cut_seconds, MAX_CUT_SECONDS)
                await asyncio.to_thread(self._store.cut)
                await asyncio.wait((work,), timeout=HANG_SECONDS)
        return await work

    def _drop(self, error: EvictedError) -> None:
        """Drop all that waits: another node writes the ledger."""
        self._evicted, self.failure = error, ""
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(error)
                # Who asked may be gone with its term.
                future.exception()
        self._waiting.clear()

    async def _files_in_place(self) -> bool:
        """Wait until the committed file is at the ledger's path; return False if closing comes first."""
        while True:
            try:
                await self._in_thread(self._store.check_files)
            except (StoreError, OSError) as error:
                self._failed(error)
            else:
                return True
            if self._closing.is_set():
                return False
            await self._pause()

    async def _pause(self) -> None:
        """Wait before the next attempt, or until closing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._retry_seconds):
                await self._closing.wait()

    def _failed(self, error: Exception) -> None:
        """Note why the write failed. The log gets it once, and again if the reason changes or the failure
        lasts.
        """
        why = error.public_reason if isinstance(error, StoreError) else _error_text(error)
        if why != self.failure or time.monotonic() - self._logged_failure >= LOG_AGAIN_SECONDS:
            self._logged_failure = time.monotonic()
            words = str(error) if isinstance(error, StoreError) else why
            logger.error("the ledger cannot be written: %s; %d entries wait in memory", words, self.pending)
        self.failure = why
        self._retry_seconds = AWAY_RETRY_SECONDS if isinstance(error, DatabaseAwayError) else RETRY_SECONDS
        self.failing.set()
        self.working.clear()

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args, **kwargs))


def _error_text(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "memory ran out"
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)
