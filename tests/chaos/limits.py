"""No file handles, no memory, no threads: taken from a MailWatch while it runs, and kept from one that starts.

That is our failure: observations become unknown (`monitor`), never down; and it goes on when the limit is lifted.
One that ends instead must say why, with a status that is not 0, so that systemd or Docker starts it again.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from collections.abc import Callable
from functools import partial
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
    on_record,
    ready,
    size,
    starts,
    stops,
    wait_for,
)
from tests.helpers.process import MailWatchProcess

ANOTHER = 54_321
"""A user that has no other process: the kernel counts processes by user, and root's not at all."""
AS_ANOTHER = ("setpriv", f"--reuid={ANOTHER}", f"--regid={ANOTHER}", "--clear-groups")
READING = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
"""It may read where Python and the tests lie; it may not exceed a limit."""
WHILE = 6.0
"""Seconds for which a limit lasts, so that several observations meet it."""
MEGABYTE = 1 << 20


def run(lab: Lab, figures: Figures, scale: Scale) -> None:
    """Each limit while it runs, then each at the start."""
    running: list[tuple[str, int, Callable[[int], int]]] = [
        (f"{left} file handles left", resource.RLIMIT_NOFILE, partial(_handles_and, left))
        for left in ((0, 1, 3, 6) if scale.thorough else (0, 3))
    ]
    running += [
        (f"{left} MB left", resource.RLIMIT_AS, partial(_megabytes_and, left))
        for left in ((0, 1, 4, 16) if scale.thorough else (0, 4))
    ]
    running += [("no thread left", resource.RLIMIT_NPROC, _threads)]
    starting = [
        ("file handles", "nofile", number) for number in ((8, 16, 24, 40, 64) if scale.thorough else (8, 24))
    ]
    starting += [
        ("MB", "as", number * MEGABYTE) for number in ((100, 200, 400, 800) if scale.thorough else (100, 400))
    ]
    starting += [("threads", "nproc", number) for number in ((1, 2, 4, 6) if scale.thorough else (1, 4))]
    every = len(running) + len(starting)
    for done, (name, kind, limit) in enumerate(running, 1):
        while_it_runs(lab, figures, name, kind, limit)
        figures.progress(done, every)
    for done, (name, kind_name, number) in enumerate(starting, len(running) + 1):
        at_the_start(lab, figures, name, kind_name, number)
        figures.progress(done, every)


def while_it_runs(
    lab: Lab, figures: Figures, name: str, kind: int, limit: Callable[[int], int], seconds: float = WHILE
) -> None:
    """Take something from a MailWatch that runs, give it back, and see what it recorded meanwhile."""
    with lab.place("limits") as folder:
        installation = _installed(lab, folder, kind == resource.RLIMIT_NPROC)
        if installation is None:
            figures.notes.append(f"left out: {name}: threads can be limited by root only")
            return
        try:
            _limited(figures, installation, name, kind, limit, seconds)
        finally:
            force_stop(installation)
        _checked(figures, installation, name)


def _limited(
    figures: Figures,
    installation: MailWatchProcess,
    name: str,
    kind: int,
    limit: Callable[[int], int],
    seconds: float,
) -> None:
    figures.count("limits while it runs")
    assert starts(installation), log_since(installation)[-300:]
    acknowledged = Acknowledged()
    wait_for(lambda: size(installation) > 12)
    acknowledged.take(installation)
    before = _set(installation, kind, limit(installation.pid))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and alive(installation):
        # It need not answer. What asks makes it need handles and threads.
        get(installation, "/")
        time.sleep(0.1)
    with contextlib.suppress(subprocess.CalledProcessError):
        _set(installation, kind, before)
    # It may still be about to end.
    wait_for(lambda: not alive(installation) or ready(installation))
    if alive(installation):
        _goes_on(figures, installation, name)
        acknowledged.take(installation)
        status, stop_seconds = stops(installation)
        figures.at_most("longest stop", stop_seconds)
        figures.promise(status == 0, f"{name}: SIGTERM: status {status}: {_tail(installation)}")
    else:
        _ended(figures, installation, name)
        figures.promise(starts(installation), f"{name}: it ended, and does not start again: {_tail(installation)}")
        stops(installation)
    lost = acknowledged.lost(installation.data_dir)
    figures.promise(not lost, f"{name}: lost: {lost[:3]}")


