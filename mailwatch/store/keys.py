"""The ledger's signing key and the secret of its opaque names, made at the first start."""

from __future__ import annotations

import os
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

from mailwatch.endings import Refused
from mailwatch.ledger.checkpoint import origin_of, verifier_key


class KeysMissing(Refused):
    """The ledger has entries, but the key that signs it is gone or is another one."""


@dataclass(frozen=True, slots=True)
class Keys:
    """`private` signs checkpoints; `secret` makes the opaque target ids. Neither shows in a repr."""

    private: Ed25519PrivateKey = field(repr=False)
    secret: bytes = field(repr=False)

    @property
    def public(self) -> Ed25519PublicKey:
        """The key that others verify with."""
        return self.private.public_key()

    @property
    def origin(self) -> str:
        """The ledger's name."""
        return origin_of(self.public)


def load_or_make(data_dir: Path) -> Keys:
    """Read the keys of a data_dir, making them when there is none. Raises KeysMissing when half is gone."""
    folder = data_dir / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    signing, naming = folder / "ledger.pem", folder / "targets.key"
    if not signing.exists() and not naming.exists():
        # The database is younger than its keys: with entries and no keys, they were lost.
        if (data_dir / "mailwatch.sqlite").exists():
            raise KeysMissing(f"{folder} is empty, but there is a ledger; restore the keys from your backup")
        private = Ed25519PrivateKey.generate()
        write_whole(naming, secrets.token_bytes(32))
        write_whole(signing, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        key = load_pem_private_key(signing.read_bytes(), None)
        secret = naming.read_bytes()
    except FileNotFoundError as error:
        raise KeysMissing(f"{error.filename} is missing; restore it from your backup") from None
    except ValueError:
        raise KeysMissing(f"{signing} is not a key; restore it from your backup") from None
    if not isinstance(key, Ed25519PrivateKey) or len(secret) != 32:
        raise KeysMissing(f"{folder} does not hold MailWatch's keys; restore them from your backup")
    keys = Keys(key, secret)
    public = folder / "ledger.pub"
    if not public.exists():
        public.write_text(verifier_key(keys.origin, keys.public) + "\n")
    return keys


def secret_of(data_dir: Path) -> bytes:
    """Read the secret of the ledger's opaque names, and make nothing. Raises OSError."""
    return (data_dir / "keys" / "targets.key").read_bytes()


def write_whole(path: Path, data: bytes) -> None:
    """Write a new file that is whole or not there at all, readable by its owner only. Raises OSError."""
    torn = path.with_suffix(".new")
    try:
        # Buffered: a disk that is nearly full takes a part of what a bare write is given, and says nothing.
        with os.fdopen(os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        torn.unlink(missing_ok=True)
        raise
    torn.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
