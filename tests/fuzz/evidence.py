"""Evidence: certificates, tokens, entries, bundles, and the script that a bundle encloses."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from mailwatch import certificates
from mailwatch.evidence.joint import member
from mailwatch.evidence.joint.verify import check_joint, is_joint
from mailwatch.evidence.verify import UNEXPECTED_PREFIX, Trust, verify
from mailwatch.ledger import checkpoint, timestamp
from mailwatch.ledger.payloads import fact_from
from mailwatch.ledger.timestamp import TimestampError, TrustAnchors
from mailwatch.store import Store
from tests.fuzz.target import Target, Wrong
from tests.helpers import bundle_mutations as bundles
from tests.helpers.malicious_operator import Operator, quiet, trusting


class _Made:
    """A bundle, its tokens, entries and key, made once by an operator and an authority of our own."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mailwatch-fuzz-")
        folder = Path(self._folder.name)
        authority, store = quiet(folder / "authority"), Store.open(folder / "data")
        operator = Operator(store, folder / "data")
        operator.observe("+")
        operator.stamp(authority)
        operator.observe("+---?-++")
        operator.stamp(authority)
        self.original = bundles.Original(operator.bundle(authority), store.keys.private)
        self.trust: Trust = trusting(authority)
        store.close()
        self.scratch = folder / "input.zip"
        with zipfile.ZipFile(self.original.path) as opened:
            self.files = {name: opened.read(name) for name in opened.namelist()}
        self.anchors = TrustAnchors(self.trust.certificates)


made = cache(_Made)


def _verify(data: bytes) -> None:
    path = made().scratch
    path.write_bytes(data)
    claims = check_joint(path, made().trust) if is_joint(path) else verify(path, made().trust)
    for claim in claims:
        if not claim.detail or len(claim.detail) > 1000:
            raise Wrong(f"{claim}")
        if UNEXPECTED_PREFIX in claim.detail:
            raise Wrong(f"{claim}")
    if UNEXPECTED_PREFIX in (reason := member.read_member(path, made().trust).reason):
        raise Wrong(reason)


def _bundle(chance: random.Random) -> bytes:
    return made().original.mutant(chance, chance.randrange(1 << 16))[0]


_SCRIPT: Callable[[], Any] = cache(
    lambda: compile(
        files("mailwatch.evidence").joinpath("standalone").joinpath("verify.py").read_text("utf-8"),
        "verify.py",
        "exec",
    )
)


def _enclosed(data: bytes) -> None:
    """The script says WRONG, or ok; an exception it prints by itself (sys.excepthook)."""
    path = made().scratch
    path.write_bytes(data)
    before, sys.argv = sys.argv, ["verify.py", str(path)]
    hook = sys.excepthook
    names: dict[str, object] = {"__name__": "__main__"}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit, Exception):
            exec(_SCRIPT(), names)
    finally:
        sys.argv, sys.excepthook = before, hook
        for one in names.values():
            # The script leaves them to the end of its process.
            if isinstance(one, zipfile.ZipFile | io.IOBase):
                one.close()


def _token(data: bytes) -> None:
    note = next(iter(json.loads(made().files["proof.json"])["checkpoints"]))
    with contextlib.suppress(TimestampError):
        timestamp.parse_reply(data)
    with contextlib.suppress(TimestampError):
        timestamp.verify_reply(data, note, made().anchors)


def _certificate(data: bytes) -> None:
    with contextlib.suppress(certificates.CertificateError):
        read = certificates.parse_certificate(data)
        certificates.names(read)
        certificates.issuer(read)
        certificates.not_after(read)
        TrustAnchors([read])
    with contextlib.suppress(certificates.CertificateError):
        certificates.parse_pem(data)


def _entry(data: bytes) -> None:
    kind, _, text = data.partition(b" ")
    try:
        payload = orjson.loads(text)
    except ValueError:
        return
    if isinstance(payload, dict):
        with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError):
            fact_from(kind.decode("latin-1"), payload)


def _note(data: bytes) -> None:
    with contextlib.suppress(checkpoint.CheckpointError):
        checkpoint.verify(data.decode("utf-8", "replace"), made().original.key.public_key())


def targets() -> list[Target]:
    """All readers of what proves something."""
    warnings.simplefilter("ignore", CryptographyDeprecationWarning)
    held = made().files
    entries = [
        json.loads(line)["header"]["kind"].encode() + b" " + orjson.dumps(json.loads(line)["payload"])
        for line in held["entries.jsonl"].splitlines()
        if b'"payload":{' in line
    ]
    tokens = [content for name, content in held.items() if name.endswith(".tsr")]
    pems = [content for name, content in held.items() if name.endswith(".pem")]
    ders = [one.public_bytes(Encoding.DER) for one in made().trust.certificates]
    proof = json.loads(held["proof.json"])["checkpoints"]
    whole = [made().original.path.read_bytes()]
    return [
        Target("bundles", _verify, whole, 2, make=_bundle, longest=1 << 20),
        Target("enclosed-verify", _enclosed, whole, 4, make=_bundle, longest=1 << 20),
        Target("tokens", _token, tokens, 20, longest=1 << 16),
        Target("certificates", _certificate, ders + pems, 80, longest=1 << 16),
        Target("entries", _entry, entries, 80, longest=1 << 16),
        Target("checkpoints", _note, [note.encode() for note in proof], 60),
    ]
