"""The overview as one visitor has it: a thousand targets at ten providers, opened, searched and filtered.

The visitor waits between requests, so that each answer is rendered anew while the targets are probed. Processor
time says what an answer costs also where other programs use the machine.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.process import Monitor
from benchmarks.schedule import INTERVAL, _target, stand_in
from tests.servers import HOST, server_folder

TARGETS = 1_000
PROVIDERS = 10
PER_SECOND = 4
ADDRESSES = ("/", "/?collapse=", "/?collapse=&page=7", "/?q=t001", "/?state=up&page=3", "/?provider=provider-4")
HEADERS = {"Accept-Encoding": "gzip", "Accept-Language": "it"}


@dataclass(frozen=True, slots=True)
class Visit:
    """One answer: seconds until it was complete, MailWatch's processor time meanwhile, and its bytes."""

    address: str
    seconds: float
    cpu: float
    size: int


def measure(seconds: float, targets: int = TARGETS) -> dict[str, Any]:
    """Ask for `seconds`, one address after the other; each is asked once before, as its templates are compiled."""
    with stand_in() as port, server_folder() as folder:
        watched = [
            _target(number, port) | {"provider": f"provider-{number * PROVIDERS // targets}"}
            for number in range(targets)
        ]
        monitor = Monitor(folder, watched, interval=INTERVAL)
        with monitor.running():
            # One round of the schedule, so that each target has an observation.
            time.sleep(INTERVAL)
            visits = _visit(monitor, seconds)
    return {
        "targets": targets,
        "requests": len(visits),
        "all": _summary(visits),
        "addresses": {
            address: _summary([one for one in visits if one.address == address]) for address in ADDRESSES
        },
    }


def _visit(monitor: Monitor, seconds: float) -> list[Visit]:
    connection = http.client.HTTPConnection(HOST, monitor.port, timeout=60)
    visits: list[Visit] = []
    began = time.monotonic()
    wanted = len(ADDRESSES) + round(seconds * PER_SECOND)
    for number, address in zip(range(wanted), cycle(ADDRESSES), strict=False):
        time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))
        cpu, at = _processor_seconds(monitor.pid), time.perf_counter()
        connection.request("GET", address, headers=HEADERS)
        answer = connection.getresponse()
        size = len(answer.read())
        took = time.perf_counter() - at
        if answer.status != 200:
            raise RuntimeError(f"{address}: {answer.status}")
        visits.append(Visit(address, took, _processor_seconds(monitor.pid) - cpu, size))
    connection.close()
    return visits[len(ADDRESSES) :]


def _processor_seconds(pid: int) -> float:
    """Seconds on a processor of all threads, to the nanosecond (/proc/PID/task/*/schedstat)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def _summary(visits: Sequence[Visit]) -> dict[str, Any]:
    def quantile(values: Sequence[float], share: float) -> float:
        return round(sorted(values)[int(len(values) * share)] * 1000, 1)

    took, cpu = [visit.seconds for visit in visits], [visit.cpu for visit in visits]
    return {
        "p50_ms": quantile(took, 0.5),
        "p99_ms": quantile(took, 0.99),
        "cpu_p50_ms": quantile(cpu, 0.5),
        "cpu_p99_ms": quantile(cpu, 0.99),
        "bytes": visits[-1].size,
    }


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print what was seen in a few lines; return it."""
    console.print(f"pages: the overview of {result['targets']:,} targets, {result['requests']:,} requests")
    for address, found in {"all": result["all"], **result["addresses"]}.items():
        console.print(
            f"  {address}: p50 {found['p50_ms']} ms, p99 [bold]{found['p99_ms']} ms[/]; processor time "
            f"p50 {found['cpu_p50_ms']} ms, p99 [bold]{found['cpu_p99_ms']} ms[/]; {found['bytes']:,} bytes"
        )
    return result
