"""A bundle in hostile hands: each change is refused by the claim that names it, and nothing makes verify fail."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import stat
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.evidence.verify import Trust, entries, verify
from mailwatch.evidence.verify.archive import MAX_LINE_BYTES, MAX_VALUES, VerificationError
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.checkpoint import Checkpoint, origin_of, sign, sign_text, verifier_key
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.timestamp import MAX_REPLY_BYTES
from tests.helpers.bundle_files import Files, files_of, lines_of, pack, put_lines


def own(files: Files, outcome: str = "down") -> int:
    """The place of an observation of the outage's own target."""
    return next(n for n, line in enumerate(lines_of(files)) if f'"outcome":"{outcome}"'.encode() in line)


def edit_line(files: Files, number: int, old: bytes, new: bytes) -> None:
    lines = lines_of(files)
    assert old in lines[number], lines[number]
    lines[number] = lines[number].replace(old, new, 1)
    put_lines(files, lines)


def dropped(files: Files) -> None:
    lines = lines_of(files)
    del lines[own(files, "up")]
    put_lines(files, lines)


def swapped(files: Files) -> None:
    lines = lines_of(files)
    at = own(files)
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    put_lines(files, lines)


def inserted(files: Files) -> None:
    lines = lines_of(files)
    lines.insert(own(files), lines[own(files)])
    put_lines(files, lines)


def edited(files: Files) -> None:
    edit_line(files, own(files, "up"), b'"outcome":"up"', b'"outcome":"down"')


