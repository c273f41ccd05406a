"""verify.py, which a bundle encloses: it refuses what is not so, and accepts what `mailwatch verify` accepts.

It is run as it is in the source, by a bare Python; the scripts of old bundles run in test_old_records.py.
"""

from __future__ import annotations

import base64
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from functools import cache
from importlib.resources import files as resources_of
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from mailwatch import monotonic
from mailwatch.analysis.detector import IndexedFact
from mailwatch.evidence.outage_case import find_outage_evidence, write_outage_bundle
from mailwatch.evidence.verify import Trust, verify
from mailwatch.ledger.settings_payloads import rules_payload
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
)
from mailwatch.store import NewEntry, Store, Tokens
from mailwatch.times import Millis, now
from tests.helpers.bundle_files import Files, files_of, pack
from tests.helpers.bundle_mutations import FOLDER
from tests.helpers.ledger_factory import HOUR, change
from tests.helpers.malicious_operator import Operator
from tests.helpers.records import payload_of
from tests.helpers.seed import SEED

SCRIPT = resources_of("mailwatch.evidence") / "standalone" / "verify.py"
CASE = FOLDER / "case.zip"
CHECKPOINTS, PAYLOAD, TWICE = "WRONG checkpoints grow", "WRONG each payload", "a name stands twice"
BUNDLES = FOLDER.parent / "contracts" / "bundles"


def run(path: Path) -> tuple[int, str]:
    """Run the script as an expert does; give its exit status and what it printed."""
    command = [sys.executable, "-I", "-S", str(SCRIPT), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@cache
def _code() -> CodeType:
    return compile(SCRIPT.read_text("utf-8"), "verify.py", "exec")


def faults(path: Path) -> list[str]:
    """Run the script in this process; give the lines that say WRONG."""
    before, hook, out = sys.argv, sys.excepthook, io.StringIO()
    sys.argv = ["verify.py", str(path)]
    scope: dict[str, Any] = {"__name__": "__main__"}
    try:
        with redirect_stdout(out), suppress(SystemExit):
            exec(_code(), scope)
    finally:
        for opened in ("lines", "bundle"):
            scope[opened].close()
        sys.argv, sys.excepthook = before, hook
    return [line for line in out.getvalue().splitlines() if line.startswith("WRONG")]


def stated(name: str, change: Callable[[Any], None]) -> Callable[[Files], None]:
    """A change of the statement or of proof.json."""

    def made(files: Files) -> None:
        value = json.loads(files[name])
        change(value)
        files[name] = json.dumps(value).encode()

    return made


def outage(**more: Any) -> Callable[[Files], None]:
    """Another value of the stated outage."""
    return stated("outage.json", lambda value: value["outage"].update(more))


def duration(**more: Any) -> Callable[[Files], None]:
    """Another duration of the stated outage."""
    return stated("outage.json", lambda value: value["outage"]["duration"].update(more))


def note(change: Callable[[list[str]], None]) -> Callable[[Files], None]:
    """Other checkpoints."""
    return stated("proof.json", lambda value: change(value["checkpoints"]))


def unsigned(notes: list[str]) -> None:
    notes[0] = notes[0].split("\n\n")[0] + "\n\n"


def by_another(notes: list[str]) -> None:
    text, _, signature = notes[0].partition("\n\n")
    name, raw = signature.rstrip("\n").rsplit(" ", 1)
    other = base64.b64encode(b"\0\0\0\0" + base64.b64decode(raw)[4:]).decode()
    notes[0] = f"{text}\n\n{name} {other}\n"


def edit(name: str, old: bytes, new: bytes) -> Callable[[Files], None]:
    """Other bytes in a file."""

    def made(files: Files) -> None:
        assert files[name].count(old) >= 1
        files[name] = files[name].replace(old, new, 1)

    return made


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        pytest.param(outage(proven_afterwards=True), "WRONG   proven afterwards", id="proven"),
        pytest.param(outage(state="open", first_good=None), "WRONG   state", id="open"),
        pytest.param(outage(state="unwatched", first_good=None), "WRONG   state", id="unwatched"),
        pytest.param(outage(last_good=None), "WRONG   last good", id="last-good"),
        pytest.param(outage(first_bad="2026-01-01T00:00:00.000Z"), "WRONG   first bad", id="first-bad"),
        pytest.param(outage(last_bad="2027-01-01T00:00:00.000Z"), "WRONG   last bad", id="last-bad"),
        pytest.param(outage(first_good="2027-01-01T00:00:00.000Z"), "WRONG   first good", id="first-good"),
        pytest.param(duration(min=3600.0), "WRONG   min", id="minimum"),
        pytest.param(duration(max=7200.0), "WRONG   max", id="maximum"),
        pytest.param(duration(max=None), "WRONG   max", id="no-maximum"),
        pytest.param(outage(observations={"down": 9, "up": 0, "unknown": 0}), "WRONG   observations", id="counts"),
        pytest.param(outage(causes={"dns": 3}), "WRONG   causes", id="causes"),
        pytest.param(outage(clock={"stepped": 1e6, "reboots": 0}), "WRONG   clock", id="stepped"),
        pytest.param(outage(id="0" * 12), "WRONG outage 000000000000", id="id"),
        pytest.param(
            stated("outage.json", lambda value: value["rules"].update(close_after=10_000)),
            "WRONG the rules are those on record", id="close-after",
        ),
        pytest.param(
            stated("outage.json", lambda value: value.update(rules_before=value["rules"] | {"open_after": 1})),
            "WRONG the rules are those on record", id="rules-before",
        ),
        pytest.param(stated("outage.json", lambda value: value.update(ledger="x")), CHECKPOINTS, id="ledger"),
        pytest.param(note(unsigned), CHECKPOINTS, id="A20-unsigned"),
        pytest.param(note(by_another), CHECKPOINTS, id="A20-by-another"),
        pytest.param(note(lambda notes: notes.append(notes[-1])), CHECKPOINTS, id="A20-two-of-a-size"),
        pytest.param(edit("outage.json", b'"format"', b'"x": NaN,"format"'), "WRONG: this is not", id="A20-nan"),
        pytest.param(edit("outage.json", b'"format"', b'"format": 1, "format"'), TWICE, id="A20-name-twice"),
        pytest.param(edit("proof.json", b'"format"', b'"end": 1, "format"'), TWICE, id="A20-proof-twice"),
        pytest.param(edit("entries.jsonl", b'"v":2}', b'"v":2,"v":2}'), PAYLOAD, id="A20-entry-twice"),
        pytest.param(edit("entries.jsonl", b'"outcome":"up"', b'"outcome":"down"'), PAYLOAD, id="entry"),
    ],
)  # fmt: skip
def test_what_is_not_so_is_refused(tmp_path: Path, attack: Callable[[Files], None], words: str) -> None:
    """The manifest fits: who holds the key can sign any."""
    files = files_of(CASE)
    attack(files)
    status, printed = run(pack(tmp_path / "x.zip", files))
    assert words in printed, printed
    assert status == 1
    assert "Traceback" not in printed


