"""Each page of a small database, one at a time: zeroed or full of random bytes, before a start and while it runs.

Reported or without effect, never silent. Reported is: no start, with a sentence; or unready, a `ledger` message,
`mailwatch_ledger_valid` 0, an audit that finds it. Without effect is: what is written afterwards is on record, and
every verb that says nothing of damage answers as if there were none.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Flapping, Lab
from tests.chaos.promises import (
    TRACEBACK,
    alive,
    command,
    force_stop,
    get,
    log_since,
    metric,
    ready,
    size,
    stops,
    wait_for,
)
from tests.helpers.process import MailWatchProcess
from tests.helpers.webhook import Webhook

PAGE = 4096
AT_ONCE = 2
"""Cases side by side: most of each is waiting."""
ENTRIES = 30
"""Of the small database: enough that its indexes have pages of their own."""
LATER = 6
"""Entries that must be written after the damage, if nothing is reported."""
Kind = Literal["zeros", "noise"]
When = Literal["before a start", "while it runs"]


@dataclass(frozen=True, slots=True)
class Case:
    """One page, damaged once. Pages count from 0."""

    page: int
    kind: Kind
    when: When

    def __str__(self) -> str:
        return f"page {self.page} {self.kind} {self.when}"


@dataclass(frozen=True, slots=True)
class Undamaged:
    """The undamaged installation: its folder, its outages, its entries, and what each page is of."""

    folder: Path
    outages: list[Any]
    entries: dict[int, tuple[str, str]]
    uses: dict[int, str]
    pages: int


def run(lab: Lab, figures: Figures, scale: Scale) -> None:
    """Damage every page."""
    with lab.place("pages") as folder, Flapping().running() as flapping:
        whole = make(lab, folder, flapping)
        figures.count("pages of the database", whole.pages)
        cases = list(_cases(whole.pages, scale))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for done, _ in enumerate(pool.map(lambda case: one(lab, figures, whole, case, scale), cases), 1):
                figures.progress(done, len(cases))


def _cases(pages: int, scale: Scale) -> Iterable[Case]:
    """Each page before a start and while it runs; by one damage each, the other one the other time."""
    kinds: tuple[Kind, Kind] = ("zeros", "noise")
    for page in range(pages):
        if scale.thorough:
            yield from (Case(page, kind, when) for kind in kinds for when in ("before a start", "while it runs"))
        else:
            turn = (page + sum(scale.seed.encode())) % 2
            yield Case(page, kinds[turn], "before a start")
            yield Case(page, kinds[1 - turn], "while it runs")


def make(lab: Lab, folder: Path, flapping: Flapping) -> Undamaged:
    """Run MailWatch until its database has a few dozen pages, and stop it."""
    with closing(_Channel()) as channel:
        running = lab.install(folder / "whole", [flapping.target()], notify=[channel.section])
        with running.running():
            assert wait_for(lambda: size(running) > ENTRIES)
    outages = json.loads(command(running, "outages", "--json").stdout)
    path = running.data_dir / "mailwatch.sqlite"
    with closing(sqlite3.connect(path)) as reading:
        reading.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        entries = {row[0]: (row[1], row[2]) for row in reading.execute("SELECT idx, header, payload FROM entries")}
    for leftover in running.data_dir.glob("mailwatch.sqlite-*"):
        leftover.unlink()
    return Undamaged(running.folder, outages, entries, _uses(path), path.stat().st_size // PAGE)


def _uses(path: Path) -> dict[int, str]:
    """Name the table or index of each page, as far as SQLite can (dbstat is not in every build)."""
    with closing(sqlite3.connect(path)) as reading:
        try:
            return {number - 1: name for number, name in reading.execute("SELECT pageno, name FROM dbstat")}
        except sqlite3.OperationalError:
            roots = reading.execute("SELECT rootpage, name FROM sqlite_master WHERE rootpage > 0")
            return {0: "sqlite_schema"} | {number - 1: f"root of {name}" for number, name in roots}


def one(lab: Lab, figures: Figures, whole: Undamaged, case: Case, scale: Scale) -> None:
    """Live through one case, and say whether it was reported, without effect or silent."""
    with lab.place("page") as folder, Flapping().running() as flapping, closing(_Channel()) as channel:
        running = lab.install(folder / "one", [flapping.target()], notify=[channel.section])
        shutil.copytree(whole.folder / "data", running.data_dir)
        damage = _damage_of(running, case, scale)
        try:
            found = DamageObserver(whole, running, channel)
            if case.when == "while it runs":
                running.start(ready=False)
                assert wait_for(lambda: ready(running)), f"{case}: does not start: {log_since(running)[-300:]}"
                damage()
            else:
                damage()
                running.start(ready=False)
            verdict = found.result()
        finally:
            force_stop(running)
    use = whole.uses.get(case.page, "?")
    figures.count(f"{case.when}: {verdict.split(':')[0]}")
    figures.promise(not verdict.startswith("silent"), f"{case} ({use}): {verdict}")
    log = log_since(running) if running.log.exists() else found.log
    figures.promise(TRACEBACK not in log, f"{case} ({use}): traceback: {_tail(log)}")


def _damage_of(running: MailWatchProcess, case: Case, scale: Scale) -> Callable[[], None]:
    def damage() -> None:
        noise = random.Random(f"{scale.seed} {case}").randbytes(PAGE)
        with (running.data_dir / "mailwatch.sqlite").open("r+b") as file:
            file.seek(case.page * PAGE)
            file.write(bytes(PAGE) if case.kind == "zeros" else noise)

    return damage


class _Channel:
    """A webhook for messages of the ledger."""

    def __init__(self) -> None:
        self._webhook = Webhook().open()
        self.section = {"url": self._webhook.url, "on": ["open", "close", "ledger"]}

    def informed(self) -> bool:
        """Whether a message came that is about the ledger."""
        return any("ledger" in json.dumps(message).lower() for message in list(self._webhook.received))

    def close(self) -> None:
        self._webhook.close()


class DamageObserver:
    """What can be seen of the damage from outside."""

    def __init__(self, whole: Undamaged, running: MailWatchProcess, channel: _Channel) -> None:
        self.whole, self.running, self.channel = whole, running, channel
        self.log = ""

    def result(self) -> str:
        """Return "reported: how", "without effect" or "silent: what"."""
        running = self.running
        wait_for(lambda: not alive(running) or self._size() or self._live())
        if not alive(running):
            return self._ended()
        before = self._size()
        written = wait_for(lambda: not alive(running) or self._live() or self._size() >= before + LATER, 30)
        if not alive(running):
            return self._ended()
        if how := self._live():
            return self._stopped(f"reported: {how}")
        if not written:
            return self._stopped(
                f"silent: nothing is written any more, and it says it is ready: {_tail(self.log)}"
            )
        return self._stopped("")

    def _size(self) -> int:
        # The one is as of now, the other does not read what may be damaged.
        return max(size(self.running), int(metric(self.running, "mailwatch_ledger_size") or 0))

    def _live(self) -> str:
        """How a running MailWatch reports it, "" when it does not."""
        if get(self.running, "/readyz").startswith("503"):
            return "readyz"
        if metric(self.running, "mailwatch_ledger_valid") == 0:
            return "ledger_valid"
        return "a message" if self.channel.informed() else ""

    def _ended(self) -> str:
        process = self.running.process
        assert process is not None
        status, self.log = process.wait(), log_since(self.running)
        if status == 0:
            return f"silent: it ended with status 0: {_tail(self.log)}"
        return "reported: no start" if "mailwatch:" in self.log or "ledger" in self.log else "silent: no word"

    def _stopped(self, verdict: str) -> str:
        """Stop it; what was not reported so far must be found afterwards, or have had no effect."""
        status, _ = stops(self.running)
        self.log = log_since(self.running)
        if status is None:
            return "silent: SIGTERM without effect"
        audit = command(self.running, "ledger", "audit")
        if TRACEBACK in audit.stderr:
            return f"silent: the audit ends in a traceback: {_tail(audit.stderr)}"
        if verdict:
            return verdict
        if audit.returncode != 0:
            return "reported: audit"
        return self._effect()

    def _effect(self) -> str:
        """The audit found nothing: then nothing may be amiss."""
        outages = command(self.running, "outages", "--json")
        if TRACEBACK in outages.stderr:
            return f"silent: `outages` ends in a traceback: {_tail(outages.stderr)}"
        if outages.returncode == 0:
            known = {one["id"] for one in json.loads(outages.stdout)}
            if not {one["id"] for one in self.whole.outages} <= known:
                return "silent: audit valid, but outages are missing"
        with closing(sqlite3.connect(self.running.data_dir / "mailwatch.sqlite")) as reading:
            rows = reading.execute("SELECT idx, header, payload FROM entries")
            found = {row[0]: (row[1], row[2]) for row in rows}
        if any(found.get(index) != texts for index, texts in self.whole.entries.items()):
            return "silent: audit valid, but entries are not what they were"
        return "without effect"


def _tail(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:])[-300:]
