"""What must hold whatever happens, and how it is seen from outside: over HTTP, in the log, in the files."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailwatch.store import Reader
from tests.helpers.command import mailwatch
from tests.helpers.process import MailWatchProcess

TIMEOUT_SECONDS = 120.0
"""Seconds until a thing counts as not coming: a busy machine breaks no promise."""
STOP_SECONDS = 20.0
"""Seconds for SIGTERM. The contract says ten, on a machine that has nothing else to do."""
TRACEBACK = "Traceback (most recent call last)"
KNOWN = re.compile(
    r"mailwatch\.sqlite(-wal|-shm|\.migrated)?|lock|told-broken|share-key|spool\.sqlite(-wal|-shm)?|node|tail\.jsonl(\.1)?|(keys|tokens|oauth|claims|making|declarations)"
    r"|keys/(ledger\.(pem|pub|checkpoint)|targets\.key|witness\.(key|pub)|predecessors\.json)|tokens/[0-9a-f]{64}\.tsr|claims/.*\.jsonl"
    r"|declarations/[0-9a-f]{64}\.(eml|json)"
    r"|hub(/[0-9a-f]{32}(/(mailwatch\.sqlite(-wal|-shm|\.migrated)?|lock|tail\.jsonl(\.1)?|part(/.*)?))?)?"
    r"|archive(/[0-9a-f-]+(/.*)?)?|closed\.json|migrate\.partial(/.*)?"
)
"""What belongs into a data_dir."""


def wait_for(holds: Callable[[], Any], timeout: float = TIMEOUT_SECONDS) -> Any:
    """Wait until something holds and return it; None when it does not within `patience` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.1)
    return None


def alive(running: MailWatchProcess) -> bool:
    """Whether its process runs."""
    return running.process is not None and running.process.poll() is None


def get(running: MailWatchProcess, path: str) -> str:
    """GET a page; "" when no whole answer comes."""
    with contextlib.suppress(http.client.HTTPException, OSError):
        return running.get(path)
    return ""


def ready(running: MailWatchProcess) -> bool:
    """Whether it says that it is ready."""
    return get(running, "/readyz") == "ok\n"


def metric(running: MailWatchProcess, name: str) -> float | None:
    """The value of the one metric line that begins so; None when there is none, or no answer."""
    found = [line for line in get(running, "/metrics").splitlines() if line.startswith(name)]
    return float(found[0].rpartition(" ")[2]) if found else None


def starts(running: MailWatchProcess, timeout: float = TIMEOUT_SECONDS) -> bool:
    """Start it; whether it got ready. When it did not, it may run or have ended."""
    running.start(ready=False)
    return bool(wait_for(lambda: not alive(running) or ready(running), timeout)) and alive(running)


def stops(running: MailWatchProcess, timeout: float = STOP_SECONDS) -> tuple[int | None, float]:
    """SIGTERM; return its exit status, None when it had to be killed, and the seconds that it took."""
    process, running.process = running.process, None
    if process is None:
        return 0, 0.0
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        status: int | None = process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        status = None
    return status, time.monotonic() - began


def force_stop(running: MailWatchProcess) -> None:
    """End it by force, if it still runs."""
    process, running.process = running.process, None
    if process is not None:
        process.kill()
        process.wait()


