"""What a probe costs: CPU time of the whole `mailwatch run` and of its peers on the same Dovecot."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import peers
from benchmarks.peers import Cost, Lab
from benchmarks.process import Monitor, cpu_seconds
from tests.servers import Certificates, Dovecot, server_folder

RATE = 40.0
"""Probes a second, the same for every peer that can be paced."""
INTERVAL = 2.0
TURNS = 3
ACCOUNTS = 20
"""Several, since MailWatch logs in to one account at most three times at once."""
REFERENCE = "blackbox_exporter"


def measure(seconds: float) -> list[Cost]:
    """Measure MailWatch and each peer for `seconds` in all, in turns: a machine's speed drifts."""
    with server_folder() as folder:
        certificates = Certificates(folder / "certificates")
        users = tuple(f"u{number}@example.org" for number in range(ACCOUNTS))
        # Without messages MailWatch has nothing to fetch: no peer does more than EXAMINE.
        dovecot = Dovecot(folder / "dovecot", certificates, users=users, messages=0)
        with dovecot.running():
            lab = Lab(port=dovecot.imaps_port, ca_file=certificates.ca_file, passwords=dovecot.passwords)
            turns = [_turn(dovecot, lab, seconds / TURNS, folder) for _ in range(TURNS)]
    return [_sum(costs) for costs in zip(*turns, strict=True)]


def _turn(dovecot: Dovecot, lab: Lab, seconds: float, folder: Path) -> list[Cost]:
    count = round(RATE * seconds)
    costs = [_checked(dovecot, mailwatch(lab, seconds, folder))]
    costs.append(_checked(dovecot, asyncio.run(peers.blackbox(lab, count, RATE, folder))))
    costs.append(_checked(dovecot, asyncio.run(peers.check_imap(lab, count, RATE))))
    costs.append(_checked(dovecot, asyncio.run(peers.bare(lab, count, RATE))))
    costs.append(peers.handshake(lab, max(1, round(seconds))))
    return costs


def _sum(costs: tuple[Cost, ...]) -> Cost:
    probes, cpu = sum(cost.probes for cost in costs), sum(cost.cpu_seconds for cost in costs)
    return replace(costs[0], probes=probes, cpu_seconds=cpu)


def mailwatch(lab: Lab, seconds: float, folder: Path) -> Cost:
    """The whole monitor: schedule, probes, ledger on disk, outage rules, metrics, web."""
    targets = round(RATE * INTERVAL)
    wanted = [imap_target(lab, number, folder) for number in range(targets)]
    monitor = Monitor(folder, wanted, interval=INTERVAL)
    with monitor.running():
        while sum(monitor.observations().values()) < 2 * targets:
            time.sleep(0.5)
        before, cpu = monitor.observations(), cpu_seconds(monitor.pid)
        time.sleep(seconds)
        cpu = cpu_seconds(monitor.pid) - cpu
        after = monitor.observations()
    count = {outcome: round(after[outcome] - before[outcome]) for outcome in after}
    if count["down"] or count["unknown"]:
        raise RuntimeError(f"not all probes went the whole way: {count}")
    return Cost(name="mailwatch run", probes=count["up"], cpu_seconds=cpu)


def imap_target(lab: Lab, number: int, folder: Path) -> dict[str, Any]:
    """A target of one of the lab's accounts."""
    user, password = lab.account(number)
    secret = folder / f"secret-{number % len(lab.passwords)}"
    secret.write_text(password)
    secret.chmod(0o600)
    return {
        "name": f"imap-{number}",
        "kind": "imap",
        "host": "localhost",
        "port": lab.port,
        "tls": "implicit",
        "ca_file": str(lab.ca_file),
        "login": {"username": user, "password_file": str(secret)},
    }


def _checked(dovecot: Dovecot, cost: Cost) -> Cost:
    """The server's own log says whether the peer logged in and out as often as it claims."""
    deadline = time.monotonic() + 5  # the log comes a little late
    while (count := dovecot.log_since(0).count("Disconnected: Logged out")) < cost.probes:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    dovecot.log.write_bytes(b"")
    if count < cost.probes:
        raise RuntimeError(f"{cost.name} claims {cost.probes} probes, the server saw {count} sessions")
    return cost


def show(costs: list[Cost], console: Console) -> dict[str, Any]:
    """Print a table with the ratios to the blackbox exporter; return it as data."""
    reference = next(cost.per_probe for cost in costs if cost.name == REFERENCE)
    title = "CPU time of one IMAP probe: connect, TLS, LOGIN, EXAMINE, LOGOUT"
    table = Table("program", "probes", "ms a probe", f"of {REFERENCE}", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    rows: dict[str, Any] = {}
    for cost in costs:
        ratio = cost.per_probe / reference
        table.add_row(cost.name, str(cost.probes), f"{cost.per_probe:.2f}", f"{ratio:.2f}")
        rows[cost.name] = {
            "probes": cost.probes,
            "cpu_seconds": round(cost.cpu_seconds, 3),
            "cpu_ms_per_probe": round(cost.per_probe, 3),
            "ratio_to_blackbox": round(ratio, 3),
            "logs_in": cost.logins,
        }
    console.print(table)
    return rows