def edited_and_resealed(files: Files) -> None:
    """The payload changed, and the digest in its header with it."""
    lines = lines_of(files)
    at = own(files, "up")
    entry = json.loads(lines[at])
    entry["payload"]["outcome"] = "down"
    text = json.dumps(entry["payload"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    entry["header"]["payload"] = hashlib.sha256(text.encode()).hexdigest()
    header = json.dumps(entry["header"], sort_keys=True, separators=(",", ":"))
    lines[at] = f'{{"header":{header},"payload":{text}}}\n'.encode()
    put_lines(files, lines)


def redated(files: Files) -> None:
    lines = lines_of(files)
    at = own(files)
    time = json.loads(lines[at])["header"]["time"]
    edit_line(files, at, f'"time":{time},"v"'.encode(), f'"time":{time + 1},"v"'.encode())


def hidden(files: Files) -> None:
    """A good observation of the target shown without its payload: all hashes still fit."""
    lines = lines_of(files)
    at = own(files, "up")
    lines[at] = lines[at].partition(b',"payload":{')[0] + b"}\n"
    put_lines(files, lines)


def cut_short(files: Files) -> None:
    put_lines(files, lines_of(files)[:-1])


def proof_of(files: Files, change: Callable[[dict[str, Any]], None]) -> None:
    proof = json.loads(files["proof.json"])
    change(proof)
    files["proof.json"] = json.dumps(proof).encode()


def resigned_checkpoint(files: Files) -> None:
    """One checkpoint signed by another key under the old name."""
    other_key = Ed25519PrivateKey.generate()

    def change(proof: dict[str, Any]) -> None:
        name, size, root = proof["checkpoints"][1].split("\n")[:3]
        proof["checkpoints"][1] = sign(Checkpoint(name, int(size), base64.b64decode(root)), other_key)

    proof_of(files, change)


def first_checkpoint_gone(files: Files) -> None:
    proof_of(files, lambda proof: proof["checkpoints"].pop(0))


def other_start(files: Files) -> None:
    proof_of(files, lambda proof: proof["start"]["hashes"].__setitem__(0, "00" * 32))


def token_moved(files: Files) -> None:
    """A token said to be over a later checkpoint than it is."""

    def change(proof: dict[str, Any]) -> None:
        proof["tokens"][0]["checkpoint"] = proof["tokens"][-1]["checkpoint"]

    proof_of(files, change)


def tokens_exchanged(files: Files) -> None:
    a, b, *_ = sorted(name for name in files if name.endswith(".tsr"))
    files[a], files[b] = files[b], files[a]


def token_dropped(files: Files) -> None:
    """The outside times after the end left out, so that the case seems to have been written at any later time."""
    end = json.loads(files["outage.json"])["outage"]["ledger"]["last"]

    def change(proof: dict[str, Any]) -> None:
        for token in [token for token in proof["tokens"] if token["checkpoint"] > end]:
            proof["tokens"].remove(token)
            del files[token["file"]]

    proof_of(files, change)


def lied_in_outage(files: Files) -> None:
    stated = json.loads(files["outage.json"])
    stated["outage"]["duration"]["min"] += 3600
    files["outage.json"] = json.dumps(stated).encode()


def lied_about_rules(files: Files) -> None:
    stated = json.loads(files["outage.json"])
    stated["rules"]["open_after"] = 1
    files["outage.json"] = json.dumps(stated).encode()


def lied_about_times(files: Files) -> None:
    stated = json.loads(files["outage.json"])
    stated["outside_times"]["not_after"] = stated["outage"]["first_good"]
    files["outage.json"] = json.dumps(stated).encode()


def report_of_another(files: Files) -> None:
    files["report.pdf"] = files["report.pdf"].replace(b"/Type /EmbeddedFile", b"/Type /EmbeddedFil_")
    stated = json.loads(files["outage.json"])
    stated["service"] = None
    files["outage.json"] = json.dumps(stated).encode()


def report_with_more(files: Files) -> None:
    files["report.pdf"] += b"more"


def instructions_changed(files: Files) -> None:
    files["VERIFY.md"] += b"Trust me.\n"


ATTACKS: list[tuple[Callable[[Files], None], str]] = [
    (dropped, "entries"),
    (swapped, "entries"),
    (inserted, "entries"),
    (edited, "entries"),
    (edited_and_resealed, "entries"),
    (redated, "entries"),
    (cut_short, "entries"),
    (hidden, "nothing left out"),
    (resigned_checkpoint, "checkpoints"),
    (first_checkpoint_gone, "checkpoints"),
    (other_start, "entries"),
    (token_moved, "tokens"),
    (tokens_exchanged, "tokens"),
    (token_dropped, "outage"),
    (lied_in_outage, "outage"),
    (lied_about_rules, "outage"),
    (lied_about_times, "outage"),
    (report_of_another, "report"),
    (report_with_more, "files"),
    (instructions_changed, "files"),
]


@pytest.mark.parametrize(("attack", "claim"), ATTACKS, ids=lambda value: getattr(value, "__name__", value))
def test_an_attack_is_refused_by_the_claim_that_names_it(
    bundle: Path, trust: Trust, tmp_path: Path, attack: Callable[[Files], None], claim: str
) -> None:
    files = files_of(bundle)
    attack(files)
    refused = [c for c in verify(pack(tmp_path / "forged.zip", files), trust) if not c.valid]
    assert refused[0].claim == claim, refused
    # Whatever else was done, the manifest cannot be signed again.
    assert "files" in {c.claim for c in refused}


def test_the_owner_cannot_rewrite_the_past(bundle: Path, tmp_path: Path, trust: Trust) -> None:
    """Who holds a key can make a whole ledger of its own, consistent in itself; the tokens are over another."""
    files, key = files_of(bundle), Ed25519PrivateKey.generate()
    edited_and_resealed(files)
    origin = origin_of(key.public_key())
    proof, stated = json.loads(files["proof.json"]), json.loads(files["outage.json"])
    tree = CompactRange(proof["start"]["size"], [bytes.fromhex(one) for one in proof["start"]["hashes"]])
    sizes = {int(note.split("\n")[1]) for note in proof["checkpoints"]}
    signed = [sign(Checkpoint(origin, tree.size, tree.root()), key)]
    for line in lines_of(files):
        header = json.dumps(json.loads(line)["header"], sort_keys=True, separators=(",", ":"))
        tree.append(leaf_hash(header.encode()))
        if tree.size in sizes:
            signed.append(sign(Checkpoint(origin, tree.size, tree.root()), key))
    proof |= {"ledger": origin, "checkpoints": signed}
    files["proof.json"] = json.dumps(proof).encode()
    files["outage.json"] = json.dumps(stated | {"ledger": origin}).encode()
    files["keys/ledger.pub"] = (verifier_key(origin, key.public_key()) + "\n").encode()
    pack(tmp_path / "forged.zip", files)
    manifest = files_of(tmp_path / "forged.zip")["manifest.json"]
    text = f"{origin}\nmanifest {hashlib.sha256(manifest).hexdigest()}\n"
    files |= {"manifest.json": manifest, "manifest.sig": sign_text(text, origin, key).encode()}
    forged = pack(tmp_path / "forged.zip", files, refresh=False)
    claims = {claim.claim: claim for claim in verify(forged, Trust(certificates=trust.certificates))}
    assert claims["entries"].valid, claims["entries"]
    assert claims["files"].valid, claims["files"]
    assert not claims["tokens"].valid
    assert not {claim.claim: claim for claim in verify(forged, trust)}["key"].valid


def test_a_key_may_hold_any_letter_of_base64(tmp_path: Path) -> None:
    """Its one-line form is divided by plus signs, which base64 has too."""
    while True:
        key = Ed25519PrivateKey.generate().public_key()
        text = verifier_key(origin_of(key), key)
        if text.count("+") > 2:
            break
    files = dict.fromkeys(("outage.json", "entries.jsonl", "proof.json", "manifest.json", "manifest.sig"), b"{}")
    claims = verify(pack(tmp_path / "key.zip", files | {"keys/ledger.pub": f"{text}\n".encode()}), Trust())
    assert claims[1].claim == "key"
    assert claims[1].valid, claims[1]


def with_two_names(path: Path, files: Files) -> None:
    pack(path, files)
    with zipfile.ZipFile(path, "a") as made, pytest.warns(UserWarning, match="Duplicate name"):
        made.writestr("outage.json", b"{}")


def with_traversal(path: Path, files: Files) -> None:
    pack(path, files | {"../../etc/cron.d/job": b"x"})


def with_bomb(path: Path, files: Files) -> None:
    pack(path, files | {"report.pdf": bytes(50 << 20)})


def with_deep_json(path: Path, files: Files) -> None:
    pack(path, files | {"outage.json": b'{"a":' * 100_000 + b"1" + b"}" * 100_000}, method=zipfile.ZIP_STORED)


def with_endless_line(path: Path, files: Files) -> None:
    chance = random.Random(1)
    pack(path, files | {"entries.jsonl": chance.randbytes(2 * MAX_LINE_BYTES).replace(b"\n", b"x")})


def with_garbage(path: Path, _: Files) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(100))


def with_a_link(path: Path, files: Files) -> None:
    """A reader who unpacks it would write what VERIFY.md says into a file of their own."""
    pack(path, {name: content for name, content in files.items() if name != "VERIFY.md"})
    link = zipfile.ZipInfo("VERIFY.md")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as made:
        made.writestr(link, "/root/.bashrc")


def with_bytes_before(path: Path, files: Files) -> None:
    pack(path, files)
    path.write_bytes(b"PK\3\4 another zip" + path.read_bytes())


def with_a_second_directory(path: Path, files: Files) -> None:
    """Ours is found from the end of the file; a search for the first one finds another."""
    other = pack(path.with_name("other.zip"), files | {"outage.json": b"{}"}).read_bytes()
    path.write_bytes(other + pack(path, files).read_bytes())


def with_a_comment(path: Path, files: Files) -> None:
    pack(path, files)
    with zipfile.ZipFile(path, "a") as made:
        made.comment = b"Trust me."


def with_fewer_files_than_listed(path: Path, files: Files) -> None:
    raw = bytearray(pack(path, files).read_bytes())
    raw[-14:-10] = b"\1\0\1\0"
    path.write_bytes(raw)


def with_a_hidden_file(path: Path, files: Files) -> None:
    """In the zip, but not in its directory: who reads it as a stream finds it."""
    raw = pack(
        path, {"outage.json": b"{}"} | {f"x{name}": content for name, content in files.items()}
    ).read_bytes()
    cut = raw[: raw.index(b"PK\3\4", 1)]
    whole = pack(path, files).read_bytes()
    end = len(whole) - 22
    start = int.from_bytes(whole[end + 16 : end + 20], "little")
    moved = (start + len(cut)).to_bytes(4, "little")
    path.write_bytes(whole[:start] + cut + whole[start : end + 16] + moved + whole[end + 20 :])


def with_a_long_token(path: Path, files: Files) -> None:
    pack(path, files | {f"tokens/{'ab' * 32}.tsr": bytes(MAX_REPLY_BYTES + 1)}, method=zipfile.ZIP_STORED)


def with_endless_values(path: Path, files: Files) -> None:
    pack(path, files | {"proof.json": b'{"a":[' + b"[]," * MAX_VALUES + b"0]}"}, method=zipfile.ZIP_STORED)


def without_proof(path: Path, files: Files) -> None:
    pack(path, {name: content for name, content in files.items() if name != "proof.json"})


def with_a_name_twice_in_json(path: Path, files: Files) -> None:
    raw = files["outage.json"].replace(b'{\n  "format"', b'{\n  "format": 1,\n  "format"', 1)
    pack(path, files | {"outage.json": raw})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (with_two_names, "two files of the name outage.json"),
        (with_traversal, "does not belong there"),
        (with_bomb, "would unpack"),
        (with_deep_json, "not JSON"),
        (with_endless_line, "a line of more than"),
        (with_garbage, "not a zip"),
        (with_a_link, "VERIFY.md is not a plain file"),
        (with_bytes_before, "other bytes before outage.json"),
        (with_a_second_directory, "other bytes before outage.json"),
        (with_a_comment, "in or behind its directory"),
        (with_fewer_files_than_listed, "not list as many files as it says"),
        (with_a_hidden_file, "other bytes before its directory"),
        (with_a_long_token, "would unpack to 65537 bytes"),
        (with_endless_values, "more than 1000000 values"),
        (without_proof, "proof.json is missing"),
        (with_a_name_twice_in_json, "stands twice"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_hostile_zip_is_refused_with_a_reason(
    bundle: Path, tmp_path: Path, make: Callable[[Path, Files], None], words: str
) -> None:
    make(tmp_path / "hostile.zip", files_of(bundle))
    refused = [claim for claim in verify(tmp_path / "hostile.zip", Trust()) if not claim.valid]
    assert words in refused[0].detail


def made_up(count: int, kind: str, payload: dict[str, Any] | None, targets: bool) -> Iterator[bytes]:
    """Lines of entries that fit their hashes."""
    text = "" if payload is None else canonical(payload)
    for index in range(count):
        header = {"index": index, "kind": kind, "number": 1 if targets else None, "payload": digest(text),
                  "target": f"{index:016x}" if targets else None, "time": 1, "v": 1}  # fmt: skip
        yield f'{{"header":{canonical(header)}{text and f",{chr(34)}payload{chr(34)}:{text}"}}}\n'.encode()


@pytest.mark.parametrize("kind", ["node", "token", "clock"])
@pytest.mark.slow
def test_the_scan_uses_constant_memory(kind: str) -> None:
    """A zip of two megabytes holds half a million of them."""
    payload = {"event": "start", "rules": {"x": "y" * 500}, "reply": "z", "milliseconds": 1}
    tracemalloc.start()
    walk = entries.scan(made_up(4000, kind, payload, False), CompactRange(), {}, frozenset(), lambda *_: None)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert walk.shown_count == 4000
    assert kept < 200_000


def test_a_ledger_of_endless_targets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "MAX_TARGETS", 100)
    with pytest.raises(VerificationError, match="has more than 100 targets"):
        entries.scan(made_up(101, "gap", None, True), CompactRange(), {}, frozenset(), lambda *_: None)
