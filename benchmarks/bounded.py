"""A start and the pages on a ledger of years: of four targets one is down for half of it, one has 10,000 outages.

The ledgers are written first, once; what is old in them is packed. Without kept states, as after an upgrade, the
first start replays the long outage; the next one does not. Then a thousand targets: how long it takes to count
their last 90 days, where all but the last hour is kept.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.process import Monitor, cpu_seconds, peak_memory
from mailwatch.ledger.entry import target_id
from mailwatch.monitor.background import KEEP_HISTORY_MS
from mailwatch.store import Reader, Store
from mailwatch.store.announcements import read_announcements
from mailwatch.store.availability_history import Subject, history_to_keep, read_history
from mailwatch.store.packing import LARGE_LEVEL
from mailwatch.store.sqlite import database
from mailwatch.times import DAY_MS, HOUR_MS, now
from tests.helpers.long_ledger import down_since, flapping, steady, write_long_ledger
from tests.servers import HOST, server_folder

FOLDER = Path("build/bounded")
DAYS = 60.0
"""Days of the ledger of four targets; two years are 730."""
OUTAGES = 10_000
INTERVAL = 60.0
PORT = 1
"""A port at which nobody answers."""
REQUESTS = 50
"""Requests of each address; each is asked once before."""
MOMENTS = (0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Seconds after the begin of a start at which SIGTERM comes."""
COUNTED_TARGETS, COUNTED_DAYS = 1000, 90
ROWS_DAYS = 7
START_GOAL, STOP_GOAL, PAGE_GOAL_MS, COUNTED_GOAL = 3.0, 3.0, 100.0, 60.0
Progress = Callable[[str], None]


