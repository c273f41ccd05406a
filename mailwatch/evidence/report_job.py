"""Makes documents in a separate process: setting a report takes seconds that would delay probes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mailwatch.evidence.ledger_range import EvidenceError

TIMEOUT_SECONDS = 300.0
"""Seconds within which a document must be made."""
MAX_WAITING = 3
MAX_OUTPUT_BYTES = 1 << 20
"""Bytes of the output of a command that are kept."""


class ReportJobs:
    """Makes one document at a time with the command line, in the folder `making` of the data_dir (0700).

    Files left there by an earlier run are deleted.
    """

    def __init__(self, config: Callable[[], Path], data_dir: Path) -> None:
        """`config` returns the path of the config in force."""
        # Absolute: the folder in which MailWatch was started may no longer exist.
        self._config, self._folder = config, data_dir.absolute() / "making"
        self._lock = asyncio.Lock()
        self._waiting = 0
        shutil.rmtree(self._folder, ignore_errors=True)

    async def make(self, words: Sequence[str], suffix: str) -> Path:
        """Make a document by a verb and its words; the option -o is added. `suffix`: zip, pdf or docx.

        Return the finished file (0600), which the caller deletes. Raises EvidenceError with the reason.
        """
        path = self._folder / f"{secrets.token_hex(8)}.{suffix}"
        try:
            await self.run([*words, "-o", str(path)])
            if not path.exists():
                raise EvidenceError("the document could not be made; see the log")
        except EvidenceError:
            path.unlink(missing_ok=True)
            raise
        finally:
            # `mailwatch claim` writes the letter in two formats.
            for other in self._folder.glob(f"{path.stem}.*"):
                if other != path:
                    other.unlink(missing_ok=True)
        return path

    async def run(self, words: Sequence[str]) -> bytes:
        """Run a verb and its words; return what it prints. Raises EvidenceError with the reason."""
        if self._waiting >= MAX_WAITING:
            raise EvidenceError("MailWatch is making other documents; try again in a minute")
        self._waiting += 1
        try:
            async with self._lock:
                return await self._run(words)
        finally:
            self._waiting -= 1

    async def _run(self, words: Sequence[str]) -> bytes:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "mailwatch", "--config", str(self._config().absolute()), *words,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            cwd=self._folder, env=_environment(words),
        )  # fmt: skip
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                printed, output = await process.communicate()
        except TimeoutError:
            raise EvidenceError(f"the document was not ready within {TIMEOUT_SECONDS:.0f} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            last_line = output.decode(errors="replace").strip().splitlines()[-1:]
            reason = last_line[0].removeprefix("mailwatch: ")[:500] if last_line else ""
            raise EvidenceError(reason or "the document could not be made; see the log")
        return printed[:MAX_OUTPUT_BYTES]


def _environment(words: Sequence[str]) -> dict[str, str]:
    """Return the environment of a command, which gives its reasons in the language of its document."""
    found = dict(os.environ)
    if "--lang" in words:
        # LC_ALL would win; the characters stay those of the process.
        found["LC_CTYPE"] = found.pop("LC_ALL", "") or found.get("LC_CTYPE", "") or "C.UTF-8"
        found["LC_MESSAGES"] = words[words.index("--lang") + 1]
    return found
