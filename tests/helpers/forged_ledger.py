"""Bundles that an operator forges: entries signed by another key, or another history signed by the same key."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.analysis.replay import PeriodReplay
from mailwatch.evidence.bundle import Bundle, pretty_json
from mailwatch.ledger.checkpoint import Checkpoint, origin_of, sign, verifier_key
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.settings_payloads import rules_from
from mailwatch.times import parse_rfc3339
from tests.helpers.bundle_files import files_of, lines_of

Payload = dict[str, Any]
Change = Callable[[int, Payload], Payload]


def unchanged(_: int, payload: Payload) -> Payload:
    return payload


def forge(
    source: Path,
    made: Path,
    key: Ed25519PrivateKey,
    change: Change = unchanged,
    *,
    sparse: bool = False,
    restate: Callable[[Payload], Payload] = lambda stated: stated,
) -> Path:
    """Write a bundle of the entries of another, signed by `key`. `change` gets the index and payload of each shown
    entry, `restate` the statement. `sparse`: no checkpoint but those that the range needs.
    """
    files, origin = files_of(source), origin_of(key.public_key())
    proof = json.loads(files["proof.json"])
    start = proof["start"]
    tree = CompactRange.from_bytes(start["size"], b"".join(map(bytes.fromhex, start["hashes"])))
    signed = {int(note.split("\n")[1]) for note in proof["checkpoints"]}
    if sparse:
        signed &= {start["size"], proof["end"]}
    notes, lines = {tree.size: tree.root()}, list[bytes]()
    for line in lines_of(files):
        entry = orjson.loads(line)
        if "payload" in entry:
            entry["payload"] = change(entry["header"]["index"], entry["payload"])
            sealed = orjson.dumps(entry["payload"], option=orjson.OPT_SORT_KEYS)
            entry["header"]["payload"] = sha256(sealed).hexdigest()
        lines.append(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS) + b"\n")
        tree.append(leaf_hash(orjson.dumps(entry["header"], option=orjson.OPT_SORT_KEYS)))
        notes[tree.size] = tree.root()
    proof |= {"ledger": origin, "tokens": []}
    proof["checkpoints"] = [sign(Checkpoint(origin, size, notes[size]), key) for size in sorted(signed)]
    stated = restate(json.loads(files["period.json"]) | {"ledger": origin})
    files |= {
        "period.json": pretty_json(stated),
        "entries.jsonl": b"".join(lines),
        "proof.json": pretty_json(proof),
        "keys/ledger.pub": f"{verifier_key(origin, key.public_key())}\n".encode(),
    }
    with made.open("wb") as out:
        bundle = Bundle(out)
        for name, content in files.items():
            if not name.startswith("manifest."):
                bundle.add(name, [content])
        bundle.close(key)
    return made


def with_interval(source: Path, seconds: float) -> Callable[[Payload], Payload]:
    """State an interval as bundles from before 2026-11 did, and the availability that follows from it."""

    def restate(stated: Payload) -> Payload:
        targets = [{**one, "interval": seconds} for one in stated["targets"]]
        for one in targets:
            del one["intervals"]
        window = parse_rfc3339(stated["window"]["from"]), parse_rfc3339(stated["window"]["to"])
        names = {one["target"]: seconds for one in targets}
        replay = PeriodReplay(window, names, rules_from(stated["rules"]), lambda *_: None, infer=False)
        for line in lines_of(files_of(source)):
            entry = orjson.loads(line)
            header, payload = entry["header"], entry.get("payload", {})
            replay.feed(header["index"], header["kind"], header["time"], payload.get("target"), payload)
            replay.ended = header["time"]
        replay.flush()
        found = [{"target": name} | replay.availability_of(name).as_json() for name in names]
        return stated | {"targets": targets, "availability": found}

    return restate
