"""Checks a checkpoint against what was cosigned before, and cosigns it (C2SP tlog-witness). Not asynchronous."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.consistency import ConsistencyError, verify_consistency
from mailwatch.ledger.cosignature import Signature, VerifierKey, cosign, cosigner_key
from mailwatch.ledger.merkle import EMPTY_ROOT
from mailwatch.ledger.witness_register import (
    MAX_OTHERS,
    RegisterStatement,
    parse_register_request,
    verify_register_request,
)
from mailwatch.ledger.witness_request import (
    SIZE_TYPE,
    AddCheckpoint,
    RequestError,
    SubmittedCheckpoint,
    parse_add_checkpoint,
    parse_submitted,
)
from mailwatch.store.witness_register import Refusal, WitnessedLedger, WitnessRegister
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)


TEXT_TYPE = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer over HTTP: status, body and content type."""

    status: int
    body: str
    content_type: str = TEXT_TYPE


class _AnswerError(Exception):
    """The request is not cosigned; `answer` says why."""

    def __init__(self, status: int, why: str, content_type: str = TEXT_TYPE) -> None:
        super().__init__(why)
        self.answer = Answer(status, f"{why}\n", content_type)


class Cosigner:
    """A witness. `logs`: the keys of the ledgers that may use it. `read_clock`: milliseconds since 1970."""

    def __init__(
        self,
        private: Ed25519PrivateKey,
        register: WitnessRegister,
        logs: Iterable[VerifierKey],
        read_clock: Callable[[], Millis] = now,
    ) -> None:
        self._private, self._register, self._read_clock = private, register, read_clock
        self.key = cosigner_key(private.public_key())
        self.others: Callable[[str], VerifierKey | None] = lambda _origin: None
        """Returns the key of another ledger that may use it now, by its name."""
        self.allow(logs)

    def allow(self, logs: Iterable[VerifierKey]) -> None:
        """Replace the keys of the ledgers that may use it. A ledger's name is that of its key."""
        self._logs = {log.name: log for log in logs}

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer the request `add-checkpoint`. Raises StoreError."""
        try:
            request = parse_add_checkpoint(body)
            submitted = parse_submitted(request.note)
            return self._cosigned(request, submitted)
        except RequestError as error:
            return Answer(400, f"{error}\n")
        except _AnswerError as error:
            return error.answer

    def known(self, origin: str) -> WitnessedLedger | None:
        """Return what was cosigned of a ledger; None before its first cosignature. Raises StoreError."""
        return self._register.ledger(origin)

    def cosign_whole(self, made: Checkpoint, note: str) -> Signature | None:
        """Cosign a checkpoint all of whose entries are here and go through what was cosigned before.

        None if a later one was cosigned already. Raises RequestError, StoreError.
        """
        submitted, found = parse_submitted(note), list[Signature]()

        def decide(known: WitnessedLedger | None) -> WitnessedLedger:
            if known is not None and known.size > made.size:
                return known
            at = self._read_clock()
            found.append(cosign(submitted.text, self._private, at // 1000))
            return WitnessedLedger(
                origin=made.origin,
                first_size=made.size,
                first_at=at,
                size=made.size,
                at=at,
                root=made.root,
                note=f"{note}{found[0]}\n",
            )

        self._register.update(made.origin, decide)
        return found[0] if found else None

    def refuse(self, origin: str, reason: str, request: str) -> None:
        """Keep a request that shows another history than was cosigned. Raises StoreError."""
        self._register.refuse(Refusal(origin, self._read_clock(), reason, request))

    def register(self, body: bytes) -> Answer:
        """Answer a ledger's request about one of its mailboxes: register it, and state what is known.

        Raises StoreError.
        """
        try:
            note = body.decode()
            origin, commitment = parse_register_request(note, self.key.name)
            if (key := self._logs.get(origin)) is None:
                return Answer(404, "this witness does not know that ledger\n")
            verify_register_request(note, origin, key.public)
        except UnicodeDecodeError:
            return Answer(400, "the request is not UTF-8\n")
        except CheckpointError as error:
            return Answer(403, f"{error}\n")
        if (known := self._register.ledger(origin)) is None:
            return Answer(404, "no checkpoint of that ledger was cosigned here\n")
        at = self._read_clock()
        try:
            (mailbox,) = self._register.add_mailboxes(origin, [commitment], at)
        except ValueError as error:
            return Answer(403, f"{error}\n")
        statement = RegisterStatement(
            witness=self.key.name,
            time=at // 1000,
            ledger=origin,
            first_size=known.first_size,
            first_at=known.first_at // 1000,
            size=known.size,
            at=known.at // 1000,
            refused=len(self._register.refusals(origin)),
            commitment=commitment,
            since=mailbox.since // 1000,
            others_count=len(mailbox.others),
            others=mailbox.others[:MAX_OTHERS],
        )
        return Answer(200, statement.sign(self._private))

    def checkpoint(self, origin_hash: str) -> Answer:
        """Answer the request for the newest cosigned checkpoint of the ledger whose name has that SHA-256."""
        for origin in self._logs:
            if hashlib.sha256(origin.encode()).hexdigest() == origin_hash:
                known = self._register.ledger(origin)
                if known is not None:
                    return Answer(200, known.note)
        return Answer(404, "no checkpoint of that ledger was cosigned here\n")

    def _authenticate(self, submitted: SubmittedCheckpoint) -> Signature:
        """Return the signature of the checkpoint's ledger, which may use this witness. Raises _AnswerError."""
        origin = submitted.checkpoint.origin
        key = self._logs.get(origin) or self.others(origin)
        if key is None:
            raise _AnswerError(404, "this witness does not know that ledger")
        own = [one for one in submitted.signatures if one.is_by(key)]
        if not own:
            raise _AnswerError(403, "no signature by the key of that ledger")
        try:
            for one in own:
                key.public.verify(one.raw, submitted.text.encode())
        except InvalidSignature:
            raise _AnswerError(403, "invalid signature by the key of that ledger") from None
        return own[0]

    def _cosigned(self, request: AddCheckpoint, submitted: SubmittedCheckpoint) -> Answer:
        made, signed_by = submitted.checkpoint, self._authenticate(submitted)
        if request.old > made.size:
            raise _AnswerError(400, "the old size is larger than the checkpoint")
        cosignatures: list[Signature] = []

        def decide(known: WitnessedLedger | None) -> WitnessedLedger:
            self._check(request, submitted, known)
            at = self._read_clock()
            cosignatures.append(cosign(submitted.text, self._private, at // 1000))
            note = f"{submitted.text}\n{signed_by}\n{cosignatures[0]}\n"
            return WitnessedLedger(
                origin=made.origin,
                first_size=made.size,
                first_at=at,
                size=made.size,
                at=at,
                root=made.root,
                note=note,
            )

        try:
            self._register.update(made.origin, decide)
        except ConsistencyError as error:
            self._refuse(request, submitted, str(error))
            raise _AnswerError(422, f"not consistent with what was cosigned before: {error}") from None
        return Answer(200, f"{cosignatures[0]}\n")

    def _check(
        self, request: AddCheckpoint, submitted: SubmittedCheckpoint, known: WitnessedLedger | None
    ) -> None:
        """Check that the checkpoint continues what is known. Raises _AnswerError, ConsistencyError."""
        size, root = (0, EMPTY_ROOT) if known is None else (known.size, known.root)
        if request.old != size:
            raise _AnswerError(409, str(size), SIZE_TYPE)
        made = submitted.checkpoint
        if made.size == 0 and made.root != EMPTY_ROOT:
            raise ConsistencyError("the root of the empty tree differs")
        verify_consistency(size, made.size, request.proof, root, made.root)

    def _refuse(self, request: AddCheckpoint, submitted: SubmittedCheckpoint, reason: str) -> None:
        origin = submitted.checkpoint.origin
        logger.warning("witness: %s showed a history that does not continue what was cosigned: %s", origin, reason)
        self.refuse(origin, reason, request.text())