def test_two_outages_are_not_one(tmp_path: Path) -> None:
    """Ten good observations lie between them: the statement of the first, drawn out to the second."""
    store = Store.open(tmp_path / "data")
    operator = Operator(store, tmp_path / "data")
    operator.observe("+---++++++++++---++")
    path = operator.bundle()
    with operator.reader() as reader:
        first, second = ([entry.payload for entry in reader.entries(kinds=["outage"])][at] for at in (1, 3))
    store.close()
    files = files_of(path)
    value = json.loads(files["outage.json"])
    one = value["outage"]
    one |= {"id": first["id"], "causes": {"timeout": 6}, "phases": {"connect": 6}}
    one["ledger"]["first"], one["observations"] = first["ledger"]["first"], {"down": 6, "up": 10, "unknown": 0}
    assert second["ledger"]["last"] == one["ledger"]["last"]
    files["outage.json"] = json.dumps(value).encode()
    status, printed = run(pack(path, files))
    assert status == 1
    assert "WRONG   observations" in printed


def test_an_outage_of_a_window_is_not_left_out(tmp_path: Path) -> None:
    files = files_of(BUNDLES / "period.zip")
    value = json.loads(files["period.json"])
    del value["outages"][1]
    files["period.json"] = json.dumps(value).encode()
    assert "WRONG no outage of the window is left out" in run(pack(tmp_path / "x.zip", files))[1]


@pytest.mark.parametrize("name", ["outage", "period", "proven", "target", "away"])
def test_an_honest_bundle_is_accepted(name: str) -> None:
    status, printed = run(BUNDLES / f"{name}.zip")
    assert status == 0, printed
    assert printed.rstrip().endswith("All checks that plain Python can do have passed.")
    assert "Not compared here: signatures" in printed


MARKS = {"+": 30, "-": 25, "?": 8, "x": 8, "X": 2, "o": 2, "g": 4, "w": 3, "R": 3, "S": 2, "s": 1, "t": 2}


