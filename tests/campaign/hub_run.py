"""Runs three vantage points and a hub through a world: real detector, ledgers, pushes, receiver and quorum.

Each vantage point probes in true time, dates what it records by its own clock, and builds its pushes as the client
does. The hub decides after each push, and in between while anything is down. Where nothing is the matter, pushes
are hours apart: they would change nothing.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mailwatch import monotonic
from mailwatch.analysis.confirmation import Confirmation
from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.hub.client import build_push
from mailwatch.hub.quorum import QuorumBoard, audit_decisions
from mailwatch.ledger.merkle import CompactRange
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import (
    Attempt,
    Cause,
    ClockSpan,
    Gap,
    GapReason,
    Kind,
    Observation,
    Outcome,
    Phase,
    TargetEvent,
)
from mailwatch.store import NewEntry, Reader, Store
from mailwatch.times import Millis
from tests.campaign.hub_world import PUSH_SECONDS, HubWorld, VantageTruth
from tests.campaign.world import HOUR, Span, Spans
from tests.helpers.hub_members import LivingHub, WrittenMember
from tests.helpers.ledger_factory import change
from tests.helpers.records import payload_of
from tests.helpers.sqlite_access import wait_for_no_disk

EPOCH: Millis = 1_767_571_200_000
"""When every world begins, by a right clock."""
PROBE_SECONDS = 0.2
QUIET_PUSH_SECONDS = 6 * HOUR
RESTARTS_A_WEEK = 2.0
"""How often the hub starts again, and reads from its record what it knew."""
RIGHT_WITHIN: Millis = 100
SLICE = 64
"""Entries of a push."""
CAUSES = {"-": Cause.TIMEOUT, "?": Cause.OFFLINE, "c": Cause.CREDENTIALS, "+": None}


@dataclass(frozen=True, slots=True)
class TrueBegin:
    """When the outage of an entry truly began, as its probes met it: after `good`, by `bad`."""

    good: float | None
    bad: float


@dataclass(slots=True)
class Decision:
    """A change of what is confirmed, in true time, and the true beginnings by the names of the ledgers."""

    at: float
    decided: Confirmation
    begins: dict[str, TrueBegin] = field(default_factory=dict)


class Vantage(WrittenMember):
    """A vantage point: its ledger grows as it probes."""

    def __init__(self, world: HubWorld, truth: VantageTruth, folder: Path) -> None:
        self.world, self.truth, self.folder = world, truth, folder
        self.store = Store.open(folder)
        wait_for_no_disk(self.store)
        self._steady: Millis = 0
        self.store.read_clock = lambda: self._steady
        self._detector, self._drafts = Detector(), list[NewEntry]()
        self._times: dict[int, float] = {}
        self._last_end: tuple[float, Millis] | None = None
        self._doubts = 0
        self._good: float | None = None
        self._bad: float | None = None
        self.begins: dict[int, TrueBegin] = {}
        """By the entry of an outage."""
        self.tree = CompactRange()
        self.pushed_at = 0.0
        self._append("watch", 0.0, change(TargetEvent.BEGIN, self._wall(0.0), round(world.interval * 1000)))
        self.flush()
        self.reader = Reader.open(folder)

    def _wall(self, moment: float) -> Millis:
        return EPOCH + round((moment + self.offset(moment)) * 1000)

    def offset(self, moment: float) -> float:
        """Return by how much what it records is ahead: a liar says that it was two days earlier."""
        lie = self.truth.lies.at(moment)
        return self.truth.offset(moment) - (2 * 86400.0 if lie is not None and lie.kind == "date" else 0.0)

    def _bound(self, moment: float) -> Millis | None:
        ahead = abs(self.truth.offset(moment)) * 1000
        if not ahead:
            return RIGHT_WITHIN
        return round(ahead) + RIGHT_WITHIN if self.truth.known_clock else None

    def probe(self, moment: float) -> float:
        """Probe once; return when to probe next."""
        off = self.truth.off.at(moment)
        if off is not None:
            return off.end + 1.0
        mark = self._mark(moment)
        begun = self.truth.off.touching(moment - self.world.interval, moment)
        if self._last_end is not None and begun and self._last_end[0] < begun[-1].start:
            since, wall = self._last_end
            clock = ClockSpan(monotonic.origin().boot, _steady(since), _steady(moment), self._bound(moment))
            gap = Gap(target="mail", start=wall, end=self._wall(moment), reason=GapReason.NOT_RUNNING, clock=clock)
            self._fact("gap", moment, gap)
        self._observe(moment, mark)
        self._last_end = moment + PROBE_SECONDS, self._wall(moment + PROBE_SECONDS)
        self._doubts = self._doubts + 1 if mark == "-" or self._detector.state.is_open else 0
        rechecks = self.world.rules.recheck
        if self._doubts and rechecks and self._doubts <= 12:
            recheck = rechecks[min(self._doubts, len(rechecks)) - 1]
            return moment + PROBE_SECONDS + min(self.world.interval, recheck)
        return moment + self.world.interval

    def _mark(self, moment: float) -> str:
        """What the probe meets, or what a liar says that it met."""
        if self.truth.offline.at(moment) is not None:
            return "?"
        lie = self.truth.lies.at(moment)
        if lie is not None:
            return "+" if lie.kind == "hide" else "-"
        if self.world.faults.at(moment) is not None:
            return "-"
        return "c" if self.truth.login.at(moment) is not None else "+"

    def _observe(self, moment: float, mark: str) -> None:
        cause, wall, end = CAUSES[mark], self._wall(moment), self._wall(moment) + round(PROBE_SECONDS * 1000)
        phase = Phase.AUTH if mark == "c" else Phase.CONNECT if cause else None
        attempt = Attempt(
            started_at=wall, ended_at=end, peer="192.0.2.1:993", phases={Phase.CONNECT: 20_000}, cause=cause,
            failed_phase=phase,
        )  # fmt: skip
        clock = ClockSpan(
            monotonic.origin().boot, _steady(moment), _steady(moment + PROBE_SECONDS), self._bound(moment)
        )
        outcome = cause.outcome if cause else Outcome.UP
        observation = Observation(
            target="mail", scheduled_at=wall, started_at=wall, ended_at=end, outcome=outcome, cause=cause,
            failed_phase=phase, attempts=(attempt,), clock=clock,
        )  # fmt: skip
        if not self._detector.state.is_open:
            if outcome is Outcome.UP:
                self._good, self._bad = moment, None
            elif outcome is Outcome.DOWN and self._bad is None:
                self._bad = moment
        self._fact("observation", moment + PROBE_SECONDS, observation)

    def _fact(self, kind: str, moment: float, fact: Observation | Gap) -> None:
        index = self._append(kind, moment, fact)
        self._detector, changed = self._detector.feed(IndexedFact(index, fact), self.world.rules)
        for outage in changed:
            payload = payload_of(outage, "lab", Kind.IMAP, self.truth.name)
            entry = self._append("outage", moment, payload | {"rules": rules_payload(self.world.rules)})
            if outage.state == "open" and self._bad is not None:
                self.begins[entry] = TrueBegin(self._good, self._bad)
            if outage.state != "open":
                self._good, self._bad = moment, None

    def _append(self, kind: str, moment: float, payload: object) -> int:
        target = "mail"
        self._steady = _steady(moment)
        self._drafts.append(NewEntry(kind=kind, time=self._wall(moment), target=target, payload=payload))  # type: ignore[arg-type]
        return self.store.size + len(self._drafts) - 1

    def flush(self) -> None:
        """Commit what was recorded."""
        if self._drafts:
            self.store.append_batch(self._drafts)
            self._drafts = []


def _steady(moment: float) -> Millis:
    return round((moment + 4321.0) * 1000)


class HubRun:
    """One world from beginning to end; `folder` gets the ledgers."""

    def __init__(self, world: HubWorld, folder: Path, k: int) -> None:
        self.world, self._undo = world, contextlib.ExitStack()
        self.hub = LivingHub(folder / "hub", k)
        self._undo.callback(self.hub.close)
        self.members = [Vantage(world, truth, folder / truth.name) for truth in world.members]
        self.by_ledger = {one.origin: one for one in self.members}
        self.decisions: list[Decision] = []
        self.pushes = self.entries = self.restarts = 0
        self.findings: list[str] = []
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._ticking = False
        self._busy = _busy(world)
        for one in self.members:
            self._undo.callback(one.store.close)
            self._undo.callback(one.reader.close)

    def through(self) -> None:
        """Live through all of the world, and audit what the hub decided."""
        world, chance = self.world, self.world.chance
        with self._undo:
            for one in self.members:
                self._at(0.0)
                self.hub.join(one, one.truth.name)
                self._plan(chance.uniform(1.0, world.interval), lambda at, one=one: self._probe(one, at))  # type: ignore[misc]
                for span in (*one.truth.cut.all, *one.truth.offline.all):
                    back = span.end + chance.uniform(1.0, 300.0)
                    self._plan(back, lambda at, one=one: self._push(one, at))  # type: ignore[misc]
            at = 0.0
            while (at := at + chance.expovariate(RESTARTS_A_WEEK / (7 * 86400.0))) < world.end:
                self._plan(at, self._restart)
            while self._events and self._events[0][0] < world.end:
                moment, _, what = heapq.heappop(self._events)
                what(moment)
            found = audit_decisions(self.hub.reader, self.hub.store.keys.origin, self.hub.data_dir)
            self.findings += [f"entry {one.index}: {one.what}" for one in found]

    def _plan(self, moment: float, what: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), what))

    def _at(self, moment: float) -> None:
        self.hub.at = EPOCH + round(moment * 1000)

    def _probe(self, one: Vantage, moment: float) -> None:
        again = one.probe(moment)
        self._plan(again, lambda at: self._probe(one, at))
        is_due = self._busy.at(moment) is not None or moment - one.pushed_at > QUIET_PUSH_SECONDS
        if is_due:
            later = moment + PROBE_SECONDS + self.world.chance.uniform(0.0, PUSH_SECONDS)
            self._plan(later, lambda at: self._push(one, at))

    def _push(self, one: Vantage, moment: float) -> None:
        """Push all that there is, in slices, as after a long absence."""
        if not one.truth.is_connected(moment):
            return
        one.flush()
        self._at(moment)
        while one.tree.size < one.store.size:
            end = min(one.store.size, one.tree.size + SLICE)
            built = build_push(one.reader, one.store.keys, one.tree, end, None)
            assert built is not None
            answer = self.hub.receiver.push(one.log, str(built.first), built.body)
            if answer.status != 200:
                raise AssertionError(f"{one.truth.name} at {moment}: {answer}")
            one.tree, one.pushed_at = built.tree, moment
            self.pushes += 1
            self.entries += end - built.first
            self._decide(moment)

    def _decide(self, moment: float) -> None:
        self._at(moment)
        self.hub.decide(observes=False)
        for decided in self.hub.decided:
            begins = {
                view.ledger: self.by_ledger[view.ledger].begins[view.entry]
                for view in decided.views
                if view.sight == "down" and view.entry in self.by_ledger[view.ledger].begins
            }
            self.decisions.append(Decision(moment, decided, begins))
        if not self._ticking and self._is_anything_down():
            self._ticking = True
            self._plan(moment + max(30.0, self.world.interval / 4), self._tick)

    def _is_anything_down(self) -> bool:
        board = self.hub.board
        views = (view for member in board.members.values() for view in member.targets.values())
        return bool(board.confirmed) or any(view.is_open for view in views)

    def _tick(self, moment: float) -> None:
        self._ticking = False
        self._decide(moment)

    def _restart(self, moment: float) -> None:
        """Read from the record what was known, and compare it with that."""
        self.restarts += 1
        self._at(moment)
        board, hub = self.hub.board, self.hub
        hub.board = QuorumBoard(hub.data_dir, hub.reader, hub.store.keys.origin, hub.k)
        hub.board.restore(hub.counted())
        for ledger, record in hub.board.members.items():
            if ledger in board.members and record != board.members[ledger]:
                self.findings.append(f"at {moment}: read again, {ledger} is {record}, not {board.members[ledger]}")
        if hub.board.confirmed.keys() != board.confirmed.keys():
            self.findings.append(f"at {moment}: read again, other channels are confirmed")


def _busy(world: HubWorld) -> Spans:
    """When something is the matter with the provider, or is said to be."""
    spans = [*world.faults.all, *(span for one in world.members for span in one.lies.all)]
    before, after = 3 * world.interval + 60.0, 8 * world.interval + 600.0
    found: list[Span] = []
    for span in sorted(spans, key=lambda one: one.start):
        start, end = span.start - before, span.end + after
        if found and start <= found[-1].end:
            found[-1] = Span(found[-1].start, max(end, found[-1].end))
        else:
            found.append(Span(start, end))
    return Spans(found)
