"""Backs up the ledger of the running MailWatch by itself, as `backup` in the config says.

Each backup is made by `mailwatch backup` in a process of its own: hashing millions of entries would delay probes.
The newest file in the folder says when the next one is due, so that a restart neither skips nor repeats one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailwatch.config.schema import BackupSection
from mailwatch.metrics import Metrics
from mailwatch.model import EventType, Notification
from mailwatch.store import StoreError, latest_backup
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

FIRST_AFTER_SECONDS = 60.0
"""Seconds after the start before which no backup is made."""
RETRY_SECONDS = 600.0
"""Seconds until a failed backup is tried again, at most as long as the interval."""
PAUSE_SECONDS = 60.0
"""Seconds after a backup until the next is considered, even if the folder does not show it."""
LONGEST_WAIT_SECONDS = 600.0
"""Seconds after which the time left is computed anew: a sleep does not count the time of a suspended machine."""
MOST_REASON_CHARS = 300
LIMIT_SECONDS = 6 * 3600.0
"""Seconds within which a backup must be made: a network share that hangs must not end backups silently."""
END_SECONDS = 10.0
"""Seconds to wait for a killed backup: a process that waits for a hanging disk cannot be killed."""


class BackupFailedError(Exception):
    """A backup failed. The message says why."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What `mailwatch backup` made, and how many older files it removed."""

    file: str
    entries: int
    removed: int


class BackupSchedule:
    """Makes backups. `config` returns the path of the config in force; `data_dir` is the ledger in use.

    `notify` sends notifications. `limit`: the seconds within which a backup must be made.
    """

    def __init__(
        self,
        config: Callable[[], Path],
        data_dir: Path,
        section: BackupSection | None,
        metrics: Metrics,
        notify: Callable[[Notification], None],
        first_after: float = FIRST_AFTER_SECONDS,
        limit: float = LIMIT_SECONDS,
    ) -> None:
        # Absolute: the folder in which MailWatch was started may no longer exist.
        self._config, self._data_dir = config, data_dir.absolute()
        self._metrics, self._notify, self._first_after, self._limit = metrics, notify, first_after, limit
        self._changed = asyncio.Event()
        self._failing_since: Millis | None = None
        self._section: BackupSection | None = None
        self._hanging: asyncio.subprocess.Process | None = None
        """A backup that did not end when it was killed."""
        self.set_section(section)

    def set_section(self, section: BackupSection | None) -> None:
        """Take over `backup` of a config; None for no more backups."""
        self._section = section
        self._metrics.backup_interval(None if section is None else section.every)
        self._changed.set()

    async def run(self) -> None:
        """Back up until cancelled."""
        await asyncio.sleep(self._first_after)
        while True:
            self._changed.clear()
            # A reload may replace or remove the section while a backup is made.
            section = self._section
            wait = None if section is None else await self._seconds_until_due(section)
            if wait == 0 and section is not None:
                done = await self.back_up(section)
                wait = min(section.every, PAUSE_SECONDS if done else RETRY_SECONDS)
            await self._sleep(wait)

    async def back_up(self, section: BackupSection) -> bool:
        """Make one backup; return whether it succeeded. A failure is logged, and notified once until a success."""
        try:
            made = await self._run_command(section)
        except (BackupFailedError, OSError) as error:
            logger.error("backup: no backup was made: %s", error)
            if self._failing_since is None:
                self._failing_since = now()
                self._notify(self._event(over=False, reason=str(error), folder=str(section.to)))
            return False
        at = now()
        self._metrics.backup(at)
        logger.info("backup: wrote %s, %d entries; removed %d older", made.file, made.entries, made.removed)
        if self._failing_since is not None:
            self._notify(self._event(over=True, first_wrong=self._failing_since))
            self._failing_since = None
        return True

    def _event(self, *, over: bool, **facts: object) -> Notification:
        key = f"backup:{self._failing_since}{':over' if over else ''}"
        plain = {"sign": "backup", **({"over": True} if over else {}), **facts}
        return Notification(key=key, event_type=EventType.MONITOR, time=now(), facts=plain)

    async def _seconds_until_due(self, section: BackupSection) -> float:
        """Return the seconds until the next backup is due, 0 if it is."""
        try:
            last = await asyncio.to_thread(latest_backup, self._data_dir, section.to, now())
        except (OSError, StoreError):
            return 0  # The backup itself will say why.
        if last is None:
            return 0
        self._metrics.backup(last)
        return max(0.0, section.every - (now() - last) / 1000)

    async def _sleep(self, seconds: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds is None else min(seconds, LONGEST_WAIT_SECONDS)):
                await self._changed.wait()

    async def _run_command(self, section: BackupSection) -> _Made:
        """Run `mailwatch backup`; return what it made. Raises BackupFailedError, OSError."""
        if self._hanging is not None and self._hanging.returncode is None:
            raise BackupFailedError(f"the one before still hangs (process {self._hanging.pid})")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "mailwatch", "--config", str(self._config().absolute()), "backup",
            str(section.to.absolute()), "--keep", str(section.keep), "--json",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            # The ledger in use, also if the config names another since; the log is in English.
            env={**os.environ, "MAILWATCH_DATA_DIR": str(self._data_dir), "LC_ALL": "C.UTF-8"}, cwd=self._data_dir,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._limit):
                output, errors = await process.communicate()
        except TimeoutError:
            raise BackupFailedError(f"it was not complete within {self._limit / 3600:.0f} hours") from None
        finally:
            await self._end(process)
        if process.returncode != 0:
            lines = errors.decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"its process ended with status {process.returncode}"
            raise BackupFailedError(reason.removeprefix("mailwatch: ")[:MOST_REASON_CHARS])
        try:
            made = json.loads(output)
            return _Made(file=str(made["file"]), entries=int(made["entries"]), removed=len(made["removed"]))
        except (ValueError, LookupError, TypeError) as error:
            raise BackupFailedError(f"its answer cannot be read: {error!r}"[:MOST_REASON_CHARS]) from None

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        """Kill a backup that still runs."""
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        self._hanging = process
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
