"""`mailwatch verify`: checks a bundle from anywhere. No ledger, no config, and nothing in the bundle is trusted.

One claim a line, in the order in which they rest on one another. What cannot be checked because an earlier one
failed is not valid, and says so.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.utils import CryptographyDeprecationWarning

from mailwatch.analysis.replay import Seen
from mailwatch.errors import ours
from mailwatch.evidence.verify.archive import Archive, Refused
from mailwatch.evidence.verify.entries import Walk, walk
from mailwatch.evidence.verify.statement import Period, Single
from mailwatch.evidence.verify.tokens import (
    Trust,
    Trusted,
    bounded,
    certificates,
    fitting,
    outside_times,
    stamps,
    stated_error,
    system,
    words,
)
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError, origin_of, verifier_key
from mailwatch.ledger.merkle import CompactRange
from mailwatch.ledger.timestamp import Anchors

CLAIMS = (
    "archive",
    "key",
    "checkpoints",
    "entries",
    "order",
    "numbers",
    "clock",
    "watched",
    "nothing left out",
    "tokens",
    "times",
    "outage",
    "report",
    "files",
)
"""In a bundle of a window of time `outage` is called `period`."""


logger = logging.getLogger(__name__)
UNFORESEEN = "could not be checked, for what it holds is not what is written there:"
"""How a claim begins that failed in a way which no check foresaw."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One thing that the bundle says, whether it holds, and what was found."""

    claim: str
    valid: bool
    detail: str


def verify(path: Path, trust: Trust) -> list[Claim]:
    """Check everything that a bundle claims."""
    return examine(path, trust).claims


