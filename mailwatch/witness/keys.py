"""The key with which this MailWatch cosigns checkpoints of others. It never signs its own: that is another key."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from mailwatch.errors import OperationError
from mailwatch.files import write_atomic
from mailwatch.ledger.cosignature import VerifierKey, cosigner_key

FILE, PUBLIC = "witness.key", "witness.pub"
"""In the folder `keys` of a data_dir: the private key in PEM, and what its witness gives to others."""


class WitnessKeyError(OperationError):
    """The key of the witness cannot be used."""


def load_witness_key(data_dir: Path) -> Ed25519PrivateKey:
    """Return the key, made now if there is none, and write the public one. Raises WitnessKeyError, OSError."""
    folder = data_dir / "keys"
    path = folder / FILE
    try:
        found = load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        found = Ed25519PrivateKey.generate()
        write_atomic(path, found.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except (ValueError, TypeError):
        raise WitnessKeyError(f"{path} is not a key; restore it from your backup") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise WitnessKeyError(f"{path} is not an Ed25519 key; restore it from your backup")
    public, wanted = folder / PUBLIC, f"{cosigner_key(found.public_key())}\n".encode()
    if not public.exists() or public.read_bytes() != wanted:
        write_atomic(public, wanted)
    return found


def witness_vkey(data_dir: Path) -> VerifierKey:
    """Return the public key of the witness of a data_dir. Raises WitnessKeyError, OSError."""
    return cosigner_key(load_witness_key(data_dir).public_key())
