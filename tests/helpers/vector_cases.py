"""The vectors of tests/vectors: bundles that are valid, and bundles of which one named claim must fail."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.evidence.bundle import pretty_json
from mailwatch.evidence.joint.member import read_member
from mailwatch.evidence.joint.quorum import group_channels, joint_statement, partition_members
from mailwatch.evidence.verify import Trust
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.checkpoint import Checkpoint, origin_of, sign
from mailwatch.ledger.consistency import consistency_proof
from mailwatch.ledger.cosignature import cosign, cosigner_key
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.model import Rules, TargetEvent
from mailwatch.probes.roundtrip.message import MessageToken, compose
from mailwatch.store import Reader
from tests.helpers.bundle_files import Files
from tests.helpers.bundle_mutations import manifested, original
from tests.helpers.dkim_signing import fixed_key, record_of, signed
from tests.helpers.joint_parts import least_pdf
from tests.helpers.ledger_factory import HOUR, MINUTE
from tests.helpers.vector_ledger import VectorLedger

Signed = tuple[Files, Ed25519PrivateKey]


@dataclass(frozen=True, slots=True)
class Vector:
    """A zip. `fails`: the claim that must fail, "" if all hold. `source`: the vector that was changed."""

    name: str
    content: bytes
    fails: str
    why: str
    source: str = ""


def zip_of(files: Files) -> bytes:
    """Stored, with fixed dates: the same bytes with any zlib."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            made.writestr(info, files[name])
    return out.getvalue()


def _plain(ledger: VectorLedger) -> Files:
    ledger.watch(TargetEvent.BEGIN)
    ledger.observe("++")
    ledger.sign()
    ledger.observe("+", target="other")
    ledger.observe("+---?-+-+ +")
    ledger.sign()
    ledger.observe("+")
    return ledger.outage()


def _open(ledger: VectorLedger) -> Files:
    ledger.observe("++")
    ledger.sign()
    ledger.observe("+----+-")
    return ledger.outage()


def _unwatched(ledger: VectorLedger) -> Files:
    ledger.watch(TargetEvent.BEGIN)
    ledger.observe("++----")
    ledger.watch(TargetEvent.END)
    return ledger.outage()


def _rules(ledger: VectorLedger) -> Files:
    ledger.observe("+")
    ledger.sign()
    ledger.observe("+--")
    ledger.node("reload", Rules(open_after=5, close_after=1))
    ledger.observe("---+-+")
    return ledger.outage(0)


def _reboot(ledger: VectorLedger) -> Files:
    ledger.observe("+---")
    ledger.reboot()
    ledger.observe("--?-++")
    return ledger.outage()


def _unbounded(ledger: VectorLedger) -> Files:
    ledger.bound = None
    return _reboot(ledger)


def _stepped(ledger: VectorLedger) -> Files:
    ledger.observe("+--")
    ledger.step(7 * MINUTE)
    ledger.observe("--++")
    return ledger.outage()


def _login(ledger: VectorLedger) -> Files:
    ledger.observe("++xx xx+", secret="5ec4e7" + "0" * 10)
    return ledger.outage()


def _successor(ledger: VectorLedger) -> Files:
    ledger.observe("++")
    ledger.lose()
    ledger.observe("+" * 9)
    ledger.sign()
    ledger.observe("+---++")
    return ledger.outage()


def _cosigned(ledger: VectorLedger) -> Files:
    ledger.observe("++")
    made = ledger.store.checkpoint()
    assert made is not None
    witness, seconds = Ed25519PrivateKey.from_private_bytes(bytes(range(32))), ledger.at // 1000
    ledger.entry("witness", {
        "checkpoint": made.size, "witness": str(cosigner_key(witness.public_key())),
        "cosignature": str(cosign(made.text(), witness, seconds)), "time": seconds * 1000,
        "asked": ledger.at, "answered": ledger.at, "offset_ms": 0,
    })  # fmt: skip
    ledger.observe("---++")
    return ledger.outage()


