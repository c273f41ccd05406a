"""Checks the resource limits of the process before the resources are needed.

Libraries in Rust and C abort without a message when an allocation or a thread fails in mid-work. So a limit that
is too low is reported at the start, in numbers.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from pathlib import Path

MIB = 1 << 20
PDF_BYTES = 192 * MIB
"""Bytes of address space to make a PDF, besides those of its threads."""
THREAD_BYTES = 80 * MIB
"""Bytes of address space that a thread reserves: its stack, and the arena of its allocator (malloc(3))."""
RUN_BYTES = 128 * MIB
RUN_THREADS = 24
"""Concurrent threads of `mailwatch run`: ledger, event loop and executors."""
RUN_HANDLES = 96
"""File handles besides those of probes and pages: ledger, event loop, DNS, tokens, notifications."""
HANDLES_PER_PROBE = 2
"""File handles of a running probe: its connection, and one for DNS or a parallel connection."""
PAGE_HANDLES = 656
"""Most file handles of the pages: web.connections.MAX_HANDLES, without its imports."""
MIN_PAGE_HANDLES = 24
"""Fewest file handles with which a few visitors and a health check can be served at once."""


class ResourceLimitError(Exception):
    """The machine, or a limit set on it, does not provide enough. The message says what, how much, and what to
    do.
    """


def check_pdf_resources() -> None:
    """Raise ResourceLimitError if memory does not suffice for a PDF, which takes a thread per processor."""
    _check_memory(PDF_BYTES + THREAD_BYTES * (os.cpu_count() or 1), "to make the PDF")


def check_run_resources(targets: int, at_once: int) -> str:
    """Raise the limit of file handles as far as allowed; return a warning if it may not suffice, else "". Raises
    ResourceLimitError.
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
    """Return how many file handles the pages may hold: the limit less what probes and the rest need."""
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
    """Start RUN_THREADS threads, then end them. Raises ResourceLimitError."""
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
    """Raise the soft limit of file handles towards the hard limit. Return the soft limit, None if unlimited."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        # At most 65,536: some programs iterate over all possible handles when they start.
        wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft
