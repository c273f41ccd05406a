"""Writes the bundle: a zip, written as a stream, with the same bytes for the same ledger and inputs.

outage.json      the claims about an outage; about a window of time: period.json
report.pdf       the same for people, with that file attached
entries.jsonl    the whole range of the ledger, in order: {"header": ..., "payload": ...} in canonical JSON;
                 without the payloads of targets that are not part of this case
proof.json       the Merkle tree before the range, and all signed checkpoints in the range
tokens/          the raw replies of timestamp authorities, and the certificates that they chain to
keys/ledger.pub  the key that signs the ledger
keys/maker.pub   if another one made the bundle: the key of a hub to which the ledger was pushed
VERIFY.md        how to verify all this, even without MailWatch; verify.py is a checker that needs only Python
manifest.json    the SHA-256 and the size of each file; manifest.sig: signed by the ledger's key, else the maker's

VERIFY.md is in the report's language.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from typing import IO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mailwatch.evidence.chain import first_entry
from mailwatch.evidence.ledger_range import PUBLIC_KINDS, LedgerRange
from mailwatch.evidence.stated import MAKER_KEY
from mailwatch.ledger.checkpoint import origin_of, sign_text, verifier_key
from mailwatch.ledger.entry_line import entry_line
from mailwatch.ledger.merkle import CompactRange
from mailwatch.store import CheckpointRow, Reader, StoreDamagedError
from mailwatch.store.keys import EvidenceKeys, PushedKeys

INSTRUCTION_FILES = {"en": "VERIFY.md", "it": "VERIFICA.md"}


ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""The date of each file in the zip: the real date means nothing, and would differ each time."""
PROOF_FORMAT = "mailwatch-proof/1"
COMPRESSION_LEVEL = 3
"""A sixth larger than at level 6, in half the time."""
PART_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """A file of the bundle, whole in memory."""

    name: str
    content: bytes


def instructions(language: str, origin: str, statement_name: str) -> File:
    """Return the instructions for verifying a bundle of the ledger `origin`."""
    name = INSTRUCTION_FILES[language]
    text = (resources.files("mailwatch.evidence") / "standalone" / name).read_text(encoding="utf-8")
    return File(name, text.replace("outage.json", statement_name).replace("{ledger}", origin).encode())


def standalone_checker() -> File:
    """Return the script that verifies a bundle with Python alone."""
    return File("verify.py", (resources.files("mailwatch.evidence") / "standalone" / "verify.py").read_bytes())


def manifest_files(files: Mapping[str, Mapping[str, str | int]], key: Ed25519PrivateKey) -> list[File]:
    """Return the manifest of files, each with its SHA-256 and size, and its signature as a note."""
    origin = origin_of(key.public_key())
    manifest = pretty_json({"format": "mailwatch-manifest/1", "files": files})
    text = f"{origin}\nmanifest {hashlib.sha256(manifest).hexdigest()}\n"
    return [File("manifest.json", manifest), File("manifest.sig", sign_text(text, origin, key).encode())]


class Bundle:
    """A zip being written to `out`; `close` adds the manifest."""

    def __init__(self, out: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION_LEVEL)
        self._manifest: dict[str, dict[str, str | int]] = {}

    def add(self, name: str, parts: Iterable[bytes]) -> None:
        """Write one file from its parts."""
        digest, size = hashlib.sha256(), 0

        def write_part(part: bytes) -> None:
            digest.update(part)
            file.write(part)

        # By name: a ZipInfo would not inherit the level. The date is 1980-01-01 either way. Always zip64: the
        # file's size is unknown when its header is written. One part is compressed while the next is fetched: they
        # use different processors.
        with self._zip.open(name, "w", force_zip64=True) as file, ThreadPoolExecutor(1) as packer:
            packed = packer.submit(write_part, b"")
            for part in join_parts(parts):
                size += len(part)
                packed.result()
                packed = packer.submit(write_part, part)
            packed.result()
        self._manifest[name] = {"sha256": digest.hexdigest(), "size": size}

    def close(self, key: Ed25519PrivateKey) -> None:
        """Write the manifest and its signature."""
        for file in manifest_files(self._manifest, key):
            self.add(file.name, [file.content])
        self._zip.close()

    def discard(self) -> None:
        """Close the zip, even an abandoned one, which would otherwise warn when garbage-collected."""
        with contextlib.suppress(ValueError, OSError):
            self._zip.close()


def join_parts(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join small parts into parts of about a megabyte; the last part may be smaller."""
    held, size = list[bytes](), 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= PART_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def write_bundle(
    out: IO[bytes],
    reader: Reader,
    range_: LedgerRange,
    keys: EvidenceKeys,
    own: Iterable[str],
    files: Iterable[File],
) -> None:
    """Write the bundle of a range. `own`: the targets whose entries include their payloads.

    Raises StoreDamagedError; the output is then not a bundle.
    """
    origin = keys.origin
    tied = pretty_json(proof(range_, origin) | first_entry(reader, range_.start))
    bundle = Bundle(out)
    try:
        for file in files:
            bundle.add(file.name, [file.content])
        bundle.add("entries.jsonl", entry_lines(range_, reader, frozenset(own)))
        bundle.add("proof.json", [tied])
        for token in range_.tokens:
            bundle.add(f"tokens/{token.digest}.tsr", [token.reply])
        bundle.add("keys/ledger.pub", [_key_file(keys.public)])
        if isinstance(keys, PushedKeys):
            bundle.add(MAKER_KEY, [_key_file(keys.private.public_key())])
        bundle.close(keys.private)
    finally:
        bundle.discard()


def _key_file(key: Ed25519PublicKey) -> bytes:
    return f"{verifier_key(origin_of(key), key)}\n".encode()


def entry_lines(range_: LedgerRange, reader: Reader, own: frozenset[str]) -> Iterator[bytes]:
    """Yield entries, one per line; payloads only of the targets in `own` and of MailWatch's own entries."""
    carried = {index for index, _ in range_.carried}
    for index, kind, _, target, header, text in range_.raw_entries(reader):
        is_shown = target in own if target is not None else kind in PUBLIC_KINDS or index in carried
        yield entry_line(header, text if is_shown else None)


def _subtrees(row: CheckpointRow) -> CompactRange:
    """Return the tree up to a checkpoint. Raises StoreDamagedError if it does not match the signed root."""
    if row.size == 0:
        return CompactRange()
    signed = row.note.splitlines()[2]
    try:
        tree = CompactRange.from_bytes(row.size, row.hashes)
    except ValueError:
        tree = CompactRange()
    if base64.b64encode(tree.root()).decode() != signed:
        what = f"the subtrees kept with checkpoint {row.size} are damaged"
        advice = "evidence cannot begin there; use an earlier --from, or restore the database from your backup"
        raise StoreDamagedError(f"{what}; {advice}", what)
    return tree


def proof(range_: LedgerRange, origin: str) -> dict[str, object]:
    """Return proof.json, which ties the range to signed checkpoints. Raises StoreDamagedError."""
    start = _subtrees(range_.start)
    return {
        "format": PROOF_FORMAT,
        "ledger": origin,
        "start": {"size": start.size, "hashes": [one.hex() for one in start.hashes]},
        "end": range_.end.size,
        "checkpoints": [row.note for row in range_.checkpoints],
        "tokens": [
            {
                "file": f"tokens/{token.digest}.tsr",
                "entry": token.entry,
                "checkpoint": token.checkpoint,
                "authority": token.authority,
            }
            for token in range_.tokens
        ],
        **({} if range_.announcement is None else {"announcement": range_.announcement.as_json()}),
    }


def pretty_json(value: Mapping[str, object]) -> bytes:
    """Return readable JSON: two spaces, keys in the given order."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