def _declared(ledger: VectorLedger) -> Files:
    ledger.observe("++")
    declared = ledger.store.checkpoint()
    assert declared is not None
    ledger.observe("+++++")
    ledger.sign()
    ledger.observe("+---++")
    files = ledger.outage()
    stated, proof = json.loads(files["outage.json"]), json.loads(files["proof.json"])
    with contextlib.closing(Reader.open(ledger.folder)) as reader:
        row = reader.checkpoint(at_most=declared.size)
        assert row is not None
        smaller = CompactRange.from_bytes(row.size, row.hashes)
        size = proof["start"]["size"]
        leaves = [leaf_hash(entry.header.encode()) for entry in reader.entries(from_index=row.size, to_index=size)]
    lines = ("-----BEGIN MAILWATCH CHECKPOINT-----", row.note, "-----END MAILWATCH CHECKPOINT-----", "")
    head = "From: a@example.org\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    message = (head + "\n".join(lines)).encode()
    name = f"declarations/{hashlib.sha256(message).hexdigest()}.eml"
    hashes = [one.hex() for one in consistency_proof(smaller, size, leaves)]
    stated["declarations"] = [{"file": name, "proof": hashes}]
    return files | {name: message, "outage.json": pretty_json(stated)}


def _carried(ledger: VectorLedger) -> Files:
    """Two messages, in the two forms of RFC 6376 section 3.4."""
    for form in (b"relaxed", b"simple"):
        ledger.observe("++")
        made = ledger.store.checkpoint()
        assert made is not None
        with contextlib.closing(Reader.open(ledger.folder)) as reader:
            row = reader.checkpoint(at_least=made.size)
        assert row is not None
        mark = MessageToken("0123456789abcdef" * 2, ledger.at)
        text = compose(mark, f"{ledger.at} {'0' * 64}", "a@example.org", "b@example.org", row.note)
        with patch("time.time", lambda: ledger.at / 1000):
            message = signed(text, key=fixed_key(), canonical=(form, form))
        ledger.entry("carried", {
            "checkpoint": made.size, "provider": "lab", "domain": "example.org", "selector": "mw",
            "key": record_of(fixed_key()).decode(), "at": ledger.at, "message": message.decode(),
        })  # fmt: skip
        ledger.observe("+----++" if form == b"relaxed" else "+")
    return ledger.outage()


def _other_dkim_key(lines: Lines) -> None:
    payload = of_kind(lines, "carried")["payload"]
    payload["key"] = payload["key"][:-20] + "AAAA" + payload["key"][-16:]


def _period(ledger: VectorLedger) -> Files:
    ledger.watch(TargetEvent.BEGIN)
    ledger.watch(TargetEvent.BEGIN, target="second")
    for marks in ("+++----++", "++?+ ++", "+-+---+-+", "+++"):
        ledger.observe(marks)
        ledger.observe("+", target="second")
        ledger.sign()
    ledger.watch(TargetEvent.CHANGE, 2 * MINUTE)
    ledger.observe("++++")
    ledger.step(3 * MINUTE)
    ledger.observe("+++")
    return ledger.period(2 * MINUTE, 40 * MINUTE, "mail", "second")


def _young_period(ledger: VectorLedger) -> Files:
    ledger.observe("+++---++-")
    return ledger.period(-HOUR, 8 * MINUTE)


GOOD: dict[str, tuple[Callable[[VectorLedger], Files], str]] = {
    "outage": (_plain, "closed, with a gap, an unknown observation and another target's entry in it"),
    "open": (_open, "still open, recovering and failing again"),
    "unwatched": (_unwatched, "the target ended during it; the range begins at entry 0"),
    "rules": (_rules, "the rules change between the failures that open it"),
    "reboot": (_reboot, "over a restart of the machine, with bounds of the wall clock"),
    "reboot-unbounded": (_unbounded, "over a restart, with a wall clock of unknown error"),
    "stepped": (_stepped, "the wall clock is set within it"),
    "login": (_login, "a right password was rejected, which is proven afterwards"),
    "successor": (_successor, "the ledger goes on for one whose database was lost"),
    "cosigned": (_cosigned, "a witness cosigned a checkpoint"),
    "declared": (_declared, "the owner declared the ledger in a message, before the range"),
    "carried": (_carried, "messages of round trips carried two checkpoints, under DKIM signatures"),
    "period": (_period, "two targets, a changed interval, a clock that is set"),
    "period-young": (_young_period, "the window begins before the ledger; an outage is suspected at its end"),
}

Lines = list[dict[str, Any]]
Json = dict[str, Any]


def _lines(files: Files) -> Lines:
    return [json.loads(line) for line in files["entries.jsonl"].splitlines()]


