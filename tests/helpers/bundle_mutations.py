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
from zoneinfo import ZoneInfo

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from mailwatch.cli import main
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.checkpoint import Checkpoint, origin_of, sign, sign_text
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.store import Store, Tokens
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
    """The bundle of an outage that never changes."""
    return Original(FOLDER / "case.zip", private_key(FOLDER / "ledger.pem"))


def period() -> Original:
    """The bundle of a window that never changes."""
    return Original(FOLDER / "period.zip", private_key(FOLDER / "period-ledger.pem"))


@dataclass(frozen=True)
class Joint:
    """A joint zip that encloses its bundles, to be changed by anyone who does not hold the key of who merged."""

    path: Path
    keys: tuple[Ed25519PrivateKey, ...]
    """The keys of the members' operators, who can change their member as well."""

    @cached_property
    def files(self) -> Files:
        """What is in it."""
        return files_of(self.path)

    def mutant(self, chance: random.Random, number: int) -> tuple[bytes, bool]:
        """Give a changed zip, and whether the operator of a member signed that again."""
        kind, files = number % 8, self.files
        if kind == 0:
            return altered(self.path.read_bytes(), chance), False
        if kind in (1, 5):
            member = chance.choice(sorted(name for name in files if name.startswith("members/")))
            changed, signed = self._changed_member(files[member], chance, number // 8)
            return zipped(_renamed(files, member, changed)), signed
        own = sorted(name for name in files if not name.startswith("members/"))
        name = own[number // 8 % len(own)]
        changed = altered(files[name], chance) if chance.random() < 0.5 else retyped(files[name], chance)
        return zipped(files | {name: changed}), False

    def _changed_member(self, raw: bytes, chance: random.Random, number: int) -> tuple[bytes, bool]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "member.zip"
            path.write_bytes(raw)
            origin = files_of(path)["keys/ledger.pub"].decode().partition("+")[0]
            key = next(key for key in self.keys if origin_of(key.public_key()) == origin)
            return Original(path, key).mutant(chance, number)


def _renamed(files: Files, member: str, changed: bytes) -> Files:
    """Put a changed member in the place of another, and name it everywhere by its own SHA-256."""
    old, new = Path(member).stem, hashlib.sha256(changed).hexdigest()
    rest = {name: content for name, content in files.items() if name != member}
    for name in ("joint.json", "members.sha256"):
        rest[name] = rest[name].replace(old.encode(), new.encode())
    size = f'"size": {len(files[member])}'.encode()
    rest["joint.json"] = rest["joint.json"].replace(size, f'"size": {len(changed)}'.encode())
    return rest | {f"members/{new}.zip": changed}


def joint() -> Joint:
    """The joint zip that never changes."""
    return Joint(FOLDER / "joint.zip", (original().key, period().key))


def signed_joint(folder: Path) -> Joint:
    """A joint zip of the same bundles that is signed, with a bundle that was left out."""
    key, bad, path = folder / "merger.pem", folder / "bad.zip", folder / "signed-joint.zip"
    key.write_bytes(original().key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    bad.write_bytes((FOLDER / "case.zip").read_bytes()[:-100])
    bundles = [str(FOLDER / "case.zip"), str(FOLDER / "period.zip"), str(bad)]
    words = ["--enclose", "--keep-going", "--key", str(key), "--lang", "en", "-o", str(path)]
    assert main(["merge", *bundles, *words]) == 0
    return Joint(path, (original().key, period().key))


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


def write_more(folder: Path) -> None:
    """Make a window with tokens, and a joint zip of it and the outage."""
    from mailwatch.evidence.bundle import File, pretty_json
    from mailwatch.evidence.joint.bundle import write_joint
    from mailwatch.evidence.joint.member import read_member
    from mailwatch.evidence.joint.quorum import group_channels, joint_statement
    from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
    from mailwatch.evidence.report.joint import joint_report
    from mailwatch.evidence.verify import Trust

    with tempfile.TemporaryDirectory() as name:
        data, authority = Path(name) / "data", quiet(Path(name) / "authority")
        store = Store.open(data)
        operator = Operator(store, data)
        start = operator.clock() - 50_000
        operator.observe("+", start)
        operator.stamp(authority)
        for number, mark in enumerate("+---?-++++--++---++"):
            operator.observe(mark, start + 2000 * (number + 1))
        operator.stamp(authority)
        path, watched = folder / "period.zip", [ReportTarget("lab-imap", "lab", "imap")]
        with operator.reader() as reader, path.open("wb") as out:
            window = start + 1000, start + 38_000
            found = find_period_evidence(reader, Tokens(data), store.keys, window, watched, "here")
            pem = File("tokens/authority.pem", authority.chain.read_bytes())
            write_period_bundle(out, reader, store.keys, found, "en", [pem])
        store.close()
        shutil.copy(authority.chain, folder / "period-authority.pem")
        shutil.copy(data / "keys" / "ledger.pem", folder / "period-ledger.pem")
        trust = Trust.read([folder / "authority.pem", folder / "period-authority.pem"])
        paths = (path, folder / "case.zip")
        members = [read_member(one, trust) for one in paths]
        assert not any(member.reason for member in members), [member.reason for member in members]
        groups = group_channels(members)
        stated = joint_statement(groups, members, [])
        text = pretty_json(stated)
        report = joint_report(groups, stated, text, "en", ZoneInfo("Europe/Rome"))
        with (folder / "joint.zip").open("wb") as out:
            inside = [File("joint.json", text), File("report.pdf", report)]
            write_joint(out, inside, list(zip(members, paths, strict=True)), enclose=True)


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
    write_more(FOLDER)