class _Week:
    """An operator in whose ledger everything happens: rejected logins, gaps, other rules, a clock that is set."""

    def __init__(self, chance: random.Random, folder: Path) -> None:
        self.chance, self.at, self.off, self.secret = chance, now() + 1000, 0, "a"
        self.store = Store.open(folder)
        self.operator = Operator(self.store, folder)
        self.operator.clock = lambda: self.at + self.off  # type: ignore[method-assign]
        self.store.read_clock = lambda: self.at
        self.ids: dict[str, None] = {}

    def go(self, count: int) -> None:
        for _ in range(count):
            self.at += self.chance.randrange(1000, 60_000)
            self.step(self.chance.choices(list(MARKS), list(MARKS.values()))[0])
            if self.chance.random() < 0.1:
                self.store.checkpoint()
        self.store.checkpoint()

    def step(self, mark: str) -> None:
        operator, chance = self.operator, self.chance
        if mark == "R":
            operator.rules = Rules(chance.randrange(1, 4), chance.randrange(1, 4))
            operator.start()
        elif mark == "S":
            before, self.off = self.off, chance.choice([0, 400, 700, HOUR, -HOUR])
            moved = {"event": "step", "start": operator.clock(), "end": operator.clock()}
            operator.entry("clock", moved | {"milliseconds": self.off - before})
        elif mark == "s":
            self.secret = chance.choice("ab")
        else:
            start, wall = self.at, operator.clock()
            self.at += 200
            bound = chance.choice([None, 100, 5000])
            clock = ClockSpan(monotonic.origin().boot, start, self.at, bound)
            self.feed(self.fact(mark, wall, clock))

    def fact(self, mark: str, wall: Millis, clock: ClockSpan) -> Fact:
        name, end = self.operator.target, wall + 200
        if mark == "g":
            return Gap(target=name, start=wall, end=end, reason=GapReason.NOT_RUNNING, clock=clock)
        if mark == "w":
            event = self.chance.choice(list(TargetEvent))
            return replace(change(event, end, 60_000, name=name), clock=clock)
        causes = {"-": Cause.TIMEOUT, "?": Cause.OFFLINE} | dict.fromkeys("xXo", Cause.CREDENTIALS)
        cause = causes.get(mark)
        phases = [Phase.CONNECT, Phase.TLS, Phase.AUTH, Phase.MAILBOX]
        phase = self.chance.choice(phases) if mark in "-X" else Phase.AUTH if mark in "xo" else None
        outcome = Outcome.DOWN if mark == "X" else cause.outcome if cause else Outcome.UP
        facts: Any = {"owner": "locked"} if mark == "o" else None
        attempt = Attempt(
            started_at=wall, ended_at=end, peer="192.0.2.1:993", phases={}, cause=cause, failed_phase=phase,
            facts=facts,
        )  # fmt: skip
        login = mark != "t" and self.chance.random() < 0.9
        return Observation(
            target=name, scheduled_at=wall, started_at=wall, ended_at=end, outcome=outcome, cause=cause,
            failed_phase=phase, attempts=(attempt,), clock=clock, with_login=login,
            secret=self.secret if login else "", interval=self.chance.choice([None, 60_000]),
        )  # fmt: skip

    def feed(self, fact: Fact) -> None:
        operator, rules = self.operator, rules_payload(self.operator.rules)
        kind = "gap" if isinstance(fact, Gap) else "observation" if isinstance(fact, Observation) else "watch"
        draft = NewEntry(kind=kind, time=operator.clock(), target=operator.target, payload=fact)
        index = self.store.append_batch([draft])[0].index
        operator._detector, changed = operator._detector.feed(IndexedFact(index, fact), operator.rules)
        for made in changed:
            payload = payload_of(made, "lab", Kind.IMAP, "here") | {"rules": rules}
            operator.entry("outage", payload, operator.target)
            self.ids[made.id] = None


@pytest.mark.parametrize("number", range(6))
def test_what_mailwatch_accepts_is_accepted(tmp_path: Path, number: int) -> None:
    """The rules are written twice, here and there: they must not differ."""
    week = _Week(random.Random(f"{SEED}:{number}"), tmp_path / "data")
    week.go(100)
    with week.operator.reader() as reader:
        for identity in week.ids:
            case = find_outage_evidence(reader, Tokens(tmp_path), week.store.keys, identity, None)
            out = io.BytesIO()
            write_outage_bundle(out, reader, week.store.keys, case, "en", [])
            path = tmp_path / "case.zip"
            path.write_bytes(out.getvalue())
            refused = [claim for claim in verify(path, Trust()) if not claim.valid]
            assert (refused, faults(path)) == ([], []), (SEED, number, identity)
    week.store.close()
