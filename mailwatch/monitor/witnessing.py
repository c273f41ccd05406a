"""Has witnesses cosign each checkpoint, and raises an alarm if one says that it has seen another history.

The ledger records each cosignature, as it records timestamp tokens. Each witness has a loop of its own: a dead one
delays neither the probes nor the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.cosignature import parse_verifier_key
from mailwatch.ledger.entry import target_id
from mailwatch.ledger.witness_register import (
    RegisterStatement,
    mailbox_commitment,
    read_statement,
    register_request,
)
from mailwatch.ledger.witness_request import AddCheckpoint
from mailwatch.model import EventType, Notification
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.settings import Witness
from mailwatch.store import Reader
from mailwatch.store.keys import Keys
from mailwatch.times import DAY_MS, Millis, now
from mailwatch.witness.client import (
    Cosigned,
    HistoryConflictError,
    OtherSizeError,
    WitnessError,
    WitnessRefusedError,
    cosignature_request,
    request_cosignature,
    request_statement,
)

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
MAX_RETRY_SECONDS = 3600.0
"""Seconds to wait after a failure, doubled with each further one up to the maximum."""
REGISTER_MS = DAY_MS
"""Milliseconds after which a statement of a witness about a mailbox is recorded again, though it is the same."""
REQUEST_MS: Millis = 3_600_000
"""Milliseconds after which a witness is asked again about a mailbox."""
MAX_LOOKBACK = 200
"""Most witness entries of each witness to read at the start, for the size that it cosigned last."""


@dataclass(frozen=True, slots=True)
class _Registration:
    """A mailbox at a witness: when its statement was recorded and last asked for, for which targets, and what it
    found of other histories and ledgers.
    """

    recorded: Millis
    asked: Millis
    targets: frozenset[str]
    found: tuple[int, int, tuple[str, ...]]


@dataclass(slots=True)
class WitnessState:
    """What is known of a witness. `size` and `at`: what it cosigned last, 0 and None before that.

    `problem`: why its last answer was no cosignature, "" if it was. `conflict`: it says that it has seen another
    history of this ledger. `registered`: mailboxes by their commitments.
    """

    name: str
    size: int = 0
    at: Millis | None = None
    problem: str = ""
    conflict: bool = False
    registered: dict[str, _Registration] = field(default_factory=dict)
    no_register: bool = False
    """It has no register, as a witness that is no MailWatch."""


class WitnessScheduler:
    """Runs one loop for each witness. `notify` sends notifications; `keys` are the ledger's."""

    def __init__(
        self,
        monitor: Pipeline,
        reader: Reader,
        keys: Keys,
        witnesses: Sequence[Witness],
        notify: Callable[[Notification], Awaitable[None]],
    ) -> None:
        self._monitor, self._reader, self._keys, self._notify = monitor, reader, keys, notify
        self._witnesses: dict[str, Witness] = {}
        self._wanted: dict[str, asyncio.Event] = {}
        self._others = asyncio.Event()
        self.states: dict[str, WitnessState] = {}
        """What is known of each witness, by its key."""
        monitor.writer.on_checkpoint.append(self.request_now)
        self.set_witnesses(witnesses)

    def set_witnesses(self, witnesses: Sequence[Witness]) -> None:
        """Replace the witnesses; those that did not change keep their state."""
        before, self._witnesses = self._witnesses, {witness.key: witness for witness in witnesses}
        for key in self._witnesses:
            wanted = self._wanted.setdefault(key, asyncio.Event())
            if before.get(key) != self._witnesses[key]:
                wanted.set()
        for key in before.keys() - self._witnesses.keys():
            self._wanted[key].set()
            self.states.pop(key, None)
        self._monitor.metrics.witnesses([witness.name for witness in witnesses])
        self._others.set()

    def request_now(self) -> None:
        """Request cosignatures now, since there is a new checkpoint."""
        for wanted in self._wanted.values():
            wanted.set()

    async def run(self) -> None:
        """Request cosignatures until cancelled."""
        asked: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._others.clear()
                for key in self._witnesses:
                    if key not in asked or asked[key].done():
                        asked[key] = group.create_task(self._serve(key))
                await self._others.wait()

    async def _serve(self, key: str) -> None:
        """Have one witness cosign each new checkpoint, until a reload removes it."""
        state = self.states[key] = await asyncio.to_thread(self._restored, key)
        wanted, failures = self._wanted[key], 0
        wanted.set()
        while True:
            await wanted.wait()
            wanted.clear()
            # A reload may have changed or removed the witness.
            if (witness := self._witnesses.get(key)) is None:
                return
            try:
                await self._cosign(witness, state)
                await self._register(witness, state)
            except Exception as error:
                # No failure to get a cosignature, a full disk included, may stop the probes.
                self._note_failure(witness, state, error)
                failures += 1
                seconds = min(RETRY_SECONDS * 2.0 ** (failures - 1), MAX_RETRY_SECONDS)
                await self._pause(key, seconds)
                wanted.set()
            else:
                failures = 0

    async def _pause(self, key: str, seconds: float) -> None:
        """Wait before the next attempt, or until a reload changes or removes the witness.

        A new checkpoint does not end the pause: a dead witness is not asked ever more often.
        """
        before = self._witnesses.get(key)
        try:
            async with asyncio.timeout(seconds):
                while self._witnesses.get(key) == before:
                    self._wanted[key].clear()
                    await self._wanted[key].wait()
        except TimeoutError:
            pass

    async def _cosign(self, witness: Witness, state: WitnessState) -> None:
        """Have the newest checkpoint cosigned, and record the cosignature; the witness may know another size."""
        signed = await asyncio.to_thread(self._reader.last_checkpoint)
        if signed is None or signed.size <= state.size:
            return
        key = parse_verifier_key(witness.key)
        known = state.size
        for _ in range(2):
            request = await asyncio.to_thread(cosignature_request, self._reader, known, signed)
            try:
                cosigned = await request_cosignature(witness.url, key, request)
            except OtherSizeError as error:
                if error.size > signed.size:
                    why = f"it knows {error.size} entries of this ledger, which has {signed.size}"
                    return await self._record_conflict(witness, state, request, signed.size, why)
                known = error.size
            except HistoryConflictError as error:
                return await self._record_conflict(witness, state, request, signed.size, str(error))
            else:
                await self._record(witness, state, signed.size, cosigned)
                return
        raise WitnessError(f"it knows {known} entries, and then another number of them")

    async def _record(self, witness: Witness, state: WitnessState, size: int, cosigned: Cosigned) -> None:
        await self._monitor.recorder.append("witness", now(), None, cosigned.payload(size, witness.key))
        if state.problem:
            logger.warning("witness %s cosigns again", witness.name)
        state.size, state.at, state.problem, state.conflict = size, cosigned.time, "", False
        self._monitor.metrics.witness(witness.name, "cosigned", size=size, time_ms=cosigned.time)

    async def _register(self, witness: Witness, state: WitnessState) -> None:
        """Register each mailbox at the witness, and record its statement: once a day, and when targets or what it
        found change.
        """
        if not state.size or state.conflict or state.no_register:
            return
        key = parse_verifier_key(witness.key)
        for commitment, targets in self._mailboxes().items():
            before = state.registered.get(commitment)
            same = before is not None and before.targets == targets
            if same and before is not None and 0 <= now() - before.asked < REQUEST_MS:
                continue
            request = register_request(self._keys.origin, self._keys.private, key.name, commitment)
            try:
                note = await request_statement(witness.url, key, request, self._keys.origin, commitment)
            except WitnessRefusedError as error:
                state.no_register = True
                logger.info("witness %s has no register: %s", witness.name, error)
                return
            except WitnessError as error:
                # Asked again after the next checkpoint.
                logger.info("witness %s did not register a mailbox: %s", witness.name, error)
                return
            found = _found_by(read_statement(note, key))
            if (
                same
                and before is not None
                and before.found == found
                and 0 <= now() - before.recorded < REGISTER_MS
            ):
                state.registered[commitment] = replace(before, asked=now())
                continue
            payload = {"witness": witness.key, "statement": note, "targets": sorted(targets)}
            await self._monitor.recorder.append("register", now(), None, payload)
            state.registered[commitment] = _Registration(now(), now(), targets, found)

    def _mailboxes(self) -> dict[str, frozenset[str]]:
        """Return the opaque ids of the targets of each mailbox, by the commitment of its address."""
        found: dict[str, set[str]] = {}
        for runtime in list(self._monitor.targets.values()):
            for end in runtime.target.endpoints:
                if end.login and "@" in end.login.username:
                    ids = found.setdefault(mailbox_commitment(end.login.username), set())
                    ids.add(target_id(self._keys.secret, runtime.target.name))
        return {commitment: frozenset(ids) for commitment, ids in found.items()}

    async def _record_conflict(
        self, witness: Witness, state: WitnessState, request: AddCheckpoint, size: int, why: str
    ) -> None:
        """Record that a witness says that it has seen another history, once until it cosigns again; then raise."""
        if not state.conflict:
            state.conflict = True
            payload = {
                "checkpoint": size,
                "witness": witness.key,
                "refused": why,
                "old": request.old,
                "proof": [one.hex() for one in request.proof],
            }
            entry = await self._monitor.recorder.append("witness", now(), None, payload)
            facts: dict[str, object] = {"witness": True, "name": witness.name, "finding": why}
            await self._notify(
                Notification(
                    key=f"witness:{entry.index}", event_type=EventType.LEDGER, time=entry.time, facts=facts
                )
            )
        raise HistoryConflictError(why)

    def _note_failure(self, witness: Witness, state: WitnessState, error: Exception) -> None:
        """Log a failure, once as a warning until it changes."""
        outcome = "failed"
        if isinstance(error, HistoryConflictError):
            outcome, why = "conflict", f"it has seen another history of this ledger: {error}"
        elif isinstance(error, WitnessError | OSError):
            outcome, why = "refused" if isinstance(error, WitnessRefusedError) else "failed", str(error)
        else:
            why = f"internal error: {type(error).__name__}"
            self._monitor.metrics.internal_error()
            logger.exception("witness %s: internal error", witness.name)
        level = logging.INFO if why == state.problem else logging.WARNING
        logger.log(level, "witness %s did not cosign: %s", witness.name, why)
        state.problem = why
        self._monitor.metrics.witness(witness.name, outcome)

    def _restored(self, key: str) -> WitnessState:
        """Return the state of a witness by its latest entry."""
        state = WitnessState(key.partition("+")[0])
        limit = MAX_LOOKBACK * max(1, len(self._witnesses))
        for entry in self._reader.entries(kinds=["register"], descending=True, limit=limit):
            if entry.payload["witness"] == key:
                # If it cannot be read, the witness is asked again.
                with contextlib.suppress(CheckpointError):
                    stated = read_statement(entry.payload["statement"], parse_verifier_key(key))
                    targets = frozenset(entry.payload["targets"])
                    known = _Registration(entry.time, entry.time, targets, _found_by(stated))
                    state.registered.setdefault(stated.commitment, known)
        for entry in self._reader.entries(kinds=["witness"], descending=True, limit=limit):
            payload: dict[str, Any] = entry.payload
            if payload.get("witness") != key:
                continue
            if "refused" in payload:
                state.conflict, state.problem = True, str(payload["refused"])
                continue
            state.size, state.at = int(payload["checkpoint"]), int(payload["time"])
            break
        if state.at is not None:
            self._monitor.metrics.witness_restored(state.name, state.size, state.at, state.conflict)
        return state


def _found_by(stated: RegisterStatement) -> tuple[int, int, tuple[str, ...]]:
    return stated.refused, stated.others_count, stated.others
