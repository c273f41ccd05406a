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

SIGNING, NAMING, PUBLIC = "ledger.pem", "targets.key", "ledger.pub"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys. `private`: signs checkpoints. `secret`: derives the opaque target ids. A repr contains neither."""

    private: Ed25519PrivateKey = field(repr=False)
    secret: bytes = field(repr=False)

    @property
    def public(self) -> Ed25519PublicKey:
        """The public key for verification."""
        return self.private.public_key()

    @property
    def origin(self) -> str:
        """The ledger's name."""
        return origin_of(self.public)


def make_keys(data_dir: Path) -> Keys:
    """Create the keys of a ledger without entries; replaces one key left by an interrupted first start. Raises
    OSError.
    """
    folder = data_dir / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    private = Ed25519PrivateKey.generate()
    write_atomic(folder / NAMING, secrets.token_bytes(32))
    write_atomic(folder / SIGNING, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return load_keys(data_dir)


def load_keys(data_dir: Path) -> Keys:
    """Read the keys of a ledger. Raises KeysMissingError, and OSError if they are not readable."""
    folder = data_dir / "keys"
    signing, naming = folder / SIGNING, folder / NAMING
    if not signing.exists() and not naming.exists():
        raise KeysMissingError(
            f"{folder} is empty, but there is a ledger; restore the keys from your backup (docs/how-to/backup.md)",
            "the ledger's keys are missing",
        )
    try:
        key = load_pem_private_key(signing.read_bytes(), None)
        secret = naming.read_bytes()
    except FileNotFoundError as error:
        raise KeysMissingError(f"{error.filename} is missing; restore it from your backup") from None
    except (ValueError, TypeError):
        raise KeysMissingError(f"{signing} is not a key; restore it from your backup") from None
    if not isinstance(key, Ed25519PrivateKey) or len(secret) != 32:
        raise KeysMissingError(f"{folder} does not contain the keys of MailWatch; restore them from your backup")
    return Keys(key, secret)


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
    for folder in ("keys", "tokens"):
        for torn in (data_dir / folder).glob("*.new"):
            torn.unlink(missing_ok=True)
