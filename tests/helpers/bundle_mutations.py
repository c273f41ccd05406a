"""Random changes to evidence bundles, by people with and without the key of the ledger."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.checkpoint import Checkpoint, origin_of, sign, sign_text
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.store import Store
from tests.helpers.bundle_files import Files, files_of
from tests.helpers.malicious_operator import Operator, quiet
from tests.helpers.paths import TESTDATA

MUTATIONS = int(os.environ.get("MAILWATCH_MUTATIONS", "1000"))
"""How many are tried."""
FOLDER = TESTDATA / "mutations"
"""A bundle of few entries and two tokens, without a report, that never changes; with the key that signed it."""
ODD: list[Any] = [
    None, True, -1, 0, 2**53, 2**70, 10**400, "x", "", "\ud800", "2026-01-01T00:00:00Z", [], {}, [[]], 1.5, 1e300,
    float("inf"), float("nan"), {"a": {"b": [None]}},
]  # fmt: skip


@dataclass(frozen=True)
class Original:
    """A bundle to be changed, and the key of its ledger."""

    path: Path
    key: Ed25519PrivateKey

    @cached_property
    def raw(self) -> bytes:
        """The zip as it is."""
        return self.path.read_bytes()

    @cached_property
    def files(self) -> Files:
        """What is in it."""
        return files_of(self.path)

    def mutant(self, chance: random.Random, number: int) -> tuple[bytes, bool]:
        """Give a changed zip, and whether the operator signed it again as if it were a good one.

        The number says what is done to which file, so that each kind of change meets each file equally often; the
        rest is chance.
        """
        kind, files, key = number % 8, self.files, self.key
        if kind in (0, 4):
            return altered(self.raw, chance), False
        if kind == 1:
            return zipped(manifested(resealed(files, key, chance), key)), True
        name = sorted(files)[number // 8 % len(files)]
        changed = altered(files[name], chance) if chance.random() < 0.5 else retyped(files[name], chance)
        mutant = files | {name: changed}
        if number % 2 and not name.startswith("manifest"):
            return zipped(manifested(mutant, key)), True
        return zipped(mutant), False


def original() -> Original:
    """The bundle that never changes."""
    return Original(FOLDER / "case.zip", private_key(FOLDER / "ledger.pem"))


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key of a ledger."""
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def zipped(files: Files) -> bytes:
    """Stored: packing would take most of the time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return out.getvalue()


def manifested(files: Files, key: Ed25519PrivateKey) -> Files:
    """List the files as they are now, and sign that."""
    listed = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
        if not name.startswith("manifest.")
    }
    manifest, origin = json.dumps({"files": listed}).encode(), origin_of(key.public_key())
    text = f"{origin}\nmanifest {hashlib.sha256(manifest).hexdigest()}\n"
    return files | {"manifest.json": manifest, "manifest.sig": sign_text(text, origin, key).encode()}


def resealed(files: Files, key: Ed25519PrivateKey, chance: random.Random) -> Files:
    """Change, drop, double, move or re-date an entry; then make all headers, hashes and checkpoints fit again."""
    entries = [json.loads(line) for line in files["entries.jsonl"].splitlines()]
    at = chance.randrange(len(entries))
    match chance.randrange(6):
        case 0:
            del entries[at]
        case 1:
            entries.insert(at, entries[chance.randrange(len(entries))])
        case 2:
            to = chance.randrange(len(entries))
            entries[at], entries[to] = entries[to], entries[at]
        case 3:
            moved = chance.choice([-(10**9), -1, 1, 10**9])
            entries[at]["header"]["time"] += moved
            if "end" in entries[at].get("payload", {}):
                entries[at]["payload"]["end"] += moved
        case _:
            payload = entries[at].get("payload", entries[at]["header"])
            step = chance.choice(list(payload))
            payload[step] = chance.choice(ODD)
    proof = json.loads(files["proof.json"])
    tree = CompactRange(proof["start"]["size"], [bytes.fromhex(one) for one in proof["start"]["hashes"]])
    sizes = {int(note.split("\n")[1]) for note in proof["checkpoints"]}
    origin, lines, signed = proof["ledger"], [], []
    try:
        for step, entry in enumerate([None, *entries]):
            if entry is not None:
                entry["header"]["index"] = tree.size
                text = canonical(entry["payload"]) if "payload" in entry else None
                entry["header"]["payload"] = digest(text) if text is not None else entry["header"]["payload"]
                header = canonical(entry["header"])
                lines.append(f'{{"header":{header}' + (f',"payload":{text}' if text is not None else "") + "}\n")
                tree.append(leaf_hash(header.encode()))
            if tree.size and (tree.size in sizes or step == len(entries)):
                signed.append(sign(Checkpoint(origin, tree.size, tree.root()), key))
    except TypeError:
        # What cannot be written canonically at all.
        return files | {"entries.jsonl": altered(files["entries.jsonl"], chance)}
    proof |= {"checkpoints": signed, "end": tree.size}
    return files | {"entries.jsonl": "".join(lines).encode(), "proof.json": json.dumps(proof).encode()}


def altered(raw: bytes, chance: random.Random) -> bytes:
    """Flip a bit, cut or double some bytes, or exchange two lines."""
    made = bytearray(raw)
    at = chance.randrange(len(made))
    match chance.randrange(5):
        case 0 | 1:
            made[at] ^= 1 << chance.randrange(8)
        case 2:
            del made[at : at + chance.randrange(1, 40)]
        case 3:
            made[at:at] = made[at : at + chance.randrange(1, 40)]
        case _:
            lines = raw.splitlines(keepends=True)
            a, b = chance.randrange(len(lines)), chance.randrange(len(lines))
            lines[a], lines[b] = lines[b], lines[a]
            return b"".join(lines)
    return bytes(made)


def retyped(raw: bytes, chance: random.Random) -> bytes:
    """Give a value somewhere in the JSON another type, or another name."""
    try:
        value = json.loads(raw)
    except ValueError:
        return altered(raw, chance)
    place, parent, step = value, None, None
    while isinstance(place, dict | list) and place:
        parent, step = place, chance.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place = parent[step]
        if chance.random() < 0.3:
            break
    if parent is not None and step is not None:
        if isinstance(parent, dict) and chance.random() < 0.2:
            parent[str(step) + "x"] = parent.pop(step)
        else:
            parent[step] = chance.choice(ODD)
    return json.dumps(value).encode()


def write(folder: Path) -> None:
    """Make the bundle that never changes: `python -m tests.helpers.bundle_mutations` wrote it once."""
    with tempfile.TemporaryDirectory() as name:
        authority, store = quiet(Path(name) / "authority"), Store.open(Path(name) / "data")
        operator = Operator(store, Path(name) / "data")
        operator.observe("+")
        operator.stamp(authority)
        operator.observe("+---?-++")
        operator.stamp(authority)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(operator.bundle(authority), folder / "case.zip")
        shutil.copy(authority.chain, folder / "authority.pem")
        shutil.copy(Path(name) / "data" / "keys" / "ledger.pem", folder / "ledger.pem")
        store.close()


if __name__ == "__main__":
    write(FOLDER)
