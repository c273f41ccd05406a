"""What the ledger takes on disk as rows and as packs, how fast it is packed, and what a report out of packs takes.

Processor time says what packing costs also where other programs use the machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.evidence import PHASES, START, TLS, cost
from mailwatch.analysis.storage_budget import LedgerSizes
from mailwatch.model import Observation
from mailwatch.store import Reader, Store
from mailwatch.store.packing import LARGE_LEVEL, Packer, level_for
from mailwatch.store.sizes import SizeMeter
from mailwatch.times import DAY_MS, Millis, rfc3339
from tests.helpers.ledger_factory import DAY, HOUR, MINUTE, observation_of, write
from tests.helpers.long_ledger import steady, write_long_ledger
from tests.servers import server_folder

MAILBOXES = (4, 100, 1000)
ENTRIES = {4: 1 << 14, 100: 1 << LARGE_LEVEL, 1000: 1 << LARGE_LEVEL}
"""Entries of each ledger of so many mailboxes: four packs, or one large one."""
BYTES_GOAL, SPEED_GOAL, REPORT_GOAL = 70, 20_000, 5.0
"""Bytes of a packed entry, entries packed a second of processor time, seconds of a report of a year."""
ROWS_DAYS = 7
"""Days of rows besides the packs of a year: the default of `retention.rows`."""


def measure(console: Console, days: int = 366) -> dict[str, Any]:
    """Measure ledgers of several sizes, and a year of one target."""
    scales: dict[str, Any] = {}
    for mailboxes in MAILBOXES:
        with console.status(f"storage: {mailboxes} mailboxes"), server_folder() as folder:
            scales[str(mailboxes)] = _scale(folder, mailboxes, ENTRIES[mailboxes])
    with console.status("storage: a year of one target in packs"), server_folder() as folder:
        return {"mailboxes": scales, "year": _year(folder, days)}


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print a line for each size; return the result."""
    for mailboxes, one in result["mailboxes"].items():
        cpu = f"[bold]{one['packed_per_cpu_second']:,}[/] entries packed (goal {SPEED_GOAL:,})"
        console.print(
            f"{int(mailboxes):,} mailboxes: a row [bold]{one['row_bytes']}[/] bytes, packed "
            f"[bold]{one['packed_bytes']}[/] (goal {BYTES_GOAL}); {cpu} and {one['swept_per_cpu_second']:,} rows "
            f"deleted a second of processor time, both together {one['both_per_cpu_second']:,}; "
            f"the longest write {one['longest_step_ms']} ms; a week of rows and a year of packs "
            f"[bold]{one['year_megabytes']:,} MB[/], a year of rows {one['year_of_rows_megabytes']:,} MB"
        )
    year = result["year"]
    console.print(
        f"a report of a year of one target, {year['entries']:,} entries: out of packs [bold]{year['packs']} s[/] "
        f"(goal {REPORT_GOAL:g} s), processor {year['packs_cpu']} s"
    )
    return result


def _scale(folder: Path, mailboxes: int, entries: int) -> dict[str, Any]:
    chance = random.Random(mailboxes)
    names = [f"mailbox-{number:04}@provider.example" for number in range(mailboxes)]

    def seen(target: str, mark: str, at: Millis) -> Observation:
        """An observation whose phases take as long as chance has it."""
        made = observation_of(target, mark, at)
        phases = {phase: chance.randrange(2_000, 60_000) for phase in PHASES}
        attempt = replace(made.attempts[0], phases=phases, tls=TLS)
        took = sum(phases.values()) // 1000
        ended = replace(made, ended_at=at + took, attempts=(replace(attempt, ended_at=at + took),))
        return replace(ended, addresses=("192.0.2.1",), with_login=True, secret="ab" * 8)

    rounds = -(-entries // mailboxes) + 1
    write(
        folder, {name: lambda _: "+" for name in names}, START, START + rounds * MINUTE, observe=seen,
        every=max(1, 4000 // mailboxes), durable=False,
    ).close()  # fmt: skip
    rows = _measured(folder)
    level = level_for(mailboxes * DAY // MINUTE)
    spent = _pack(folder, level)
    packed = _measured(folder)
    row, small = rows.rows / rows.entries, packed.packs / packed.packed
    a_day = mailboxes * DAY // MINUTE
    return {
        "entries": rows.entries,
        "row_bytes": round(row),
        "packed_bytes": round(small, 1),
        "packed_per_cpu_second": round(packed.packed / spent["pack"]),
        "swept_per_cpu_second": round(packed.packed / spent["sweep"]),
        "both_per_cpu_second": round(packed.packed / (spent["pack"] + spent["sweep"])),
        "longest_step_ms": round(spent["longest"] * 1000, 1),
        "year_megabytes": round((ROWS_DAYS * row + 365 * small) * a_day / 1e6),
        "year_of_rows_megabytes": round(365 * row * a_day / 1e6),
        "rows_a_day_megabytes": round(row * a_day / 1e6, 1),
        "packs_a_day_megabytes": round(small * a_day / 1e6, 2),
    }


def _measured(folder: Path) -> LedgerSizes:
    with contextlib.closing(SizeMeter(folder)) as meter:
        return meter.measure(START + 10 * DAY)


def _pack(folder: Path, level: int) -> dict[str, float]:
    """Pack all that is signed; return the seconds of processor time of packing and sweeping, and of the longest
    write.
    """
    spent = {"pack": 0.0, "sweep": 1e-9, "longest": 0.0}
    with contextlib.closing(Store.open(folder)) as store, contextlib.closing(Reader.open(folder)) as reader:
        packer = Packer(reader)
        while wanted := packer.next_range(START + 1000 * DAY_MS, level):
            began = time.thread_time()
            prepared = packer.prepare(wanted)
            written = time.thread_time()
            store.save_pack(prepared)
            swept = time.thread_time()
            spent["pack"] += swept - began
            spent["longest"] = max(spent["longest"], swept - written)
            for _ in itertools.takewhile(bool, iter(store.sweep_packs, None)):
                spent["longest"] = max(spent["longest"], time.thread_time() - swept)
                spent["sweep"] += time.thread_time() - swept
                swept = time.thread_time()
    return spent


def _year(parent: Path, days: int) -> dict[str, Any]:
    """Report a year of one target out of packs, by the command that makes the PDF."""
    end = START + days * DAY
    entries = write_long_ledger(parent / "data", {"imap": steady}, end, days, rows_days=ROWS_DAYS)
    target = {"name": "imap", "kind": "imap", "provider": "lab", "host": "127.0.0.1", "interval": "60s"}
    settings = {"vantage_point": {"name": "here"}, "data_dir": "data", "targets": [target]}
    config = parent / "config.yaml"
    config.write_text(json.dumps(settings))
    window = "--from", rfc3339(START + HOUR), "--to", rfc3339(end - DAY + HOUR)
    command = "--config", str(config), "report", *window, "-o", str(parent / "report.pdf"), "--lang", "it"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = cost(*command).seconds
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"entries": entries, "packs": took, "packs_cpu": round(spent, 2)}
