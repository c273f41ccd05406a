"""The resources that this process uses, and their limits: file handles, threads, memory."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc/self")
_CGROUPS = Path("/sys/fs/cgroup")
_NO_HANDLES_ERRNOS = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class Usage:
    """The amount used of a resource, and its limit, None where there is none."""

    used: int
    limit: int | None

    @property
    def share(self) -> float:
        """The used part of the limit; 0 without a limit."""
        return self.used / self.limit if self.limit else 0.0


def open_files() -> Usage | None:
    """Return the open file handles and RLIMIT_NOFILE (getrlimit(2)); None where the system does not show them."""
    limit = _soft(resource.RLIMIT_NOFILE)
    for folder in (_PROC / "fd", Path("/dev/fd")):
        try:
            # One handle belongs to the listing itself.
            return Usage(sum(1 for _ in folder.iterdir()) - 1, limit)
        except OSError as error:
            if error.errno in _NO_HANDLES_ERRNOS and limit is not None:
                return Usage(limit, limit)
    return None


def threads() -> Usage:
    """Return the threads against the cgroup's pids.max and RLIMIT_NPROC, which count other processes too."""
    used = next((int(line.split()[1]) for line in _lines(_PROC / "status") if line.startswith("Threads:")), 0)
    limits = [_soft(resource.RLIMIT_NPROC) if os.geteuid() else None, *_cgroup_limits("pids.max")]
    return Usage(used or threading.active_count(), _least(limits))


def memory() -> dict[str, Usage]:
    """Return the resident memory and the cgroup's limit, and the address space and RLIMIT_AS, all in bytes.

    Empty where the system does not show them.
    """
    words = next((line.split() for line in _lines(_PROC / "statm")), [])
    if len(words) < 2:
        return {}
    page = os.sysconf("SC_PAGE_SIZE")
    # Version 1 of cgroups writes a number near 2**63 for "no limit".
    limits = [limit for limit in _cgroup_limits("memory.max", "memory.limit_in_bytes") if limit < 2**60]
    return {
        "resident": Usage(int(words[1]) * page, _least(limits)),
        "address_space": Usage(int(words[0]) * page, _soft(resource.RLIMIT_AS)),
    }


def _soft(number: int) -> int | None:
    soft, _ = resource.getrlimit(number)
    return None if soft == resource.RLIM_INFINITY else soft


def _least(limits: list[int | None] | list[int]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _cgroup_limits(*names: str) -> Iterator[int]:
    """Yield the limits of our cgroup and of its parents (cgroups(7)); in a container our cgroup is the root."""
    for line in _lines(_PROC / "cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        for controller in controllers.split(","):
            here = _CGROUPS / controller.strip() / path.strip("/")
            while here.is_relative_to(_CGROUPS):
                for name in names:
                    yield from (int(word) for word in _lines(here / name) if word.isdigit())
                here = here.parent


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):
        return path.read_text().splitlines()
    return []