def _set(installation: MailWatchProcess, kind: int, number: int) -> int:
    """Set a soft limit of the process, as its own user (root of a container may not); return what it was."""
    name = {resource.RLIMIT_NOFILE: "nofile", resource.RLIMIT_AS: "as", resource.RLIMIT_NPROC: "nproc"}[kind]
    words = [*installation.prefix, "prlimit", "--pid", str(installation.pid), f"--{name}"]
    output = subprocess.run([*words, "--noheadings", "--raw", "--output", "SOFT"], capture_output=True, text=True)
    soft = output.stdout.strip()
    value = "unlimited" if number == resource.RLIM_INFINITY else str(number)
    subprocess.run([*words[:-1], f"--{name}={value}:"], check=True)
    return int(soft) if soft.isdigit() else resource.RLIM_INFINITY


def _goes_on(figures: Figures, installation: MailWatchProcess, name: str) -> None:
    figures.promise(
        wait_for(lambda: ready(installation)), f"{name}: not ready when it is lifted: {_tail(installation)}"
    )
    before = size(installation)
    more = wait_for(lambda: size(installation) > before + 3)
    figures.promise(more, f"{name}: it does not go on when it is lifted: {_tail(installation)}")


def _ended(figures: Figures, installation: MailWatchProcess, name: str) -> None:
    process = installation.process
    assert process is not None
    status, words = process.wait(), log_since(installation)
    installation.process = None
    figures.count("ended")
    figures.promise("mailwatch:" in words, f"{name}: it ended and does not say why: {words[-300:]}")
    figures.promise(status != 0, f"{name}: it ended with status 0: {words[-300:]}")
    figures.promise(status > 0, f"{name}: it was ended by signal {-status}: {words[-300:]}")


def _checked(figures: Figures, installation: MailWatchProcess, name: str) -> None:
    """Nothing of it is the provider's."""
    observations = on_record(installation.data_dir)
    for seen in observations:
        figures.count(f"observations {seen['outcome']}" + (" (monitor)" if seen.get("cause") == "monitor" else ""))
    down = downs(observations)
    figures.promise(not down, f"{name}: {len(down)} observations are down: {down[:2]}")
    audit = command(installation, "ledger", "audit")
    figures.promise(audit.returncode == 0, f"{name}: audit: {audit.stdout[-300:]}{audit.stderr[-200:]}")


def at_the_start(lab: Lab, figures: Figures, what: str, kind: str, number: int) -> None:
    """Start it under a limit: it runs, or says why not."""
    displayed = number // MEGABYTE if kind == "as" else number
    name = f"a start with {displayed} {what}"
    with lab.place("limits") as folder:
        installation = _installed(lab, folder, kind == "nproc")
        if installation is None:
            return
        figures.count("limits at the start")
        installation.prefix += ("prlimit", f"--{kind}={number}")
        try:
            installation.start(ready=False)
            wait_for(lambda: not alive(installation) or ready(installation), 30)
            if alive(installation):
                figures.count("starts that ran")
                figures.promise(
                    get(installation, "/healthz"), f"{name}: it runs and answers nothing: {_tail(installation)}"
                )
                figures.promise(
                    stops(installation)[0] is not None, f"{name}: SIGTERM without effect: {_tail(installation)}"
                )
            else:
                figures.count("starts refused")
                process = installation.process
                assert process is not None
                status, words = process.wait(), log_since(installation)
                figures.promise(status > 0, f"{name}: status {status}: {words[-300:]}")
                figures.promise(words.strip(), f"{name}: it ends without a word")
                figures.promise(TRACEBACK not in words, f"{name}: {words[-300:]}")
        finally:
            force_stop(installation)


def _installed(lab: Lab, folder: Path, by_user: bool) -> MailWatchProcess | None:
    """An installation, by a user of its own where the limit counts by users; None where that cannot be."""
    if by_user and os.geteuid() != 0:
        return None
    installation = lab.install(folder / "one")
    if by_user:
        installation.prefix = (*AS_ANOTHER, *READING)
        for path in (installation.folder, installation.config):
            os.chown(path, ANOTHER, ANOTHER)
    return installation


def handles(pid: int) -> int:
    """Return the limit that leaves a process no file handle more."""
    # The limit is of the highest number, and numbers are given from below.
    return max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()) + 1


def _status(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


def _handles_and(more: int, pid: int) -> int:
    return handles(pid) + more


def _megabytes_and(more: int, pid: int) -> int:
    return _memory(pid) + more * MEGABYTE


def _memory(pid: int) -> int:
    return _status(pid, "VmSize:") * 1024


def _threads(pid: int) -> int:
    return _status(pid, "Threads:")


def _tail(installation: MailWatchProcess) -> str:
    return " | ".join(log_since(installation).strip().splitlines()[-4:])[-320:]
