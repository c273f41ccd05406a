"""The `mailwatch run` under measurement: its configuration, its CPU time, its memory, its metrics."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers import HOST, free_port

TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 300.0
"""How long a monitor may take to start, also with thousands of targets."""


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of the children it waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def peak_memory(pid: int) -> int:
    """The most bytes of RAM that the process ever held (VmHWM of proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no VmHWM")


class Monitor:
    """A running `mailwatch run` with a folder of its own."""

    def __init__(
        self, folder: Path, targets: list[dict[str, Any]], *, interval: float, database: str = "sqlite"
    ) -> None:
        self.port = free_port()
        self._config = folder / "config.yaml"
        self._log = folder / "log"
        config = {
            "vantage_point": {"name": "bench"},
            "data_dir": str(folder / "data"),
            "web": {"listen": f"{HOST}:{self.port}"},
            "guard": "off",
            "clock": {"servers": []},
            "defaults": {"interval": f"{interval:g}s", "timeout": f"{min(interval, 10):g}s"},
            "targets": targets,
            "database": database,
        }
        self._config.write_text(json.dumps(config, separators=(",", ":")))  # JSON is YAML too
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process, of a monitor that runs."""
        assert self._process is not None
        return self._process.pid

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it, wait until it serves; stop it in the end, which it must do cleanly."""
        command = [sys.executable, "-m", "mailwatch", "--config", str(self._config), "run"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not self._ready():
                self._check_alive(deadline)
                time.sleep(0.05)
            yield
            self._check_alive(math.inf)
        finally:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def ended_at(self, seconds: float) -> float:
        """Start it, and have it end so many seconds later; return how long that took.

        It must end cleanly, unless Python itself is still being started.
        """
        command = [sys.executable, "-m", "mailwatch", "--config", str(self._config), "run"]
        with self._log.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        time.sleep(seconds)
        began = time.monotonic()
        process.terminate()
        try:
            status = process.wait(60)
        finally:
            process.kill()
        if status not in (0, -signal.SIGTERM):
            raise RuntimeError(f"mailwatch run ended with {status}:\n{self._log.read_text()[-4000:]}")
        return time.monotonic() - began

    def _check_alive(self, deadline: float) -> None:
        if self.ended or time.monotonic() > deadline:
            raise RuntimeError(f"mailwatch run does not run:\n{self._log.read_text()[-4000:]}")

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process is None or self._process.poll() is not None

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            self._get("/readyz")
            return True
        return False

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def metrics(self, *names: str) -> dict[str, float]:
        """The samples of these names, by the name with its labels."""
        found = {}
        for line in self._get("/metrics").splitlines():
            if line.startswith(names):
                sample, _, value = line.rpartition(" ")
                found[sample] = float(value)
        return found

    def observations(self) -> dict[str, float]:
        """How many observations there are of each outcome."""
        totals = {"up": 0.0, "down": 0.0, "unknown": 0.0}
        for sample, value in self.metrics("mailwatch_observations_total").items():
            totals[sample.partition('outcome="')[2].partition('"')[0]] += value
        return totals


def quantile(buckets: dict[float, float], wanted: float) -> float | None:
    """The quantile of a cumulative histogram, linear within a bucket as in Prometheus; None if it is empty.

    `buckets` maps each upper bound to the count up to it; in the last, unbounded one it is infinity.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if not total:
        return None
    rank = wanted * total
    below, low = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= rank:
            inside = buckets[bound] - below
            return math.inf if math.isinf(bound) else low + (bound - low) * (rank - below) / inside
        below, low = buckets[bound], bound
    raise AssertionError("a cumulative histogram ends with its total")
