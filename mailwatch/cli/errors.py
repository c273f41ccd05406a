"""The error handling of every verb: each exception becomes a sentence on stderr and an exit status, no traceback.

Exit statuses 0 to 3 are the verb's own results. Failures of MailWatch or of the machine have other statuses, so
that a script never takes them for a result such as "the bundle is not valid".
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

from mailwatch.cli.language import tr, translated
from mailwatch.cli.resource_limits import ResourceLimitError
from mailwatch.errors import OperationError, UsageError, is_panic

EXIT_DEFECT = 70
"""A defect in MailWatch (EX_SOFTWARE of sysexits.h)."""
EXIT_RESOURCES = 71
"""The machine lacks memory, threads or file handles (EX_OSERR)."""
EXIT_INTERRUPTED = 130

_MEMORY_TEXT = "memory ran out; raise the limit (ulimit -v, docker --memory) or stop other programs"
_THREADS_TEXT = (
    "the machine allows no more threads or processes; raise the limit "
    "(ulimit -u, systemd TasksMax=, docker --pids-limit) or stop other programs"
)
_RESOURCE_TEXTS = {
    errno.ENOMEM: _MEMORY_TEXT,
    errno.EAGAIN: _THREADS_TEXT,
    errno.EMFILE: "this process cannot open more files; raise the limit (ulimit -n, systemd LimitNOFILE=)",
    errno.ENFILE: "the machine has no file handles left; raise fs.file-max or stop other programs",
}
_OS_ADVICE = {
    errno.ENOSPC: "free some space there, or name another place",
    errno.EDQUOT: "free some space there, or name another place",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f), or name another place",
    errno.EROFS: "name a place that is writable",
    errno.EACCES: "check owner and permissions (ls -ld), or name another place",
    errno.EPERM: "check owner and permissions (ls -ld), or name another place",
    errno.ENOENT: "check the spelling",
    errno.ENOTDIR: "check the spelling",
    errno.EISDIR: "name a file",
    errno.ELOOP: "its links form a loop; name the file itself",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EIO: "the disk or its connection fails; see the kernel messages (dmesg)",
}


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit status. An exception becomes a sentence on stderr."""
    try:
        try:
            return command()
        finally:
            # Flushed here, not by the interpreter at exit, so that a full disk under `> file` gives an exit status
            # too.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()  # The reader of our output has gone (`| head`).
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        words, status = error_text(error)
    except BaseException as error:
        if not is_panic(error):
            raise
        words, status = error_text(error)
    print_error(words)
    _drop_stdout()
    return status


def error_text(error: BaseException) -> tuple[str, int]:
    """Return the message for an error and the exit status."""
    if isinstance(error, BaseExceptionGroup):
        return error_text(error.exceptions[0])
    if isinstance(error, UsageError):
        return str(error), 2
    if isinstance(error, OperationError):
        return f"mailwatch: {error}", 1
    if isinstance(error, ResourceLimitError):
        return f"mailwatch: {error}", EXIT_RESOURCES
    if lack := _resource_text(error):
        return f"mailwatch: {lack}", EXIT_RESOURCES
    if isinstance(error, OSError):
        words = f"mailwatch: {os_error_text(error)}"
        return words, 2 if isinstance(error, FileNotFoundError) else 1
    return _defect_text(error), EXIT_DEFECT


def os_error_text(error: OSError) -> str:
    """Return what the system refused and what to do. Errors with a message of their own keep it."""
    if error.errno is None or error.strerror is None:
        return str(error)
    if error.errno == errno.ENOENT and error.filename is None and not _has_folder():
        return "the current folder no longer exists; change to another"
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    advice = f"; {tr(_OS_ADVICE[error.errno])}" if error.errno in _OS_ADVICE else ""
    return f"{where}{tr(error.strerror)}{advice}"


def error_reason(error: Exception) -> str:
    """Return the message of an error, without the number that Python puts before the system's own."""
    return os_error_text(error) if isinstance(error, OSError) else str(error)


def print_error(words: str) -> None:
    """Write a message to stderr in the language of the terminal, if stderr accepts it."""
    with contextlib.suppress(OSError, ValueError):
        print(translated(words), file=sys.stderr, flush=True)


def _resource_text(error: BaseException) -> str:
    """Return which resource the machine lacks, "" if the error is of another kind."""
    for one in _causes(error):
        if isinstance(one, MemoryError):
            return _MEMORY_TEXT
        if isinstance(one, OSError) and one.errno in _RESOURCE_TEXTS:
            return _RESOURCE_TEXTS[one.errno]
        text = str(one)
        if isinstance(one, ImportError) and ("Cannot allocate memory" in text or "failed to map segment" in text):
            return _MEMORY_TEXT
        if isinstance(one, RuntimeError) and "can't start new thread" in text:
            return _THREADS_TEXT
        if isinstance(one, BrokenExecutor):
            return f"a helper process was killed; most likely {_MEMORY_TEXT}"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, outermost first; bounded, since a chain may be circular."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _defect_text(error: BaseException) -> str:
    """Return the message for a defect, with its place. It omits the error's own text, which may contain a
    secret.
    """
    where = next(
        (
            f" in {Path(frame.filename).name}:{frame.lineno}"
            for frame in reversed(traceback.extract_tb(error.__traceback__))
            if "mailwatch" in Path(frame.filename).parts and Path(frame.filename) != Path(__file__)
        ),
        "",
    )
    words = (
        f"mailwatch: this is an error in MailWatch ({type(error).__name__}{where}); the command failed, and "
        "says nothing about your mail. The record is unchanged."
    )
    if os.environ.get("MAILWATCH_TRACEBACK"):
        return f"{_frames(error)}{words}"
    return f"{words} Please report it, with the output under MAILWATCH_TRACEBACK=1"


def _frames(error: BaseException) -> str:
    """Return the tracebacks of an error and its causes: files and lines, no values."""
    parts = []
    for one in reversed(list(_causes(error))):
        frames = "".join(traceback.format_tb(one.__traceback__))
        parts.append(f"{frames}{type(one).__module__}.{type(one).__name__}\n")
    return "\n".join(parts)


def _has_folder() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _drop_stdout() -> None:
    """Discard unwritten output; Python would report the error again at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
