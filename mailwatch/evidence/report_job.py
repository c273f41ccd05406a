"""Makes a bundle in a separate process: rendering the report takes seconds that would delay probes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import sys
from pathlib import Path

from mailwatch.evidence.ledger_range import EvidenceError

TIMEOUT_SECONDS = 300.0
"""Seconds within which a bundle must be made."""
MAX_WAITING = 3


class ReportJobs:
    """Makes one bundle at a time with `mailwatch report`, in the folder `making` of the data_dir (0700). Files
    left there by an earlier run are deleted.
    """

    def __init__(self, config: Path, data_dir: Path) -> None:
        # Absolute: the folder in which MailWatch was started may no longer exist.
        self._config, self._folder = config.absolute(), data_dir.absolute() / "making"
        self._lock = asyncio.Lock()
        self._waiting = 0
        shutil.rmtree(self._folder, ignore_errors=True)

    async def make(self, outage: str, language: str) -> Path:
        """Return the finished file (0600), which the caller deletes. Raises EvidenceError with the reason."""
        if self._waiting >= MAX_WAITING:
            raise EvidenceError("MailWatch is making other evidence files; try again in a minute")
        self._waiting += 1
        try:
            async with self._lock:
                return await self._make(outage, language)
        finally:
            self._waiting -= 1

    async def _make(self, outage: str, language: str) -> Path:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{secrets.token_hex(8)}.zip"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mailwatch", "--config", str(self._config), "report", outage,
            "-o", str(path), "--lang", language,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            cwd=self._folder,
        )  # fmt: skip
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                _, output = await process.communicate()
        except TimeoutError:
            raise EvidenceError(f"the evidence file was not ready within {TIMEOUT_SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            path.unlink(missing_ok=True)
            last_line = output.decode(errors="replace").strip().splitlines()[-1:]
            raise EvidenceError(
                last_line[0][:500] if last_line else "the evidence file could not be made; see the log"
            )
        return path
