"""A disk that is full at each step: before the first start, with each page less while it starts, in every act.

Never a traceback: SIGTERM is heeded, it goes on when space comes back, and nothing that was shown is lost.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.chaos.promises import (
    STOP_SECONDS,
    TRACEBACK,
    Acknowledged,
    alive,
    command,
    force_stop,
    get,
    log_position,
    log_since,
    ready,
    size,
    starts,
    stops,
    stray_keys,
    wait_for,
)
from tests.helpers.process import MailWatchProcess

SIZE = 8 << 20
PAGE = 4096
LEFT = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40)
"""Pages that are free when it starts: it gets as far as they reach, to keys, database, tables, first entries."""
FEW = (0, 1, 3, 6, 12, 24)
Act = Callable[[MailWatchProcess], None]


class Disk:
    """A tmpfs of a few megabytes, and a file that takes the rest of it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Disk]:
        """Mounted while the context lasts."""
        self.place.mkdir()
        options = f"size={SIZE},mode=0755"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", str(self.place)], check=True)
        try:
            yield self
        finally:
            subprocess.run(["umount", "-l", str(self.place)], check=True)

    def fill(self, left: int = 0) -> None:
        """Leave so many pages free."""
        free = os.statvfs(self.place).f_bavail * os.statvfs(self.place).f_frsize
        with self._ballast.open("ab") as file, contextlib.suppress(OSError):
            file.write(bytes(max(0, free - left * PAGE)))
            file.flush()

    def clear(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)


def run(lab: Lab, figures: Figures, scale: Scale) -> None:
    """All steps; without root there is no disk to fill."""
    if os.geteuid() != 0:
        figures.notes.append("left out: a small disk can only be mounted by root")
        return
    steps = LEFT if scale.thorough else FEW
    for done, left in enumerate(steps, 1):
        at_the_start(lab, figures, left)
        figures.progress(done, len(steps))
    while_it_runs(lab, figures, scale)


@contextlib.contextmanager
def _installed(lab: Lab) -> Iterator[tuple[MailWatchProcess, Disk]]:
    """A MailWatch whose data_dir lies on the small disk; config and log do not."""
    with lab.place("full disk") as folder, Disk(folder / "disk").mounted() as disk:
        process = lab.install(folder / "one", data_dir=str(disk.place / "data"))
        process.data_dir = disk.place / "data"
        try:
            yield process, disk
        finally:
            force_stop(process)


def at_the_start(lab: Lab, figures: Figures, left: int) -> None:
    """Start with so many pages free: refused in a sentence, or waiting; then with space again."""
    where = f"{left} pages free at the start"
    figures.count("full disks")
    with _installed(lab) as (process, disk):
        disk.fill(left)
        process.start(ready=False)
        # It has no duty to run; but it must have said something, or answer, or have ended.
        spoke = wait_for(lambda: not alive(process) or get(process, "/readyz") or len(log_since(process)) > 0)
        figures.promise(spoke, f"{where}: neither a word nor an answer")
        wait_for(lambda: not alive(process) or get(process, "/healthz"), 15)
        if alive(process):
            figures.promise(get(process, "/healthz"), f"{where}: it runs, and answers nothing: {_tail(process)}")
            if given_space(left):
                disk.clear()
                figures.promise(
                    wait_for(lambda: ready(process)), f"{where}: space does not help: {_tail(process)}"
                )
                figures.count("went on by itself when space came back")
            _heeds(figures, process, where)
        else:
            force_stop(process)
            figures.count("starts refused")
        _no_traceback(figures, process, where)
        disk.clear()
        begun = log_position(process)
        figures.promise(
            starts(process), f"{where}: does not start with space again: {log_since(process, begun)[-300:]}"
        )
        _heeds(figures, process, f"{where}, then space")
        _sound(figures, process, where)


def given_space(left: int) -> bool:
    """Every other time it is given space while it waits, and every other time it is stopped while it waits."""
    return left % 2 == 0


def while_it_runs(lab: Lab, figures: Figures, scale: Scale) -> None:
    """Fill the disk of a running MailWatch, and let it do each of the things that write."""
    for number, name in enumerate(_acts(lab, figures)):
        for stop in (False, True) if scale.thorough else (bool(number % 2),):
            one_act(lab, figures, name, stop=stop)


def one_act(lab: Lab, figures: Figures, name: str, *, stop: bool) -> None:
    """Do one thing while the disk is full; then `stop` it, or give space back."""
    with _installed(lab) as (process, disk):
        figures.count("full disks")
        _one_act(figures, process, disk, name, _acts(lab, figures)[name], stop)


