"""What the process may use of the machine, asked before it is needed.

Libraries in Rust and C abort without a word where memory or a thread is not given in the middle of their work; so
a limit that is too low is reported at the beginning, in numbers.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from pathlib import Path

MIB = 1 << 20
PDF_BYTES = 192 * MIB
"""Bytes of address space that a PDF takes, besides those of its threads."""
THREAD_BYTES = 80 * MIB
"""Bytes of address space that a thread reserves: its stack, and the arena of its allocator (malloc(3))."""
RUN_BYTES = 128 * MIB
RUN_THREADS = 24
"""So many `mailwatch run` has at work at once: the ledger's, the loop's, those of its executors."""
RUN_HANDLES = 96
"""File handles besides those of probes and pages: the ledger's, the loop's, names, tokens, notifications."""
HANDLES_PER_PROBE = 2
"""File handles of a probe at work: its connection, and one that asks for names or goes beside it."""
PAGE_HANDLES = 656
"""File handles that the pages hold at most: web.connections.WANTED, without its imports."""
MIN_PAGE_HANDLES = 24
"""File handles without which a few people together with a health check could not see the pages."""


class ResourceLimitError(Exception):
    """The machine, or a limit set on it, does not give what is needed; says what, how much, and what to
    do.
    """


def check_pdf_resources() -> None:
    """Raise ResourceLimitError where a PDF could not be made. It is drawn by a thread for each processor."""
    _check_memory(PDF_BYTES + THREAD_BYTES * (os.cpu_count() or 1), "to make the PDF")


def check_run_resources(targets: int, at_once: int) -> str:
    """Raise the number of file handles to what is allowed; return a warning where it is less than may be needed.

    Raises ResourceLimitError.
    """
    _check_memory(RUN_BYTES + THREAD_BYTES * (RUN_THREADS // 4), "to run")
    _check_threads()
    least = RUN_HANDLES + HANDLES_PER_PROBE + MIN_PAGE_HANDLES
    most = RUN_HANDLES + HANDLES_PER_PROBE * min(targets, at_once) + PAGE_HANDLES
    limit = _raise_handle_limit()
    advice = "raise it (ulimit -n, systemd LimitNOFILE=, docker --ulimit nofile=)"
    if limit is not None and limit < least:
        raise ResourceLimitError(
            f"to run, MailWatch needs at least {least} file handles, but the limit is {limit}; {advice}"
        )
    if limit is not None and limit < most:
        return f"{targets} targets and the pages may need {most} file handles, but the limit is {limit}; {advice}"
    return ""


def page_handles(targets: int, at_once: int) -> int:
    """Return how many file handles the pages may hold: what the probes and the rest do not need of the limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return PAGE_HANDLES
    return max(
        MIN_PAGE_HANDLES, min(PAGE_HANDLES, limit - RUN_HANDLES - HANDLES_PER_PROBE * min(targets, at_once))
    )


def _check_memory(need: int, why: str) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return
    used = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    if soft - used < need:
        raise ResourceLimitError(
            f"{why}, MailWatch needs {need // MIB} MiB more address space, but the limit leaves "
            f"{max(0, soft - used) // MIB}; raise it (ulimit -v), or limit memory instead (systemd MemoryMax=, "
            "docker --memory)"
        )


def _check_threads() -> None:
    """Start as many threads as will be needed, and end them. Raises ResourceLimitError."""
    done, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(RUN_THREADS):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise ResourceLimitError(
            f"to run, MailWatch needs {RUN_THREADS} threads, and got {len(started)}; raise the limit "
            "(ulimit -u, systemd TasksMax=, docker --pids-limit)"
        ) from None
    finally:
        done.set()
        for thread in started:
            thread.join()


def _raise_handle_limit() -> int | None:
    """Raise the soft limit of file handles to the hard one; return it, None without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        # Not beyond: some programs go through all possible handles when they start.
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft
