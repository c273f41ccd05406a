"""`mailwatch verify`: verifies a bundle without ledger or config. Nothing in the bundle is trusted.

Claims are checked one by one in the order of their dependence. A claim that cannot be checked because an earlier
one failed is not valid, and its detail says so.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.replay import FactListener, PeriodReplay
from mailwatch.errors import is_local_failure
from mailwatch.evidence.stated import OutageStatement, PeriodStatement
from mailwatch.evidence.verify.archive import Archive, VerificationError
from mailwatch.evidence.verify.carried import check_carried
from mailwatch.evidence.verify.chain import check_chain, leads_from, read_first_entry
from mailwatch.evidence.verify.declaration import check_declarations
from mailwatch.evidence.verify.enclosed import Note, check_enclosed
from mailwatch.evidence.verify.entries import EntryObserver, LedgerScan, scan
from mailwatch.evidence.verify.maker import made_by_another, manifest_key
from mailwatch.evidence.verify.silence import silent_libraries
from mailwatch.evidence.verify.statement import OutageCheck, PeriodCheck, check_format
from mailwatch.evidence.verify.tokens import (
    TokenTrust,
    Trust,
    VerifiedToken,
    authorities_of,
    certificates,
    check_entry_times,
    check_outage_bounds,
    outside_times,
    stated_error,
    system_authorities,
    tokens_text,
    verify_tokens,
)
from mailwatch.evidence.verify.witness import WitnessFindings, verify_witnesses, witness_text
from mailwatch.evidence.warnings import Catalogue, Caveat, CaveatFacts, TokenDoubt, caveats
from mailwatch.ledger import checkpoint
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError, origin_of, verifier_key
from mailwatch.ledger.earlier_entry import EarlierEntry, EarlierEntryError, check_place, read_earlier
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
    "chain",
    "tokens",
    "times",
    "outage",
    "witness",
    "declaration",
    "carried",
    "report",
    "script",
    "files",
)
"""The claims in order. In a bundle of a window of time `outage` is called `period`."""


logger = logging.getLogger(__name__)
MANIFEST_FORMAT = "mailwatch-manifest/1"
UNEXPECTED_PREFIX = "could not be checked, because its content is not what MailWatch writes:"
"""Prefix of the detail of a claim that failed with an error that no check foresaw."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of the bundle, whether it is valid, and the finding. `note`: valid, and worth knowing."""

    claim: str
    valid: bool
    detail: str
    note: bool = False


def verify(path: Path, trust: Trust) -> list[Claim]:
    """Verify a bundle; return its claims with the results."""
    return examine(path, trust).claims


@dataclass(slots=True)
class VerificationResult:
    """A verified bundle. Use the fields after `claims` only if all claims are valid.

    `statement`: outage.json or period.json. `signed`: the roots of its checkpoints by size. `outages`: the stated
    outages. `replay`: that of a period. `scan`: of its entries. `tokens`: verified. `witnesses`: who cosigned.
    `caveats`: what a reader must know before believing the bundle. `doubts`: the facts behind them (warnings.py).
    """

    claims: list[Claim]
    statement: OutageStatement | PeriodStatement | None = None
    signed: dict[int, bytes] = field(default_factory=dict)
    outages: Sequence[OutageRecord] = ()
    replay: PeriodReplay | None = None
    scan: LedgerScan | None = None
    tokens: Sequence[VerifiedToken] = ()
    witnesses: WitnessFindings | None = None
    caveats: tuple[Caveat, ...] = ()
    doubts: CaveatFacts = field(default_factory=CaveatFacts)

    @property
    def valid(self) -> bool:
        """Whether every claim is valid."""
        return all(claim.valid for claim in self.claims)


def examine(
    path: Path,
    trust: Trust,
    listener: FactListener = lambda *_: None,
    observer: EntryObserver | None = None,
    catalogue: Catalogue | None = None,
) -> VerificationResult:
    """Verify a bundle. `listener` receives the facts of its targets, `observer` their entries, to be trusted only
    if the bundle proves valid. `catalogue`: what its servers and its rule are compared with for the caveats.
    """
    with silent_libraries():
        return _BundleCheck(trust, listener, observer, catalogue).run(path)


