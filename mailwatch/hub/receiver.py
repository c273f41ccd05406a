"""Takes vantage points in by invitation, and verifies, keeps and cosigns what they push. Not asynchronous.

The only secret is the key of each ledger, with which its owner signs what it sends.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailwatch.hub.consents import consent_payload, consents
from mailwatch.hub.ledgers import MemberLedgers
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.consent import MAX_NOTE_BYTES as MAX_CONSENT_BYTES
from mailwatch.ledger.consent import Consent, read_consent
from mailwatch.ledger.cosignature import (
    Signature,
    VerifierKey,
    parse_verifier_key,
    signatures,
    split_note,
    verify_cosignature,
)
from mailwatch.ledger.enrolment import MAX_NOTE_BYTES, hub_keys, read_join
from mailwatch.ledger.push import Push, PushedEntry, PushError, PushTooLongError, parse_push
from mailwatch.ledger.witness_request import SIZE_TYPE, AddCheckpoint, RequestError, parse_size
from mailwatch.store import Reader
from mailwatch.store.hub_register import HubMember, HubRegister, HubRegisterError
from mailwatch.store.keys import Keys
from mailwatch.store.member_ledger import MemberLedger, OtherHistoryError
from mailwatch.store.proofs import consistency_between
from mailwatch.times import Millis, now
from mailwatch.witness.cosigner import Answer, Cosigner

logger = logging.getLogger(__name__)

AGREED_MS: Millis = 10_000
"""Milliseconds after which a member may state anew what it agrees to send."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """A push that was kept: whose, and its checkpoint."""

    member: HubMember
    checkpoint: Checkpoint
    at: Millis
    entries: Sequence[PushedEntry] = ()


@dataclass(frozen=True, slots=True)
class CosignedHere:
    """A member's cosignature of a checkpoint of the hub's own ledger, of `size` entries."""

    member: HubMember
    witness: VerifierKey
    size: int
    signature: Signature
    time: Millis
    at: Millis


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a member agrees to send from now on, and the note that says so."""

    member: HubMember
    consent: Consent
    note: str
    at: Millis

    def payload(self) -> dict[str, object]:
        """Return the payload of the entry about it."""
        return consent_payload(self.consent, self.note)


