"""Pages and /metrics under load, while a thousand targets are probed and ten million observations are on record.

Requests come at fixed times, whether or not the ones before were answered: what waits for a slow answer is slow.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.evidence import seen
from benchmarks.process import Monitor, cpu_seconds, peak_memory
from benchmarks.schedule import INTERVAL, LAG, _result, _target, stand_in
from mailwatch.store import Reader
from mailwatch.times import now
from tests.helpers import ledger_factory as ledgers
from tests.helpers.ledger_factory import MINUTE
from tests.servers import HOST

TARGETS = 1_000
PER_SECOND = 200
CONNECTIONS = 40
PATHS = ("/", "/metrics")
REQUEST = "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept-Encoding: gzip\r\nAccept-Language: it\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """How long after its time a request was answered in full, in seconds; 0 for `status` is none at all."""

    path: str
    status: int
    seconds: float
    size: int


def measure(seconds: float, entries: int, console: Console) -> dict[str, Any]:
    """Ask for `seconds` what people and Prometheus ask."""
    folder = Path("build/load") / str(entries)
    with stand_in() as port:
        targets = [_target(number, port) for number in range(TARGETS)]
        with console.status("load: writing the ledger, once; a million entries take about a minute"):
            _ledger(folder, targets, entries)
        monitor = Monitor(folder, targets, interval=INTERVAL)
        with console.status(f"load: about {seconds:g} s"), monitor.running():
            _settled(monitor)
            before, cpu, at = monitor.metrics(LAG), cpu_seconds(monitor.pid), time.monotonic()
            with multiprocessing.get_context("spawn").Pool(1) as asking:
                answers = asking.apply(_ask, (monitor.port, seconds))
            span = time.monotonic() - at
            cpu = cpu_seconds(monitor.pid) - cpu
            after = monitor.metrics(LAG, "mailwatch_observations_total", "mailwatch_gap_seconds_total")
            memory = peak_memory(monitor.pid)
    held = _result(before, after, span)
    reader = Reader.open(folder / "data")
    size = reader.size()
    reader.close()
    return {
        "targets": TARGETS,
        "entries": size,
        "requests": len(answers),
        "per_second": PER_SECOND,
        "failed": sum(answer.status != 200 for answer in answers),
        "paths": {path: _latency([one for one in answers if one.path == path]) for path in PATHS},
        "lag_p99_seconds": held["lag_p99_seconds"],
        "cpu_share": round(cpu / span, 3),
        "peak_memory_mib": round(memory / 2**20, 1),
    }


def _ledger(folder: Path, targets: list[dict[str, Any]], entries: int) -> None:
    if (folder / "whole").exists():
        return
    patterns = {target["name"]: lambda _: "+" for target in targets}
    end = now() // MINUTE * MINUTE
    start = end - entries // len(patterns) * MINUTE
    ledgers.write(folder / "data", patterns, start, end, every=1, observe=seen, durable=False).close()
    (folder / "whole").touch()


def _settled(monitor: Monitor) -> None:
    """Wait until the history was taken up, which costs time once: two seconds with a third of a core free."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        before = cpu_seconds(monitor.pid)
        time.sleep(2)
        if cpu_seconds(monitor.pid) - before < 1.3:
            return
    raise RuntimeError("the monitor does not come to rest")


def _latency(answers: list[Answer]) -> dict[str, Any]:
    took = sorted(answer.seconds for answer in answers)
    if not took:
        return {}
    return {
        "p50_ms": round(took[len(took) // 2] * 1000, 1),
        "p99_ms": round(took[len(took) * 99 // 100] * 1000, 1),
        "slowest_ms": round(took[-1] * 1000, 1),
        "bytes": answers[-1].size,
    }


def _ask(port: int, seconds: float) -> list[Answer]:
    return asyncio.run(_asking(port, seconds))


async def _asking(port: int, seconds: float) -> list[Answer]:
    due: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()
    answers: list[Answer] = []
    # The first page is drawn by templates that are not compiled yet.
    first: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()
    for wanted in (*((time.monotonic(), path) for path in PATHS), None):
        first.put_nowait(wanted)
    await _worker(port, first, [])
    workers = [asyncio.create_task(_worker(port, due, answers)) for _ in range(CONNECTIONS)]
    began = time.monotonic()
    for number, path in _plan(seconds):
        at = began + number / PER_SECOND
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        due.put_nowait((at, path))
    for _ in workers:
        due.put_nowait(None)
    await asyncio.gather(*workers)
    return answers


def _plan(seconds: float) -> Iterator[tuple[int, str]]:
    for number in range(round(seconds * PER_SECOND)):
        yield number, PATHS[number % len(PATHS)]


async def _worker(port: int, due: asyncio.Queue[tuple[float, str] | None], answers: list[Answer]) -> None:
    reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
    while (wanted := await due.get()) is not None:
        at, path = wanted
        writer.write(REQUEST.format(path=path, host=HOST, port=port).encode())
        status, size = await _answer(reader)
        answers.append(Answer(path, status, time.monotonic() - at, size))
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, int]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    if "transfer-encoding: chunked" in head:
        size = 0
        while length := int(await reader.readline(), 16):
            await reader.readexactly(length + 2)
            size += length
        await reader.readline()
        return status, size
    size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    await reader.readexactly(size)
    return status, size


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print what was seen in a few lines; return it."""
    console.print(
        f"load: {result['per_second']} requests a second with {result['targets']:,} targets and "
        f"{result['entries']:,} entries: {result['failed']} of {result['requests']:,} failed, "
        f"schedule lag p99 {result['lag_p99_seconds']} s, {result['cpu_share']:.0%} of a core, "
        f"{result['peak_memory_mib']} MiB"
    )
    for path, times in result["paths"].items():
        console.print(
            f"  {path}: p50 {times['p50_ms']} ms, p99 [bold]{times['p99_ms']} ms[/], {times['bytes']:,} bytes"
        )
    return result
