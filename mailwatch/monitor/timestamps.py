"""Has checkpoints timestamped by outside authorities: on a schedule, and when an outage opens or closes.

The ledger records the digest of each reply. So the entries between two such records were written after the first
token and before the second, whatever our own clock showed. Nothing waits for an authority.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from mailwatch import monotonic
from mailwatch.ledger.timestamp import TimestampError
from mailwatch.ledger.tsa import TimestampReply, request_timestamp
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.settings import TimestampAuthority
from mailwatch.store import Reader, Tokens
from mailwatch.times import now

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
MAX_RETRY_SECONDS = 3600.0
"""Seconds to wait after a failure, doubled with each further one up to the maximum."""


class TimestampScheduler:
    """Runs one loop for each authority; a dead authority delays neither the probes nor the other loops."""

    def __init__(
        self, monitor: Pipeline, reader: Reader, tokens: Tokens, authorities: Sequence[TimestampAuthority]
    ) -> None:
        self._monitor = monitor
        self._reader = reader
        self._tokens = tokens
        self._authorities: dict[str, TimestampAuthority] = {}
        self._wanted: dict[str, asyncio.Event] = {}
        self._others = asyncio.Event()
        monitor.recorder.on_outage_recorded.append(self.request_now)
        self.set_authorities(authorities)

    def set_authorities(self, authorities: Sequence[TimestampAuthority]) -> None:
        """Replace the authorities; those that did not change keep their schedule."""
        before, self._authorities = self._authorities, {authority.name: authority for authority in authorities}
        for name in before.keys() | self._authorities.keys():
            wanted = self._wanted.setdefault(name, asyncio.Event())
            if before.get(name) != self._authorities.get(name):
                wanted.set()
        every = [authority.every for authority in authorities]
        self._monitor.metrics.token_interval(min(every, default=None))
        self._others.set()

    def request_now(self) -> None:
        """Request timestamps now, since an outage opened or closed."""
        for wanted in self._wanted.values():
            wanted.set()

    async def run(self) -> None:
        """Request timestamps until cancelled."""
        asked: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._others.clear()
                last = await asyncio.to_thread(self._last)
                if last:
                    self._monitor.metrics.token(max(at for _, at in last.values()))
                outage_entry = await asyncio.to_thread(self._last_outage_entry)
                for name in self._authorities:
                    if name not in asked or asked[name].done():
                        asked[name] = group.create_task(self._serve(name, *last.get(name, (0, 0)), outage_entry))
                await self._others.wait()

    async def _serve(self, name: str, covered: int, last: int, outage_entry: int) -> None:
        """Request timestamps from one authority until a reload removes it."""
        failures, authority = 0, self._authorities[name]
        # If the clock was set back, the next request must not wait until the clock has caught up.
        wait = min(authority.every, max(0.0, authority.every - (now() - last) / 1000))
        wanted = self._wanted[name]
        wanted.clear()
        if outage_entry >= covered:
            wanted.set()
        while True:
            try:
                async with asyncio.timeout(wait):
                    await wanted.wait()
            except TimeoutError:
                pass
            wanted.clear()
            # A reload may have changed or removed the authority.
            if (current := self._authorities.get(name)) is None:
                return
            authority = current
            try:
                await self._timestamp(authority)
            except Exception as error:
                # No failure to get a token, a full disk included, may stop the probes.
                if not isinstance(error, TimestampError | OSError):
                    self._monitor.metrics.internal_error()
                    logger.exception("timestamps: the request failed: internal error")
                failures += 1
                wait = min(RETRY_SECONDS * 2.0 ** (failures - 1), MAX_RETRY_SECONDS, authority.every)
                level = logging.WARNING if failures == 1 else logging.INFO
                logger.log(
                    level, "timestamps: no token from %s: %s; next try in %.0f s", authority.name, error, wait
                )
            else:
                failures, wait = 0, authority.every

    async def _timestamp(self, authority: TimestampAuthority) -> None:
        if self._monitor.spooler is not None:
            # Nothing that is dated before a token may be recorded after it.
            await self._monitor.spooler.drained()
        await self._monitor.writer.checkpoint()
        signed = await asyncio.to_thread(self._reader.last_checkpoint)
        if signed is None:
            return
        before, offset = monotonic.milliseconds(), monotonic.offset()
        reply = await request_timestamp(authority, signed.note)
        after = monotonic.milliseconds()
        # Save the reply before the entry that names it: a crash in between leaves only an unused file.
        digest = await asyncio.to_thread(self._tokens.save, reply.reply)
        await self._monitor.writer.in_turn(lambda store: store.keep_reply(reply.reply))
        if self._monitor.spooler is not None and self._monitor.spooler.is_active:
            # What waits was observed before the token.
            raise TimestampError("the database does not answer")
        await self._monitor.recorder.append("token", now(), None, _payload(authority, signed.size, digest, reply))
        self._monitor.metrics.token(reply.token.time)
        if not reply.distrust_reason:
            # The token's time lies between request and reply, which bounds the error of our clock.
            accuracy = max(1000, reply.token.accuracy_ms or 0)
            apart = max(abs(reply.token.time - at) for at in (reply.asked_at, reply.answered_at))
            self._monitor.attribution.clock_bound.tighten((apart + accuracy) * 1000, offset)
            earliest, latest = reply.token.time - accuracy, reply.token.time + accuracy + after - before
            self._monitor.attribution.expiry.evidence.add_window(
                f"timestamp:{authority.name}", after, earliest, latest
            )
        if reply.distrust_reason:
            logger.warning("timestamps: %s: %s; the token is stored", authority.name, reply.distrust_reason)

    def _last(self) -> dict[str, tuple[int, int]]:
        """Return for each authority how many entries its last token covers, and the token's time."""
        found: dict[str, tuple[int, int]] = {}
        for entry in self._reader.entries(
            kinds=["token"], descending=True, limit=50 * max(1, len(self._authorities))
        ):
            payload = entry.payload
            found.setdefault(payload["authority"], (payload["checkpoint"], payload["time"]))
        return {name: at for name, at in found.items() if name in self._authorities}

    def _last_outage_entry(self) -> int:
        """Return the index of the latest outage entry, -1 if none; authorities that missed it are asked now."""
        newest = next(self._reader.entries(kinds=["outage"], descending=True, limit=1), None)
        return -1 if newest is None else newest.index


def _payload(authority: TimestampAuthority, size: int, digest: str, reply: TimestampReply) -> dict[str, object]:
    token = reply.token
    payload = {
        "authority": authority.name,
        "signer": token.authority,
        "checkpoint": size,
        "reply": digest,
        "time": token.time,
        "serial": token.serial,
        "policy": token.policy,
        "asked": reply.asked_at,
        "answered": reply.answered_at,
        "offset_ms": reply.offset_ms,
    }
    if token.accuracy_ms is not None:
        payload["accuracy_ms"] = token.accuracy_ms
    return payload | ({"distrust": reply.distrust_reason} if reply.distrust_reason else {})
