"""kill -9 at random moments: in the first start, a start, a commit, a checkpoint, a backup, a reload, a stop."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Flapping, Lab
from tests.chaos.promises import (
    TRACEBACK,
    Acknowledged,
    alive,
    command,
    force_stop,
    log_position,
    log_since,
    shows,
    starts,
    stops,
    stray_keys,
    unexpected_files,
    wait_for,
)
from tests.helpers.command import Program
from tests.helpers.process import MailWatchProcess

MOMENTS = ("first start", "start", "writing", "backup", "reload", "stop")
START = 3.0
"""Seconds within which a start is killed; it is measured, and then it is what a start takes."""


def run(lab: Lab, figures: Figures, scale: Scale) -> None:
    """Kill one MailWatch `scale.kills` times, and a fresh one for each first start."""
    chance = random.Random(f"kills {scale.seed}")
    flapping = Flapping()
    with lab.place("kills") as folder, flapping.running():
        one = Killed(lab, figures, chance, folder / "one", flapping)
        for number in range(scale.kills):
            # The same share of each moment, in an order of chance.
            moment = MOMENTS[number % len(MOMENTS)]
            if moment == "first start":
                first_start(lab, figures, chance, folder / f"first-{number}", flapping)
            else:
                one.killed(moment)
            figures.count(f"kills: {moment}")
            figures.progress(number + 1, scale.kills)
        one.last()


def first_start(
    lab: Lab, figures: Figures, chance: random.Random, folder: Path, flapping: Flapping, within: float = START
) -> None:
    """Kill the very first start of an installation, then start it again."""
    watching = lab.install(folder, [flapping.target()])
    watching.start(ready=False)
    time.sleep(chance.uniform(0, within))
    force_stop(watching)
    begun = log_position(watching)
    figures.promise(
        starts(watching), f"first start killed: does not start again: {log_since(watching, begun)[-300:]}"
    )
    figures.promise(TRACEBACK not in log_since(watching), f"first start killed: {log_since(watching)[-300:]}")
    _in_order(figures, watching, "first start")
    force_stop(watching)


class Killed:
    """One installation that lives through all the kills."""

    def __init__(
        self, lab: Lab, figures: Figures, chance: random.Random, folder: Path, flapping: Flapping
    ) -> None:
        self.lab, self.figures, self.chance = lab, figures, chance
        # Two names for one server: a reload takes one of them away and brings it back.
        self.targets = [*lab.targets(), flapping.target(), flapping.target(name="comes-and-goes")]
        self.watching = lab.install(folder, self.targets)
        self.shown = Acknowledged()
        self.start = START

    def killed(self, moment: str) -> None:
        """Start it, kill it at the moment, and check what is left."""
        watching, begun = self.watching, log_position(self.watching)
        began = time.monotonic()
        if moment == "start":
            watching.start(ready=False)
            time.sleep(self.chance.uniform(0, self.start))
            force_stop(watching)
        else:
            if not self._started(begun, moment):
                return
            self.start = time.monotonic() - began
            with self.shown.taking(watching):
                self._until_written()
                self._happens(moment)
                force_stop(watching)
        figures, log = self.figures, log_since(watching, begun)
        figures.promise(TRACEBACK not in log, f"{moment}: traceback in the log: {log[-300:]}")
        # Half of the times before a start has repaired anything.
        if self.chance.random() < 0.5 and watching.data_dir.exists():
            _audited(figures, watching, f"killed in {moment}")

    def _started(self, begun: int, moment: str) -> bool:
        held = starts(self.watching)
        self.figures.promise(held, f"before {moment}: does not start: {log_since(self.watching, begun)[-300:]}")
        if held:
            _in_order(self.figures, self.watching, moment)
            lost = self.shown.lost(self.watching.data_dir)
            self.figures.promise(not lost, f"before {moment}: lost: {lost[:3]}")
        else:
            force_stop(self.watching)
        return held

    def _until_written(self) -> None:
        """Wait until it has put something on record since its start."""
        before = self.shown.size
        wait_for(lambda: self.shown.size > before + 3)

    def _happens(self, moment: str) -> None:
        """Return at a random time of what is to be interrupted."""
        watching, chance = self.watching, self.chance
        match moment:
            case "writing":
                time.sleep(chance.uniform(0, 2))
            case "backup":
                self._backup()
            case "reload":
                kept = self.targets if len(watching.settings["targets"]) < len(self.targets) else self.targets[:-1]
                watching.settings["targets"] = kept
                watching.write_config()
                watching.signal(signal.SIGHUP)
                time.sleep(chance.uniform(0, 0.5))
            case "stop":
                watching.signal(signal.SIGTERM)
                deadline = time.monotonic() + chance.uniform(0, 1.0)
                while alive(watching) and time.monotonic() < deadline:
                    time.sleep(0.005)

    def _backup(self) -> None:
        """A backup is killed, and the next one must be fit for use."""
        watching = self.watching
        file = watching.folder / "backups" / f"{self.figures.counts['kills: backup']}.tar.gz"
        file.parent.mkdir(exist_ok=True)
        words = ("--config", str(watching.config), "backup", str(file))
        with Path(os.devnull).open("r+b") as nothing:
            making = Program(*words, streams=(nothing.fileno(), nothing.fileno(), nothing.fileno()))
        time.sleep(self.chance.uniform(0, 0.5))
        making.kill()
        making.wait()
        self.figures.count("backups that were done before", file.exists())
        again = command(watching, "backup", str(file.with_suffix(".again.tar.gz")))
        self.figures.promise(again.returncode == 0, f"backup after a killed one: {again.stderr[-300:]}")
        left = [path.name for path in file.parent.iterdir() if not path.name.endswith(".tar.gz")]
        self.figures.promise(not left, f"a killed backup leaves {left} after the next one")

    def last(self) -> None:
        """At the end all that was ever shown is there."""
        if not self._started(log_position(self.watching), "the end"):
            return
        status, took = stops(self.watching)
        self.figures.promise(status == 0, f"the last stop: status {status}")
        self.figures.at_most("longest stop", took)
        _audited(self.figures, self.watching, "the end")
        lost = self.shown.lost(self.watching.data_dir)
        self.figures.promise(not lost, f"at the end: lost: {lost[:3]}")
        self.figures.count("observations shown before kills", len(self.shown.observations))
        self.figures.count("outages shown before kills", len(self.shown.outages))
        self.figures.count("of them lost", len(lost))
        seen = shows(self.lab.password, self.watching.folder)
        self.figures.promise(not seen, f"the password stands in {seen}")


def _in_order(figures: Figures, watching: MailWatchProcess, where: str) -> None:
    """Once it runs again there is nothing in its folders that does not belong there."""
    left = unexpected_files(watching.data_dir)
    figures.promise(not left, f"{where}: unknown files: {left}")
    keys = stray_keys(watching.folder)
    figures.promise(not keys, f"{where}: the private key lies in {keys}")


def _audited(figures: Figures, watching: MailWatchProcess, where: str) -> None:
    done = command(watching, "ledger", "audit")
    figures.count("audits")
    nothing_yet = done.returncode == 2 and "contains no ledger yet" in done.stderr
    figures.promise(
        done.returncode == 0 or nothing_yet,
        f"{where}: audit exit {done.returncode}: {done.stdout}{done.stderr}"[-400:],
    )
    figures.promise(TRACEBACK not in done.stderr, f"{where}: audit: {done.stderr[-300:]}")