def sealed(files: Files, lines: Lines, key: Ed25519PrivateKey) -> Files:
    """The entries as given, with headers, hashes, and checkpoints that fit; the manifest does not."""
    proof = json.loads(files["proof.json"])
    tree = CompactRange(proof["start"]["size"], [bytes.fromhex(one) for one in proof["start"]["hashes"]])
    sizes = {int(note.split("\n")[1]) for note in proof["checkpoints"]}
    origin, written, signed = origin_of(key.public_key()), [], []
    for entry in [None, *lines]:
        if entry is not None:
            if "payload" in entry:
                entry["header"]["payload"] = digest(canonical(entry["payload"]))
            written.append(canonical(entry) + "\n")
            tree.append(leaf_hash(canonical(entry["header"]).encode()))
        if tree.size in sizes:
            signed.append(sign(Checkpoint(origin, tree.size, tree.root()), key))
    proof["checkpoints"] = signed
    return files | {"entries.jsonl": "".join(written).encode(), "proof.json": pretty_json(proof)}


def entries_changed(edit: Callable[[Lines], None]) -> Callable[[Files, Ed25519PrivateKey], Files]:
    def changed(files: Files, key: Ed25519PrivateKey) -> Files:
        lines = _lines(files)
        edit(lines)
        return sealed(files, lines, key)

    return changed


def in_json(name: str, edit: Callable[[Json], None]) -> Callable[[Files, Ed25519PrivateKey], Files]:
    def changed(files: Files, _key: Ed25519PrivateKey) -> Files:
        value = json.loads(files[name])
        edit(value)
        return files | {name: pretty_json(value)}

    return changed


def of_kind(lines: Lines, kind: str, number: int = 0) -> Json:
    return [line for line in lines if line["header"]["kind"] == kind][number]


def put(path: str, value: object) -> Callable[[Any], None]:
    """Set a value in JSON by its path; `*` before a number adds to what is there."""

    def edit(root: Any) -> None:
        *outer, last = [int(part) if part.lstrip("-").isdigit() else part for part in path.split("/")]
        for part in outer:
            root = root[part]
        root[last] = root[last] + value if isinstance(value, int) and not isinstance(value, bool) else value

    return edit


def _in_observation(path: str, value: object, number: int = 3) -> Callable[[Lines], None]:
    return lambda lines: put(path, value)(of_kind(lines, "observation", number))


def _hide(lines: Lines) -> None:
    del of_kind(lines, "observation", 2)["payload"]


def _hide_node(lines: Lines) -> None:
    del of_kind(lines, "node")["payload"]


def _fail_good(lines: Lines) -> None:
    observed = [line["payload"] for line in lines if line.get("payload", {}).get("outcome") in ("up", "down")]
    failed = next(number for number, one in enumerate(observed) if one["outcome"] == "down")
    good = next(one for one in observed[failed:] if one["outcome"] == "up")
    good |= {"outcome": "down", "cause": "timeout", "failed_phase": "connect"}


def _swap(lines: Lines) -> None:
    lines[2]["header"]["index"] += 1
    lines[3]["header"]["index"] -= 1


def _recount(lines: Lines) -> None:
    of_kind(lines, "observation", 3)["header"]["number"] += 1


def _same_root(files: Files, key: Ed25519PrivateKey) -> Files:
    proof = json.loads(files["proof.json"])
    origin, size, _ = proof["checkpoints"][-1].split("\n")[:3]
    proof["checkpoints"][-1] = sign(Checkpoint(origin, int(size), bytes(32)), key)
    return files | {"proof.json": pretty_json(proof)}


def _other_key(files: Files, _key: Ed25519PrivateKey) -> Files:
    proof = json.loads(files["proof.json"])
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    note = proof["checkpoints"][-1]
    text, _, line = note.rpartition("\n\n")
    head, _, signature = line.rstrip("\n").rpartition(" ")
    raw = base64.b64decode(signature)[:4] + other.sign(f"{text}\n".encode())
    proof["checkpoints"][-1] = f"{text}\n\n{head} {base64.b64encode(raw).decode()}\n"
    return files | {"proof.json": pretty_json(proof)}


def _spaced(files: Files, _key: Ed25519PrivateKey) -> Files:
    return files | {"entries.jsonl": files["entries.jsonl"].replace(b'"kind":', b'"kind": ', 1)}


def _payload_only(files: Files, _key: Ed25519PrivateKey) -> Files:
    return files | {"entries.jsonl": files["entries.jsonl"].replace(b'"outcome":"down"', b'"outcome":"up"', 1)}


