"""Audits the ledger of the running MailWatch and what is kept beside it, and raises an alarm if it is damaged.

It audits slowly: ten minutes after its start, and then once a day; one that a restart interrupts goes on. Damage
that a reader finds meanwhile is reported at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mailwatch.metrics import Metrics
from mailwatch.model import EventType, Notification
from mailwatch.monitor.member_self_audit import MemberSelfAudit
from mailwatch.notify import notify_ledger_broken
from mailwatch.settings import Channel
from mailwatch.store import Reader, StoreDamagedError, StoreError, audit, audit_database
from mailwatch.store.audit import AuditPosition
from mailwatch.store.audit_position import position_to_keep, read_position
from mailwatch.store.errors import StoreMovedError
from mailwatch.store.kept_audit import audit_kept_states
from mailwatch.store.kept_states import KeptState
from mailwatch.store.keys import Keys
from mailwatch.times import DAY_MS, Millis, now

logger = logging.getLogger(__name__)

FIRST_AFTER_SECONDS = 600.0
INTERVAL_SECONDS = 86_400.0
"""Seconds between two audits."""
MAX_CPU_SHARE = 0.05
"""The largest share of a processor that an audit uses: ten million entries take most of an hour."""
KEEP_SECONDS = 60.0
"""Seconds after which the position of an audit under way is kept."""
MAX_FINDINGS = 20


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The result of an audit that ended `at`. `findings` are the first faults found."""

    at: Millis
    entries: int
    findings: tuple[str, ...]


class _StoppedError(Exception):
    """MailWatch is stopping; the audit need not be finished."""


class LedgerSelfAudit:
    """Runs the audits. `notify` sends notifications. `latest` is None until the first audit has ended."""

    def __init__(
        self,
        reader: Reader,
        keys: Keys,
        metrics: Metrics,
        notify: Callable[[Notification], None],
        keep: Callable[[KeptState], None] = lambda _state: None,
    ) -> None:
        self._reader, self._keys, self._metrics, self._notify = reader, keys, metrics, notify
        self._keep = keep
        self._stopping = threading.Event()
        self.latest: AuditResult | None = None
        self.members: MemberSelfAudit | None = None
        """Audits the ledgers of a hub's members, None where this is no hub."""

    async def run(self) -> None:
        """Audit until cancelled."""
        try:
            await asyncio.sleep(FIRST_AFTER_SECONDS)
            while True:
                await asyncio.to_thread(self.audit)
                await asyncio.sleep(INTERVAL_SECONDS)
        finally:
            # A thread cannot be cancelled, and MailWatch would wait for it when it stops.
            self._stopping.set()

    def audit(self) -> None:
        """Audit once, and report the findings. A ledger that cannot be read yields no finding."""
        keys = self._keys
        try:
            entries = self._size()
            found = audit(
                self._reader,
                keys.public,
                keys.secret,
                self._throttle(),
                max_findings=MAX_FINDINGS,
                begin=self._begin(),
                reached=self._keep_position(),
            )
            if not found and (ended := position_to_keep(self._reader, None)) is not None:
                self._keep(ended)
            if not found:
                found += islice(
                    audit_kept_states(self._reader, keys.secret, now(), self._throttle()), MAX_FINDINGS
                )
            if spoilt := audit_database(self._reader, self._stopping.is_set):
                self._reader.note_damage(spoilt[0].what)
                found += spoilt
            if self.members is not None:
                found += self.members.findings(self._throttle(), self._stopping.is_set, MAX_FINDINGS)
        except _StoppedError:
            return
        except StoreError as error:
            logger.error("ledger: the audit did not finish: %s", error)
            self._metrics.internal_error()
            return
        except Exception:
            # A database that is locked or unavailable for a moment must not end the probing.
            logger.exception("ledger: the audit failed: internal error")
            self._metrics.internal_error()
            return
        details = [
            f"entry {one.index}: {one.what}" if one.index is not None else one.what for one in found[:MAX_FINDINGS]
        ]
        self.latest = AuditResult(now(), entries, tuple(details))
        self._metrics.audited(not found)
        for line in details:
            logger.error("ledger: %s", line)
        if found and not self._reader.is_damaged:
            # Damage is reported at once, past the outbox, which is in the same file.
            facts = {"finding": details[0]}
            at = self.latest.at
            self._notify(
                Notification(key=f"ledger:{at // DAY_MS}", event_type=EventType.LEDGER, time=at, facts=facts)
            )

    def _size(self) -> int:
        try:
            return self._reader.size()
        except StoreDamagedError:
            # Left for the audit to find.
            return 0

    def _begin(self) -> AuditPosition | None:
        """Return where an audit stopped; None to begin with entry 0."""
        try:
            return read_position(self._reader)
        except StoreDamagedError:
            # Left for the audit to find.
            return None

    def _keep_position(self) -> Callable[[Callable[[], AuditPosition]], None]:
        """Return what keeps the position now and then, so that a restart does not begin the audit again."""
        kept = time.monotonic()

        def reached(position: Callable[[], AuditPosition]) -> None:
            nonlocal kept
            if time.monotonic() - kept < KEEP_SECONDS:
                return
            kept = time.monotonic()
            if (state := position_to_keep(self._reader, position())) is not None:
                self._keep(state)

        return reached

    def _throttle(self) -> Callable[[int], None]:
        began = time.monotonic()

        def pause(_done: int) -> None:
            nonlocal began
            if self._stopping.wait((time.monotonic() - began) * (1 / MAX_CPU_SHARE - 1)):
                raise _StoppedError
            began = time.monotonic()

        return pause


class DamageAlarm:
    """Notifies people at once that the ledger of the running MailWatch is damaged or was moved away.

    The outbox is in the same database, so each channel is tried from memory. Created in the event loop, which
    sends the messages; `trigger` may be called from any thread.
    """

    def __init__(self, channels: Sequence[Channel], data_dir: Path, metrics: Metrics) -> None:
        self._data_dir, self._metrics = data_dir, metrics
        self.channels = channels
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def trigger(self, error: StoreError) -> None:
        """Report the finding in the log, in the metrics, and over all channels that subscribe to ledger events."""
        logger.error("ledger: %s", error)
        if isinstance(error, StoreDamagedError):
            self._metrics.audited(False)
        with contextlib.suppress(RuntimeError):
            # The loop has ended, and MailWatch with it; the next start reports the finding.
            self._loop.call_soon_threadsafe(self._notify, str(error), isinstance(error, StoreMovedError))

    def _notify(self, finding: str, moved: bool) -> None:
        task = self._loop.create_task(notify_ledger_broken(self.channels, self._data_dir, finding, moved=moved))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, seconds: float) -> None:
        """Wait up to `seconds` for messages under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
