"""`mailwatch verify`: verifies a bundle without ledger or config. Nothing in the bundle is trusted.

Claims are checked one by one in the order of their dependence. A claim that cannot be checked because an earlier
one failed is not valid, and its detail says so.
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

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.utils import CryptographyDeprecationWarning

from mailwatch.analysis.public_json import OutageJson
from mailwatch.analysis.replay import FactListener
from mailwatch.errors import is_local_failure
from mailwatch.evidence.stated import OutageStatement, PeriodStatement
from mailwatch.evidence.verify.archive import Archive, VerificationError
from mailwatch.evidence.verify.entries import LedgerScan, scan
from mailwatch.evidence.verify.statement import OutageCheck, PeriodCheck
from mailwatch.evidence.verify.tokens import (
    TokenTrust,
    Trust,
    certificates,
    check_entry_times,
    check_outage_bounds,
    outside_times,
    stated_error,
    system_authorities,
    tokens_text,
    verify_tokens,
)
from mailwatch.ledger import checkpoint
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError, origin_of, verifier_key
from mailwatch.ledger.merkle import CompactRange
from mailwatch.ledger.timestamp import TrustAnchors

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
"""The claims in order. In a bundle of a window of time `outage` is called `period`."""


logger = logging.getLogger(__name__)
UNEXPECTED_PREFIX = "could not be checked, because its content is not what MailWatch writes:"
"""Prefix of the detail of a claim that failed with an error that no check foresaw."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the bundle, whether it is valid, and the finding."""

    claim: str
    valid: bool
    detail: str


def verify(path: Path, trust: Trust) -> list[Claim]:
    """Verify a bundle; return its claims with the results."""
    return examine(path, trust).claims


@dataclass(slots=True)
class VerificationResult:
    """A verified bundle. Use the fields after `claims` only if all claims are valid.

    `statement`: outage.json or period.json. `signed`: the roots of its checkpoints by size.
    """

    claims: list[Claim]
    statement: OutageStatement | PeriodStatement | None = None
    signed: dict[int, bytes] = field(default_factory=dict)

    @property
    def valid(self) -> bool:
        """Whether every claim is valid."""
        return all(claim.valid for claim in self.claims)


def examine(path: Path, trust: Trust, listener: FactListener = lambda *_: None) -> VerificationResult:
    """Verify a bundle. `listener` receives the facts of its targets, to be trusted only if the bundle proves
    valid.
    """
    with warnings.catch_warnings():
        # A hostile certificate or an old root may break today's rules; the consequences become claims.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return _BundleCheck(trust, listener).run(path)


