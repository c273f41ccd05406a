"""What a witness states about a ledger and one of its mailboxes: since when, and who else came for it. Pure.

No address is sent: a mailbox is named by its commitment. The statement is a signed note with
a signature type of our own (C2SP signed-note, 0xff), and a first line that no cosignature begins with.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mailwatch.ledger.checkpoint import CheckpointError, raw_public, sign_text
from mailwatch.ledger.cosignature import (
    Signature,
    VerifierKey,
    cosigner_key,
    log_key,
    open_note,
    split_note,
)
from mailwatch.times import Millis

FORMAT = "mailwatch-register/v1"
_TYPE = b"\xff" + FORMAT.encode()
MAX_OTHERS = 20
"""Most other ledgers to name; more are only counted."""
_REQUEST = re.compile(r"(\S+)\nregister (\S+)\nmailbox ([0-9a-f]{64})\n")
_STATEMENT = re.compile(
    r"mailwatch-register/v1\nwitness (\S+)\ntime (0|[1-9][0-9]{0,12})\nledger (\S+)\n"
    r"first (0|[1-9][0-9]{0,17}) (0|[1-9][0-9]{0,12})\nlatest (0|[1-9][0-9]{0,17}) (0|[1-9][0-9]{0,12})\n"
    r"refused (0|[1-9][0-9]{0,8})\nmailbox ([0-9a-f]{64}) (0|[1-9][0-9]{0,12})\n"
    r"others (0|[1-9][0-9]{0,8})((?: \S+)*)\n"
)


def mailbox_commitment(address: str) -> str:
    """Return the commitment of a mailbox: SHA-256 of `mailwatch-box/1`, a newline, its address in lower case."""
    return hashlib.sha256(f"mailwatch-box/1\n{address.strip().lower()}".encode()).hexdigest()


def register_request(origin: str, private: Ed25519PrivateKey, witness: str, commitment: str) -> str:
    """Return the request of a ledger to a witness about one mailbox, signed by the ledger's key."""
    return sign_text(f"{origin}\nregister {witness}\nmailbox {commitment}\n", origin, private)


def parse_register_request(note: str, witness: str) -> tuple[str, str]:
    """Return the ledger and the commitment of a request to `witness`, unverified. Raises CheckpointError."""
    found = _REQUEST.fullmatch(split_note(note)[0])
    if found is None or found[2] != witness:
        raise CheckpointError(f"expected a request to register a mailbox at {witness}, got something else")
    return found[1], found[3]


def verify_register_request(note: str, origin: str, public: Ed25519PublicKey) -> None:
    """Verify that the ledger `origin` signed a request. Raises CheckpointError."""
    open_note(note, log_key(origin, public))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterStatement:
    """A witness's statement at a time. Times are in seconds since 1970.

    `first_size`, `first_at`: the first checkpoint of the ledger that it cosigned. `size`, `at`: the newest; all in
    between were consistent. `refused`: how many histories it refused. `since`: when the ledger registered the
    mailbox. `others`: other ledgers that did, the first MAX_OTHERS of `others_count`.
    """

    witness: str
    time: int
    ledger: str
    first_size: int
    first_at: int
    size: int
    at: int
    refused: int
    commitment: str
    since: int
    others_count: int
    others: tuple[str, ...]

    def text(self) -> str:
        """Return the text that is signed."""
        return (
            f"{FORMAT}\nwitness {self.witness}\ntime {self.time}\nledger {self.ledger}\n"
            f"first {self.first_size} {self.first_at}\nlatest {self.size} {self.at}\nrefused {self.refused}\n"
            f"mailbox {self.commitment} {self.since}\n"
            f"others {self.others_count}{''.join(f' {other}' for other in self.others)}\n"
        )

    def sign(self, private: Ed25519PrivateKey) -> str:
        """Return the statement as a note signed by the witness's key."""
        text, key = self.text(), cosigner_key(private.public_key())
        return f"{text}\n{Signature(key.name, _key_id(key), private.sign(text.encode()))}\n"


def read_statement(note: str, key: VerifierKey) -> RegisterStatement:
    """Verify and parse a statement by the witness `key`, a cosigner's. Raises CheckpointError."""
    text, signed = split_note(note)
    if len(signed) != 1 or (signed[0].name, signed[0].key_id) != (key.name, _key_id(key)):
        raise CheckpointError(f"expected one signature by {key.name}, got something else")
    try:
        key.public.verify(signed[0].raw, text.encode())
    except InvalidSignature:
        raise CheckpointError(f"the signature of {key.name} does not match its statement") from None
    found = _STATEMENT.fullmatch(text)
    if found is None or found[1] != key.name:
        raise CheckpointError(f"expected a statement of {key.name}, got something else")
    first_size, first_at, size, at, refused = map(int, found.groups()[3:8])
    others = tuple(found[12].split())
    if len(others) != min(int(found[11]), MAX_OTHERS):
        raise CheckpointError("the statement counts other ledgers than it names")
    return RegisterStatement(
        witness=found[1], time=int(found[2]), ledger=found[3], first_size=first_size, first_at=first_at,
        size=size, at=at, refused=refused, commitment=found[9], since=int(found[10]),
        others_count=int(found[11]), others=others,
    )  # fmt: skip


def statement_time(note: str) -> Millis | None:
    """Return the time that a statement names, in milliseconds, unverified; None if it is no statement."""
    found = _STATEMENT.match(note)
    return None if found is None else int(found[2]) * 1000


def _key_id(key: VerifierKey) -> bytes:
    """Return the id of the witness's key for statements, which differs from its id for cosignatures."""
    return hashlib.sha256(key.name.encode() + b"\n" + _TYPE + raw_public(key.public)).digest()[:4]
