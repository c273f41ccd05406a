"""What evidence costs: reports out of a long ledger and out of a short one, and their check.

Each is the real command, from its start to its end, with the memory that it took at most.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.process import peak_memory
from mailwatch.model import Observation, Phase, TlsFacts
from mailwatch.store import Reader
from mailwatch.times import Millis, rfc3339
from tests.helpers import ledger_factory as ledgers
from tests.helpers.ledger_factory import DAY, HOUR

START: Millis = 1_767_225_600_000
TARGETS = ("imap", "smtp", "pop3", "web")
OUTAGE_DAYS = 5
TLS = TlsFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", fingerprint="ab" * 32, not_after=START)
PHASES = (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH, Phase.MAILBOX)


def seen(target: str, mark: str, at: Millis) -> Observation:
    """An observation whose entry is as long as that of a real login."""
    made = ledgers.observation_of(target, mark, at)
    if mark != "+":
        return made
    phases = {phase: 1_000 + at // 1000 * step % 997 for step, phase in enumerate(PHASES, start=1)}
    attempt = replace(made.attempts[0], phases=phases, tls=TLS)
    return replace(made, attempts=(attempt,), addresses=("192.0.2.1",), with_login=True, secret="ab" * 8)


@dataclass(frozen=True, slots=True)
class Ledger:
    """A ledger of observations a minute apart, `days` long; in its middle `TARGETS[0]` is down for five days."""

    folder: Path
    days: int
    targets: tuple[str, ...]

    @property
    def config(self) -> Path:
        """A config that watches its targets, for the commands."""
        return self.folder / "config.yaml"

    def ready(self) -> None:
        """Write it, unless it is there: ten million entries take minutes."""
        if self.config.exists():
            return
        begin = START + (self.days - OUTAGE_DAYS) // 2 * DAY + 3 * HOUR
        down = range(begin, begin + OUTAGE_DAYS * DAY)

        def first(at: Millis) -> str:
            return "-" if at in down else "+"

        patterns = {name: first if name == self.targets[0] else lambda _: "+" for name in self.targets}
        end = START + self.days * DAY
        ledgers.write(
            self.folder / "data", patterns, START, end, provider="libero", every=10, observe=seen, durable=False
        ).close()
        listed = [
            {"name": name, "kind": "imap", "provider": "libero", "host": "192.0.2.1", "interval": "60s"}
            for name in self.targets
        ]
        settings = {"vantage_point": {"name": "bench"}, "data_dir": "data", "targets": listed}
        self.config.write_text(json.dumps(settings))

    def size(self) -> int:
        """How many entries it has."""
        reader = Reader.open(self.folder / "data")
        try:
            return reader.size()
        finally:
            reader.close()


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took."""

    seconds: float
    megabytes: int
    output: str


def cost(*command: str) -> Cost:
    """Run a command of MailWatch. Raises RuntimeError when it fails."""
    began, most = time.monotonic(), 0
    with tempfile.TemporaryFile() as output:
        command_line = [sys.executable, "-m", "mailwatch", *command]
        with subprocess.Popen(command_line, stdout=output, stderr=subprocess.DEVNULL) as process:
            # Its own high-water mark: what the kernel reports when it has ended begins with that of this process.
            while process.poll() is None:
                with contextlib.suppress(OSError, AssertionError):
                    most = max(most, peak_memory(process.pid))
                time.sleep(0.01)
        elapsed = time.monotonic() - began
        output.seek(0)
        reply = output.read().decode()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{reply}")
    return Cost(round(elapsed, 2), round(most / 1e6), reply)


def measure(entries: int, console: Console) -> dict[str, Any]:
    """Write the ledgers, and measure on them. `entries` is the length of the long one."""
    parent = Path("build/evidence")
    with console.status("evidence: writing the ledgers, once; a million entries take about a minute"):
        for ledger in _ledgers(parent, entries):
            ledger.ready()
    with console.status("evidence: a dozen commands"):
        return _measured(*_ledgers(parent, entries))


def _ledgers(parent: Path, entries: int) -> list[Ledger]:
    days = ((12, TARGETS), (entries // len(TARGETS) // 1440, TARGETS), (366, TARGETS[:1]))
    return [Ledger(parent / f"{len(targets)}x{length}", length, targets) for length, targets in days]


def _measured(short: Ledger, long: Ledger, year: Ledger) -> dict[str, Any]:
    collected: dict[str, Any] = {}
    for name, ledger in (("short", short), ("long", long)):
        listed = cost("--config", str(ledger.config), "outages", "--json")
        (outage,) = json.loads(listed.output)
        collected[name] = {"entries": ledger.size()} | _report(ledger, outage["id"])
    ends = rfc3339(START + HOUR), rfc3339(START + 365 * DAY + HOUR)
    collected["year"] = {"entries": year.size()} | _report(year, "--from", ends[0], "--to", ends[1])
    spent = cost("--config", str(year.config), "availability", "--from", ends[0], "--to", ends[1], "--json")
    collected["year"]["availability"] = {"seconds": spent.seconds, "megabytes": spent.megabytes}
    return collected


def _report(ledger: Ledger, *what: str) -> dict[str, Any]:
    pdf, bundle = ledger.folder / "report.pdf", ledger.folder / "evidence.zip"
    collected: dict[str, Any] = {}
    for name, path in (("pdf", pdf), ("bundle", bundle)):
        spent = cost("--config", str(ledger.config), "report", *what, "-o", str(path), "--lang", "it")
        collected[name] = {"seconds": spent.seconds, "megabytes": spent.megabytes, "bytes": path.stat().st_size}
    with zipfile.ZipFile(bundle) as made, made.open("entries.jsonl") as lines:
        held = sum(1 for _ in lines)
    # The empty command is what every command takes to begin.
    idle, spent = cost("providers", "libero").seconds, cost("verify", str(bundle))
    collected["verify"] = {
        "entries": held,
        "seconds": spent.seconds,
        "megabytes": spent.megabytes,
        "entries_per_second": round(held / max(spent.seconds - idle, 0.01)),
    }
    return collected


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print a line for each ledger; return the result."""
    for name, measured in result.items():
        pdf, bundle, check = measured["pdf"], measured["bundle"], measured["verify"]
        console.print(
            f"evidence, {name} ledger of {measured['entries']:,} entries: "
            f"report.pdf [bold]{pdf['seconds']} s[/] and {pdf['megabytes']} MB, "
            f"bundle [bold]{bundle['seconds']} s[/] and {bundle['megabytes']} MB, "
            f"verify [bold]{check['seconds']} s[/] and {check['megabytes']} MB for {check['entries']:,} entries, "
            f"{check['entries_per_second']:,} a second"
            + (f", availability {measured['availability']['seconds']} s" if "availability" in measured else "")
        )
    return result