def measure(days: float, console: Console) -> dict[str, Any]:
    """Write a ledger of so many days, start MailWatch on it, and ask for its pages; then count many targets."""
    steps = round(days * 1440)
    patterns = {
        "down": down_since(steps // 2), "flapping": flapping(max(0, steps - 10 * OUTAGES)), "up1": steady,
        "up2": steady,
    }  # fmt: skip
    folder = FOLDER.resolve() / f"{days:g}"
    with _ready(folder, console, "the ledger of four targets") as progress:
        if progress:
            end = now() // 60_000 * 60_000
            write_long_ledger(
                folder / "data", patterns, end, days, port=PORT, provider=_provider, rows_days=ROWS_DAYS,
                progress=progress,
            )  # fmt: skip
    found = {"days": days} | measure_starts(folder, list(patterns), console)
    _show_starts(found, console)
    counted = _counted(COUNTED_DAYS, console)
    _show_counted(counted, console)
    return found | {"counted": counted}


@contextmanager
def _ready(folder: Path, console: Console, what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Give what shows the progress of writing a ledger, None if it is there already."""
    whole = folder / "whole"
    if whole.exists():
        yield None
        return
    folder.mkdir(parents=True, exist_ok=True)
    with console.status(f"bounded: {what}") as status:
        yield lambda done, of: status.update(f"bounded: writing {what}, {done / max(1, of):.0%}")
    whole.touch()


def measure_starts(folder: Path, names: list[str], console: Console) -> dict[str, Any]:
    """Start MailWatch on the ledger in `folder`/data: SIGTERM at several moments, then twice for its pages."""
    targets = [_target(name) for name in names]
    forget_kept(folder / "data")
    with _reader(folder / "data") as reader:
        heads = reader.outages.heads()
        entries, outages = reader.size(), len(heads)
        newest_open = next(head for head in heads if head.state == "open")
    found: dict[str, Any] = {"entries": entries, "outages": outages, "starts": []}
    found["bytes"] = database(folder / "data").stat().st_size
    with console.status("bounded: SIGTERM in a start"):
        monitor = Monitor(folder, targets, interval=INTERVAL)
        found["stops"] = {f"{moment:g}": round(monitor.ended_at(moment), 2) for moment in MOMENTS}
    forget_kept(folder / "data")
    with server_folder() as empty, _start(empty, targets) as (monitor, seconds):
        found["empty"] = {"seconds": round(seconds, 2), "cpu": round(cpu_seconds(monitor.pid), 2)}
    for number in range(2):
        with console.status(f"bounded: start {number + 1}"), _start(folder, targets) as (monitor, seconds):
            started = {"seconds": round(seconds, 2), "cpu": round(cpu_seconds(monitor.pid), 2)}
            found["starts"].append(started | {"memory": peak_memory(monitor.pid)})
            if number:
                found["pages"] = _pages(monitor, newest_open.id)
    return found


def forget_kept(data_dir: Path) -> None:
    """Empty what is kept beside the ledger, as in one of an older version."""
    with contextlib.closing(sqlite3.connect(database(data_dir))) as raw, raw:
        for table in ("kept_states", "outage_heads"):
            raw.execute(f"DELETE FROM {table}")


def _counted(days: float, console: Console) -> dict[str, Any]:
    """Start MailWatch on a thousand targets, of which all but an hour is kept; wait until all are counted.

    The kept days have two checks a day, the last hour one a minute: what is kept has the same size then.
    """
    folder = FOLDER.resolve() / f"{COUNTED_TARGETS}x{days:g}"
    names = [f"t{number:04}" for number in range(COUNTED_TARGETS)]
    patterns = dict.fromkeys(names, steady)
    end, recent = now() // 60_000 * 60_000, KEEP_HISTORY_MS / DAY_MS
    # Each time anew: the last hour is to be the last hour.
    (folder / "whole").unlink(missing_ok=True)
    shutil.rmtree(folder / "data", ignore_errors=True)
    with _ready(folder, console, f"the ledger of {COUNTED_TARGETS:,} targets") as progress:
        assert progress
        write_long_ledger(
            folder / "data", patterns, end - KEEP_HISTORY_MS, days - recent, interval=12 * HOUR_MS, port=PORT,
            provider=_provider, rows_days=ROWS_DAYS, level=LARGE_LEVEL, progress=progress,
        )  # fmt: skip
        read, spent = _keep_histories(folder / "data", names, end - KEEP_HISTORY_MS)
        entries = write_long_ledger(folder / "data", patterns, end, recent, port=PORT, provider=_provider)
    with (
        console.status("bounded: counting"),
        _start(folder, [_target(name) for name in names]) as (monitor, first),
    ):
        began = time.monotonic()
        cpu = cpu_seconds(monitor.pid)
        while (known := _known(monitor, days)) < len(names) and time.monotonic() < began + 600:
            time.sleep(0.5)
        took, spent_counting = time.monotonic() - began, cpu_seconds(monitor.pid) - cpu
    return {
        "targets": len(names),
        "days": days,
        "entries": entries,
        "first_count_per_cpu_second": round(read / spent),
        "start_seconds": round(first, 1),
        "seconds": round(took, 1),
        "cpu": round(spent_counting, 1),
        "counted": known,
    }


def _keep_histories(data_dir: Path, names: list[str], at: int) -> tuple[int, float]:
    """Count all targets once, and keep it; return the observations, and the seconds of processor time."""
    spent, read, kept = 0.0, 0, []
    with contextlib.closing(Store.open(data_dir)) as store, _reader(data_dir) as reader:
        announced = read_announcements(reader)
        for name in names:
            subject = Subject(name, target_id(store.keys.secret, name), announced)
            began = time.thread_time()
            history = read_history(reader, subject, at)
            spent, read = spent + time.thread_time() - began, read + history.read
            state = history_to_keep(subject, history)
            assert state is not None
            kept.append(state)
        store.keep(kept)
    return read, spent


def _known(monitor: Monitor, days: float) -> int:
    """Return of how many targets the days before this start are counted."""
    found = monitor.metrics("mailwatch_coverage_ratio{")
    return sum('window="90d"' in sample and ratio > days / 90 / 2 for sample, ratio in found.items())


@contextmanager
def _reader(data_dir: Path) -> Iterator[Reader]:
    reader = Reader.open(data_dir)
    yield reader
    reader.close()


@contextmanager
def _start(folder: Path, targets: list[dict[str, Any]]) -> Iterator[tuple[Monitor, float]]:
    monitor = Monitor(folder, targets, interval=INTERVAL)
    began = time.monotonic()
    with monitor.running():
        yield monitor, time.monotonic() - began


def _target(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "provider": _provider(name),
        "kind": "imap",
        "host": HOST,
        "port": PORT,
        "tls": "implicit",
    }


def _provider(name: str) -> str:
    """Return a provider of its own: an incident of a year would else hold all outages of the other target."""
    return f"provider-{name}"


def _pages(monitor: Monitor, outage: str) -> dict[str, Any]:
    addresses = (
        "/", "/outages", "/outages?page=100", f"/outages/{outage}", "/outages?state=open", "/incidents",
        "/targets/down", "/metrics", "/api/v1/outages?limit=100", "/api/v1/incidents?limit=100",
        f"/api/v1/outages/{outage}",
    )  # fmt: skip
    connection = http.client.HTTPConnection(HOST, monitor.port, timeout=120)

    def ask(address: str) -> tuple[float, float]:
        cpu, at = cpu_seconds(monitor.pid), time.perf_counter()
        connection.request("GET", address)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{address}: {answer.status}")
        return time.perf_counter() - at, cpu_seconds(monitor.pid) - cpu

    asked = {address: _times(ask, address) for address in addresses}
    connection.close()
    return asked


def _times(ask: Callable[[str], tuple[float, float]], address: str) -> dict[str, float]:
    first, _ = ask(address)
    both = [ask(address) for _ in range(REQUESTS)]
    took = sorted(seconds for seconds, _ in both)
    return {
        "first_ms": round(first * 1000, 1),
        "p50_ms": round(took[len(took) // 2] * 1000, 1),
        "p99_ms": round(took[int(len(took) * 0.99)] * 1000, 1),
        "cpu_ms": round(sum(cpu for _, cpu in both) / len(both) * 1000, 1),
    }


def show(result: dict[str, Any], _console: Console) -> dict[str, Any]:
    """Return the result, of which each part was printed when it was measured."""
    return result


def _show_starts(result: dict[str, Any], console: Console) -> None:
    first, second = result["starts"]
    console.print(
        f"bounded: {result['days']:g} days of four targets, {result['entries']:,} entries in "
        f"{result['bytes'] / 1e6:,.0f} MB, {result['outages']:,} outages\n"
        f"  start without kept states {first['seconds']} s (processor {first['cpu']} s); with them "
        f"{_beside(second['seconds'], START_GOAL, 's')} (processor {second['cpu']} s), "
        f"{second['memory'] / 1e6:.0f} MB; on an empty ledger {result['empty']['seconds']} s (processor "
        f"{result['empty']['cpu']} s)"
    )
    slowest = max(result["stops"], key=lambda moment: result["stops"][moment])
    console.print(
        f"  with SIGTERM at {', '.join(result['stops'])} s of a start, it ended after "
        f"{_beside(result['stops'][slowest], STOP_GOAL, 's')} at most, at {slowest} s"
    )
    for address, found in result["pages"].items():
        slow = f"{found['p99_ms']} ms"
        if address.startswith("/outages?") or address == "/outages":
            slow = _beside(found["p99_ms"], PAGE_GOAL_MS, "ms")
        console.print(
            f"  {address}: first {found['first_ms']} ms, p50 {found['p50_ms']} ms, p99 {slow}, "
            f"processor {found['cpu_ms']} ms"
        )


def _show_counted(counted: dict[str, Any], console: Console) -> None:
    console.print(
        f"  {counted['days']:g} days of {counted['counted']:,} of {counted['targets']:,} targets counted "
        f"{_beside(counted['seconds'], COUNTED_GOAL, 's')} (processor {counted['cpu']} s) after a start of "
        f"{counted['start_seconds']} s; without "
        f"what is kept, {counted['first_count_per_cpu_second']:,} observations a second of processor time"
    )


def _beside(figure: float, goal: float, unit: str) -> str:
    """Return a figure with its goal."""
    return f"[bold]{figure} {unit}[/] (goal {goal:g} {unit}{'' if figure <= goal else ', missed'})"
