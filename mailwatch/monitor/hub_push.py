"""Pushes this ledger to a hub, and cosigns the hub's own. The ledger itself is the spool: a hub that is away for
months costs nothing but its disk, and delays no probe.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mailwatch.hub.client import PUSH_ENTRIES, BuiltPush, HubClient, build_push, verified_tree
from mailwatch.hub.consents import consent_payload, consents
from mailwatch.ledger import checkpoint, consent
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.consent import Consent, Scope
from mailwatch.ledger.cosignature import VerifierKey, parse_verifier_key, signatures
from mailwatch.ledger.merkle import CompactRange
from mailwatch.ledger.witness_request import AddCheckpoint, parse_submitted
from mailwatch.metrics.hub_families import PushRecord
from mailwatch.model import EventType, Notification
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.settings import Hub
from mailwatch.store import Reader
from mailwatch.store.keys import Keys
from mailwatch.times import Millis, now
from mailwatch.witness.client import (
    HistoryConflictError,
    OtherSizeError,
    WitnessError,
    WitnessRefusedError,
    cosignature_request,
    request_cosignature,
)
from mailwatch.witness.cosigner import Cosigner

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
MAX_RETRY_SECONDS = 300.0
"""Seconds to wait after a failure, doubled with each further one up to the maximum."""
LOG_SECONDS = 60.0
"""Seconds until the log says again how far a long push is."""
COSIGN_MS: Millis = 600_000
"""Milliseconds between two cosignatures of the hub's ledger."""


@dataclass(slots=True)
class HubState:
    """What is known of the hub. `size`: how many entries it has, None before it answered. `at`: when it took the
    last push. `problem`: why the last try failed, "" if it did not. `conflict`: one side showed two histories.
    """

    name: str
    size: int | None = None
    at: Millis | None = None
    cosigned: int = 0
    """How many entries of the hub's ledger were cosigned here."""
    problem: str = ""
    conflict: bool = False


class PushLog:
    """Logs how far a long push is: when it begins, each minute, and when it has ended."""

    def __init__(self) -> None:
        self._next: float | None = None

    def say(self, hub: str, size: int, end: int) -> None:
        """Note that a hub has `size` of `end` entries."""
        now = time.monotonic()
        if self._next is None:
            if end - size > PUSH_ENTRIES:
                logger.info("hub %s: %d of %d entries are to be pushed", hub, end - size, end)
                self._next = now + LOG_SECONDS
        elif size >= end:
            logger.info("hub %s: it has all %d entries", hub, end)
            self._next = None
        elif now >= self._next:
            logger.info("hub %s: it has %d of %d entries", hub, size, end)
            self._next = now + LOG_SECONDS


