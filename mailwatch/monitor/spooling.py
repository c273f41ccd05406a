"""While the database is away, probing goes on: observations wait on this machine's disk (store/spool.py).

Nothing of them is counted, shown or notified until they are on record. Once the database answers they are taken
through the same steps as any other, oldest first and before anything newer, with their own times: the outages that
follow are the same.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeVar

from mailwatch import monotonic
from mailwatch.ledger.payloads import fact_payload, observation_from
from mailwatch.model import ClockSpan, Kind, Observation
from mailwatch.monitor.recorder import Recorder
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.store import Entry, Reader, StoreError, Writer
from mailwatch.store.spool import Spool, SpooledDraft
from mailwatch.times import Millis, now, rfc3339

logger = logging.getLogger(__name__)

DRAFTS_AT_ONCE = 2000
T = TypeVar("T")


class RecordSteps(Protocol):
    """The steps of the pipeline that take an observation onto the record."""

    targets: dict[str, TargetRuntime]

    async def record(self, runtime: TargetRuntime, observation: Observation, ended: float | None) -> None:
        """Record an observation, detect, publish. The caller holds the target's lock.

        `ended`: when the probe ended on time.monotonic(), None if another process made it.
        """


@dataclass(slots=True)
class _UnderWay:
    """An observation whose commit was under way when the database went: `copy` is its number in the spool."""

    recording: asyncio.Future[None]
    copy: int


class Spooler:
    """Decides for each observation: onto the record, or into the spool. Lives in the event loop."""

    def __init__(
        self, spool: Spool, steps: RecordSteps, recorder: Recorder, writer: Writer, reader: Reader
    ) -> None:
        self._spool, self._steps, self._recorder = spool, steps, recorder
        self._writer, self._reader = writer, reader
        self._thread = ThreadPoolExecutor(1, "spool")
        self._under_way: list[_UnderWay] = []
        self._continued: dict[str, float] = {}
        """When the latest spooled probe of each target ended, on time.monotonic()."""
        # Either drafts wait, or none does.
        self._wake, self._empty = asyncio.Event(), asyncio.Event()
        self._empty.set()
        self.full_since: Millis | None = None
        """Since when nothing more is taken, on the steady clock; None while it takes more."""

    async def open(self) -> None:
        """Read what an earlier process left. Raises StoreError, OSError."""
        await self._in_thread(self._spool.open)
        if self._spool.count:
            logger.warning("spool: %d observations of an earlier process wait for the record", self._spool.count)
            self._wake.set()
            self._empty.clear()

    def set_limit(self, most: int) -> None:
        """Set how many bytes may wait."""
        self._spool.most = most

    @property
    def waiting(self) -> int:
        """Number of observations that wait for the record."""
        return self._spool.count

    @property
    def is_active(self) -> bool:
        """Whether a new observation has to wait: the database is away, or older ones wait."""
        return self._spool.count > 0 or self._writer.failing.is_set()

    def problems(self) -> list[str]:
        """Return what waits, and since when; nothing if nothing waits."""
        if not self._spool.count:
            return []
        since = "" if self._spool.since is None else f" since {rfc3339(self._spool.since)}"
        full = "; limits.spool is reached, and nothing is probed" if self.full_since is not None else ""
        return [f"the record waits: {self._spool.count} observations{since}{full}"]

    async def take(self, runtime: TargetRuntime, observation: Observation) -> None:
        """Record an observation, or have it on disk in the spool. Raises what recording raises."""
        if self.is_active:
            await self._put(runtime, observation)
            return
        recording = asyncio.ensure_future(self._record_now(runtime, observation))
        if await self._until_away(recording):
            return
        # Its commit goes on by itself. The copy counts only if this process is killed before that is done.
        if (number := await self._put(runtime, observation)) is not None:
            self._under_way.append(_UnderWay(recording, number))

    async def note(self, kind: str, at: Millis, payload: Mapping[str, object]) -> None:
        """Record an entry about MailWatch itself in the order of the observations around it."""
        if self.is_active:
            await self._keep(SpooledDraft(kind=kind, time=at, target=None, payload=payload))
        else:
            await self._until_away(asyncio.ensure_future(self._recorder.append(kind, at, None, payload)))

    async def run(self) -> None:
        """Drain the spool whenever the database answers, until cancelled."""
        while True:
            await self._wake.wait()
            await self._writer.working.wait()
            await self.drain()

    async def drain(self) -> None:
        """Take all that waits onto the record."""
        began, count = monotonic.milliseconds(), self._spool.count
        self._writer.is_hurried = True
        try:
            await self._finish_under_way()
            while drafts := await self._in_thread(self._spool.oldest, DRAFTS_AT_ONCE):
                await self._record_drafts(drafts)
                await self._in_thread(self._spool.remove, [draft.number for draft in drafts])
        finally:
            self._writer.is_hurried = False
        self._wake.clear()
        self._empty.set()
        self._continued.clear()
        if self.full_since is not None:
            self._recorder.note_unwritable(self.full_since, monotonic.milliseconds())
            self.full_since = None
        if count:
            seconds = (monotonic.milliseconds() - began) / 1000
            logger.warning("spool: %d observations are on record now, after %.1f s", count, seconds)

    async def drained(self) -> None:
        """Wait until nothing waits."""
        await self._empty.wait()

    async def close(self) -> None:
        """Close the spool; what waits stays there for the next start."""
        await self._in_thread(self._spool.close)
        self._thread.shutdown()

    async def _until_away(self, recording: asyncio.Future[Any]) -> bool:
        """Wait until something is recorded, or the database is away; return whether it is recorded.

        Raises what recording raises.
        """
        failing = asyncio.ensure_future(self._writer.failing.wait())
        try:
            await asyncio.wait({recording, failing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            failing.cancel()
        if recording.done():
            recording.result()
        return recording.done()

    async def _record_now(self, runtime: TargetRuntime, observation: Observation) -> None:
        async with runtime.lock:
            await self._steps.record(runtime, observation, runtime.probe_ended)

    async def _finish_under_way(self) -> None:
        """Wait for the commits that were under way, and drop their copies."""
        while self._under_way:
            first = self._under_way[0]
            try:
                await first.recording
            except Exception as error:
                logger.error("an observation was not recorded: %s", error)
            await self._in_thread(self._spool.remove, [first.copy])
            del self._under_way[0]

    async def _put(self, runtime: TargetRuntime, observation: Observation) -> int | None:
        name = runtime.target.name
        payload = dict(fact_payload(observation))
        draft = SpooledDraft(
            kind="observation",
            time=observation.ended_at,
            target=name,
            payload=payload,
            ended=runtime.probe_ended,
            continued=runtime.observed_at is not None or name in self._continued,
        )
        number = await self._keep(draft)
        if number is not None:
            self._continued[name] = runtime.probe_ended
            if runtime.target.kind is Kind.ROUNDTRIP:
                # The next round trip must know which messages are under way.
                runtime.outstanding = runtime.outstanding.after(observation)
        return number

    async def _keep(self, draft: SpooledDraft) -> int | None:
        """Have a draft on disk; return its number, None if there is no room for it."""
        try:
            number = (await self._in_thread(self._spool.put, [draft]))[0]
        except (StoreError, OSError) as error:
            if self.full_since is None:
                self.full_since = monotonic.milliseconds()
                logger.error("spool: %s; nothing is probed until the database answers", error)
            return None
        if not self._wake.is_set():
            logger.warning("spool: the database is away; observations wait on this machine's disk")
            self._wake.set()
            self._empty.clear()
        return int(number)

    async def _record_drafts(self, drafts: Sequence[SpooledDraft]) -> None:
        """Record drafts: those of a target in their order, of all targets at once, between entries of our own."""
        stamped = await asyncio.to_thread(_time_of_last_token, self._reader)
        for is_own, part in groupby(drafts, lambda draft: draft.target is None):
            if is_own:
                for draft in part:
                    if await asyncio.to_thread(_on_record, self._reader, draft) is None:
                        await self._recorder.append(draft.kind, draft.time, None, draft.payload)
                continue
            by_target: dict[str, list[SpooledDraft]] = {}
            for draft in part:
                by_target.setdefault(draft.target or "", []).append(draft)
            await asyncio.gather(*(self._record_target(name, each, stamped) for name, each in by_target.items()))

    async def _record_target(self, name: str, drafts: Sequence[SpooledDraft], stamped: Millis) -> None:
        runtime = self._steps.targets.get(name)
        for draft in drafts:
            observation = observation_from(draft.payload)
            latest = None if runtime is None else runtime.latest
            follows = latest is None or _follows(observation, latest)
            if not follows and await asyncio.to_thread(_on_record, self._reader, draft) is not None:
                continue
            if not follows or draft.time < stamped or runtime is None:
                # Of a target that has ended nothing may follow: a replay would open an outage after its end.
                await self._record_late(draft)
            else:
                async with runtime.lock:
                    await self._record_in_place(runtime, observation, draft)

    async def _record_in_place(
        self, runtime: TargetRuntime, observation: Observation, draft: SpooledDraft
    ) -> None:
        if draft.process == self._spool.process:
            outstanding = runtime.outstanding
            await self._steps.record(runtime, observation, draft.ended)
            runtime.outstanding = outstanding
            return
        # Another process made it. Whether there is a gap before it depends on that one.
        runtime.observed_at = 0.0 if draft.continued else None
        await self._steps.record(runtime, observation, None)

    async def _record_late(self, draft: SpooledDraft) -> None:
        """Record an observation that another node's entries, or a timestamp, have overtaken: it counts nowhere."""
        payload = {"observation": draft.payload, "salt": secrets.token_hex(16)}
        await self._recorder.append("late", now(), None, payload)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:  # noqa: ANN401 - any work
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args))


def _follows(observation: Observation, latest: Observation) -> bool:
    """Return whether an observation began after the latest on record had ended."""
    ours, theirs = observation.clock, latest.clock
    if ours is not None and theirs is not None and _same_boot(ours, theirs) and ours.start is not None:
        return ours.start >= theirs.end
    return observation.started_at >= latest.ended_at


def _same_boot(one: ClockSpan, other: ClockSpan) -> bool:
    return one.boot == other.boot


def _time_of_last_token(reader: Reader) -> Millis:
    return max((entry.time for entry in reader.entries(kinds=["token"], descending=True, limit=1)), default=0)


def _on_record(reader: Reader, draft: SpooledDraft) -> Entry | None:
    """Return the entry of a draft that was committed before a kill; None if there is none."""
    found = reader.entries(
        target=draft.target, kinds=[draft.kind], start_ms=draft.time, end_ms=draft.time + 1, checked=False
    )
    wanted = {**draft.payload, "salt": ""}
    # Read to the end, so that no connection is left open.
    return next((entry for entry in list(found) if {**entry.payload, "salt": ""} == wanted), None)
