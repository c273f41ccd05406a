"""Detects suspends, steps and stalls between two ticks, and bounds the error of the wall clock."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from mailwatch import monotonic
from mailwatch.guard.sntp import Offset, SntpError, sntp
from mailwatch.monotonic import clock_ids
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""Seconds between two ticks; the caller keeps this interval."""
STALL_SECONDS = 5.0
"""Seconds; after a tick later than this, the process was stopped or the machine starved it."""
STEP_SECONDS = 0.5
"""Seconds by which the wall clock may be set unnoticed; slewing moves the steady clock alike."""
SUSPEND_SECONDS = 0.5
TIME_SERVERS = ("time.cloudflare.com", "ntp1.inrim.it", "ntp2.inrim.it", "time.google.com")
"""Time servers of three operators."""
DEGRADED_US = 1_000_000
_TIME_ERROR = 5
_STA_UNSYNC = 0x40


@dataclass(frozen=True, slots=True)
class ClockReading:
    """All clocks at one moment, in nanoseconds. `boot` advances during a suspend, `running` does not."""

    wall: int
    running: int
    boot: int


@dataclass(frozen=True, slots=True)
class ClockEvent:
    """An event of the clock between two ticks. After a step back (negative `seconds`), `end` may precede `start`.

    `since` and `until` are the two ticks on the steady clock, in milliseconds.
    """

    kind: Literal["step", "suspend", "stalled"]
    start: Millis
    end: Millis
    seconds: float
    since: Millis = 0
    until: Millis = 0

    def as_json(self) -> dict[str, int | str]:
        """Return the event for the ledger: without floats, so that its canonical form is unambiguous."""
        millis = round(self.seconds * 1000)
        return {"event": self.kind, "start": self.start, "end": self.end, "milliseconds": millis}


def read_clocks() -> ClockReading:
    """Read all clocks at nearly one moment; repeat a reading that was interrupted."""
    running, boot = _CLOCKS
    for _ in range(10):
        before = time.clock_gettime_ns(boot)
        reading = ClockReading(time.time_ns(), time.clock_gettime_ns(running), before)
        if time.clock_gettime_ns(boot) - before < 50_000_000:
            break
    return reading


_CLOCKS = clock_ids()


class ClockMonitor:
    """Compares the clocks from tick to tick."""

    def __init__(self, read: Callable[[], ClockReading] = read_clocks) -> None:
        self._read = read
        self._last = read()
        self._slept, self._offset = self._last.boot - self._last.running, self._last.wall - self._last.boot
        """Nanoseconds asleep, and wall clock minus steady clock, as far as the events so far account for them."""
        self._ticking = False
        self.late = 0.0
        """Seconds by which the last tick was late: the process stood still for about that long."""

    def tick(self) -> list[ClockEvent]:
        """Return the clock events since the last tick.

        A step between two ticks is as long as it was. Smaller ones add up until they are one: so what is on
        record and the clock itself never differ by more than STEP_SECONDS. The same holds for suspends.
        """
        last, self._last = self._last, self._read()
        here = self._last
        start, end = last.wall // 1_000_000, here.wall // 1_000_000
        ticks = last.boot // 1_000_000, here.boot // 1_000_000
        # There was no due time before the first tick: the time until then is the start of the program.
        self.late = late = (here.running - last.running) / 1e9 - TICK_SECONDS if self._ticking else 0.0
        self._ticking = True
        events = []
        slept = here.boot - here.running - self._slept
        if slept > SUSPEND_SECONDS * 1e9:
            self._slept += slept
            events.append(ClockEvent("suspend", start, end, slept / 1e9, *ticks))
        # Not from what is on record: a step of -0.4 s that went unnoticed before would hide one of 0.6 s.
        stepped = here.wall - here.boot - last.wall + last.boot
        if abs(stepped) <= STEP_SECONDS * 1e9:
            stepped = here.wall - here.boot - self._offset
        if abs(stepped) > STEP_SECONDS * 1e9:
            self._offset += stepped
            events.append(ClockEvent("step", start, end, stepped / 1e9, *ticks))
        if late > STALL_SECONDS:
            events.append(ClockEvent("stalled", start, end, late, *ticks))
        return events


