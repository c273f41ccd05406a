"""Virtual time: an event loop whose clock jumps to the next timer, and the clocks of a machine that follow it.

Nothing waits and nothing real is waited for: what MailWatch hands to threads (commits, reads) is run on the
spot, and its answer comes after a virtual time. Thus a run is the same each time, to the microsecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import selectors
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any

import apscheduler.schedulers.base

import mailwatch.monitor.schedule
from mailwatch import monotonic
from mailwatch.guard.clock import TICK_SECONDS, ClockEvent, ClockMonitor, ClockReading
from mailwatch.monotonic import Origin
from mailwatch.times import Millis

EPOCH_NS = 1_767_571_200_000_000_000
"""Monday, 2026-01-05T00:00Z: when every world begins."""
UPTIME = 4321.0
"""Seconds for which the machine runs by then."""


class Clocks:
    """The clocks of one machine, in seconds since the world began.

    `true` is the time that passes; CLOCK_BOOTTIME shows what passed of it since the latest boot; `running`, of the
    boot too, stops in a suspend; the wall clock shows `true + offset`. `offsets` are the steps: (true time, offset
    from then on). `boots` are when each boot began, by its identity. `synchronised`: NTP disciplines the wall
    clock, as the kernel knows.
    """

    def __init__(self, seed: str = "") -> None:
        self.true = self.running = self.offset = 0.0
        self.offsets: list[tuple[float, float]] = [(0.0, 0.0)]
        self.synchronised = True
        self.boots: dict[str, float] = {}
        self._seed = seed
        self._booted = -UPTIME
        self._boot = self._identity("boot", 0)
        self.boots[self._boot] = self._booted
        self._runs = 0

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.true += seconds
        self.running += seconds

    def suspend(self, seconds: float) -> None:
        """Let time pass asleep."""
        self.true += seconds

    def set_off(self, offset: float, *, synchronised: bool = False) -> None:
        """Set the wall clock so that it is off by so much; `synchronised`: by NTP, which keeps it so."""
        if offset != self.offset:
            self.offset = offset
            self.offsets.append((self.true, offset))
        self.synchronised = synchronised

    def reboot(self, offset: float) -> None:
        """Begin another boot, with a wall clock that is off by so much and that nobody disciplines yet."""
        self._booted = self.true
        self.running = 0.0
        self._boot = self._identity("boot", len(self.boots))
        self.boots[self._boot] = self._booted
        self.set_off(offset)

    def start(self) -> None:
        """Begin another run of MailWatch: gives it the identities of boot and run."""
        self._runs += 1
        monotonic._this_process = Origin(self._boot, self._identity("run", self._runs))

    def _identity(self, what: str, number: int) -> str:
        return hashlib.sha256(f"{self._seed} {what} {number}".encode()).hexdigest()[:16]

    @property
    def was_wrong(self) -> bool:
        """Whether the wall clock was ever set by what one would notice."""
        return any(abs(offset) > 1.0 for _, offset in self.offsets)

    def booted_between(self, start: float, end: float) -> bool:
        """Whether the machine was restarted in that time."""
        return any(start < at <= end for at in self.boots.values())

    def true_time(self, boot: str, reading: Millis) -> float:
        """Return when the steady clock of that boot read so."""
        return self.boots[boot] + reading / 1000

    def steady_ns(self) -> int:
        """Read the clock that nobody can set."""
        return round((self.true - self._booted) * 1e9)

    def offset_at(self, moment: float) -> float:
        """Return how far the wall clock was off at that time."""
        return self.offsets[bisect_right(self.offsets, (moment, math.inf)) - 1][1] if moment > 0 else 0.0

    def time_ns(self) -> int:
        """Read the wall clock."""
        return EPOCH_NS + round((self.true + self.offset) * 1e9)

    def read(self) -> ClockReading:
        """Read all clocks."""
        return ClockReading(self.time_ns(), round(self.running * 1e9), self.steady_ns())

    def datetime_now(self, zone: tzinfo | None = None) -> datetime:
        """Read the wall clock as a date."""
        return datetime.fromtimestamp(self.time_ns() / 1e9, zone or UTC)

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Let all that asks for the time see these clocks.

        MailWatch asks `time.time_ns` (models.now) and `time.monotonic(_ns)` (recorder, writer), the schedule and
        APScheduler `datetime.now`; the event loop asks its own `time()`. Plain assignments: a patch in C of
        every clock of the process would cost more than the probes do, and leaves the monotonic ones alone.
        """

        class Date(datetime):
            now = staticmethod(self.datetime_now)  # type: ignore[assignment]

        seen: list[tuple[Any, str, Any]] = [
            (time, "time_ns", self.time_ns),
            (time, "clock_gettime_ns", lambda _which: self.steady_ns()),
            (monotonic, "_this_process", monotonic._this_process),
            (time, "time", lambda: self.time_ns() / 1e9),
            (time, "monotonic", lambda: self.running),
            (time, "monotonic_ns", lambda: round(self.running * 1e9)),
            (mailwatch.monitor.schedule, "datetime", Date),
            (apscheduler.schedulers.base, "datetime", Date),
        ]
        with contextlib.ExitStack() as undone:
            for place in seen:
                undone.enter_context(patched(*place))
            yield


