"""The ledger's signing key and the secret for its opaque target ids, created at the first start."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from mailwatch.files import write_atomic
from mailwatch.ledger.checkpoint import origin_of, verifier_key
from mailwatch.store.errors import KeysMissingError

WITHOUT_BACKUP = "without one, begin its successor with `mailwatch run --successor`"
SIGNING, NAMING, PUBLIC = "ledger.pem", "targets.key", "ledger.pub"
WITNESS = "witness.pub"
"""The public key of this MailWatch as a witness, where it is one."""
PREDECESSORS = "predecessors.json"
"""Beside the keys of a successor: the payload of its first entry."""
SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys. `private`: signs checkpoints. `secret`: derives the opaque target ids. A repr contains neither."""

    private: Ed25519PrivateKey = field(repr=False)
    secret: bytes = field(repr=False)
    witness: str = ""
    """The key with which this MailWatch cosigns ledgers of others, `name+id+key`, "" without one."""

    @property
    def public(self) -> Ed25519PublicKey:
        """The public key for verification."""
        return self.private.public_key()

    @property
    def origin(self) -> str:
        """The ledger's name."""
        return origin_of(self.public)


@dataclass(frozen=True, slots=True)
class PushedKeys:
    """What a hub has to make evidence of a member's ledger: `public` is the ledger's key, `private` the hub's own.

    So the checkpoints are its owner's, and what the hub adds is under the hub's signature.
    """

    public: Ed25519PublicKey
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def origin(self) -> str:
        """The ledger's name."""
        return origin_of(self.public)


EvidenceKeys = Keys | PushedKeys
"""Keys with which evidence of a ledger is made: `public` is the ledger's, `private` signs the manifest."""


def make_keys(data_dir: Path) -> Keys:
    """Create the keys of a ledger without entries; replaces one key left by an interrupted first start. Raises
    OSError.
    """
    folder = data_dir / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    private = Ed25519PrivateKey.generate()
    write_atomic(folder / NAMING, secrets.token_bytes(SECRET_BYTES))
    write_atomic(folder / SIGNING, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return load_keys(data_dir)


def load_keys(data_dir: Path) -> Keys:
    """Read the keys of a ledger. Raises KeysMissingError, and OSError if they are not readable."""
    folder = data_dir / "keys"
    signing, naming = folder / SIGNING, folder / NAMING
    if not signing.exists() and not naming.exists():
        raise KeysMissingError(
            f"{folder} is empty, but there is a ledger; restore the keys from your backup (docs/how-to/backup.md)"
            f"; {WITHOUT_BACKUP}",
            "the ledger's keys are missing",
        )
    try:
        key = load_pem_private_key(signing.read_bytes(), None)
        secret = naming.read_bytes()
    except FileNotFoundError as error:
        raise KeysMissingError(
            f"{error.filename} is missing; restore it from your backup; {WITHOUT_BACKUP}"
        ) from None
    except (ValueError, TypeError):
        raise KeysMissingError(f"{signing} is not a key; restore it from your backup; {WITHOUT_BACKUP}") from None
    if not isinstance(key, Ed25519PrivateKey) or len(secret) != SECRET_BYTES:
        raise KeysMissingError(
            f"{folder} does not contain the keys of MailWatch; restore them from your backup; {WITHOUT_BACKUP}"
        )
    return Keys(key, secret, _public_witness(folder))


def _public_witness(folder: Path) -> str:
    try:
        return (folder / WITNESS).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def publish_public_key(data_dir: Path, keys: Keys) -> None:
    """Write the public key, derived from the private key, beside the others for verification. Raises OSError."""
    public, wanted = data_dir / "keys" / PUBLIC, f"{verifier_key(keys.origin, keys.public)}\n".encode()
    if not public.exists() or public.read_bytes() != wanted:
        write_atomic(public, wanted)


def read_secret(data_dir: Path) -> bytes:
    """Read the secret for opaque target ids; creates nothing. Raises OSError."""
    return (data_dir / "keys" / "targets.key").read_bytes()


def remove_partial_files(data_dir: Path) -> None:
    """Remove partial files left by a killed process. Only for the process that holds the lock."""
    for folder in ("keys", "tokens", "declarations"):
        for torn in (data_dir / folder).glob("*.new"):
            torn.unlink(missing_ok=True)
