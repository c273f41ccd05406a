"""An operator who knows the code, holds the key and writes what they like; only the authority is not theirs."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.outage_case import find_outage_evidence, write_outage_bundle
from mailwatch.evidence.rendering import Rendering, outside_facts
from mailwatch.evidence.report import read_report_facts, render_outage_report
from mailwatch.evidence.verify import Trust
from mailwatch.ledger import timestamp
from mailwatch.ledger.settings_payloads import rules_payload, settings_payload
from mailwatch.model import (
    ConnectivityResult,
    Gap,
    Kind,
    Observation,
    Rules,
    TargetChange,
    TargetEvent,
    TargetSettings,
)
from mailwatch.store import NewEntry, Reader, Store, Tokens
from mailwatch.times import Millis, now
from tests.helpers.ledger_factory import change as change_of
from tests.helpers.ledger_factory import clock_of, observation_of
from tests.helpers.records import payload_of
from tests.servers.authority import Authority


class Operator:
    """Writes a ledger by hand.

    In milliseconds, `off` is how far the operator's clock is set off the true time, and `begun` how much after its
    end an observation is said to have begun.
    """

    def __init__(self, store: Store, folder: Path, target: str = "lab-imap") -> None:
        self.store, self.folder, self.target = store, folder, target
        self.clock_error: Millis = 0
        self.begun_after_end: Millis = 0
        self.run_ahead: Millis = 0
        """By how much the operator made the clock run that nobody can set."""
        store.read_clock = self.steady
        self.rules = Rules()
        self.guard: ConnectivityResult | None = None
        """What the guard is said to have found at each failure."""
        self.provider, self.peer = "lab", ""
        self.settings: TargetSettings | None = None
        self._detector = Detector()
        self.start()

    def clock(self) -> Millis:
        """What the operator's clock says."""
        return now() + self.clock_error

    def steady(self) -> Millis:
        """The clock that nobody can set: as if the machine had been started in 1970."""
        return now() + self.run_ahead

    def entry(self, kind: str, payload: dict[str, Any], target: str | None = None) -> None:
        """Write anything."""
        self.store.append_batch([NewEntry(kind=kind, time=self.clock(), target=target, payload=payload)])

    def wait(self, milliseconds: Millis) -> None:
        """Let time pass: all clocks here advance, only those of the authorities do not."""
        self.run_ahead += milliseconds
        self.clock_error += milliseconds

    def step(self, off: Millis) -> None:
        """Set the clock, and write that down truly."""
        moved, self.clock_error = off - self.clock_error, off
        at = self.clock()
        self.entry("clock", {"event": "step", "start": at, "end": at, "milliseconds": moved})

    def start(self) -> None:
        """Say that MailWatch was started, by which rules."""
        self.entry("node", {"event": "start", "rules": rules_payload(self.rules)})

    def observe(self, marks: str, dated: Millis | None = None, detail: str = "") -> None:
        """Probe once for each mark (+ up, - down, ? unknown), now or as if it were another time."""
        for mark in marks:
            at = self.clock() if dated is None else dated
            clock = replace(clock_of(self.steady(), self.steady()), bound=None)
            made = replace(
                observation_of(self.target, mark, at),
                started_at=at + self.begun_after_end,
                ended_at=at,
                clock=clock,
            )
            made = replace(made, detail=detail) if detail and mark == "-" else made
            made = replace(made, guard=self.guard) if mark == "-" else made
            made = replace(made, interval=self.settings.interval) if self.settings else made
            if self.peer:
                made = replace(made, attempts=tuple(replace(one, peer=self.peer) for one in made.attempts))
            draft = NewEntry(kind="observation", time=made.ended_at, target=self.target, payload=made)
            self._append(draft, made)

    def watch(
        self, host: str, event: TargetEvent = TargetEvent.CHANGE, reason: str = "reload", **settings: Any
    ) -> None:
        """Say what is watched from now on."""
        at = self.clock()
        made = change_of(event, at, 60_000, self.target, host=host, provider=self.provider, **settings)
        made = replace(made, clock=clock_of(self.steady(), self.steady()), reason=reason)
        self.settings = made.settings
        self._append(NewEntry(kind="watch", time=at, target=self.target, payload=made), made)

    def fact(self, kind: str, made: Gap) -> None:
        """Write a fact that is no observation."""
        self._append(NewEntry(kind=kind, time=made.end, target=self.target, payload=made), made)

    def _append(self, draft: NewEntry, made: Observation | Gap | TargetChange) -> None:
        """Write a fact, and the outages that it opens or closes."""
        index = self.store.append_batch([draft])[0].index
        self._detector, changed = self._detector.feed(IndexedFact(index, made), self.rules)
        for outage in changed:
            payload = payload_of(outage, self.provider, Kind.IMAP, "here") | {"rules": rules_payload(self.rules)}
            if self.settings is not None:
                payload["watch"] = settings_payload(self.settings)
            self.entry("outage", payload, self.target)

    def stamp(self, authority: Authority, **more: Any) -> Path:
        """Have a checkpoint stamped, and write down truly what came back and what the clock said."""
        self.store.checkpoint()
        with self.reader() as reader:
            signed = reader.last_checkpoint()
        assert signed is not None
        query, _ = timestamp.timestamp_query(signed.note)
        asked = self.clock()
        reply = authority.answer(query)
        answered = self.clock()
        token = timestamp.check_reply(reply, signed.note)
        digest = Tokens(self.folder).save(reply)
        self.entry("token", {
            "authority": authority.folder.name, "signer": token.authority, "checkpoint": signed.size,
            "reply": digest, "time": token.time, "serial": token.serial,
            "policy": token.policy, "asked": asked, "answered": answered,
            "offset_ms": (asked + answered) // 2 - token.time, **more,
        })  # fmt: skip
        return self.folder / "tokens" / f"{digest}.tsr"

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Read what was written."""
        reader = Reader.open(self.folder)
        try:
            yield reader
        finally:
            reader.close()

    def bundle(
        self, *authorities: Authority, report: str = "", change: Callable[[Any], Any] = lambda stated: stated
    ) -> Path:
        """Make the bundle of the newest outage, with a report in the language `report` if given.

        `change` may state something else than the record gives, and all is signed.
        """
        self.store.checkpoint()
        path, out = self.folder / "case.zip", io.BytesIO()
        with self.reader() as reader:
            newest = next(reader.entries(kinds=["outage"], descending=True, limit=1))
            case = find_outage_evidence(reader, Tokens(self.folder), self.store.keys, newest.payload["id"], None)
            case = replace(case, statement=change({**case.statement}))
            files = [File(f"tokens/{one.folder.name}.pem", one.chain.read_bytes()) for one in authorities]
            if report:
                rendering = Rendering(report, ZoneInfo("Europe/Rome"), "here")
                case.statement["report"] = rendering.as_json(outside_facts(reader, case.range))
                facts = read_report_facts(reader, case)
                pdf = render_outage_report(case, facts, pretty_json(case.statement))
                files.append(File("report.pdf", pdf))
            write_outage_bundle(out, reader, self.store.keys, case, "en", files)
        path.write_bytes(out.getvalue())
        return path


def trusting(*authorities: Authority) -> Trust:
    """Trust these alone."""
    return Trust.read([one.chain for one in authorities])


def quiet(folder: Path) -> Authority:
    """An authority that is asked by hand."""
    made = Authority(folder)
    made.server.server_close()
    return made
