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
    process = lab.install(folder, [flapping.target()])
    process.start(ready=False)
    time.sleep(chance.uniform(0, within))
    force_stop(process)
    begun = log_position(process)
    figures.promise(
        starts(process), f"first start killed: does not start again: {log_since(process, begun)[-300:]}"
    )
    figures.promise(TRACEBACK not in log_since(process), f"first start killed: {log_since(process)[-300:]}")
    _in_order(figures, process, "first start")
    force_stop(process)


class Killed:
    """One installation that lives through all the kills."""

    def __init__(
        self, lab: Lab, figures: Figures, chance: random.Random, folder: Path, flapping: Flapping
    ) -> None:
        self.lab, self.figures, self.chance = lab, figures, chance
        # Two names for one server: a reload takes one of them away and brings it back.
        self.targets = [*lab.targets(), flapping.target(), flapping.target(name="comes-and-goes")]
        self.process = lab.install(folder, self.targets)
        self.shown = Acknowledged()
        self.start = START

    def killed(self, moment: str) -> None:
        """Start it, kill it at the moment, and check what is left."""
        process, begun = self.process, log_position(self.process)
        began = time.monotonic()
        if moment == "start":
            process.start(ready=False)
            time.sleep(self.chance.uniform(0, self.start))
            force_stop(process)
        else:
            if not self._started(begun, moment):
                return
            self.start = time.monotonic() - began
            with self.shown.taking(process):
                self._until_written()
                self._happens(moment)
                force_stop(process)
        figures, log = self.figures, log_since(process, begun)
        figures.promise(TRACEBACK not in log, f"{moment}: traceback in the log: {log[-300:]}")
        # Half of the times before a start has repaired anything.
        if self.chance.random() < 0.5 and process.data_dir.exists():
            _audited(figures, process, f"killed in {moment}")

    def _started(self, begun: int, moment: str) -> bool:
        held = starts(self.process)
        self.figures.promise(held, f"before {moment}: does not start: {log_since(self.process, begun)[-300:]}")
        if held:
            _in_order(self.figures, self.process, moment)
            lost = self.shown.lost(self.process.data_dir)
            self.figures.promise(not lost, f"before {moment}: lost: {lost[:3]}")
        else:
            force_stop(self.process)
        return held

    def _until_written(self) -> None:
        """Wait until it has put something on record since its start."""
        before = self.shown.size
        wait_for(lambda: self.shown.size > before + 3)

    def _happens(self, moment: str) -> None:
        """Return at a random time of what is to be interrupted."""
        process, chance = self.process, self.chance
        match moment:
            case "writing":
                time.sleep(chance.uniform(0, 2))
            case "backup":
                self._backup()
            case "reload":
                kept = self.targets if len(process.settings["targets"]) < len(self.targets) else self.targets[:-1]
                process.settings["targets"] = kept
                process.write_config()
                process.signal(signal.SIGHUP)
                time.sleep(chance.uniform(0, 0.5))
            case "stop":
                process.signal(signal.SIGTERM)
                deadline = time.monotonic() + chance.uniform(0, 1.0)
                while alive(process) and time.monotonic() < deadline:
                    time.sleep(0.005)

    def _backup(self) -> None:
        """A backup is killed, and the next one must be fit for use."""
        process = self.process
        file = process.folder / "backups" / f"{self.figures.counts['kills: backup']}.tar.gz"
        file.parent.mkdir(exist_ok=True)
        words = ("--config", str(process.config), "backup", str(file))
        with Path(os.devnull).open("r+b") as nothing:
            making = Program(*words, streams=(nothing.fileno(), nothing.fileno(), nothing.fileno()))
        time.sleep(self.chance.uniform(0, 0.5))
        making.kill()
        making.wait()
        self.figures.count("backups that were done before", file.exists())
        again = command(process, "backup", str(file.with_suffix(".again.tar.gz")))
        self.figures.promise(again.returncode == 0, f"backup after a killed one: {again.stderr[-300:]}")
        left = [path.name for path in file.parent.iterdir() if not path.name.endswith(".tar.gz")]
        self.figures.promise(not left, f"a killed backup leaves {left} after the next one")

    def last(self) -> None:
        """At the end all that was ever shown is there."""
        if not self._started(log_position(self.process), "the end"):
            return
        status, stop_seconds = stops(self.process)
        self.figures.promise(status == 0, f"the last stop: status {status}")
        self.figures.at_most("longest stop", stop_seconds)
        _audited(self.figures, self.process, "the end")
        lost = self.shown.lost(self.process.data_dir)
        self.figures.promise(not lost, f"at the end: lost: {lost[:3]}")
        self.figures.count("observations shown before kills", len(self.shown.observations))
        self.figures.count("outages shown before kills", len(self.shown.outages))
        self.figures.count("of them lost", len(lost))
        seen = shows(self.lab.password, self.process.folder)
        self.figures.promise(not seen, f"the password stands in {seen}")


def _in_order(figures: Figures, process: MailWatchProcess, where: str) -> None:
    """Once it runs again there is nothing in its folders that does not belong there."""
    left = unexpected_files(process.data_dir)
    figures.promise(not left, f"{where}: unknown files: {left}")
    keys = stray_keys(process.folder)
    figures.promise(not keys, f"{where}: the private key lies in {keys}")


def _audited(figures: Figures, process: MailWatchProcess, where: str) -> None:
    done = command(process, "ledger", "audit")
    figures.count("audits")
    nothing_yet = done.returncode == 2 and "contains no ledger yet" in done.stderr
    figures.promise(
        done.returncode == 0 or nothing_yet,
        f"{where}: audit exit {done.returncode}: {done.stdout}{done.stderr}"[-400:],
    )
    figures.promise(TRACEBACK not in done.stderr, f"{where}: audit: {done.stderr[-300:]}")