def _last_dropped(files: Files, _key: Ed25519PrivateKey) -> Files:
    return files | {"entries.jsonl": b"".join(files["entries.jsonl"].splitlines(keepends=True)[:-1])}


def _named_after_another(files: Files, _key: Ed25519PrivateKey) -> Files:
    _, number, raw = files["keys/ledger.pub"].split(b"+", 2)
    return files | {"keys/ledger.pub": b"mailwatch/0000000000000000+" + number + b"+" + raw}


def _flip_cosignature(lines: Lines) -> None:
    payload = of_kind(lines, "witness")["payload"]
    payload["cosignature"] = payload["cosignature"][:-8] + "AAAA" + payload["cosignature"][-4:]


def _late_successor(lines: Lines) -> None:
    first = lines[-1]
    first["header"] |= {"kind": "successor", "target": None, "number": None}
    first["payload"] = {"reason": "keys_lost", "size": 0}


Change = Callable[[Files, Ed25519PrivateKey], Files]
BAD: dict[str, tuple[str, Change, str, str]] = {
    "extra-file": (
        "outage",
        lambda files, _: files | {"note.txt": b"x"},
        "archive",
        "a file that does not belong there",
    ),
    "no-manifest": (
        "outage",
        lambda files, _: {n: c for n, c in files.items() if n != "manifest.sig"},
        "archive",
        "a needed file is missing",
    ),
    "two-statements": ("outage", lambda files, _: files | {"period.json": b"{}"}, "archive", "two statements"),
    "key-name": ("outage", _named_after_another, "key", "the name is not that of the key"),
    "checkpoint-signature": ("outage", _other_key, "checkpoints", "another key signed the last checkpoint"),
    "checkpoint-missing": (
        "outage",
        in_json("proof.json", lambda proof: proof["checkpoints"].pop()),
        "checkpoints",
        "the last checkpoint is missing",
    ),
    "root": ("outage", _same_root, "entries", "the last checkpoint signs another root"),
    "not-canonical": ("outage", _spaced, "entries", "a space in a header"),
    "payload": ("outage", _payload_only, "entries", "a payload is not the one that its header seals"),
    "entry-dropped": ("outage", _last_dropped, "entries", "the last entry is missing"),
    "time-of-observation": (
        "outage",
        entries_changed(_in_observation("header/time", 1)),
        "entries",
        "the time of an observation is not its end",
    ),
    "index": ("outage", entries_changed(_swap), "order", "two indexes are swapped"),
    "kind-without-target": (
        "outage",
        entries_changed(_in_observation("header/kind", "node")),
        "order",
        "a kind that has no target has one",
    ),
    "number": ("outage", entries_changed(_recount), "numbers", "a number of the target is left out"),
    "clock-back": (
        "outage",
        entries_changed(_in_observation("header/clock", -500_000)),
        "clock",
        "the clock of a boot runs backwards",
    ),
    "clock-missing": (
        "outage",
        entries_changed(lambda lines: of_kind(lines, "observation", 3)["payload"].pop("clock")),
        "clock",
        "an observation has no reading of the clock",
    ),
    "boot-again": (
        "reboot",
        entries_changed(lambda lines: lines[-1]["header"].update(boot=lines[0]["header"]["boot"])),
        "clock",
        "a boot comes back",
    ),
    "watch": (
        "unwatched",
        entries_changed(lambda lines: put("payload/settings/interval", -60_000)(of_kind(lines, "watch"))),
        "watched",
        "a target has no interval",
    ),
    "observation-hidden": ("outage", entries_changed(_hide), "nothing left out", "one observation has no payload"),
    "node-hidden": (
        "unwatched",
        entries_changed(_hide_node),
        "nothing left out",
        "the start of the program has no payload",
    ),
    "chain-forgotten": (
        "successor",
        in_json("outage.json", lambda stated: stated.pop("chain")),
        "chain",
        "the statement does not name the predecessor",
    ),
    "chain-size": (
        "successor",
        in_json("outage.json", put("chain/0/size", 1)),
        "chain",
        "the predecessor is stated with another size",
    ),
    "chain-proof": (
        "successor",
        in_json("proof.json", lambda proof: proof["first"]["proof"].pop()),
        "chain",
        "the proof of the first entry is cut",
    ),
    "declaration": (
        "outage",
        in_json("outage.json", put("declarations", [{"file": f"declarations/{'0' * 64}.eml", "proof": []}])),
        "declaration",
        "a declaration is listed and not enclosed",
    ),
    "chain-late": ("outage", entries_changed(_late_successor), "chain", "a later entry names a predecessor"),
    "overlap": (
        "outage",
        entries_changed(_in_observation("payload/start", -600_000)),
        "times",
        "an observation begins ten minutes before the one before it ended",
    ),
    "good-hidden": (
        "outage",
        entries_changed(_fail_good),
        "outage",
        "a good observation within the outage is a failed one",
    ),
    "duration": ("outage", in_json("outage.json", put("outage/duration/min", 60)), "outage", "a minute longer"),
    "last-good": (
        "outage",
        in_json("outage.json", put("outage/last_good", "2026-12-23T00:00:00.000Z")),
        "outage",
        "another last good observation",
    ),
    "provider": (
        "outage",
        in_json("outage.json", put("outage/provider", "another")),
        "outage",
        "another provider",
    ),
    "state": ("open", in_json("outage.json", put("outage/state", "closed")), "outage", "an open outage is closed"),
    "rules-stated": ("outage", in_json("outage.json", put("rules/open_after", 1)), "outage", "other rules"),
    "rules-before": (
        "rules",
        in_json("outage.json", put("rules_before/open_after", -2)),
        "outage",
        "other rules at the beginning of the range",
    ),
    "id": (
        "outage",
        in_json("outage.json", put("outage/id", "000000000000")),
        "outage",
        "an outage that there is not",
    ),
    "replies": ("outage", in_json("outage.json", put("replies", [])), "outage", "the replies are left out"),
    "range": ("outage", in_json("outage.json", put("range/first", 1)), "outage", "another range"),
    "reboots": (
        "reboot",
        in_json("outage.json", put("outage/clock/reboots", -1)),
        "outage",
        "a restart of the machine is left out",
    ),
    "availability": (
        "period",
        in_json("period.json", put("availability/0/downtime/min", 60)),
        "period",
        "a minute more down",
    ),
    "period-outage": (
        "period",
        in_json("period.json", lambda stated: stated["outages"].pop()),
        "period",
        "an outage is left out",
    ),
    "period-window": (
        "period",
        in_json("period.json", put("window/to", "2027-01-01T00:00:00.000Z")),
        "period",
        "the window reaches behind the range",
    ),
    "period-interval": (
        "period",
        in_json("period.json", put("targets/0/intervals/0/interval", 30)),
        "period",
        "another interval",
    ),
    "cosignature": (
        "cosigned",
        entries_changed(_flip_cosignature),
        "witness",
        "the cosignature is not over the checkpoint",
    ),
    "declaration-proof": (
        "declared",
        in_json("outage.json", lambda stated: stated["declarations"][0]["proof"].reverse()),
        "declaration",
        "the proof does not lead from the declared checkpoint",
    ),
    "carried-key": (
        "carried",
        entries_changed(_other_dkim_key),
        "carried",
        "the key on record is not the one that signed",
    ),
    "report": ("outage", lambda files, _: files | {"report.pdf": b"no PDF"}, "report", "report.pdf is no PDF"),
}
UNSIGNED: dict[str, tuple[str, Change, str]] = {
    "manifest-digest": (
        "outage",
        in_json("outage.json", put("service", None)),
        "a file was changed after it was listed",
    ),
    "manifest-file": ("outage", lambda files, _: files | {"tokens/a.pem": b""}, "a file is not listed"),
    "manifest-signature": (
        "outage",
        lambda files, key: (
            files
            | {"manifest.sig": manifested(files, Ed25519PrivateKey.from_private_bytes(bytes(32)))["manifest.sig"]}
        ),
        "another key signed the manifest",
    ),
}
"""Changes without the key, and claim `files`."""