@contextlib.contextmanager
def patched(where: Any, name: str, virtual: Any) -> Iterator[None]:
    """Put something virtual in the place of what asks a machine."""
    real = getattr(where, name)
    setattr(where, name, virtual)
    try:
        yield
    finally:
        setattr(where, name, real)


class Ticks(ClockMonitor):
    """The monitor's clock watch, without the ticks that find nothing.

    MailWatch ticks each second: 604,800 times a week, of which a few matter. The others only move the time of
    the last tick on, which is made up for when someone asks; what disturbs the clocks says so before.
    """

    def __init__(self, clocks: Clocks) -> None:
        super().__init__(clocks.read)
        self._clocks = clocks
        self._began = clocks.running
        self._disturbed = False

    def before_disturbance(self) -> None:
        """Take the latest tick that was left out as done; the next one finds what comes now."""
        self._catch_up()
        self._disturbed = True

    def until_next(self) -> float:
        """Return the seconds to the next tick."""
        return TICK_SECONDS - (self._clocks.running - self._began) % TICK_SECONDS

    def tick(self) -> list[ClockEvent]:
        """Tick as MailWatch would at this moment."""
        self._catch_up()
        self._disturbed = False
        return super().tick()

    def _catch_up(self) -> None:
        if self._disturbed:
            return
        here = self._clocks.read()
        passed = round((TICK_SECONDS - self.until_next()) * 1e9)
        if here.running - passed > self._last.running:
            self._last = ClockReading(here.wall - passed, here.running - passed, here.boot - passed)
            self._ticking = True


class NothingToDoError(Exception):
    """The loop waits for something that never comes: no timer is set."""


class _Jump(selectors.DefaultSelector):
    """Instead of waiting, lets the time pass. No socket of this loop ever has anything to say."""

    def __init__(self, clocks: Clocks) -> None:
        super().__init__()
        self._clocks = clocks

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NothingToDoError
        if timeout > 0:
            self._clocks.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time. `disk` gives how many seconds the next job of a thread takes.

    A job is done at once and answered later, or done later: a process killed in between has written or not.
    """

    def __init__(self, clocks: Clocks, disk: Callable[[], tuple[float, float]]) -> None:
        self._clocks = clocks
        self._disk = disk
        super().__init__(_Jump(clocks))

    def time(self) -> float:
        """The virtual monotonic clock."""
        return self._clocks.running

    def _check_closed(self) -> None:
        """Tasks of a killed process are thrown away: whatever they still ask of their loop is never done."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func` in this thread, some virtual time from now."""
        future = self.create_future()
        before, after = self._disk()

        def run() -> None:
            try:
                result = func(*args)
            except Exception as error:
                self.call_later(after, _settle, future, None, error)
            else:
                self.call_later(after, _settle, future, result, None)

        self.call_later(before, run)
        return future


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
