"""A wall clock that is wrong by minutes to years, from the start or set while it runs, among healthy servers.

Their certificates are as young as real ones: a clock that is behind sees them begin tomorrow, one that is ahead
sees them expired. That is never their failure: no `down`, no outage; and no duration follows the clock.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import trustme

from mailwatch.store import Reader
from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.chaos.promises import (
    TRACEBACK,
    alive,
    command,
    downs,
    force_stop,
    log_since,
    on_record,
    outcomes,
    size,
    stops,
    wait_for,
)
from tests.helpers.process import MailWatchProcess
from tests.helpers.wall_clock import LIBRARIES, WallClock
from tests.servers import Certificate
from tests.servers.program import HOST

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86_400, 31_557_600
OFFSETS = {
    "5 minutes ahead": 5 * MINUTE,
    "5 minutes behind": -5 * MINUTE,
    "3 hours ahead": 3 * HOUR,
    "3 hours behind": -3 * HOUR,
    "40 days behind": -40 * DAY,
    "100 days ahead": 100 * DAY,
    "3 years ahead": 3 * YEAR,
    "3 years behind": -3 * YEAR,
    "11 years ahead": 11 * YEAR,
    "20 years behind": -20 * YEAR,
    "in 1970": 0,
}
FEW = ("5 minutes ahead", "3 hours behind", "100 days ahead", "3 years behind", "11 years ahead", "in 1970")
BEGUN, ENDS = datetime.timedelta(hours=1), datetime.timedelta(days=60)
"""How young the servers' certificates are, and how long they last: renewed just now."""
ENOUGH = 4
"""Observations of each target that are waited for."""
RECENT = 10 * ENOUGH
"""Observations that are asked for."""
BUSY = 120.0
"""Seconds that a busy machine may take for what is done meanwhile; less than any offset."""


def run(lab: Lab, figures: Figures, scale: Scale) -> None:
    """Every offset, with and without a guard, from the start and set while it runs."""
    if not LIBRARIES:
        figures.notes.append("left out: libfaketime is not installed (sh tests/install_servers.sh)")
        return
    renew_certificate(lab)
    names = list(OFFSETS) if scale.thorough else FEW
    for done, name in enumerate(names, 1):
        guards = (True, False) if scale.thorough else (bool(done % 2),)
        for guarded in guards:
            one(lab, figures, name, guarded=guarded)
        figures.progress(done, len(names))


def one(lab: Lab, figures: Figures, name: str, *, guarded: bool) -> None:
    """Live under one offset from the start, and set it right and wrong again while it runs."""
    where = f"{name} {'with' if guarded else 'without'} guard"
    with lab.place("clock") as folder:
        # Postfix keeps its certificate, which is old enough: it shows whether anything is seen at all.
        # A control on the same machine will do, since the promise is for one that is online.
        guard: Any = {"controls": [f"{HOST}:{lab.dovecot.imap_port}"], "timeout": "3s"} if guarded else "off"
        process = lab.install(folder / "one", guard=guard)
        clock = WallClock(folder)
        offset = OFFSETS[name] or -int(datetime.datetime.now(datetime.UTC).timestamp()) + DAY
        clock.step(offset)
        process.environment |= clock.environment
        try:
            _lives(figures, process, clock, offset, where)
        finally:
            force_stop(process)
        _checked(figures, process, where)


def _lives(figures: Figures, process: MailWatchProcess, clock: WallClock, offset: int, where: str) -> None:
    figures.count("wrong clocks")
    process.start(ready=False)
    if not _sees(figures, process, f"{where}, from the start"):
        return
    clock.step(-offset)
    figures.count("clocks set while it runs")
    if not _sees(figures, process, f"{where}, then set right"):
        return
    _up(figures, process, where)
    clock.step(offset)
    figures.count("clocks set while it runs")
    _sees(figures, process, f"{where}, then set wrong")
    status, stop_seconds = stops(process)
    figures.at_most("longest stop", stop_seconds)
    figures.promise(status == 0, f"{where}: SIGTERM: status {status}")


def _sees(figures: Figures, process: MailWatchProcess, where: str) -> bool:
    """Whether more observations of each target come."""
    targets = [target["name"] for target in process.settings["targets"]]
    before = size(process)

    def seen_all() -> bool:
        found = [each["target"] for each in outcomes(process, RECENT) if each["index"] >= before]
        return all(found.count(target) >= ENOUGH for target in targets)

    more = wait_for(lambda: not alive(process) or seen_all())
    figures.promise(more and alive(process), f"{where}: it does not go on: {log_since(process)[-300:]}")
    return bool(more) and alive(process)


def _up(figures: Figures, process: MailWatchProcess, where: str) -> None:
    """Once the clock is right, all is up: else no promise would say anything."""
    targets = [target["name"] for target in process.settings["targets"]]

    def all_up() -> bool:
        latest = {each["target"]: each["outcome"] for each in reversed(outcomes(process, RECENT))}
        return all(latest.get(target) == "up" for target in targets)

    figures.promise(wait_for(all_up), f"{where}: with the right clock they are not up")


def _checked(figures: Figures, process: MailWatchProcess, where: str) -> None:
    """What is on record: nothing is down, no outage was, and no time is as long as the clock was wrong by."""
    observations = on_record(process.data_dir)
    for seen in observations:
        figures.count(f"observations {seen['outcome']}")
    down = downs(observations)
    figures.promise(not down, f"{where}: {len(down)} observations are down: {down[:2]}")
    outages = on_record(process.data_dir, "outage")
    figures.count("false outages", len(outages))
    figures.promise(not outages, f"{where}: {len(outages)} outages: {[one['target'] for one in outages][:3]}")
    long = _longest(process)
    figures.at_most("longest gap on record", long)
    figures.promise(long < BUSY, f"{where}: a gap of {long:.0f} s in a run of a few seconds")
    figures.promise(TRACEBACK not in log_since(process), f"{where}: {log_since(process)[-300:]}")
    audit = command(process, "ledger", "audit")
    figures.promise(audit.returncode == 0, f"{where}: audit: {audit.stdout[-300:]}{audit.stderr[-200:]}")


def _longest(process: MailWatchProcess) -> float:
    """The longest gap on record, in seconds of the clock that nobody can set."""
    reader = Reader.open(process.data_dir)
    try:
        gaps = [entry.payload for entry in reader.entries(kinds=["gap"])]
    finally:
        reader.close()
    clocks = [gap["clock"] for gap in gaps if gap.get("clock")]
    return max(((c["end"] - c["start"]) / 1000 for c in clocks if None not in (c["end"], c["start"])), default=0.0)


def renew_certificate(lab: Lab) -> None:
    """Give the lab's Dovecot a certificate that was issued an hour ago, for sixty days, by a new authority."""
    now = datetime.datetime.now(datetime.UTC)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(lab.certificates.ca_file, append=True)
    leaf = authority.issue_cert("localhost", HOST, not_before=now - BEGUN, not_after=now + ENDS)
    folder = Path(lab.folder) / "young"
    folder.mkdir(exist_ok=True)
    made = Certificate(folder / "chain.pem", folder / "key.pem")
    made.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(made.key)
    lab.dovecot.use_certificate(made)
