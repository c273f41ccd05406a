"""A program at a terminal, with a test as the person before it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.helpers.command import Program
from tests.helpers.patience import PATIENCE

MAILWATCH = "mailwatch"
"""As the first of the words: the program itself."""
CONTROL_C = "\x03"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _started(
    words: Sequence[str], slave: int, cwd: Path, env: Mapping[str, str]
) -> Program | subprocess.Popen[bytes]:
    """Start a program at that terminal."""
    if words[0] == MAILWATCH:
        words = words[1:]
        return Program(*words, streams=(slave, slave, slave), cwd=cwd, env=env, terminal=True)
    setsid = shutil.which("setsid")
    command = [setsid, "--ctty", *words] if setsid else list(words)
    # Who runs the tests in the background has Ctrl-C ignored, and a program inherits that.
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env={**env})
    finally:
        signal.signal(signal.SIGINT, heeded)


class Terminal:
    """What a program shows, and how to answer it. It is its controlling terminal where the system has setsid."""

    def __init__(self, words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = _started(words, slave, cwd, env)
        os.close(slave)
        self.raw = ""
        self._read_until = 0

    @classmethod
    @contextlib.contextmanager
    def running(cls, words: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Iterator[Terminal]:
        """Started, and ended in any case."""
        terminal = cls(words, cwd=cwd, env=env)
        try:
            yield terminal
        finally:
            terminal.process.kill()
            terminal.process.wait()
            os.close(terminal._master)

    @property
    def output(self) -> str:
        """All that was shown, without colours and movements."""
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    def wait_for(self, words: str) -> str:
        """Wait for words that were not waited for yet; return what was shown up to them, since the last time."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.output.find(words, self._read_until)) < 0:
            assert self._read(deadline - time.monotonic()), f"never showed {words!r}:\n{self.output}"
        before, self._read_until = self.output[self._read_until : found], found + len(words)
        return before

    def type(self, words: str, *, enter: bool = True) -> None:
        """Type a line."""
        os.write(self._master, words.encode() + (b"\n" if enter else b""))

    def interrupt(self, words: str) -> None:
        """Type Ctrl-C until these words are shown.

        Python notices a signal that comes between a question and the wait for its answer only at the next key: a
        person presses Ctrl-C again.
        """
        deadline = time.monotonic() + PATIENCE
        while words not in self.output[self._read_until :]:
            assert time.monotonic() < deadline, f"never showed {words!r}:\n{self.output}"
            self.type(CONTROL_C, enter=False)
            again = time.monotonic() + PATIENCE / 6
            while words not in self.output[self._read_until :] and self._read(again - time.monotonic()):
                pass
        self.wait_for(words)

    def end(self) -> int:
        """Wait until it ends; return its exit status."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, seconds: float) -> bool:
        """Take in what comes next; False at the end, or if nothing came."""
        ready, _, _ = select.select([self._master], [], [], max(seconds, 0))
        if not ready:
            return False
        try:
            came = os.read(self._master, 65536)
        except OSError:  # EIO: the program has closed its end.
            return False
        self.raw += came.decode(errors="replace")
        return bool(came)