class _BundleCheck:
    def __init__(self, trust: Trust, listener: FactListener) -> None:
        self._trust, self._seen = trust, listener
        self._claims: list[Claim] = []

    def run(self, path: Path) -> VerificationResult:
        self._path = path
        failed = ""
        try:
            for name, step in self._steps().items():
                # If the entries are not the signed ones, the claims that follow from them mean nothing.
                if failed in ("archive", "key", "checkpoints", "entries"):
                    self._claims.append(Claim(name, False, f"not checked, because {failed} is not valid"))
                    continue
                if name == "outage" and self._archive.statement == "period.json":
                    name = "period"
                failed = self._step(name, step) or failed
        finally:
            if self._claims and self._claims[0].valid:
                self._archive.close()
        if not all(claim.valid for claim in self._claims):
            return VerificationResult(self._claims)
        signed = {size: made.root for size, made in self._signed.items()}
        return VerificationResult(self._claims, self._stated, signed)

    def _steps(self) -> dict[str, Callable[[], str]]:
        """Return the check of each claim, in the order of CLAIMS."""
        return {
            "archive": self._open,
            "key": self._key,
            "checkpoints": self._checkpoints,
            "entries": self._entries,
            "order": lambda: _none(self._scan.order, f"indexes {self._range()} follow one another"),
            "numbers": lambda: _none(self._scan.numbers, "each target's own numbers run without a hole"),
            "clock": self._clock,
            "watched": self._watched,
            "nothing left out": self._payloads_shown,
            "tokens": self._tokens,
            "times": self._times,
            "outage": self._outage,
            "report": self._report,
            "files": self._files,
        }

    def _open(self) -> str:
        self._archive = Archive(self._path)
        return f"{len(self._archive.names)} files, each once and within its bounds"

    def _step(self, name: str, step: Callable[[], str]) -> str:
        try:
            self._claims.append(Claim(name, True, step()))
        except VerificationError as error:
            self._claims.append(Claim(name, False, str(error)))
            return name
        except RecursionError:
            self._claims.append(Claim(name, False, "its content is nested too deeply"))
            return name
        except Exception as error:
            if is_local_failure(error):
                raise
            # The only catch-all: an error that no check foresaw becomes a failed claim, with its place in the log.
            logger.info("%s could not be checked", name, exc_info=error)
            detail = f"{UNEXPECTED_PREFIX} {type(error).__name__} {str(error)[:120]}".strip()
            self._claims.append(Claim(name, False, detail))
            return name
        return ""

    def _key(self) -> str:
        text = _text(self._archive.read("keys/ledger.pub"), "keys/ledger.pub").removesuffix("\n")
        try:
            raw = base64.b64decode(text.split("+", 2)[-1], validate=True)
            self._public = Ed25519PublicKey.from_public_bytes(raw[1:])
        except (binascii.Error, ValueError):
            raise VerificationError("keys/ledger.pub is not a key") from None
        self._origin = origin_of(self._public)
        if text != verifier_key(self._origin, self._public):
            raise VerificationError("keys/ledger.pub does not have the form of a key")
        if self._trust.keys and text not in self._trust.keys:
            raise VerificationError(f"{self._origin} is not among the keys of --trust")
        known = "among the keys of --trust" if self._trust.keys else "compare it with the key of the owner"
        return f"{self._origin} ({known})"

    def _checkpoints(self) -> str:
        self._proof = self._archive.json("proof.json")
        start, end, listed = (self._proof.get(key) for key in ("start", "end", "checkpoints"))
        if not isinstance(start, dict) or not isinstance(end, int) or not isinstance(listed, list):
            raise VerificationError("proof.json has no start, end and checkpoints")
        if self._proof.get("ledger") != self._origin:
            raise VerificationError("proof.json is of another ledger")
        self._signed: dict[int, Checkpoint] = {}
        self._notes: dict[int, str] = {}
        try:
            for note in listed:
                made = checkpoint.verify(str(note), self._public)
                if made.size <= max(self._signed, default=0):
                    raise VerificationError("the checkpoints are not in order")
                self._signed[made.size], self._notes[made.size] = made, note
            hashes = b"".join(bytes.fromhex(one) for one in start["hashes"])
            self._start = CompactRange.from_bytes(start["size"], hashes)
        except CheckpointError as error:
            raise VerificationError(str(error)) from None
        except (KeyError, ValueError, TypeError, AttributeError):
            raise VerificationError("proof.json: start is not a size with its hashes") from None
        first = min(self._signed, default=0)
        if end not in self._signed or end != max(self._signed) or first < self._start.size:
            raise VerificationError("the checkpoints do not reach from the start to the end of the range")
        if self._start.size and self._start.size not in self._signed:
            raise VerificationError("no checkpoint signs the start of the range")
        return f"{len(self._signed)} signed by the key, of {first} to {end} entries"

    def _entries(self) -> str:
        whole = self._archive.statement == "period.json"
        self._case = (PeriodCheck if whole else OutageCheck)(self._archive, self._seen)
        enclosed = frozenset(name.removeprefix("tokens/").removesuffix(".tsr") for name in self._replies())
        lines = self._archive.lines("entries.jsonl")
        self._scan = scan(lines, self._start, self._signed, enclosed, self._case.feed)
        if self._scan.payloads:
            raise VerificationError(self._scan.payloads[0])
        for size, made in self._signed.items():
            if size > self._scan.next_index:
                raise VerificationError(
                    f"there are entries up to {self._scan.next_index}, but checkpoint {size} signs more"
                )
            if self._scan.roots[size] != made.root:
                raise VerificationError(
                    f"the entries before {size} do not hash to the root that checkpoint {size} signs"
                )
        if self._scan.next_index != max(self._signed):
            raise VerificationError(f"no checkpoint signs the entries after {max(self._signed)}")
        return f"{self._scan.count} hash to the roots of all checkpoints; {self._scan.shown_count} shown in full"

    def _range(self) -> str:
        return f"{self._start.size} to {self._scan.next_index - 1}"

    def _clock(self) -> str:
        scan = self._scan
        if not scan.clocked and not scan.clock:
            return "written before entries had readings of a clock that nobody can set"
        old = scan.count - scan.clocked
        words = f"readings of the clock that nobody can set follow one another in {scan.clocked} entries"
        words += f", {scan.boots} boots" if scan.boots > 1 else ""
        return _none(scan.clock, words + (f"; {old} older ones have none" if old else ""))

    def _watched(self) -> str:
        found = self._scan.target_changes
        return _none(
            self._scan.target_change_faults,
            f"{found} entries record what was monitored" if found else "not on record",
        )

    def _payloads_shown(self) -> str:
        targets = ", ".join(sorted(self._scan.names.values())) or "no target"
        return _none(self._scan.hidden, f"every entry of {targets} in the range is shown in full")

    def _tokens(self) -> str:
        enclosed = []
        for name in self._archive.names:
            if name.endswith(".pem"):
                enclosed += certificates(self._archive.read(name), name)
        replies = self._replies()
        given = self._trust.certificates
        trust = given or (system_authorities() if replies else [])
        ends = TokenTrust(TrustAnchors(trust, enclosed), None if given else TrustAnchors(enclosed))
        listed, read = self._proof.get("tokens"), self._archive.read
        self._stamps = verify_tokens(listed, replies, read, self._notes, self._scan.tokens, ends)
        return tokens_text(self._stamps)

    def _replies(self) -> list[str]:
        return [name for name in self._archive.names if name.endswith(".tsr")]

    def _times(self) -> str:
        if not hasattr(self, "_stamps"):
            raise VerificationError("not checked, because tokens is not valid")
        return check_entry_times(self._stamps, self._scan)

    def _outage(self) -> str:
        compared = self._case.compare(self._scan)
        self._compare_position(self._case.stated, self._case.stated_outages)
        return compared

    def _compare_position(self, stated: OutageStatement | PeriodStatement, outages: list[OutageJson]) -> None:
        """Compare the ledger, the range and the outside times of the case with the statement."""
        name = self._archive.statement
        if stated.get("ledger") != self._origin:
            raise VerificationError(f"{name} is of another ledger")
        if stated.get("range") != {"first": self._start.size, "end": self._scan.next_index}:
            raise VerificationError(f"{name} states another range")
        if hasattr(self, "_stamps"):
            where = self._case.entries
            times = outside_times(self._stamps, where["first"], where["last"])
            if stated.get("outside_times") != times:
                raise VerificationError(f"the tokens give other external times: {times}")
            anchors = [self._case.anchors.get(outage["id"]) for outage in outages]
            off = stated_error(stated, self._stamps, self._scan, anchors)
            for outage in outages:
                check_outage_bounds(outage, self._stamps, off)
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
            raise VerificationError("manifest.json lists no files")
        try:
            note = _text(self._archive.read("manifest.sig"), "manifest.sig")
            signed = checkpoint.verify_text(note, self._public)
        except CheckpointError as error:
            raise VerificationError(f"manifest.sig: {error}") from None
        if signed != f"{self._origin}\nmanifest {hashlib.sha256(raw).hexdigest()}\n":
            raise VerificationError("manifest.sig signs another manifest")
        for name in self._archive.names:
            if name not in self._archive.seen:
                self._archive.read(name)
        digests = {name: digest for name, digest in self._archive.seen.items() if not name.startswith("manifest.")}
        if different := sorted(digests.keys() ^ listed.keys()):
            raise VerificationError(f"{different[0][:80]} is in the manifest or in the zip, but not in both")
        for name, digest in digests.items():
            if listed[name] != digest:
                raise VerificationError(f"{name} is not the file of the manifest")
        return f"{len(digests)} files are those of the manifest, which the ledger's key signs"


def _none(faults: list[str], fine: str) -> str:
    if faults:
        raise VerificationError(faults[0])
    return fine


def _text(raw: bytes, name: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise VerificationError(f"{name} is not UTF-8") from None


__all__ = [
    "CLAIMS",
    "UNEXPECTED_PREFIX",
    "Claim",
    "LedgerScan",
    "Trust",
    "VerificationError",
    "VerificationResult",
    "examine",
    "verify",
]