def made() -> Iterator[Vector]:
    """Make all vectors."""
    from tests.helpers import vector_claims, vector_joint, vector_more, vector_old, vector_tokens

    good: dict[str, Signed] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (write, why) in (GOOD | vector_more.GOOD | vector_claims.GOOD).items():
            with VectorLedger.opened(Path(folder) / name, name) as ledger:
                good[name] = manifested(write(ledger), ledger.key), ledger.key
            yield Vector(f"{name}.zip", zip_of(good[name][0]), "", why)
    stamped = original()
    files = {name: content for name, content in stamped.files.items() if not name.startswith("VERIF")}
    files.pop("verify.py", None)
    good["stamped"] = manifested(files, stamped.key), stamped.key
    yield Vector("stamped.zip", zip_of(good["stamped"][0]), "", "with timestamp tokens (tests/testdata/mutations)")
    for name, (source, edit, fails, why) in (BAD | STAMPED | vector_more.BAD | vector_claims.BAD).items():
        files, key = good[source]
        changed = edit(files, key)
        signed = changed if fails == "archive" else manifested(changed, key)
        yield Vector(f"bad-{name}.zip", zip_of(signed), fails, why, f"{source}.zip")
    for name, (source, edit, why) in UNSIGNED.items():
        yield Vector(f"bad-{name}.zip", zip_of(edit(*good[source])), "files", why, f"{source}.zip")
    from tests.helpers.vector_forms import more_vectors

    yield from more_vectors(good)
    yield from vector_tokens.token_vectors()
    yield from vector_old.old_vectors()
    yield from _joint(good)
    with tempfile.TemporaryDirectory() as folder:
        yield from vector_joint.joint_vectors(Path(folder))


