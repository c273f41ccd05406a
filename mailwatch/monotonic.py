"""The steady clock, which setting the time does not change, and the boot and run that its readings belong to.

On Linux it is CLOCK_BOOTTIME, which advances during a suspend (clock_gettime(2)), as CLOCK_MONOTONIC does on
macOS; other systems have only CLOCK_MONOTONIC. Two readings are comparable only within one boot.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mailwatch.model import ClockSpan
from mailwatch.times import Millis

STEP_MS: Millis = 500
"""Milliseconds by which the clocks may diverge unnoticed: slewing moves both alike, only steps part them."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The boot of the machine, and the run of MailWatch, that readings belong to: 16 hex digits each."""

    boot: str
    run: str


def clock_ids() -> tuple[int, int]:
    """Return the clocks that stop and that advance during a suspend; the same one twice if there is only one."""
    if sys.platform == "darwin":
        return time.CLOCK_UPTIME_RAW, time.CLOCK_MONOTONIC
    return time.CLOCK_MONOTONIC, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


_, _STEADY = clock_ids()


def milliseconds() -> Millis:
    """Return the reading of the steady clock in milliseconds."""
    return time.clock_gettime_ns(_STEADY) // 1_000_000


def _boot_text() -> str:
    """Return the system's name of this boot, "" without one."""
    with contextlib.suppress(OSError):
        # A time namespace shifts the clock (time_namespaces(7)): its readings are not comparable with others.
        shift = ""
        with contextlib.suppress(OSError):
            shift = str(Path("/proc/self/ns/time").readlink()) + Path("/proc/self/timens_offsets").read_text()
        return Path("/proc/sys/kernel/random/boot_id").read_text() + shift
    if sys.platform == "darwin":
        size, words = ctypes.c_size_t(64), ctypes.create_string_buffer(64)
        libc = ctypes.CDLL(None)
        if libc.sysctlbyname(b"kern.bootsessionuuid", words, ctypes.byref(size), None, 0) == 0:
            return words.value.decode()
    return ""


def _origin() -> Origin:
    run, words = secrets.token_hex(8), _boot_text()
    # Without a boot name each run counts as a boot of its own, so that no incomparable readings are compared.
    boot = hashlib.sha256(f"boot\0{words}".encode()).hexdigest()[:16] if words else run
    return Origin(boot, run)


_this_process = _origin()
_natural = _this_process.boot
_term = 0


def begin_term(number: int) -> None:
    """Begin to write a ledger that went from one node to another `number` times.

    A boot never comes back after another one in a ledger. So when its turn comes again, a node counts its readings
    as those of a new boot: what another node wrote in between is on another clock. With 0, and where no other node
    wrote in between, nothing changes.
    """
    global _this_process, _term
    boot, _term = _boot_of_term(number), number
    if boot != _this_process.boot:
        _this_process = Origin(boot, secrets.token_hex(8))


def _boot_of_term(number: int) -> str:
    return hashlib.sha256(f"term\0{_natural}\0{number}".encode()).hexdigest()[:16] if number else _natural


def is_of_this_boot(boot: str) -> bool:
    """Return whether readings are on the steady clock of this machine as it is: of this term, or of an earlier one
    since the machine was started.
    """
    return any(boot == _boot_of_term(number) for number in range(_term, -1, -1))


def origin() -> Origin:
    """Return the boot and the run of this process."""
    return _this_process


def offset() -> Millis:
    """Return the wall clock minus the steady clock, which only a step changes.

    The wall clock is read between two readings of the steady clock, again if the process was held up in between.
    """
    for _ in range(5):
        before, wall, after = time.clock_gettime_ns(_STEADY), time.time_ns(), time.clock_gettime_ns(_STEADY)
        if after - before < 100_000:
            break
    return (wall - (before + after) // 2 + 500_000) // 1_000_000


def to_wall_clock(at: Millis, offset_then: Millis) -> Millis:
    """Return the time of `at` on the current wall clock; `offset_then` is the `offset` when `at` was read."""
    stepped = offset() - offset_then
    return at + stepped if abs(stepped) > STEP_MS else at


def since(start: Millis, bound: Millis | None = None) -> ClockSpan:
    """Return the span from the reading `start` of this boot until now."""
    return ClockSpan(_this_process.boot, start, milliseconds(), bound)
