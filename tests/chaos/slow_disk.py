"""A disk that takes five seconds for each fsync, as a dying one or a busy NAS does, and then is fast again.

Probes go on, and nothing of it is the provider's; /metrics shows it; one that takes twelve seconds makes MailWatch
unready, since its record is behind; SIGTERM is heeded.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.chaos.promises import (
    TRACEBACK,
    Acknowledged,
    alive,
    command,
    downs,
    force_stop,
    get,
    log_since,
    metric,
    on_record,
    ready,
    size,
    starts,
    stops,
    wait_for,
)
from tests.helpers.process import MailWatchProcess

SECONDS, LONG = 5, 12
"""What one fsync takes; the longer one is beyond what self-watch takes for healthy."""
FSYNCS = 5
"""How many fsyncs SIGTERM may wait for: the last commit, its checkpoint, and the end of SQLite's log."""
SLOW, SLOWER = 25.0, 60.0
"""How long the disk is slow, and how long where each fsync takes LONG."""
LIBRARY = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Wait as many seconds as the file named by CHAOS_FSYNC says, then do what was asked. */
static void late(void) {
    const char *name = getenv("CHAOS_FSYNC");
    FILE *file = name ? fopen(name, "re") : NULL;
    int seconds = 0;
    if (file) {
        if (fscanf(file, "%d", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    if (seconds) sleep(seconds);
}
int fsync(int fd) {
    late();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    late();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""


class Disk:
    """Makes fsync slow for a process: by a library loaded into it, or where there is no compiler by strace."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "seconds"
        self._library = folder / "late.so"
        self._tracing: subprocess.Popen[bytes] | None = None
        compiler = shutil.which("cc")
        if compiler:
            source = folder / "late.c"
            source.write_text(LIBRARY)
            subprocess.run([compiler, "-shared", "-fPIC", "-o", self._library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(self._library), "CHAOS_FSYNC": str(self._file)} if compiler else {}

    @staticmethod
    def possible() -> bool:
        """Whether there is a way on this machine."""
        return bool(shutil.which("cc") or shutil.which("strace"))

    def slow(self, pid: int, seconds: int = SECONDS) -> None:
        """From now on each fsync of the process takes its time."""
        if self.environment:
            fresh = self._file.with_suffix(".new")
            fresh.write_text(f"{seconds}\n")
            fresh.rename(self._file)
            return
        delay = f"inject=fsync,fdatasync:delay_enter={seconds}s"
        words = [
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fsync,fdatasync",
            "-e",
            delay,
            "-p",
            str(pid),
        ]
        self._tracing = subprocess.Popen(words, stderr=subprocess.DEVNULL)

    def recover(self) -> None:
        """From now on it takes no longer than it does."""
        self._file.unlink(missing_ok=True)
        if self._tracing is not None:
            self._tracing.terminate()
            self._tracing.wait()
            self._tracing = None


def run(lab: Lab, figures: Figures, scale: Scale) -> None:
    """Slow while it runs and fast again; slow from the first start; slow while it stops."""
    if not Disk.possible():
        figures.notes.append("left out: there is neither a C compiler nor strace")
        return
    while_it_runs(lab, figures)
    figures.progress(1, 4)
    while_it_runs(lab, figures, LONG, SLOWER)
    figures.progress(2, 4)
    while_it_stops(lab, figures)
    figures.progress(3, 4)
    at_the_start(lab, figures)
    figures.progress(4, 4)


@contextlib.contextmanager
def _installed(lab: Lab) -> Iterator[tuple[MailWatchProcess, Disk]]:
    with lab.place("slow disk") as folder:
        disk = Disk(folder)
        process = lab.install(folder / "one")
        process.environment |= disk.environment
        try:
            yield process, disk
        finally:
            disk.recover()
            force_stop(process)


def while_it_runs(lab: Lab, figures: Figures, each: int = SECONDS, seconds: float = SLOW) -> None:
    """The disk is slow for a while."""
    with _installed(lab) as (process, disk):
        assert starts(process), log_since(process)[-300:]
        acknowledged = Acknowledged()
        wait_for(lambda: size(process) > 12)
        disk.slow(process.pid, each)
        began, answered, unready, waits = time.time(), 0, "", 0.0
        while time.time() - began < seconds:
            answer = get(process, "/readyz")
            answered += bool(answer)
            unready = unready or (answer if answer.startswith("503") else "")
            waits = max(waits, metric(process, "mailwatch_self_store_wait_seconds") or 0)
            acknowledged.take(process)
            time.sleep(0.2)
        ended = time.time()
        figures.promise(alive(process), f"it ended: {_tail(process)}")
        figures.promise(answered > 0, "health checks are not answered")
        figures.promise(
            waits > each - 2, f"/metrics shows {waits:.0f} s where an entry waits for {each} s at least"
        )
        figures.promise(unready or each < LONG, f"readyz says ok where each fsync takes {each} s")
        disk.recover()
        figures.promise(
            wait_for(lambda: ready(process)), f"not ready when the disk is fast again: {_tail(process)}"
        )
        before = size(process)
        wait_for(lambda: size(process) > before + 10)
        status, _ = stops(process)
        figures.promise(status == 0, f"SIGTERM when the disk is fast again: status {status}")
        _went_on(figures, process, began, ended, each)
        _checked(figures, process, acknowledged)


def _went_on(figures: Figures, process: MailWatchProcess, began: float, ended: float, each: int) -> None:
    """Each target is probed about once a commit; the time between is on record as a gap, never as down."""
    meanwhile = sum(began < seen["start"] / 1000 < ended for seen in on_record(process.data_dir))
    figures.count(f"observations begun while each fsync took {each} s", meanwhile)
    figures.count(f"gaps on record with fsyncs of {each} s", len(on_record(process.data_dir, "gap")))
    targets = len(process.settings["targets"])
    # Two commits may lie between two probes: that of the one before, and another's.
    enough = targets * (ended - began) / (4 * each)
    figures.promise(meanwhile >= enough, f"{meanwhile} observations of {targets} targets in {ended - began:.0f} s")


def while_it_stops(lab: Lab, figures: Figures) -> None:
    """The disk is slow when SIGTERM comes."""
    with _installed(lab) as (process, disk):
        assert starts(process), log_since(process)[-300:]
        acknowledged = Acknowledged()
        wait_for(lambda: size(process) > 12)
        disk.slow(process.pid)
        time.sleep(SECONDS)
        acknowledged.take(process)
        status, stop_seconds = stops(process, 10 + FSYNCS * SECONDS * 2)
        figures.at_most(f"stop on a disk of {SECONDS} s", stop_seconds)
        figures.promise(status is not None, f"SIGTERM without effect on a slow disk: {_tail(process)}")
        disk.recover()
        _checked(figures, process, acknowledged)


def at_the_start(lab: Lab, figures: Figures) -> None:
    """The disk is slow from the first start on: it answers, and says what it waits for."""
    with _installed(lab) as (process, disk):
        if not process.environment.get("LD_PRELOAD"):
            return
        disk.slow(0)
        process.start(ready=False)
        figures.promise(wait_for(lambda: get(process, "/healthz")), f"no answer in a slow start: {_tail(process)}")
        status, stop_seconds = stops(process, 10 + FSYNCS * SECONDS * 2)
        figures.at_most(f"stop in a start on a disk of {SECONDS} s", stop_seconds)
        figures.promise(status is not None, f"SIGTERM without effect in a slow start: {_tail(process)}")
        figures.promise(TRACEBACK not in log_since(process), f"slow start: {_tail(process)}")
        disk.recover()
        figures.promise(starts(process), f"does not start after a slow first start: {_tail(process)}")
        stops(process)
        _checked(figures, process, Acknowledged())


def _checked(figures: Figures, process: MailWatchProcess, acknowledged: Acknowledged) -> None:
    observations = on_record(process.data_dir)
    for seen in observations:
        figures.count(f"observations {seen['outcome']}")
    down = downs(observations)
    figures.promise(not down, f"{len(down)} observations are down: {down[:2]}")
    lost = acknowledged.lost(process.data_dir)
    figures.promise(not lost, f"lost: {lost[:3]}")
    figures.promise(TRACEBACK not in log_since(process), f"{_tail(process)}")
    audit = command(process, "ledger", "audit")
    figures.promise(audit.returncode == 0, f"audit: {audit.stdout[-300:]}{audit.stderr[-200:]}")


def _tail(process: MailWatchProcess) -> str:
    return " | ".join(log_since(process).strip().splitlines()[-4:])[-320:]
