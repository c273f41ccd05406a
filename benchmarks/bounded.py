"""A start and the pages on a ledger of years: of four targets one is down for half of it, one has 10,000 outages.

The ledger is written first. Without kept states the first start replays the long outage; the next one does not.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.process import Monitor, cpu_seconds, peak_memory
from mailwatch.store import Reader
from mailwatch.times import now
from tests.helpers.long_ledger import down_since, flapping, steady, write_long_ledger
from tests.servers import HOST, free_port, server_folder

DAYS = 60.0
OUTAGES = 10_000
INTERVAL = 60.0
REQUESTS = 50
"""Requests of each address; each is asked once before."""


def measure(days: float, console: Console) -> dict[str, Any]:
    """Write a ledger of so many days, start MailWatch on it twice, and ask for its pages."""
    with server_folder() as folder:
        steps, port = round(days * 1440), free_port()
        patterns = {
            "down": down_since(steps // 2), "flapping": flapping(max(8, steps // OUTAGES)), "up1": steady,
            "up2": steady,
        }  # fmt: skip
        with console.status("bounded: writing the ledger"):
            entries = write_long_ledger(folder / "data", patterns, now() // 60_000 * 60_000, days, port=port)
        targets = [{**_target(name, port), "interval": f"{INTERVAL:g}s"} for name in patterns]
        return {"days": days, "entries": entries, **measure_starts(folder, targets, console)}


def measure_starts(folder: Path, targets: list[dict[str, Any]], console: Console) -> dict[str, Any]:
    """Start MailWatch on the ledger in `folder`/data three times, and ask for its pages."""
    with _reader(folder / "data") as reader:
        outages = len(reader.outages.heads())
        newest_open = next(head for head in reader.outages.heads() if head.state == "open")
    found: dict[str, Any] = {"outages": outages, "starts": []}
    for number in range(2):
        with console.status(f"bounded: start {number + 1}"), _start(folder, targets) as (monitor, seconds):
            started = {"seconds": round(seconds, 2), "cpu": round(cpu_seconds(monitor.pid), 2)}
            found["starts"].append(started | {"memory": peak_memory(monitor.pid)})
            if number:
                found["pages"] = _pages(monitor, newest_open.id)
    return found


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


def _target(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "provider": "lab", "kind": "imap", "host": HOST, "port": port, "tls": "implicit"}


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


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print what was seen in a few lines; return it."""
    first, second = result["starts"]
    console.print(
        f"bounded: {result.get('days', 0):g} days of four targets, {result.get('entries', 0):,} entries, "
        f"{result['outages']:,} outages\n"
        f"  first start {first['seconds']} s (processor {first['cpu']} s), next [bold]{second['seconds']} s[/] "
        f"(processor {second['cpu']} s), {second['memory'] / 1e6:.0f} MB"
    )
    for address, found in result["pages"].items():
        console.print(
            f"  {address}: first {found['first_ms']} ms, p50 {found['p50_ms']} ms, "
            f"p99 [bold]{found['p99_ms']} ms[/], processor {found['cpu_ms']} ms"
        )
    return result