class Receiver:
    """A hub. `keys`, `reader`: of its own ledger. `on_push`, `on_cosigned`, `on_agreed`: called from any thread.

    `on_agreed` returns once it is on record, or raises StoreError.
    """

    def __init__(
        self,
        keys: Keys,
        reader: Reader,
        register: HubRegister,
        ledgers: MemberLedgers,
        cosigner: Cosigner,
        *,
        on_push: Callable[[Pushed], None] = lambda _: None,
        on_cosigned: Callable[[CosignedHere], None] = lambda _: None,
        on_agreed: Callable[[Agreed], None] = lambda _: None,
        read_clock: Callable[[], Millis] = now,
    ) -> None:
        self._keys, self._reader, self._register = keys, reader, register
        self._ledgers, self._cosigner, self._read_clock = ledgers, cosigner, read_clock
        self._on_push, self._on_cosigned, self._on_agreed = on_push, on_cosigned, on_agreed
        self._agreeing = threading.Lock()
        self._agreed: dict[str, tuple[str, Consent, Millis]] = {}
        """The newest note of each member that stated one since the start, what it says, and when it came."""
        self._members: dict[str, HubMember] = {}
        self._lock = threading.Lock()

    def keys(self) -> Answer:
        """Answer with the keys of this hub."""
        return Answer(200, hub_keys(self._keys.private, self._cosigner.key))

    def join(self, body: bytes) -> Answer:
        """Make the sender of a request a member; answer with the keys of this hub. Raises StoreError."""
        if len(body) > MAX_NOTE_BYTES:
            return Answer(413, f"a request to join has at most {MAX_NOTE_BYTES} bytes\n")
        try:
            member = self._register.join(read_join(body.decode()), self._read_clock())
        except UnicodeDecodeError:
            return Answer(400, "the request is not UTF-8\n")
        except CheckpointError as error:
            return Answer(400, f"{error}\n")
        except HubRegisterError as error:
            return Answer(403, f"{error}\n")
        logger.info("hub: %s joined, with the ledger %s", member.name, member.origin)
        return self.keys()

    def admits(self, log: str) -> Answer:
        """Answer 200 if a ledger is a member's, else why it is not. Raises StoreError."""
        member = self._member(log)
        return member if isinstance(member, Answer) else Answer(200, "")

    def member_key(self, origin: str) -> VerifierKey | None:
        """Return the key of a member's ledger, None if it is none now. Raises StoreError."""
        member = self._register.member(origin)
        return None if member is None or member.revoked_at is not None else parse_verifier_key(member.key)

    def newest(self, log: str) -> Answer:
        """Answer with the newest checkpoint that a ledger's owner pushed, with nothing before the first one.

        `log`: SHA-256 of the ledger's name, in hex. Raises StoreError.
        """
        member = self._member(log)
        if isinstance(member, Answer):
            return member
        with self._ledgers.using(member) as ledger:
            return Answer(200, ledger.note)

    def push(self, log: str, first: str, body: bytes) -> Answer:
        """Verify and keep a push, and answer with the cosignature of its checkpoint. Raises StoreError."""
        member = self._member(log)
        if isinstance(member, Answer):
            return member
        try:
            begin, push = parse_size(first), parse_push(body)
        except PushTooLongError as error:
            return Answer(413, f"{error}\n")
        except (RequestError, PushError) as error:
            return Answer(400, f"{error}\n")
        with self._ledgers.using(member) as ledger:
            if begin != ledger.size:
                return Answer(409, f"{ledger.size}\n", SIZE_TYPE)
            return self._keep(member, ledger, push)

    def checkpoint(self, known: str) -> Answer:
        """Answer with the newest checkpoint of this hub's own ledger, and the proof that the first `known` entries
        are its beginning, as a request `add-checkpoint`. Raises StoreError.
        """
        signed = self._reader.last_checkpoint()
        if signed is None:
            return Answer(404, "this hub has signed nothing yet\n")
        try:
            size = parse_size(known)
        except RequestError as error:
            return Answer(400, f"{error}\n")
        if size > signed.size:
            return Answer(409, f"{signed.size}\n", SIZE_TYPE)
        proof = consistency_between(self._reader, size, signed.size)
        return Answer(200, AddCheckpoint(size, proof, signed.note).text())

    def add_cosignature(self, log: str, size: str, body: bytes) -> Answer:
        """Take a member's cosignature of the checkpoint of `size` of this hub's own ledger. Raises StoreError."""
        member = self._member(log)
        if isinstance(member, Answer):
            return member
        try:
            wanted = parse_size(size)
            signed = self._reader.checkpoint(at_most=wanted)
            if signed is None or signed.size != wanted:
                return Answer(404, "this hub signed no checkpoint of that size\n")
            (signature,) = signatures(body.decode())
            key = parse_verifier_key(member.witness)
            time = verify_cosignature(signature, split_note(signed.note)[0], key)
        except UnicodeDecodeError:
            return Answer(400, "the request is not UTF-8\n")
        except (CheckpointError, RequestError, ValueError) as error:
            return Answer(400, f"{error}\n")
        self._on_cosigned(CosignedHere(member, key, wanted, signature, time, self._read_clock()))
        return Answer(200, "")

    def agree(self, log: str, body: bytes) -> Answer:
        """Take what a ledger's owner agrees to send, a signed note, and put it on record. Raises StoreError."""
        member = self._member(log)
        if isinstance(member, Answer):
            return member
        if len(body) > MAX_CONSENT_BYTES:
            return Answer(413, f"a note on what is sent has at most {MAX_CONSENT_BYTES} bytes\n")
        try:
            note = body.decode()
            stated = read_consent(note, parse_verifier_key(member.key).public)
        except UnicodeDecodeError:
            return Answer(400, "the request is not UTF-8\n")
        except CheckpointError as error:
            return Answer(403, f"{error}\n")
        if stated.hub != self._keys.origin:
            return Answer(400, f"it is for {stated.hub[:60]}\n")
        with self._agreeing:
            return self._agree(Agreed(member, stated, note, self._read_clock()))

    def _agree(self, agreed: Agreed) -> Answer:
        ledger = agreed.member.origin
        known = self._agreed.get(ledger)
        if known is None and (recorded := consents(self._reader, self._keys.origin).get(ledger)) is not None:
            known = *recorded, 0
        if known is not None:
            note, before, came = known
            if note == agreed.note:
                return Answer(200, "")
            if agreed.consent.at < before.at:
                return Answer(400, "a later one is on record\n")
            if 0 <= agreed.at - came < AGREED_MS:
                # Each is an entry for good.
                return Answer(429, "it was changed a moment ago; try again later\n")
        self._on_agreed(agreed)
        self._agreed[ledger] = agreed.note, agreed.consent, agreed.at
        return Answer(200, "")

    def members(self) -> list[HubMember]:
        """Return all members. Raises StoreError."""
        return self._register.members()

    def _member(self, log: str) -> HubMember | Answer:
        """Return the member whose ledger's name has that SHA-256, or what to answer without one."""
        member = self._find(log)
        if member is None:
            return Answer(404, "this hub does not know that ledger; join it by an invitation\n")
        if member.revoked_at is not None:
            return Answer(403, "this ledger was removed from this hub\n")
        return member

    def _find(self, log: str) -> HubMember | None:
        with self._lock:
            origin = self._members[log].origin if log in self._members else ""
        if origin:
            # Read anew each time: another process may have removed it.
            return self._register.member(origin)
        found = {hashlib.sha256(one.origin.encode()).hexdigest(): one for one in self._register.members()}
        with self._lock:
            self._members = found
        return found.get(log)

    def _keep(self, member: HubMember, ledger: MemberLedger, push: Push) -> Answer:
        at, known = self._read_clock(), self._cosigner.known(member.origin)
        cosigned = None if known is None else Checkpoint(known.origin, known.size, known.root)
        try:
            signed, entries = ledger.append(push, at, cosigned)
        except CheckpointError as error:
            return Answer(403, f"{error}\n")
        except OtherHistoryError as error:
            logger.warning("hub: %s shows another history than before: %s", member.name, error)
            self._cosigner.refuse(member.origin, str(error), f"{push.before}\n{push.note}")
            return Answer(422, f"{error}\n")
        except PushError as error:
            return Answer(400, f"{error}\n")
        self._register.note_push(member.origin, signed.size, at)
        cosignature = self._cosigner.cosign_whole(signed, push.note)
        self._on_push(Pushed(member, signed, at, entries))
        return Answer(200, "" if cosignature is None else f"{cosignature}\n")