class ClockBound:
    """The bound of the wall clock's error by the last survey; unknown again once the clock is set.

    Nothing disciplines the clock of a machine without NTP: after the survey it may drift by 100 ppm, which the
    oscillators of computers keep.
    """

    DRIFT = 1e-4

    def __init__(self) -> None:
        self._latest: tuple[Millis, Millis, Millis] | None = None

    def set(self, bound_us: int | None, offset: Millis | None = None) -> None:
        """Record that the clock is off by at most `bound_us` microseconds now; None if unknown.

        `offset` is `monotonic.offset()` from before the clock was compared: it may have been set meanwhile.
        """
        self._latest = None
        if bound_us is not None:
            here = monotonic.offset() if offset is None else offset
            self._latest = -(-bound_us // 1000), monotonic.milliseconds(), here

    def tighten(self, bound_us: int, offset: Millis | None = None) -> None:
        """Record a bound if it is tighter than the current one. `offset`: see `set`."""
        known = self.milliseconds()
        if known is None or -(-bound_us // 1000) < known:
            self.set(bound_us, offset)

    def milliseconds(self) -> Millis | None:
        """Return the current bound in milliseconds, None if unknown."""
        if self._latest is None:
            return None
        bound, at, offset = self._latest
        # Steps since then count at once: a tick detects them later, and none below STEP_SECONDS.
        stepped = abs(monotonic.offset() - offset)
        return bound + stepped + math.ceil((monotonic.milliseconds() - at) * self.DRIFT)


@dataclass(frozen=True, slots=True)
class KernelSync:
    """The kernel's synchronisation state (adjtimex(2)); `state` 5 is TIME_ERROR."""

    state: int
    synchronised: bool
    max_error_us: int
    estimated_error_us: int

    def error_bound_seconds(self) -> float | None:
        """Return the bound of the clock's error in seconds; None (unknown) while nothing disciplines the clock."""
        return self.max_error_us / 1e6 if self.synchronised else None


class _Timex(ctypes.Structure):
    """The struct timex of <sys/timex.h>."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 64),  # more than any libc writes
    )


def kernel_sync() -> KernelSync | None:
    """Ask the Linux kernel, without privileges; None where it cannot be asked."""
    if not sys.platform.startswith("linux"):
        return None
    answer = _Timex()
    try:
        state: int = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(answer))
    except (OSError, AttributeError):
        return None
    if state < 0:  # forbidden, for example by a container's seccomp profile
        return None
    synchronised = state != _TIME_ERROR and not answer.status & _STA_UNSYNC
    return KernelSync(state, synchronised, answer.maxerror, answer.esterror)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSurvey:
    """The answers of the kernel and of several time servers, which are not authenticated, about the wall clock."""

    at: Millis
    kernel: KernelSync | None
    answers: tuple[Offset, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def offset_us(self) -> int | None:
        """Median of the servers' offsets: true time minus our clock."""
        offsets = [answer.offset_us for answer in self.answers]
        return round(statistics.median(offsets)) if offsets else None

    @property
    def disagreement_us(self) -> int:
        """The largest difference between two servers."""
        offsets = [answer.offset_us for answer in self.answers]
        return max(offsets) - min(offsets) if offsets else 0

    @property
    def window_us(self) -> tuple[int, int] | None:
        """The bounds of true time minus our clock; None if unknown.

        With three or more servers a majority is trusted, so that the median lies among the honest ones. With two,
        either may be right. Without any, the kernel's bound is used.
        """
        offset = self.offset_us
        if offset is None:
            known = self.kernel is not None and self.kernel.synchronised
            return (-self.kernel.max_error_us, self.kernel.max_error_us) if self.kernel and known else None
        if len(self.answers) > 2:
            margin = max(answer.bound_us for answer in self.answers)
        else:
            margin = max(abs(offset - answer.offset_us) + answer.bound_us for answer in self.answers)
        return offset - margin, offset + margin

    @property
    def error_bound_us(self) -> int | None:
        """The bound of our clock's error; None if unknown."""
        window = self.window_us
        return None if window is None else max(abs(edge) for edge in window)

    @property
    def degraded(self) -> bool:
        """Whether this clock is too inaccurate to date an outage: off by more than a second, or unknown."""
        bound = self.error_bound_us
        return bound is None or bound > DEGRADED_US

    def error_bound_seconds(self) -> float | None:
        """Return `error_bound_us` in seconds, None if unknown."""
        bound = self.error_bound_us
        return None if bound is None else bound / 1e6

    def as_json(self) -> dict[str, object]:
        """Return the survey for the ledger: whole microseconds, no floats."""
        return {
            "event": "survey",
            "at": self.at,
            "kernel": asdict(self.kernel) if self.kernel else None,
            "servers": [asdict(answer) for answer in self.answers],
            "failures": self.failures,
            "offset_us": self.offset_us,
            "disagreement_us": self.disagreement_us,
            "error_bound_us": self.error_bound_us,
            "degraded": self.degraded,
        }


async def survey(servers: Sequence[str | tuple[str, int]] = TIME_SERVERS, timeout: float = 2.0) -> ClockSurvey:
    """Ask the kernel and all servers (host, or host and port) at once; record a silent server as a failure."""
    at = now()
    places = [(server, 123) if isinstance(server, str) else server for server in servers]
    found = await asyncio.gather(*(sntp(host, port, timeout) for host, port in places), return_exceptions=True)
    answers, failures = [], {}
    for (host, port), answer in zip(places, found, strict=True):
        match answer:
            case Offset():
                answers.append(answer)
            case SntpError() | OSError():
                failures[f"{host}:{port}"] = str(answer) or type(answer).__name__
            case Exception():
                # A bad answer of one server must not lose the others'.
                logger.error("the time request to %s failed: internal error", host, exc_info=answer)
                failures[f"{host}:{port}"] = f"internal error: {type(answer).__name__}"
            case _:
                raise answer
    return ClockSurvey(at=at, kernel=kernel_sync(), answers=tuple(answers), failures=failures)