@dataclass(slots=True)
class Examined:
    """A bundle that was checked. The rest is to be used only when all claims are valid.

    `statement` is outage.json or period.json; `signed` are the roots of its checkpoints by size.
    """

    claims: list[Claim]
    statement: dict[str, Any] = field(default_factory=dict)
    signed: dict[int, bytes] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether every claim is."""
        return all(claim.valid for claim in self.claims)


def examine(path: Path, trust: Trust, seen: Seen = lambda *_: None) -> Examined:
    """Check a bundle. `seen` is told of the facts of its targets; to be believed only if it turns out valid."""
    with warnings.catch_warnings():
        # A hostile certificate, or an old root, breaks rules of today; what follows from it is told as a claim.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return _Check(trust, seen).run(path)


class _Check:
    def __init__(self, trust: Trust, seen: Seen) -> None:
        self._trust, self._seen = trust, seen
        self._claims: list[Claim] = []

    def run(self, path: Path) -> Examined:
        opened: list[Archive] = []

        def open_it() -> str:
            opened.append(Archive(path))
            self._archive = opened[0]
            return f"{len(self._archive.names)} files, each once and within its bounds"

        try:
            steps: dict[str, Callable[[], str]] = {
                "archive": open_it,
                "key": self._key,
                "checkpoints": self._checkpoints,
                "entries": self._entries,
                "order": lambda: _none(self._walk.order, f"indexes {self._range()} follow one another"),
                "numbers": lambda: _none(self._walk.numbers, "each target's own numbers run without a hole"),
                "clock": self._clock,
                "watched": self._watched,
                "nothing left out": self._shown,
                "tokens": self._tokens,
                "times": self._times,
                "outage": self._outage,
                "report": self._report,
                "files": self._files,
            }
            failed = ""
            for name, step in steps.items():
                # The order of the entries and what follows says nothing once they are not the signed ones.
                if failed in ("archive", "key", "checkpoints", "entries"):
                    self._claims.append(Claim(name, False, f"not checked, since {failed} does not hold"))
                    continue
                if name == "outage" and self._archive.statement == "period.json":
                    name = "period"
                failed = self._step(name, step) or failed
        finally:
            for archive in opened:
                archive.close()
        if not self._claims[0].valid or not all(claim.valid for claim in self._claims):
            return Examined(self._claims)
        signed = {size: made.root for size, made in self._signed.items()}
        return Examined(self._claims, self._stated, signed)

    def _step(self, name: str, step: Callable[[], str]) -> str:
        try:
            self._claims.append(Claim(name, True, step()))
        except Refused as error:
            self._claims.append(Claim(name, False, str(error)))
            return name
        except RecursionError:
            self._claims.append(Claim(name, False, "what it holds is nested too deep"))
            return name
        except Exception as error:
            if ours(error):
                raise
            # The one edge: what no check foresaw is a claim that does not hold, and the log tells where it was.
            logger.info("%s could not be checked", name, exc_info=error)
            said = f"{UNFORESEEN} {type(error).__name__} {str(error)[:120]}".strip()
            self._claims.append(Claim(name, False, said))
            return name
        return ""

    def _key(self) -> str:
        text = _text(self._archive.read("keys/ledger.pub"), "keys/ledger.pub").removesuffix("\n")
        try:
            raw = base64.b64decode(text.split("+", 2)[-1], validate=True)
            self._public = Ed25519PublicKey.from_public_bytes(raw[1:])
        except (binascii.Error, ValueError):
            raise Refused("keys/ledger.pub is not a key") from None
        self._origin = origin_of(self._public)
        if text != verifier_key(self._origin, self._public):
            raise Refused("keys/ledger.pub is not written as keys are")
        if self._trust.keys and text not in self._trust.keys:
            raise Refused(f"{self._origin} is not among the keys of --trust")
        known = "among the keys of --trust" if self._trust.keys else "compare it with the owner's key"
        return f"{self._origin} ({known})"

    def _checkpoints(self) -> str:
        self._proof = self._archive.json("proof.json")
        start, end, listed = (self._proof.get(key) for key in ("start", "end", "checkpoints"))
        if not isinstance(start, dict) or not isinstance(end, int) or not isinstance(listed, list):
            raise Refused("proof.json has no start, end and checkpoints")
        if self._proof.get("ledger") != self._origin:
            raise Refused("proof.json is of another ledger")
        self._signed: dict[int, Checkpoint] = {}
        self._notes: dict[int, str] = {}
        try:
            for note in listed:
                made = notes.verify(str(note), self._public)
                if made.size <= max(self._signed, default=0):
                    raise Refused("the checkpoints do not grow")
                self._signed[made.size], self._notes[made.size] = made, note
            hashes = b"".join(bytes.fromhex(one) for one in start["hashes"])
            self._start = CompactRange.from_bytes(start["size"], hashes)
        except CheckpointError as error:
            raise Refused(str(error)) from None
        except (KeyError, ValueError, TypeError, AttributeError):
            raise Refused("proof.json: start is not a size with its hashes") from None
        first = min(self._signed, default=0)
        if end not in self._signed or end != max(self._signed) or first < self._start.size:
            raise Refused("the checkpoints do not reach from the start to the end of the range")
        if self._start.size and self._start.size not in self._signed:
            raise Refused("no checkpoint signs the start of the range")
        return f"{len(self._signed)} signed by the key, of {first} to {end} entries"

    def _entries(self) -> str:
        whole = self._archive.statement == "period.json"
        self._case = (Period if whole else Single)(self._archive, self._seen)
        enclosed = frozenset(name.removeprefix("tokens/").removesuffix(".tsr") for name in self._replies())
        lines = self._archive.lines("entries.jsonl")
        self._walk = walk(lines, self._start, self._signed, enclosed, self._case.take)
        if self._walk.payloads:
            raise Refused(self._walk.payloads[0])
        for size, made in self._signed.items():
            if size > self._walk.next_index:
                raise Refused(f"there are entries up to {self._walk.next_index}, but checkpoint {size} signs more")
            if self._walk.roots[size] != made.root:
                raise Refused(f"the entries before {size} do not hash to the root that checkpoint {size} signs")
        if self._walk.next_index != max(self._signed):
            raise Refused(f"entries after {max(self._signed)} are under no checkpoint")
        return f"{self._walk.count} hash to the roots of all checkpoints; {self._walk.in_full} shown in full"

    def _range(self) -> str:
        return f"{self._start.size} to {self._walk.next_index - 1}"

    def _clock(self) -> str:
        walk = self._walk
        if not walk.clocked and not walk.clock:
            return "written before entries had a reading of a clock that nobody can set"
        old = walk.count - walk.clocked
        words = f"readings of the clock that nobody can set follow one another in {walk.clocked} entries"
        words += f", {walk.boots} boots" if walk.boots > 1 else ""
        return _none(walk.clock, words + (f"; {old} older ones have none" if old else ""))

    def _watched(self) -> str:
        found = self._walk.watches
        return _none(
            self._walk.watched, f"what was watched is told by {found} entries" if found else "not on record"
        )

    def _shown(self) -> str:
        targets = ", ".join(sorted(self._walk.names.values())) or "no target"
        return _none(self._walk.hidden, f"every entry of {targets} in the range is shown in full")

    def _tokens(self) -> str:
        enclosed = []
        for name in self._archive.names:
            if name.endswith(".pem"):
                enclosed += certificates(self._archive.read(name), name)
        replies = self._replies()
        given = self._trust.certificates
        trust = given or (system() if replies else [])
        ends = Trusted(Anchors(trust, enclosed), None if given else Anchors(enclosed))
        listed, read = self._proof.get("tokens"), self._archive.read
        self._stamps = stamps(listed, replies, read, self._notes, self._walk.tokens, ends)
        return words(self._stamps)

    def _replies(self) -> list[str]:
        return [name for name in self._archive.names if name.endswith(".tsr")]

    def _times(self) -> str:
        if not hasattr(self, "_stamps"):
            raise Refused("not checked, since tokens does not hold")
        return fitting(self._stamps, self._walk)

    def _outage(self) -> str:
        compared = self._case.compared(self._walk)
        self._placed(self._case.stated, self._case.entries)
        return compared

    def _placed(self, stated: dict[str, Any], where: dict[str, int]) -> None:
        """Compare the ledger, the range and the outside times of the entries `where` with what is stated."""
        name = self._archive.statement
        if stated.get("ledger") != self._origin:
            raise Refused(f"{name} is of another ledger")
        if stated.get("range") != {"first": self._start.size, "end": self._walk.next_index}:
            raise Refused(f"{name} states another range")
        if hasattr(self, "_stamps"):
            times = outside_times(self._stamps, where["first"], where["last"])
            if stated.get("outside_times") != times:
                raise Refused(f"the tokens give other outside times: {times}")
            told = stated["outages"] if "outages" in stated else [stated["outage"]]
            anchors = [self._case.anchors.get(outage["id"]) for outage in told]
            off = stated_error(stated, self._stamps, self._walk, anchors)
            for outage in told:
                bounded(outage, self._stamps, off)
        self._stated = stated

    def _report(self) -> str:
        if "report.pdf" not in self._archive.names:
            return "the bundle has no report.pdf"
        from mailwatch.evidence.verify.pdf import check_report

        name = self._archive.statement
        return check_report(self._archive.read("report.pdf"), self._archive.read(name), name)

    def _files(self) -> str:
        raw = self._archive.read("manifest.json")
        listed = self._archive.json("manifest.json").get("files")
        if not isinstance(listed, dict):
            raise Refused("manifest.json lists no files")
        try:
            note = _text(self._archive.read("manifest.sig"), "manifest.sig")
            signed = notes.verify_text(note, self._public)
        except CheckpointError as error:
            raise Refused(f"manifest.sig: {error}") from None
        if signed != f"{self._origin}\nmanifest {hashlib.sha256(raw).hexdigest()}\n":
            raise Refused("manifest.sig signs another manifest")
        for name in self._archive.names:
            if name not in self._archive.seen:
                self._archive.read(name)
        seen = {name: told for name, told in self._archive.seen.items() if not name.startswith("manifest.")}
        if odd := sorted(seen.keys() ^ listed.keys()):
            raise Refused(f"{odd[0][:80]} is in the manifest or in the zip, but not in both")
        for name, told in seen.items():
            if listed[name] != told:
                raise Refused(f"{name} is not the file of the manifest")
        return f"{len(seen)} files are those of the manifest, which the ledger's key signs"


def _none(faults: list[str], fine: str) -> str:
    if faults:
        raise Refused(faults[0])
    return fine


def _text(raw: bytes, name: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refused(f"{name} is not UTF-8") from None


__all__ = ["CLAIMS", "UNFORESEEN", "Claim", "Examined", "Refused", "Trust", "Walk", "examine", "verify"]
