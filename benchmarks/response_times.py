"""The response times of one target over ninety days, at an interval of a minute: read first, and asked for again.

Processor time says what an answer costs also where other programs use the machine.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from rich.console import Console

from mailwatch.analysis.response_times import Period
from mailwatch.model import Observation, Phase
from mailwatch.store import Reader
from mailwatch.times import DAY_MS, Millis
from mailwatch.web.response_times import READ_SECONDS, ResponseTimes
from tests.helpers.ledger_factory import MINUTE, observation_of, write
from tests.servers import server_folder

NAMES = ("mailbox", "other")
DAYS = 91
END = 20_000 * DAY_MS
_PHASES = (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH, Phase.MAILBOX)


def measure(console: Console) -> dict[str, Any]:
    """Write the ledger, and ask for each period: until it is complete, and once more."""
    with server_folder() as folder:
        with console.status(f"writing {DAYS} days of {len(NAMES)} targets"):
            write(
                folder,
                {name: lambda _: "+" for name in NAMES},
                END - DAYS * DAY_MS,
                END,
                every=1000,
                observe=_observe,
                durable=False,
            ).close()
        reader = Reader.open(folder)
        times = ResponseTimes(reader)
        found = {period.value: _ask(times, period) for period in Period}
        reader.close()
    return {"targets": len(NAMES), "days": DAYS, "read_seconds": READ_SECONDS, "periods": found}


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print a line for each period."""
    for period, one in result["periods"].items():
        console.print(
            f"{period}: {one['observations']:,} observations; first answer {one['first']:.2f} s, "
            f"complete after {one['answers']} of {one['complete']:.2f} s ({one['cpu']:.2f} s of processor time), "
            f"again {one['again'] * 1000:.1f} ms"
        )
    return result


def _ask(times: ResponseTimes, period: Period) -> dict[str, float]:
    began, cpu, answers, first = time.monotonic(), time.process_time(), 0, 0.0
    while True:
        history = times.history(NAMES[0], period, END - 1)
        answers += 1
        first = first or time.monotonic() - began
        if history.is_complete:
            break
    complete, spent = time.monotonic() - began, time.process_time() - cpu
    began = time.monotonic()
    times.history(NAMES[0], period, END - 1)
    return {
        "observations": sum(bucket.observed for bucket in history.buckets if bucket),
        "first": first,
        "answers": answers,
        "complete": complete,
        "cpu": spent,
        "again": time.monotonic() - began,
    }


def _observe(name: str, mark: str, at: Millis) -> Observation:
    made = observation_of(name, mark, at)
    phases = {phase: 10_000 + (at // MINUTE * (number + 7)) % 9000 for number, phase in enumerate(_PHASES)}
    return replace(made, attempts=(replace(made.attempts[0], phases=phases),))
