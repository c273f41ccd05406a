"""A ledger that is the same to the byte each time: keys, salts, clocks and boots follow from its name."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.evidence.outage_case import find_outage_evidence, write_outage_bundle
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.ledger.settings_payloads import rules_payload, settings_payload
from mailwatch.model import (
    Attempt,
    Cause,
    ClockSpan,
    Fact,
    Gap,
    GapReason,
    Kind,
    Observation,
    Outcome,
    Phase,
    Rules,
    TargetEvent,
    TargetSettings,
)
from mailwatch.monotonic import Origin
from mailwatch.store import NewEntry, Reader, Store, Tokens, begin_successor, load_keys, queries
from mailwatch.times import Millis
from tests.helpers.bundle_files import Files
from tests.helpers.ledger_factory import MINUTE, SECOND, change
from tests.helpers.records import payload_of

BEGIN: Millis = 1_798_000_000_000
NOT_COMPARED = ("verify.py", "VERIFY.md")
"""Left out: they are part of no check, and change with each version."""


class VectorLedger:
    """Writes a ledger of one target, `mail`, and others whose payloads are not disclosed."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.at: Millis = BEGIN
        self.offset: Millis = BEGIN - 1_000_000
        """Wall clock minus steady clock."""
        self.rules = Rules()
        self.interval: Millis = MINUTE
        self.bound: Millis | None = 100
        self.provider, self.vantage, self.peer = "lab", "here", "192.0.2.1:993"
        self.rounding: Iterator[Millis] = itertools.repeat(0)
        """What each further reading of the steady clock is off, as it is rounded on its own: 0 or -1."""
        self.settings: TargetSettings | None = None
        """Stated with outages where set."""
        self._boots = itertools.count()
        self._random = itertools.count()
        self._detectors: dict[str, Detector] = {}
        self.boot = self._digest("boot", next(self._boots))[:16]
        self.store = Store.open(folder)
        self.store.read_clock = lambda: self.at - self.offset
        self.node("start")

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, name: str) -> Iterator[VectorLedger]:
        """A ledger in a folder, while all that is random or of this moment is fixed."""
        made: list[VectorLedger] = []
        draws = itertools.count()

        def here() -> Millis:
            return made[0].at if made else BEGIN

        def token_hex(size: int) -> str:
            return hashlib.sha256(f"{name} {next(draws)}".encode()).hexdigest()[: 2 * size]

        def make_keys(data_dir: Path) -> object:
            keys = data_dir / "keys"
            keys.mkdir(mode=0o700, exist_ok=True)
            private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(token_hex(32)))
            keys.joinpath("targets.key").write_bytes(bytes.fromhex(token_hex(32)))
            pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            keys.joinpath("ledger.pem").write_bytes(pem)
            return load_keys(data_dir)

        with contextlib.ExitStack() as stack:
            stack.enter_context(patch("mailwatch.store.store.secrets.token_hex", token_hex))
            stack.enter_context(patch("mailwatch.store.keys.make_keys", make_keys))
            for module in ("store", "successor", "closed_ledger"):
                stack.enter_context(patch(f"mailwatch.store.{module}.now", here))
            stack.enter_context(
                patch("mailwatch.monotonic.origin", lambda: Origin(made[0].boot, made[0].boot) if made else _FIRST)
            )
            stack.enter_context(patch("mailwatch.monotonic.milliseconds", lambda: here() - BEGIN + 1))
            for where in ("evidence.statement", "evidence.period_case", "evidence.joint.quorum"):
                stack.enter_context(patch(f"mailwatch.{where}.__version__", "vectors"))
            ledger = cls.__new__(cls)
            made.append(ledger)
            ledger.at, ledger.boot = BEGIN, "0" * 16
            ledger.__init__(folder, name)  # type: ignore[misc]
            try:
                yield ledger
            finally:
                ledger.store.close()

    def _digest(self, *parts: object) -> str:
        return hashlib.sha256(" ".join(map(str, (self.name, *parts))).encode()).hexdigest()

    def entry(self, kind: str, payload: dict[str, Any] | Fact, target: str | None = None) -> int:
        """Append an entry, dated now; return its index."""
        draft = NewEntry(kind=kind, time=self.at, target=target, payload=payload)
        return self.store.append_batch([draft])[0].index

    def node(self, event: str, rules: Rules | None = None) -> None:
        """MailWatch starts, reloads or stops, with its rules."""
        self.rules = rules or self.rules
        payload = {"event": event, "version": "vectors", "python": "3.11", "system": "Linux", "config": "c0" * 32}
        self.entry("node", {**payload, "vantage_point": self.vantage, "rules": rules_payload(self.rules)})

    def _feed(self, kind: str, fact: Fact, target: str) -> None:
        index = self.entry(kind, fact, target)
        detector = self._detectors.get(target, Detector())
        self._detectors[target], changed = detector.feed(IndexedFact(index, fact), self.rules)
        for outage in changed:
            payload = payload_of(outage, self.provider, Kind.IMAP, self.vantage)
            payload |= {"rules": rules_payload(self.rules)}
            if self.settings is not None:
                payload["watch"] = settings_payload(self.settings)
            self.entry("outage", payload, target)

    def watch(self, event: TargetEvent, interval: Millis = MINUTE, target: str = "mail") -> None:
        """The target begins, changes or ends."""
        self.interval = interval
        made = change(event, self.at, interval, target)
        here = ClockSpan(self.boot, self.at - self.offset, self.at - self.offset, self.bound)
        self._feed("watch", dataclasses.replace(made, clock=here), target)

    def observe(self, marks: str, target: str = "mail", secret: str = "") -> None:
        """Observe once an interval: + up, - down, ? unknown, x the login rejected, a gap for a blank."""
        for mark in marks:
            start, steady = self.at, self.at - self.offset
            if mark == " ":
                self.at += self.interval
                span = ClockSpan(self.boot, steady, steady + self.interval, self.bound)
                gap = Gap(target=target, start=start, end=self.at, reason=GapReason.NOT_RUNNING, clock=span)
                self._feed("gap", gap, target)
                continue
            steady += next(self.rounding)
            cause = {"+": None, "-": Cause.TIMEOUT, "?": Cause.OFFLINE, "x": Cause.CREDENTIALS}[mark]
            failed = None if cause is None else Phase.AUTH if mark == "x" else Phase.CONNECT
            self.at += 200
            attempt = Attempt(
                started_at=start, ended_at=self.at, peer=self.peer, phases={Phase.CONNECT: 20_000},
                cause=cause, failed_phase=failed, replies=("* BYE try later",) if mark == "-" else (),
            )  # fmt: skip
            made = Observation(
                target=target, scheduled_at=start, started_at=start, ended_at=self.at,
                outcome=cause.outcome if cause else Outcome.UP, cause=cause, failed_phase=failed,
                detail="no answer" if mark == "-" else "", attempts=(attempt,), interval=self.interval,
                with_login=bool(secret), secret=secret,
                clock=ClockSpan(self.boot, steady, self.at - self.offset + next(self.rounding), self.bound),
            )  # fmt: skip
            self._feed("observation", made, target)
            self.at = start + self.interval

    def step(self, millis: Millis) -> None:
        """Set the wall clock."""
        before = self.at
        self.at, self.offset = self.at + millis, self.offset + millis
        self.entry("clock", {"event": "step", "start": before, "end": self.at, "milliseconds": millis})

    def reboot(self, down_for: Millis = 2 * MINUTE) -> None:
        """The machine restarts: a new boot, whose clock begins anew, and a gap."""
        since, self.at = self.at, self.at + down_for
        self.boot = self._digest("boot", next(self._boots))[:16]
        self.offset = self.at - 20 * SECOND
        self.node("start")
        span = ClockSpan(self.boot, None, self.at - self.offset, None if self.bound is None else 2 * self.bound)
        gap = Gap(target="mail", start=since, end=self.at, reason=GapReason.NOT_RUNNING, clock=span)
        self._feed("gap", gap, "mail")

    def sign(self) -> None:
        """Sign a checkpoint."""
        self.store.checkpoint()

    def lose(self) -> None:
        """Lose the database, and go on in a successor."""
        self.sign()
        self.store.close()
        (self.folder / "mailwatch.sqlite").unlink()
        begin_successor(self.folder)
        self.store = Store.open(self.folder)
        self.store.read_clock = lambda: self.at - self.offset
        self._detectors = {}
        self.node("start")

    @property
    def key(self) -> Ed25519PrivateKey:
        """The key that signs now."""
        return self.store.keys.private

    def outage(self, number: int = -1) -> Files:
        """The files of the bundle of an outage, by its place."""
        self.sign()
        out = io.BytesIO()
        with contextlib.closing(Reader.open(self.folder)) as reader:
            known = sorted(queries.outage_records(reader), key=lambda one: one.first_index)
            keys, tokens = load_keys(self.folder), Tokens(self.folder)
            service: Any = {"kind": "imap", "provider": self.provider, "host": "192.0.2.1", "interval": "60s"}
            case = find_outage_evidence(reader, tokens, keys, known[number].id, service)
            write_outage_bundle(out, reader, keys, case, "en", [])
        return _files(out)

    def period(self, start: Millis, end: Millis, *targets: str) -> Files:
        """The files of the bundle of a window, in ms from BEGIN."""
        self.sign()
        out = io.BytesIO()
        with contextlib.closing(Reader.open(self.folder)) as reader:
            keys, window = load_keys(self.folder), (BEGIN + start, BEGIN + end)
            wanted = [ReportTarget(name, self.provider, "imap") for name in targets or ("mail",)]
            case = find_period_evidence(reader, Tokens(self.folder), keys, window, wanted, self.vantage)
            write_period_bundle(out, reader, keys, case, "en", [])
        return _files(out)


_FIRST = Origin("0" * 16, "0" * 16)


def _files(out: io.BytesIO) -> Files:
    with zipfile.ZipFile(out) as opened:
        return {name: opened.read(name) for name in opened.namelist() if name not in NOT_COMPARED}