def command(running: MailWatchProcess, *words: str) -> subprocess.CompletedProcess[str]:
    """Run another verb on its config; status -9 when it does not end."""
    try:
        return mailwatch("--config", running.config, *words, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(error.cmd, -9, "", "")


def log_since(running: MailWatchProcess, mark: int = 0) -> str:
    """What it logged after the first `mark` bytes."""
    return running.log.read_bytes()[mark:].decode(errors="replace") if running.log.exists() else ""


def log_position(running: MailWatchProcess) -> int:
    """Where its log stands."""
    return running.log.stat().st_size if running.log.exists() else 0


def size(running: MailWatchProcess) -> int:
    """How many entries there are at least, by the newest observation; 0 while it does not answer."""
    with contextlib.suppress(ValueError, KeyError, IndexError):
        return int(json.loads(get(running, "/api/v1/observations?limit=1") or "[]")[0]["index"]) + 1
    return 0


@dataclass(slots=True)
class Acknowledged:
    """What MailWatch showed over HTTP, and has thereby promised to keep: observations by index, outages by id."""

    observations: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    outages: set[str] = field(default_factory=set)
    size: int = 0

    def take(self, running: MailWatchProcess) -> None:
        """Ask once what there is."""
        with contextlib.suppress(ValueError):
            for one in json.loads(get(running, "/api/v1/observations?limit=50") or "[]"):
                self.observations[one["index"]] = one["target"], one["started_at"], one["outcome"]
            self.outages |= {one["id"] for one in json.loads(get(running, "/api/v1/outages") or "[]")}
        self.size = max(
            [self.size, int(metric(running, "mailwatch_ledger_size") or 0), *(i + 1 for i in self.observations)]
        )

    @contextlib.contextmanager
    def taking(self, running: MailWatchProcess) -> Iterator[None]:
        """Ask again and again, until the context ends."""
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                self.take(running)
                ended.wait(0.02)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def lost(self, data_dir: Path) -> list[str]:
        """What is not on record as it was shown."""
        if not self.size and not self.observations:
            return []
        reader = Reader.open(data_dir)
        try:
            found = {
                entry.index: entry.payload
                for entry in reader.entries(kinds=["observation"], from_index=min(self.observations, default=0))
            }
            kept = {entry.payload["id"] for entry in reader.entries(kinds=["outage"])}
            missing = [f"ledger of {reader.size()} entries, {self.size} were shown"] * (reader.size() < self.size)
        finally:
            reader.close()
        for index, (target, _, outcome) in self.observations.items():
            here = found.get(index)
            if here is None or (here["target"], here["outcome"]) != (target, outcome):
                missing.append(f"observation {index} of {target} ({outcome}) is {here and here['outcome']}")
        return missing + [f"outage {one}" for one in sorted(self.outages - kept)]


def unexpected_files(data_dir: Path) -> list[str]:
    """Files that do not belong into a data_dir."""
    names = (str(path.relative_to(data_dir)) for path in data_dir.rglob("*"))
    return sorted(name for name in names if not KNOWN.fullmatch(name))


def stray_keys(folder: Path) -> list[str]:
    """Files outside `keys/` that hold the private key of the ledger in `folder/data`, but for whole backups."""
    keys = folder / "data" / "keys"
    secrets = [path.read_bytes() for path in (keys / "ledger.pem", keys / "targets.key") if path.exists()]
    secrets += [b"PRIVATE KEY-----"]
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.parent != keys and not path.name.endswith(".tar.gz"):
            with contextlib.suppress(OSError):
                text = path.read_bytes()
                if any(secret and secret in text for secret in secrets):
                    found.append(str(path.relative_to(folder)))
    return sorted(found)


def shows(secret: str, folder: Path) -> list[str]:
    """Files in which a secret stands, plain or in Base64."""
    forms = (secret.encode(), base64.b64encode(secret.encode()))
    files = (path for path in folder.rglob("*") if path.is_file())
    return [str(path.relative_to(folder)) for path in files if any(form in path.read_bytes() for form in forms)]


def outcomes(running: MailWatchProcess, limit: int) -> list[dict[str, Any]]:
    """The newest observations as the API has them, newest first; empty while it does not answer."""
    with contextlib.suppress(ValueError):
        return list(json.loads(get(running, f"/api/v1/observations?limit={limit}") or "[]"))
    return []


def on_record(data_dir: Path, kind: str = "observation") -> list[dict[str, Any]]:
    """The payloads of the ledger on disk."""
    reader = Reader.open(data_dir)
    try:
        return [entry.payload for entry in reader.entries(kinds=[kind])]
    finally:
        reader.close()


def downs(observations: list[dict[str, Any]]) -> list[str]:
    """Say which of these observations are down, and why."""
    return [f"{o['target']}: {o.get('cause')} {o.get('detail')}" for o in observations if o["outcome"] == "down"]
