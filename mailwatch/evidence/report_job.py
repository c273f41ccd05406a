"""Makes a bundle in a process of its own: drawing the report takes seconds that no look shall wait for."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import sys
from pathlib import Path

from mailwatch.evidence.ledger_range import NoCase

PATIENCE = 300.0
"""Seconds for one bundle."""
WAITING_AT_MOST = 3


class Making:
    """Makes one bundle at a time with `mailwatch report`, in the folder `making` of the data_dir (0700).

    What an earlier run left there is deleted.
    """

    def __init__(self, config: Path, data_dir: Path) -> None:
        # Absolute: the folder in which MailWatch was started may be gone by then.
        self._config, self._folder = config.absolute(), data_dir.absolute() / "making"
        self._alone = asyncio.Lock()
        self._waiting = 0
        shutil.rmtree(self._folder, ignore_errors=True)

    async def make(self, outage: str, language: str) -> Path:
        """Return the finished file (0600), to be deleted by the caller. Raises NoCase with the reason."""
        if self._waiting >= WAITING_AT_MOST:
            raise NoCase("other evidence files are being made; try again in a minute")
        self._waiting += 1
        try:
            async with self._alone:
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
            async with asyncio.timeout(PATIENCE):
                _, said = await process.communicate()
        except TimeoutError:
            raise NoCase(f"the evidence file was not made within {PATIENCE:.0f} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            path.unlink(missing_ok=True)
            told = said.decode(errors="replace").strip().splitlines()[-1:]
            raise NoCase(told[0][:500] if told else "the evidence file could not be made; see the log")
        return path
