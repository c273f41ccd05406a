"""The ledger in PostgreSQL against its limits: COPY of the same rows, and SQLite on the same disk.

The server runs on this machine, in a folder beside the repository, and waits for the disk at each commit. Ratios
are of one run, in turns: a machine's speed drifts.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from rich.console import Console

from benchmarks import ingest
from benchmarks.evidence import TARGETS, seen
from benchmarks.peers import Cost, Lab
from benchmarks.probe import ACCOUNTS, imap_target
from benchmarks.process import Monitor, cpu_seconds
from mailwatch.progress import StartupProgress
from mailwatch.store import Store
from mailwatch.store.first_start import migrate_database
from mailwatch.store.migrate import to_postgresql
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.schema import entries
from mailwatch.store.sqlite import SqlitePlace
from tests.helpers.ledger_factory import MINUTE, write
from tests.servers import Certificates, Dovecot, server_folder
from tests.servers.postgresql import PostgreSql

BATCH = 170
"""Observations of a commit: those of 0.2 s with 50,000 mailboxes a minute."""
ROWS = 100 * BATCH
"""Rows that are copied, again and again."""
TURNS = 3
WATCHED, INTERVAL = 100, 5.0
"""Targets, and the seconds between two probes of each."""
SETTLE_SECONDS = 15.0
MOVED = 100_000
"""Entries of the ledger that moves."""
START = 1_767_225_600_000
_COLUMNS = ("idx", "kind", "time_ms", "target", "number", "outcome", "header", "payload")
_TYPES = ("int8", "text", "int8", "text", "int8", "text", "text", "text")


def measure(seconds: float, console: Console, moved: int = MOVED) -> dict[str, Any]:
    """Measure each for `seconds`, in turns, and a move of `moved` entries there."""
    build = Path("build").absolute()
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir=build) as name:
        folder = Path(name)
        # The server's user must reach its own folder in it.
        folder.chmod(0o711)
        with PostgreSql(folder / "cluster", durable=True).running() as server:
            with console.status("postgresql: appends"):
                appended = _appends(folder, server, seconds / TURNS)
            with console.status("postgresql: a move"):
                migrated = _move(folder / "moved", server, moved)
            with console.status("postgresql: probes"):
                probes = _probes(folder, server, seconds)
    return {"append": appended, "move": migrated, "probe": probes}


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print three lines; return the result."""
    append, move, probe = result["append"], result["move"], result["probe"]
    console.print(
        f"append to PostgreSQL, {BATCH} at a time: [bold]{append['postgresql']:,}[/] entries/s, "
        f"[bold]{append['of_copy']:.2f}[/] of COPY of the same rows, {append['of_sqlite']:.2f} of SQLite's"
    )
    console.print(
        f"CPU time of a probe with PostgreSQL: [bold]{probe['of_sqlite']:.2f}[/] of that with SQLite "
        f"({probe['postgresql_ms']:.2f} ms, and {probe['server_ms']:.2f} ms of the server)"
    )
    console.print(
        f"moved to PostgreSQL: [bold]{move['entries_per_second']:,}[/] entries/s, copied, read back and compared"
    )
    return result


def _appends(folder: Path, server: PostgreSql, seconds: float) -> dict[str, Any]:
    """Append in small commits, for `seconds` of each turn."""
    ours = PostgresPlace(folder / "data", server.url(server.make_database()))
    limit = server.url(server.make_database())
    places: list[Place] = [ours, SqlitePlace(folder / "sqlite")]
    with contextlib.ExitStack() as undo:
        stores = [undo.enter_context(contextlib.closing(Store.open(place))) for place in places]
        copying = _Copying(limit, folder / "limit")
        undo.callback(copying.close)
        # Made beforehand, as the rows are that COPY gets.
        drafts = [ingest.draft(number) for number in range(BATCH)]
        counts = [0.0, 0.0, 0.0]
        for _ in range(TURNS):
            counts[0] += _rate(lambda: len(stores[0].append_batch(drafts)), seconds)
            # The rows that were appended just now, as they are.
            counts[1] += _rate(copying.source(ours), seconds)
            counts[2] += _rate(lambda: len(stores[1].append_batch(drafts)), seconds)
    appended, copied, sqlite = (count / TURNS for count in counts)
    return {
        "postgresql": round(appended),
        "copy": round(copied),
        "sqlite": round(sqlite),
        "of_copy": round(appended / copied, 3),
        "of_sqlite": round(appended / sqlite, 3),
    }


def _rate(step: Callable[[], int], seconds: float) -> float:
    """Return what `step` counts a second."""
    count, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < seconds:
        count += step()
    return count / took