def _acts(lab: Lab, figures: Figures) -> dict[str, Act]:
    return {
        "running": lambda process: None,
        "an outage and its checkpoint": lambda process: _outage(lab, process),
        "a reload": _reload,
        "a restart": lambda process: _restart(figures, process),
        "a backup": lambda process: _verb(figures, process, "backup", str(process.data_dir / "b.tar.gz")),
        "a report": lambda process: _report(figures, process),
        "an audit": lambda process: _verb(figures, process, "ledger", "audit"),
    }


def _one_act(figures: Figures, process: MailWatchProcess, disk: Disk, name: str, act: Act, stop: bool) -> None:
    where = f"{name} with a full disk{', then SIGTERM' if stop else ''}"
    if not starts(process):
        figures.promise(False, f"{where}: does not start: {_tail(process)}")
        return
    acknowledged = Acknowledged()
    wait_for(lambda: size(process) > 10)
    acknowledged.take(process)
    disk.fill()
    noticed = wait_for(lambda: not ready(process))
    figures.promise(noticed, f"{where}: it says it is ready")
    act(process)
    acknowledged.take(process)
    if not alive(process) and name == "a restart":
        # Refused, in a sentence: a service manager starts it again until there is space.
        figures.count("starts refused")
        force_stop(process)
        disk.clear()
        figures.promise(starts(process), f"{where}: space does not help: {_tail(process)}")
    figures.promise(alive(process), f"{where}: it ended: {_tail(process)}")
    if not stop:
        disk.clear()
        figures.promise(wait_for(lambda: ready(process)), f"{where}: space does not help: {_tail(process)}")
        before = size(process)
        more = wait_for(lambda: size(process) > before)
        figures.promise(more, f"{where}: nothing is written with space again: {_tail(process)}")
        acknowledged.take(process)
    _heeds(figures, process, where)
    disk.clear()
    _no_traceback(figures, process, where)
    lost = acknowledged.lost(process.data_dir)
    figures.promise(not lost, f"{where}: lost: {lost[:3]}")
    figures.promise(starts(process), f"{where}: does not start again: {_tail(process)}")
    _heeds(figures, process, f"{where}, started again")
    _sound(figures, process, where)


def _outage(lab: Lab, process: MailWatchProcess) -> None:
    lab.dovecot.stop()
    try:
        # Nothing shows it: a full disk takes no observation, and what is not on record is not shown.
        time.sleep(2)
    finally:
        lab.dovecot.start()


def _restart(figures: Figures, process: MailWatchProcess) -> None:
    """With a ledger that is there, but no room for a word more."""
    _heeds(figures, process, "a restart with a full disk: the stop")
    process.start(ready=False)
    answers = wait_for(lambda: not alive(process) or get(process, "/healthz"))
    figures.promise(answers, f"a restart with a full disk: no answer: {_tail(process)}")


def _reload(process: MailWatchProcess) -> None:
    process.settings["detection"]["open_after"] = 3
    process.write_config()
    process.signal(signal.SIGHUP)
    wait_for(lambda: "config" in log_since(process), 5)


def _report(figures: Figures, process: MailWatchProcess) -> None:
    window = ("--from", "2020-01-01", "--to", "2100-01-01", "--target", "lab-imap")
    _verb(figures, process, "report", *window, "-o", str(process.data_dir / "r.zip"))


def _verb(figures: Figures, process: MailWatchProcess, *words: str) -> None:
    done = command(process, *words)
    figures.count("verbs on a full disk")
    output = f"{done.stdout}{done.stderr}"
    figures.promise(TRACEBACK not in output, f"{words[0]} on a full disk: {output[-300:]}")
    figures.promise(done.returncode != -9, f"{words[0]} on a full disk does not end")
    left = [path.name for path in process.data_dir.iterdir() if path.name.startswith((".mailwatch", "b.", "r."))]
    figures.promise(done.returncode == 0 or not left, f"{words[0]} on a full disk leaves {left}")


def _heeds(figures: Figures, process: MailWatchProcess, where: str) -> None:
    status, stop_seconds = stops(process)
    figures.at_most("longest stop", stop_seconds)
    figures.promise(
        status is not None, f"{where}: SIGTERM without effect for {STOP_SECONDS:.0f} s: {_tail(process)}"
    )


def _no_traceback(figures: Figures, process: MailWatchProcess, where: str) -> None:
    figures.promise(TRACEBACK not in log_since(process), f"{where}: {_tail(process)}")


def _sound(figures: Figures, process: MailWatchProcess, where: str) -> None:
    done = command(process, "ledger", "audit")
    figures.promise(done.returncode == 0, f"{where}: audit: {done.stdout[-300:]}{done.stderr[-100:]}")
    keys = stray_keys(process.data_dir.parent)
    figures.promise(not keys, f"{where}: the private key lies in {keys}")


def _tail(process: MailWatchProcess) -> str:
    return " | ".join(log_since(process).strip().splitlines()[-4:])[-320:]
