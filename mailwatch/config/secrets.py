"""Reads passwords from their configured sources. No message repeats what was read."""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path

from pydantic import SecretStr

from mailwatch.config.errors import FieldError
from mailwatch.config.files import read_file
from mailwatch.config.schema_targets import SecretSection

COMMAND_TIMEOUT_SECONDS = 30.0
_MAX_BYTES = 65_536


def read_password(section: SecretSection, folder: Path, *, timeout: float = COMMAND_TIMEOUT_SECONDS) -> SecretStr:
    """Read the password of a section; a command runs in `folder`. Raises FieldError."""
    if section.password_command is not None:
        return _secret(_from_command(section.password_command, folder, timeout))
    return read_secret(section.password_file, section.password_env)


def read_secret(file: Path | None, variable: str | None) -> SecretStr:
    """Read a secret from a file or the environment. Raises FieldError."""
    if file is not None:
        return _secret(_from_file(file))
    raw = os.environb.get((variable or "").encode(), b"")
    if not raw:
        raise FieldError(f"the environment variable {variable} is not set; set it before the start")
    return _secret(raw)


def _secret(raw: bytes) -> SecretStr:
    # Some editors write a byte order mark before the text; it is never part of the password.
    first = raw.removeprefix(codecs.BOM_UTF8).split(b"\n", 1)[0].removesuffix(b"\r")
    try:
        password = first.decode()
    except UnicodeDecodeError:
        # Without "from None" the traceback would contain the bytes of the password.
        raise FieldError("the password is not UTF-8; save it as UTF-8") from None
    if not password:
        raise FieldError("the first line is empty; it must hold the password")
    return SecretStr(password)


def readable_by_others(path: Path) -> bool:
    """Return whether group or others may read the file; False if it does not exist."""
    try:
        return bool(path.stat().st_mode & 0o044)
    except OSError:
        return False


def _from_file(path: Path) -> bytes:
    return read_file(path, _MAX_BYTES, "create it with the password as its first line")


def _from_command(command: tuple[str, ...], folder: Path, timeout: float) -> bytes:
    try:
        # A process group of its own, so that the command's children end with it.
        process = subprocess.Popen(  # noqa: S603 - the owner's own command, and no shell
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, process_group=0
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a command"
        raise FieldError(f"the command cannot run: {reason}; is it installed?") from None
    raw, expired = _output(process, timeout)
    if expired:
        raise FieldError(f"the command printed nothing within {timeout:g} s; it must not ask a question")
    if len(raw) > _MAX_BYTES:
        raise FieldError("the command does not stop printing; its first line must be the password")
    if process.returncode != 0:
        raise FieldError(f"the command ended with status {process.returncode}; try it by hand")
    return raw


def _output(process: subprocess.Popen[bytes], timeout: float) -> tuple[bytes, bool]:
    """Return the output of a process, up to a bound, and whether it was killed at the timeout."""
    expired = threading.Event()

    def end() -> None:
        expired.set()
        _kill(process)

    timer = threading.Timer(timeout, end)
    timer.start()
    with process:
        raw = process.stdout.read(_MAX_BYTES + 1) if process.stdout else b""
        if len(raw) > _MAX_BYTES:
            _kill(process)
        process.wait()
        timer.cancel()
    return raw, expired.is_set()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