def _token(files: Files) -> str:
    return min(name for name in files if name.endswith(".tsr"))


def _flip_token(files: Files, _key: Ed25519PrivateKey) -> Files:
    name = _token(files)
    reply = bytearray(files[name])
    reply[-20] ^= 1
    renamed = f"tokens/{hashlib.sha256(reply).hexdigest()}.tsr"
    proof = json.loads(files["proof.json"])
    for one in proof["tokens"]:
        one["file"] = renamed if one["file"] == name else one["file"]
    kept = {other: content for other, content in files.items() if other != name}
    return kept | {renamed: bytes(reply), "proof.json": pretty_json(proof)}


def _swap_tokens(proof: Json) -> None:
    first, second = proof["tokens"][:2]
    first["checkpoint"], second["checkpoint"] = second["checkpoint"], first["checkpoint"]


STAMPED: dict[str, tuple[str, Change, str, str]] = {
    "token-signature": ("stamped", _flip_token, "tokens", "the signature of a token is changed"),
    "token-checkpoint": (
        "stamped",
        in_json("proof.json", _swap_tokens),
        "tokens",
        "tokens are over other checkpoints",
    ),
    "token-unlisted": (
        "stamped",
        in_json("proof.json", lambda proof: proof["tokens"].pop()),
        "tokens",
        "a token is not listed",
    ),
    "outside-times": (
        "stamped",
        in_json("outage.json", put("outside_times/not_before", None)),
        "outage",
        "the time before the outage is left out",
    ),
}


def _joint(good: dict[str, Signed]) -> Iterator[Vector]:
    """A joint zip of two members, with the members enclosed; and three that are not valid."""
    with tempfile.TemporaryDirectory() as folder:
        members = []
        for name in ("outage", "reboot"):
            path = Path(folder) / f"{name}.zip"
            path.write_bytes(zip_of(good[name][0]))
            members.append(read_member(path, Trust()))
        fine, left_out = partition_members(members)
        stated = joint_statement(group_channels(fine), fine, left_out)
        enclosed = {f"members/{one.sha256}.zip": (Path(folder) / one.name).read_bytes() for one in members}
    listed = "".join(f"{name[8:72]}  {name}\n" for name in sorted(enclosed))

    def joined(value: Any) -> Files:
        text = pretty_json(value)
        return {
            **enclosed,
            "joint.json": text,
            "report.pdf": least_pdf(text, "joint.json"),
            "members.sha256": listed.encode(),
        }

    yield Vector("joint.zip", zip_of(joined(stated)), "", "two vantage points, with both bundles enclosed")
    more = json.loads(pretty_json(stated))
    more["groups"][0]["at_least"][0]["surely"]["seconds"] += 60
    yield Vector(
        "bad-joint-sum.zip", zip_of(joined(more)), "joint", "a minute more than the members give", "joint.zip"
    )
    swapped = joined(stated) | {"members.sha256": listed.replace("a", "b", 1).encode()}
    yield Vector("bad-joint-list.zip", zip_of(swapped), "joint", "the list names another member", "joint.zip")
    attached = joined(stated) | {"report.pdf": least_pdf(b"{}", "joint.json")}
    yield Vector("bad-joint-report.zip", zip_of(attached), "joint", "another file is attached", "joint.zip")
