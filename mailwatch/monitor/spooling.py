"""While the database is away, probing goes on: observations wait on this machine's disk (store/spool.py).

Nothing of them is counted, shown or notified until they are on record. Once the database answers they are taken
through the same steps as any other, oldest first and before anything newer, with their own times: the outages that
follow are the same.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol, TypeVar

from mailwatch import monotonic
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.payloads import fact_payload, observation_from
from mailwatch.metrics.spool_families import SpoolRecord
from mailwatch.model import ClockSpan, Kind, Observation, TargetChange, TargetEvent
from mailwatch.monitor.recorder import Recorder
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.store import Reader, StoreError, StoreFullError, Writer
from mailwatch.store.errors import DatabaseAwayError, EvictedError
from mailwatch.store.spool import Spool, SpooledDraft
from mailwatch.times import Millis, now, rfc3339

logger = logging.getLogger(__name__)

DRAFTS_AT_ONCE = 2000
RETRY_SECONDS = 1.0
"""Seconds until what waits is recorded on, after the database went away meanwhile."""
LATE = "late"
"""The kind of an observation that counts nowhere (docs/reference/ledger.md)."""
TOKEN_SLACK_MS: Millis = 30_000
"""Milliseconds by which an observation may be dated before a timestamp that was recorded before it: its probe had
ended when the timestamp came. Half of what `verify` allows.
"""
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
        self._putting = 0
        """How many drafts are on their way to the disk."""
        self.full_since: Millis | None = None
        """Since when nothing more is taken, on the steady clock; None while it takes more."""
        self._full_why = ""

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
        return self._spool.count > 0 or self._putting > 0 or self._writer.failing.is_set()

    def problems(self) -> list[str]:
        """Return what waits, and since when; nothing if nothing waits."""
        full = f"{self._full_why}, and nothing is probed" if self.full_since is not None else ""
        count, oldest = self._spool.count, self._spool.since
        if not count:
            return [f"no observation can wait: {full}"] if full else []
        since = "" if oldest is None else f" since {rfc3339(oldest)}"
        return [f"the record waits: {count} observations{since}{full and f'; {full}'}"]

    def waiting_since(self) -> tuple[int, Millis] | None:
        """Return how many observations wait, and when the oldest ended; None without one. For any thread."""
        count, oldest = self._spool.count, self._spool.since
        return (count, oldest) if count and oldest else None

    def probed_at(self, name: str) -> float:
        """Return when the latest probe of a target that waits ended, on time.monotonic(); 0.0 without one."""
        return self._continued.get(name, 0.0)

    def record(self) -> SpoolRecord:
        """Return what waits, for the metrics. For any thread."""
        count, oldest = self._spool.count, self._spool.since
        used = self._spool.used if self.full_since is None else 1.0
        return SpoolRecord(
            waiting=count, oldest=oldest / 1000 if count and oldest is not None else None, used=used
        )

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
            try:
                await self.drain()
            except DatabaseAwayError:
                # It went away again while something was read: it may be back already.
                await asyncio.sleep(RETRY_SECONDS)

    async def drain(self) -> None:
        """Take all that waits onto the record."""
        count, since = self._spool.count, self._spool.since
        self._writer.is_hurried = True
        try:
            while True:
                drafts = await self._in_thread(self._spool.oldest, DRAFTS_AT_ONCE)
                if self._under_way:
                    # Their copies may be among those.
                    await self._finish_under_way()
                elif drafts:
                    with self._writer.keeping_elsewhere():
                        await self._record_drafts(drafts)
                    await self._in_thread(self._spool.remove, [draft.number for draft in drafts])
                elif not self._putting:
                    # From here on nothing is awaited: what comes next finds the spool empty, or wakes us again.
                    break
        finally:
            self._writer.is_hurried = False
        self._wake.clear()
        self._empty.set()
        self._continued.clear()
        if self.full_since is not None:
            self._recorder.note_unwritable(self.full_since, monotonic.milliseconds())
            self.full_since = None
        if count and since is not None:
            waited = (now() - since) / 1000
            logger.warning("spool: %d observations are on record now; the oldest waited %.0f s", count, waited)

    async def drained(self) -> None:
        """Wait until nothing waits, and the database takes what comes next."""
        while self.is_active:
            await self._writer.working.wait()
            await self._empty.wait()

    async def close(self) -> None:
        """Close the spool; what waits stays there for the next start."""
        with self._writer.keeping_elsewhere():
            for one in self._under_way:
                # Its copy stays.
                one.recording.cancel()
            await asyncio.gather(*(one.recording for one in self._under_way), return_exceptions=True)
        await self._in_thread(self._spool.close)
        self._thread.shutdown()

    async def _until_away(self, recording: asyncio.Future[Any]) -> bool:
        """Wait until something is recorded, or the database is away; return whether it is recorded.

        Raises what recording raises.
        """
        # Its term may be over before it is: no one is left then who asks for the exception.
        recording.add_done_callback(lambda done: done.cancelled() or done.exception())
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
        """Wait for the commits that were under way, and drop their copies. Raises EvictedError; the copy stays."""
        while self._under_way:
            first = self._under_way[0]
            try:
                await first.recording
            except EvictedError:
                raise
            except StoreFullError:
                # It was not accepted, so its copy counts.
                del self._under_way[0]
                continue
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
            # 0.0 is of an earlier process's observation, which is recorded just now.
            continued=bool(runtime.observed_at) or name in self._continued,
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
        if not self._wake.is_set():
            logger.warning("spool: the database is away; observations wait on this machine's disk")
        self._putting += 1
        # Also if the disk takes nothing: the time without probes ends when the database answers.
        self._wake.set()
        self._empty.clear()
        try:
            return int((await self._in_thread(self._spool.put, [draft]))[0])
        except (StoreError, OSError) as error:
            if self.full_since is None:
                self.full_since = monotonic.milliseconds()
                why = error.public_reason if isinstance(error, StoreError) else (error.strerror or str(error))
                self._full_why = why
                logger.error("spool: %s; nothing is probed until the database answers", error)
            return None
        finally:
            self._putting -= 1

    async def _record_drafts(self, drafts: Sequence[SpooledDraft]) -> None:
        """Record drafts: those of a target in their order, of all targets at once, between entries of our own."""
        stamped = await asyncio.to_thread(_time_of_last_token, self._reader)
        late = set[bytes]()
        if any(draft.process != self._spool.process for draft in drafts):
            # That process may have been killed when they were on record, and the spool did not say so yet.
            late = await asyncio.to_thread(_late_on_record, self._reader, min(draft.time for draft in drafts))
        for is_own, part in groupby(drafts, lambda draft: draft.target is None):
            if is_own:
                for draft in part:
                    if not await asyncio.to_thread(_is_on_record, self._reader, draft):
                        await self._recorder.append(draft.kind, draft.time, None, draft.payload)
                continue
            by_target: dict[str, list[SpooledDraft]] = {}
            for draft in part:
                by_target.setdefault(draft.target or "", []).append(draft)
            by_name = by_target.items()
            recording = (self._record_target(name, each, stamped, late) for name, each in by_name)
            # Of all targets: the next try must not record beside what is left of this one.
            found = await asyncio.gather(*recording, return_exceptions=True)
            for failure in filter(None, found):
                raise failure

    async def _record_target(
        self, name: str, drafts: Sequence[SpooledDraft], stamped: Millis, late: Collection[bytes]
    ) -> None:
        """Record drafts of a target, oldest first. `late`: those on record that were overtaken (_canonical)."""
        ended = await asyncio.to_thread(_time_of_end, self._reader, name, drafts[0].time)
        earliest = max(stamped - TOKEN_SLACK_MS, ended)
        for draft in drafts:
            observation = _on_this_clock(_readable(draft))
            if (runtime := self._steps.targets.get(name)) is not None and observation is not None:
                async with runtime.lock:
                    latest = runtime.latest
                    if (
                        draft.time >= earliest
                        and not runtime.target.paused
                        # One that took no millisecond follows itself, if it was committed before a kill.
                        and (
                            latest is None or (not _is_same(observation, latest) and _follows(observation, latest))
                        )
                    ):
                        await self._record_in_place(runtime, observation, draft)
                        continue
            # Of a target that has ended nothing may follow: a replay would open an outage after its end.
            if _canonical(draft.payload) in late or await asyncio.to_thread(_is_on_record, self._reader, draft):
                continue
            await self._record_late(draft)

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
        await self._recorder.append(LATE, now(), None, payload)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:  # noqa: ANN401 - any work
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*args))


def _follows(observation: Observation, latest: Observation) -> bool:
    """Return whether an observation began after the latest on record had ended."""
    ours, theirs = observation.clock, latest.clock
    if ours is not None and theirs is not None and _same_boot(ours, theirs) and ours.start is not None:
        return ours.start >= theirs.end
    return observation.started_at >= latest.ended_at


def _is_same(one: Observation, other: Observation) -> bool:
    """Return whether two observations of a target are one: its times are equal, by whatever name of the boot."""
    return _times(one) == _times(other)


def _times(observation: Observation) -> tuple[Millis | None, ...]:
    span = observation.clock
    steady = (None, None) if span is None else (span.start, span.end)
    return observation.started_at, observation.ended_at, *steady


def _same_boot(one: ClockSpan, other: ClockSpan) -> bool:
    return one.boot == other.boot


def _time_of_last_token(reader: Reader) -> Millis:
    return max((entry.time for entry in reader.entries(kinds=["token"], descending=True, limit=1)), default=0)


def _time_of_end(reader: Reader, name: str, since: Millis) -> Millis:
    """Return when a target last ended since a time, 0 if it did not; what went before belongs to another one."""
    changes = reader.entries(target=name, kinds=["watch"], start_ms=since, descending=True)
    facts = [entry.fact for entry in changes]
    ends = (fact.at for fact in facts if isinstance(fact, TargetChange) and fact.event is TargetEvent.END)
    return max(ends, default=0)


def _readable(draft: SpooledDraft) -> Observation | None:
    """Return the observation of a draft, None where another version wrote what this one cannot read."""
    try:
        return observation_from(draft.payload)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _on_this_clock(observation: Observation | None) -> Observation | None:
    """Return an observation with its readings as those of this term; None if the machine was started since.

    An entry's readings are of the boot in its header, and no boot comes back in a ledger. An earlier term counted
    on the same clock under another name; of the clock of an earlier boot nothing can be said here.
    """
    if observation is None or observation.clock is None or observation.clock.boot == monotonic.origin().boot:
        return observation
    if not monotonic.is_of_this_boot(observation.clock.boot):
        return None
    attempts = tuple(
        one if one.clock is None else replace(one, clock=_renamed(one.clock)) for one in observation.attempts
    )
    return replace(observation, clock=_renamed(observation.clock), attempts=attempts)


def _renamed(span: ClockSpan) -> ClockSpan:
    return replace(span, boot=monotonic.origin().boot)


def _is_on_record(reader: Reader, draft: SpooledDraft) -> bool:
    """Return whether a draft was committed in its place before a kill."""
    found = reader.entries(
        target=draft.target, kinds=[draft.kind], start_ms=draft.time, end_ms=draft.time + 1, checked=False
    )
    wanted = _canonical(draft.payload)
    # Read to the end, so that no connection is left open.
    return any(_canonical(entry.payload) == wanted for entry in list(found))


def _late_on_record(reader: Reader, since: Millis) -> set[bytes]:
    """Return the observations that were recorded as overtaken since a time."""
    found = reader.entries(kinds=[LATE], start_ms=since, checked=False)
    return {_canonical(entry.payload["observation"]) for entry in found}


def _canonical(payload: Mapping[str, Any]) -> bytes:
    """Return a payload without its salt and the names of its boots, which differ from term to term, to compare."""
    found = {**_without_boot(payload), "salt": ""}
    if isinstance(attempts := payload.get("attempts"), list | tuple):
        found["attempts"] = [_without_boot(one) if isinstance(one, dict) else one for one in attempts]
    return canonical(found).encode()


def _without_boot(part: Mapping[str, Any]) -> dict[str, Any]:
    clock = part.get("clock")
    return {**part, "clock": {**clock, "boot": ""}} if isinstance(clock, dict) else dict(part)