class _Copying:
    """A database with the same tables, indexes and triggers, that takes rows by COPY, a commit for each batch."""

    def __init__(self, url: str, data_dir: Path) -> None:
        place = PostgresPlace(data_dir, url)
        made = place.engine()
        migrate_database(place, made, StartupProgress())
        made.dispose()
        self._connection = psycopg.connect(url)
        self._next = 0

    def close(self) -> None:
        self._connection.close()

    def source(self, place: Place) -> Callable[[], int]:
        """Return a step that copies a batch of rows that another ledger has; they are read beforehand."""
        made = place.engine(read_only=True)
        with made.connect() as connection:
            query = sa.select(*(entries.c[name] for name in _COLUMNS)).order_by(entries.c.idx.desc())
            rows = [tuple(row) for row in connection.execute(query.limit(ROWS))]
        made.dispose()
        batches = self._batches(rows)
        return lambda: self._copy(next(batches))

    def _batches(self, rows: list[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
        """Yield batches of rows; after the last one the same again, as the next ones of the ledger."""
        while True:
            for begin in range(0, len(rows) - BATCH + 1, BATCH):
                part, first = rows[begin : begin + BATCH], self._next
                self._next += BATCH
                yield [(first + at, *row[1:4], first + at, *row[5:]) for at, row in enumerate(part)]

    def _copy(self, rows: list[tuple[Any, ...]]) -> int:
        statement = f"COPY entries ({', '.join(_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(_TYPES)
            for row in rows:
                copy.write_row(row)
        self._connection.commit()
        return len(rows)


def _move(data_dir: Path, server: PostgreSql, count: int) -> dict[str, Any]:
    """Move a ledger of so many entries."""
    minutes = count // len(TARGETS)
    patterns = {name: lambda _: "+" for name in TARGETS}
    write(data_dir, patterns, START, START + minutes * MINUTE, every=600, observe=seen, durable=False).close()
    began = time.monotonic()
    done = to_postgresql(PostgresPlace(data_dir, server.url(server.make_database())))
    took = time.monotonic() - began
    return {
        "entries": done.entries,
        "seconds": round(took, 1),
        "entries_per_second": round(done.entries / took),
    }


def _probes(folder: Path, server: PostgreSql, seconds: float) -> dict[str, Any]:
    """Measure the processor time of a probe, in turns."""
    costs: dict[str, list[Cost]] = {"sqlite": [], "postgresql": []}
    served = 0.0
    with server_folder() as here:
        certificates = Certificates(here / "certificates")
        users = tuple(f"u{number}@example.org" for number in range(ACCOUNTS))
        dovecot = Dovecot(here / "dovecot", certificates, users=users, messages=0)
        with dovecot.running():
            lab = Lab(port=dovecot.imaps_port, ca_file=certificates.ca_file, passwords=dovecot.passwords)
            for turn in range(TURNS):
                for kind, found in costs.items():
                    own = folder / f"{kind}-{turn}"
                    own.mkdir()
                    url = server.url(server.make_database()) if kind == "postgresql" else ""
                    cost, used = _cost(lab, own, url, seconds / TURNS, server.pid)
                    found.append(cost)
                    served += used if url else 0.0
    sqlite, postgresql = (
        sum(cost.cpu_seconds for cost in found) / sum(cost.probes for cost in found) for found in costs.values()
    )
    return {
        "sqlite_ms": round(sqlite * 1000, 3),
        "postgresql_ms": round(postgresql * 1000, 3),
        "of_sqlite": round(postgresql / sqlite, 3),
        "server_ms": round(served * 1000 / sum(cost.probes for cost in costs["postgresql"]), 3),
    }


def _cost(lab: Lab, folder: Path, url: str, seconds: float, server: int) -> tuple[Cost, float]:
    """Run MailWatch; return the processor time of its probes, and that of the database's server."""
    targets = [imap_target(lab, number, folder) for number in range(WATCHED)]
    monitor = Monitor(folder, targets, interval=INTERVAL, database=url or "sqlite")
    with monitor.running():
        while sum(monitor.observations().values()) < 2 * WATCHED:
            time.sleep(0.5)
        # The last 90 days of each target are counted after a start.
        time.sleep(SETTLE_SECONDS)
        before, cpu, served = monitor.observations(), cpu_seconds(monitor.pid), _all_cpu_seconds(server)
        time.sleep(seconds)
        cpu, served = cpu_seconds(monitor.pid) - cpu, _all_cpu_seconds(server) - served
        after = monitor.observations()
    count = {outcome: round(after[outcome] - before[outcome]) for outcome in after}
    if count["down"] or count["unknown"]:
        raise RuntimeError(f"not all probes went the whole way: {count}")
    return Cost(name="mailwatch run", probes=count["up"], cpu_seconds=cpu), served


def _all_cpu_seconds(server: int) -> float:
    """Processor time of a server and its processes, those that ended included."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    found = cpu_seconds(server)
    for child in children:
        with contextlib.suppress(OSError):
            found += cpu_seconds(int(child))
    return found