class _BundleCheck:
    def __init__(
        self,
        trust: Trust,
        listener: FactListener,
        observer: EntryObserver | None,
        catalogue: Catalogue | None,
    ) -> None:
        self._trust, self._seen, self._observer, self._catalogue = trust, listener, observer, catalogue
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
        found = VerificationResult(
            self._claims,
            self._stated,
            signed,
            self._case.outages,
            self._case.replay,
            self._scan,
            self._stamps,
            self._witnesses,
        )
        found.caveats, found.doubts = self._caveats(), self._facts
        return found

    def _caveats(self) -> tuple[Caveat, ...]:
        """Return the caveats of a valid bundle."""
        facts, found = self._facts, self._scan
        facts.hidden, facts.hidden_targets = found.hidden_count, {one.decode() for one in found.hidden_targets}
        facts.opaque = {name: opaque.decode() for opaque, name in found.names.items()}
        untrusted = [token.authority or "?" for token in self._stamps if not token.trusted]
        return caveats(self._stated, facts, TokenDoubt(len(self._stamps), untrusted), self._catalogue)

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
            "chain": self._chain,
            "tokens": self._tokens,
            "times": self._times,
            "outage": self._outage,
            "witness": self._witness,
            "declaration": self._declaration,
            "carried": lambda: check_carried(self._scan.carried, self._public, self._signed),
            "report": self._report,
            "script": lambda: check_enclosed(self._archive, self._origin),
            "files": self._files,
        }

    def _open(self) -> str:
        self._archive = Archive(self._path)
        return f"{len(self._archive.names)} files, each once and within its bounds"

    def _step(self, name: str, step: Callable[[], str]) -> str:
        try:
            finding = step()
            self._claims.append(Claim(name, True, finding, isinstance(finding, Note)))
        except VerificationError as error:
            self._claims.append(Claim(name, False, str(error)))
            return name
        except RecursionError:
            self._claims.append(Claim(name, False, "its content is nested too deeply"))
            return name
        except BaseException as error:
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
            self._public = checkpoint.parse_verifier_key(text)
        except CheckpointError as error:
            raise VerificationError(f"keys/ledger.pub is not a key: {error}") from None
        self._origin = origin_of(self._public)
        if text != verifier_key(self._origin, self._public):
            raise VerificationError("keys/ledger.pub is not named after its key")
        if not self._trust.keys:
            return f"{self._origin} (compare it with the key of the owner)"
        if text in self._trust.keys:
            return f"{self._origin} (among the keys of --trust)"
        first = read_first_entry(self._archive, text)
        appointing = leads_from(first.predecessors, self._trust.keys) if first else ""
        if not appointing:
            raise VerificationError(f"{self._origin} is not among the keys of --trust")
        return f"{self._origin} (successor of {appointing}, which is among the keys of --trust)"

    def _chain(self) -> str:
        first = read_first_entry(self._archive, verifier_key(self._origin, self._public))
        return check_chain(first, self._start, self._scan.later_successors, self._case.stated)

    def _checkpoints(self) -> str:
        self._proof = self._archive.json("proof.json")
        check_format(self._proof, "proof.json", "mailwatch-proof/1")
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
        self._facts = CaveatFacts.of_statement(self._case.stated)
        if "announcement" in self._proof:
            self._facts.feed_announcement(self._announcement())
        self._scan = scan(lines, self._start, self._signed, enclosed, self._feed, self._observer)
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

    def _announcement(self) -> EarlierEntry:
        """Return the start or reload before the range that proof.json has."""
        try:
            entry = read_earlier(self._proof["announcement"], "node")
            check_place(entry, self._start)
        except EarlierEntryError as error:
            raise VerificationError(str(error)) from None
        return entry

    def _feed(self, index: int, kind: str, time: int, target: str, payload: dict[str, object]) -> None:
        self._case.feed(index, kind, time, target, payload)
        self._facts.feed(index, kind, time, target, payload)

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
        self._compare_position(self._case.stated, self._case.outages)
        return compared

    def _compare_position(
        self, stated: OutageStatement | PeriodStatement, outages: Sequence[OutageRecord]
    ) -> None:
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
            if stated.get("authorities", signers := authorities_of(self._stamps)) != signers:
                raise VerificationError("the stated authorities are not those that signed the tokens")
            anchors = [self._case.anchors.get(outage.id) for outage in outages]
            off = stated_error(stated, self._stamps, self._scan, anchors)
            for outage in outages:
                check_outage_bounds(outage, self._stamps, off)
        self._stated = stated

    def _declaration(self) -> str:
        if not hasattr(self, "_stated"):
            raise VerificationError("not checked, because what it is about is not valid")
        trusted = self._trust.certificates
        return check_declarations(self._archive, self._stated, self._public, self._signed, trusted)

    def _witness(self) -> str:
        if not hasattr(self, "_stated"):
            raise VerificationError("not checked, because what it is about is not valid")
        self._witnesses = verify_witnesses(self._scan, self._notes, self._origin, self._stated)
        tokens = self._stamps if hasattr(self, "_stamps") else ()
        return witness_text(self._witnesses, self._scan, self._trust.witnesses, self._stated, tokens)

    def _report(self) -> str:
        if "report.pdf" not in self._archive.names:
            return "the bundle has no report.pdf"
        from mailwatch.evidence.verify.pdf import check_report

        name = self._archive.statement
        pdf, statement = self._archive.read("report.pdf"), self._archive.read(name)
        return check_report(pdf, statement, name, self._trust.certificates)

    def _files(self) -> str:
        raw = self._archive.read("manifest.json")
        manifest = self._archive.json("manifest.json")
        listed = manifest.get("files")
        if manifest.get("format", MANIFEST_FORMAT) != MANIFEST_FORMAT:
            raise VerificationError("manifest.json is of another format")
        if not isinstance(listed, dict):
            raise VerificationError("manifest.json lists no files")
        key = manifest_key(self._archive, self._public, self._case.stated)
        try:
            note = _text(self._archive.read("manifest.sig"), "manifest.sig")
            signed = checkpoint.verify_text(note, key)
        except CheckpointError as error:
            raise VerificationError(f"manifest.sig: {error}") from None
        if signed != f"{origin_of(key)}\nmanifest {hashlib.sha256(raw).hexdigest()}\n":
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
        files = f"{len(digests)} files are those of the manifest"
        if key != self._public:
            return Note(f"{files}, {made_by_another(key, self._trust)}")
        return f"{files}, which the ledger's key signs"


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