class HubPusher:
    """Pushes to one hub. `cosigner`: ours, for the hub's ledger. `notify` sends notifications."""

    def __init__(
        self,
        monitor: Pipeline,
        reader: Reader,
        keys: Keys,
        hub: Hub | None,
        notify: Callable[[Notification], Awaitable[None]],
    ) -> None:
        self._monitor, self._reader, self._keys, self._notify = monitor, reader, keys, notify
        self.cosigner: Cosigner | None = None
        self._wanted = asyncio.Event()
        self._hub: Hub | None = None
        self.state: HubState | None = None
        """What is known of the hub, None without one."""
        self._tree: CompactRange | None = None
        self._witness: VerifierKey | None = None
        self._cosigned_at: Millis | None = None
        self._recorded = 0
        self._log = PushLog()
        self._stated: Scope | None = None
        """What the owner agreed to send, as this hub has it since the start."""
        monitor.writer.on_checkpoint.append(self._wanted.set)
        self.set_hub(hub)

    def set_hub(self, hub: Hub | None) -> None:
        """Push to another hub from now on, or to none."""
        if hub != self._hub:
            if hub is None or self._hub is None or (hub.url, hub.key) != (self._hub.url, self._hub.key):
                self.state = None if hub is None else HubState(hub.name)
                self._tree = self._witness = self._cosigned_at = self._stated = None
            self._hub = hub
            self._monitor.metrics.hub.pushed.clear()
        self._wanted.set()

    def needed(self) -> list[int]:
        """Return how many entries the hub has, 0 while that is unknown; [] without a hub. No others are pruned."""
        return [] if self.state is None else [self.state.size or 0]

    async def run(self) -> None:
        """Push until cancelled."""
        failures = 0
        while True:
            hub, state = self._hub, self.state
            self._wanted.clear()
            if hub is None or state is None:
                await self._wanted.wait()
                continue
            try:
                try:
                    await self._push_all(hub, state)
                    await self._cosign(hub, state)
                finally:
                    record = PushRecord(state.size, state.at, state.conflict)
                    self._monitor.metrics.hub.pushed[state.name] = record
            except Exception as error:
                # No failure of a hub, or of the disk, may stop the probes.
                self._note_failure(state, error)
                self._tree = self._witness = None
                failures += 1
                await self._pause(hub, min(RETRY_SECONDS * 2.0 ** (failures - 1), MAX_RETRY_SECONDS))
            else:
                failures = 0
                if state.problem:
                    logger.info("hub: %s takes the ledger again", state.name)
                state.problem = ""
                await self._pause(hub, hub.every, until_wanted=True)

    async def _pause(self, hub: Hub, seconds: float, *, until_wanted: bool = False) -> None:
        """Wait, until another hub is set at most; with `until_wanted` also until there is a checkpoint."""
        try:
            async with asyncio.timeout(seconds):
                while self._hub == hub:
                    await self._wanted.wait()
                    if until_wanted:
                        return
                    self._wanted.clear()
        except TimeoutError:
            pass

    async def _push_all(self, hub: Hub, state: HubState) -> None:
        """Push all that is committed by now."""
        client = HubClient(hub.url, parse_verifier_key(hub.key), self._keys.origin)
        if self._witness is None:
            self._witness = await client.witness_key()
        if self._stated != hub.scope:
            await self._state(client, hub)
        if hub.checkpoints_only:
            await self._push_checkpoint(hub, state, self._witness)
            return
        if self._tree is None:
            await self._begin(client, state)
        assert self._tree is not None
        end = await asyncio.to_thread(self._reader.size)
        self._log.say(state.name, self._tree.size, end)
        while self._hub == hub and self._tree.size < end:
            signed = await asyncio.to_thread(self._reader.last_checkpoint)
            # Up to a checkpoint of the ledger first: its cosignature can be shown in evidence.
            upto = signed.size if signed is not None and self._tree.size < signed.size else end
            built = await asyncio.to_thread(build_push, self._reader, self._keys, self._tree, upto, hub.send)
            if built is None:
                return
            cosigned = await self._sent(client, state, built)
            self._log.say(state.name, built.tree.size, end)
            if cosigned and signed is not None and built.tree.size == signed.size:
                await self._monitor.recorder.append("witness", now(), None, cosigned)

    async def _state(self, client: HubClient, hub: Hub) -> None:
        """Put on record what is sent to the hub from now on, and tell the hub: before any of it leaves."""
        known = await asyncio.to_thread(consents, self._reader, hub.name)
        note, stated = known.get(self._keys.origin, ("", None))
        if stated is None or stated.send != hub.scope:
            stated = Consent(self._keys.origin, hub.name, now(), hub.scope)
            note = stated.sign(self._keys.private)
            await self._monitor.recorder.append(consent.KIND, now(), None, consent_payload(stated, note))
        try:
            await client.state_consent(note)
        except WitnessRefusedError as error:
            # An older hub does not know the question. One that refuses the ledger refuses the push as well.
            logger.info("hub %s does not record what is sent to it: %s", hub.name, error)
        self._stated = hub.scope

    async def _begin(self, client: HubClient, state: HubState) -> None:
        """Ask for the newest checkpoint that the hub has, and grow the tree up to there.

        The hub cannot make one up: this ledger's key has signed it.
        """
        note = await client.newest()
        try:
            signed = checkpoint.verify(note, self._keys.public) if note else None
        except CheckpointError as error:
            raise WitnessError(f"it shows no checkpoint of this ledger: {error}") from None
        size, own = 0 if signed is None else signed.size, await asyncio.to_thread(self._reader.size)
        if size > own:
            await self._alarm(state, f"it has {size} entries that this key signed, and the ledger has {own}")
        tree = await asyncio.to_thread(verified_tree, self._reader, self._keys, size)
        if signed is not None and tree.root() != signed.root:
            await self._alarm(state, f"this key signed other {size} entries than the ledger has")
        self._tree, state.size = tree, size

    async def _sent(self, client: HubClient, state: HubState, built: BuiltPush) -> dict[str, object] | None:
        """Send a push; return the payload of its cosignature, None where there is none."""
        assert self._witness is not None
        try:
            cosigned = await client.push(built, self._witness)
        except OtherSizeError as error:
            raise WitnessError(f"it has {error.size} entries now, and not {built.first}") from None
        except HistoryConflictError as error:
            await self._alarm(state, str(error))
            raise
        self._tree, state.size, state.at, state.conflict = built.tree, built.tree.size, now(), False
        return None if cosigned is None else cosigned.payload(built.tree.size, str(self._witness))

    async def _push_checkpoint(self, hub: Hub, state: HubState, witness: VerifierKey) -> None:
        """Send the newest checkpoint alone: the hub is a witness then."""
        signed = await asyncio.to_thread(self._reader.last_checkpoint)
        if signed is None or signed.size == state.size:
            return
        known = state.size or 0
        for _ in range(2):
            request = await asyncio.to_thread(cosignature_request, self._reader, known, signed)
            try:
                cosigned = await request_cosignature(hub.url, witness, request)
            except OtherSizeError as error:
                if error.size > signed.size:
                    await self._alarm(
                        state, f"it knows {error.size} entries of this ledger, which has {signed.size}"
                    )
                known = error.size
            except HistoryConflictError as error:
                await self._alarm(state, str(error))
            else:
                await self._monitor.recorder.append(
                    "witness", now(), None, cosigned.payload(signed.size, str(witness))
                )
                state.size, state.at, state.conflict = signed.size, now(), False
                return
        raise WitnessError(f"it knows {known} entries, and then another number of them")

    async def _cosign(self, hub: Hub, state: HubState) -> None:
        """Cosign the hub's own ledger, if it continues what was cosigned before, and send that."""
        if self.cosigner is None or (self._cosigned_at is not None and 0 <= now() - self._cosigned_at < COSIGN_MS):
            return
        client = HubClient(hub.url, parse_verifier_key(hub.key), self._keys.origin)
        known = await asyncio.to_thread(self.cosigner.known, hub.name)
        try:
            request = await client.checkpoint(0 if known is None else known.size)
        except OtherSizeError as error:
            await self._alarm(state, f"its own ledger has {error.size} entries, fewer than were cosigned here")
            raise
        except WitnessRefusedError:
            # It has signed nothing yet.
            return
        answer = await asyncio.to_thread(self.cosigner.add_checkpoint, request.text().encode())
        if answer.status == 422:
            await self._alarm(state, f"its own ledger is another than was cosigned here: {answer.body.strip()}")
        if answer.status != 200:
            raise WitnessError(f"its checkpoint cannot be cosigned: {answer.body.strip()}")
        await self._record_cosigned(client, state, request, answer.body)

    async def _record_cosigned(
        self, client: HubClient, state: HubState, request: AddCheckpoint, answer: str
    ) -> None:
        made = parse_submitted(request.note).checkpoint
        (own,) = signatures(answer)
        seen = {"ledger": made.origin, "size": made.size, "root": made.root.hex(), "at": now()}
        await self._monitor.recorder.append("witnessed", now(), None, {"ledgers": [seen]})
        await client.send_cosignature(made.size, own)
        state.cosigned, self._cosigned_at = made.size, now()

    async def _alarm(self, state: HubState, why: str) -> None:
        """Record and tell once, until a push is taken again, that there are two histories; then raise."""
        if not state.conflict:
            state.conflict = True
            payload: dict[str, object] = {"hub": state.name, "refused": why}
            entry = await self._monitor.recorder.append("hub", now(), None, payload)
            facts: dict[str, object] = {"witness": True, "name": state.name, "finding": why}
            await self._notify(
                Notification(key=f"hub:{entry.index}", event_type=EventType.LEDGER, time=entry.time, facts=facts)
            )
        raise HistoryConflictError(why)

    def _note_failure(self, state: HubState, error: Exception) -> None:
        """Log a failure, once as a warning until it changes."""
        if isinstance(error, HistoryConflictError):
            why = f"two histories: {error}"
        elif isinstance(error, WitnessError | OSError | CheckpointError):
            why = str(error)
        else:
            why = f"internal error: {type(error).__name__}"
            self._monitor.metrics.internal_error()
            logger.exception("hub: internal error")
        logger.log(logging.INFO if why == state.problem else logging.WARNING, "hub %s: %s", state.name, why)
        state.problem = why
