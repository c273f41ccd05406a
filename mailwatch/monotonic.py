"""The steady clock, which setting the time does not change, and the boot and the run of its readings.

On Linux it is CLOCK_BOOTTIME, which goes on while the machine sleeps (clock_gettime(2)); on macOS CLOCK_MONOTONIC
does; elsewhere CLOCK_MONOTONIC is all there is. Two readings can be compared within one boot only.
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
"""By how much wall clock and steady clock may part unnoticed: slewing moves both alike, only steps part them."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which boot of which machine the readings are of, and which run of MailWatch made them: 16 hex digits
    each.
    """

    boot: str
    run: str


def clock_ids() -> tuple[int, int]:
    """Return the clocks that stop and that go on in a suspend; one for both where that is all there is."""
    if sys.platform == "darwin":
        return time.CLOCK_UPTIME_RAW, time.CLOCK_MONOTONIC
    return time.CLOCK_MONOTONIC, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


_, _STEADY = clock_ids()


def milliseconds() -> Millis:
    """Read the clock."""
    return time.clock_gettime_ns(_STEADY) // 1_000_000


def _boot_text() -> str:
    """Name this boot as the system does; "" where it does not."""
    with contextlib.suppress(OSError):
        # A time namespace shifts the clock (time_namespaces(7)): its readings are not those of the others.
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
    # Without a name of the boot each run is taken for one of its own: then nothing is compared that may not be.
    boot = hashlib.sha256(f"boot\0{words}".encode()).hexdigest()[:16] if words else run
    return Origin(boot, run)


_this_process = _origin()


def origin() -> Origin:
    """Return the boot and the run of this process."""
    return _this_process


def offset() -> Millis:
    """Return the wall clock minus this clock, which only a step changes.

    The one is read between two readings of the other, once more where the process was held up meanwhile.
    """
    for _ in range(5):
        before, wall, after = time.clock_gettime_ns(_STEADY), time.time_ns(), time.clock_gettime_ns(_STEADY)
        if after - before < 100_000:
            break
    return (wall - (before + after) // 2 + 500_000) // 1_000_000


def to_wall_clock(at: Millis, offset_then: Millis) -> Millis:
    """Return what the wall clock of now would have shown at `at`, when the `offset` was that."""
    stepped = offset() - offset_then
    return at + stepped if abs(stepped) > STEP_MS else at


def since(start: Millis, bound: Millis | None = None) -> ClockSpan:
    """Return the time from the reading `start` of this boot until now."""
    return ClockSpan(_this_process.boot, start, milliseconds(), bound)
