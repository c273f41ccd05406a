"""Outages for reports: of five days, of four minutes, not over, badly seen, proven afterwards."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mailwatch import monotonic
from mailwatch.model import Cause, ConnectivityResult, Observation, Phase, TlsFacts
from mailwatch.times import Millis
from tests.helpers.command import mailwatch
from tests.helpers.ledger_factory import HOUR, MINUTE, SECOND, observation_of, write
from tests.helpers.process import MailWatchProcess

ACCOUNT = "mario.rossi@libero.it"
BEGIN: Millis = round(datetime(2026, 1, 22, 20, 55, tzinfo=UTC).timestamp() * 1000)
"""When mail stops working: 21:55 in Rome."""
CLAIMS = [
    {
        "targets": [ACCOUNT],
        "holder": {
            "name": "Mario Rossi",
            "tax_code": "RSSMRA80A01F205X",
            "address": "Via Roma 1, 20121 Milano",
            "pec": "mario.rossi@pec.example.it",
        },
        "plan": "Mail Plus",
        "contract_number": "LM-2021-004711",
        "fee": {"amount": 1.99, "currency": "EUR", "period": "month"},
        "since": "2021-03-15",
        "notified": [{"date": "2026-01-24", "means": "PEC", "reference": "ticket 678", "answer": "none so far"}],
    }
]
WORDS = ("* BYE Temporary failure, please try again later", "* NO [UNAVAILABLE] Mailbox storage is not available")
REJECTED = "NO [AUTHENTICATIONFAILED] Invalid credentials"
MonitorEntries = list[tuple[str, Millis, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class ReportCase:
    """A case: what its sky is from `start` to `end`, relative to BEGIN, and our own entries."""

    pattern: Callable[[Millis], str]
    start: Millis
    end: Millis
    monitor_entries: Callable[[], MonitorEntries]
    interval: Millis = MINUTE


def surveys(start: Millis, end: Millis, bound_us: int | None, every: Millis = HOUR) -> MonitorEntries:
    """Comparisons of the clock with time servers: what `ClockSurvey.as_json` writes."""
    degraded = bound_us is None or bound_us > 1_000_000
    kernel = {"state": 5 if degraded else 0, "synchronised": not degraded, "max_error_us": 16_000_000,
              "estimated_error_us": 16_000_000}  # fmt: skip
    return [
        ("clock", at, {
            "event": "survey", "at": at, "kernel": kernel, "failures": {},
            "servers": [{"server": server, "offset_us": 0, "bound_us": bound_us, "delay_us": 9000, "stratum": 1}
                        for server in ("ntp1.inrim.it", "ntp2.inrim.it") if bound_us is not None],
            "offset_us": None if bound_us is None else bound_us - 10_000, "disagreement_us": 0,
            "error_bound_us": bound_us, "degraded": degraded,
        })
        for at in range(start, end, every)
    ]  # fmt: skip


def impaired_entries() -> MonitorEntries:
    """An hour's surveys of a clock that is off by seconds, one step, and a line that was down.

    The line came back with another public address.
    """
    at = BEGIN + 5 * HOUR
    guard = {"asked_at": at, "online": False, "controls": {"gmail": "no answer"}, "checked_at": at}
    entries = surveys(BEGIN - 3 * HOUR, BEGIN + 30 * HOUR, 34_200_000)
    ended = BEGIN + 12 * HOUR + SECOND
    step = {"event": "step", "start": BEGIN + 12 * HOUR, "end": ended, "milliseconds": -3800}
    entries += [("guard", at, guard), ("guard", at + 40 * MINUTE, {**guard, "asked_at": at + 40 * MINUTE,
             "online": True, "controls": {"gmail": "ok"}})]  # fmt: skip
    entries.append(("clock", ended, step))
    for seen, last in ((at - HOUR, 7), (at - 2 * HOUR, 7), (at + 40 * MINUTE + SECOND, 90)):
        address = {"at": seen, "address": f"203.0.113.{last}", "family": 4, "server": "stun.example.org:3478",
                   "clock": {"boot": monotonic.origin().boot, "at": seen}}  # fmt: skip
        entries.append(("address", seen, address))
    return sorted(entries, key=lambda one: one[1])


def _impaired_pattern(at: Millis) -> str:
    hours = at / HOUR
    if not 0 <= hours < 26:
        return "+"
    if 8 <= hours < 11.2 or 20 <= hours < 20.5:
        return " "
    return "?" if 5 <= hours < 5.7 else "-"


CASES = {
    "five-days": ReportCase(
        lambda at: "-" if 0 <= at < 5 * 24 * HOUR else "+", -6 * HOUR, (5 * 24 + 5) * HOUR,
        lambda: surveys(BEGIN - 6 * HOUR, BEGIN + 125 * HOUR, 24_300),
    ),
    "four-minutes": ReportCase(
        lambda at: "-" if 0 <= at < 4 * MINUTE else "+", -HOUR, HOUR,
        lambda: surveys(BEGIN - HOUR, BEGIN + HOUR, 24_300), 20 * SECOND,
    ),
    "open": ReportCase(
        lambda at: "-" if at >= 0 else "+", -6 * HOUR, 31 * HOUR,
        lambda: surveys(BEGIN - 6 * HOUR, BEGIN + 31 * HOUR, 24_300),
    ),
    "badly-seen": ReportCase(_impaired_pattern, -3 * HOUR, 30 * HOUR, impaired_entries),
    "proven": ReportCase(
        lambda at: "+" if not 0 <= at < 7 * HOUR else "x" if at // MINUTE % 20 == 0 else "n", -3 * HOUR, 12 * HOUR,
        lambda: surveys(BEGIN - 3 * HOUR, BEGIN + 12 * HOUR, 24_300),
    ),
}  # fmt: skip


def observation_of_mark(name: str, mark: str, at: Millis) -> Observation:
    """An observation with a login and a guard, at a server that at first is silent, then refuses, then talks.

    x is a login that is rejected, n an observation that does without one meanwhile.
    """
    made = replace(observation_of(name, "?" if mark in "xn" else mark, at), with_login=mark != "n")
    hours = (at - BEGIN) / HOUR
    attempt = replace(made.attempts[0], peer="213.209.30.1:993" if hours % 2 < 1 else "213.209.30.2:993")
    if mark == "+":
        tls = TlsFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", fingerprint="ab" * 32, not_after=None)
        return replace(made, attempts=(replace(attempt, tls=tls),), secret="5e" * 8)
    if mark in "xn":
        reported: dict[str, Any] = {
            "cause": Cause.CREDENTIALS,
            "failed_phase": Phase.AUTH,
            "detail": "login rejected",
        }
        attempt = replace(attempt, **reported, replies=(REJECTED,))
        return replace(made, **reported, attempts=(attempt,), secret="5e" * 8 if mark == "x" else "")
    guard = ConnectivityResult(
        asked_at=at + 100, online=mark == "-", controls={"gmail": "ok", "outlook": "ok", "fastmail": "ok"}
    )
    if mark == "?":
        return replace(made, attempts=(attempt,), guard=replace(guard, controls={"gmail": "no answer"}))
    cause, phase, detail = Cause.TIMEOUT, Phase.CONNECT, "no answer within 30 s"
    replies: tuple[str, ...] = ()
    if 14 <= hours < 60:
        cause, detail = Cause.REFUSED, "connection refused"
    elif hours >= 60:
        cause, phase = Cause.UNAVAILABLE, Phase.MAILBOX
        detail, replies = "the server reports that it is unavailable", (WORDS[int(hours) % 2],)
    attempt = replace(attempt, cause=cause, failed_phase=phase, detail=detail, replies=replies)
    return replace(
        made, cause=cause, failed_phase=phase, detail=detail, attempts=(attempt,), guard=guard, secret="5e" * 8
    )


@dataclass(frozen=True, slots=True)
class Installation:
    """An installation that holds one case."""

    folder: Path
    outage: str

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a verb, in Rome."""
        rome = {**os.environ, "TZ": "Europe/Rome"}
        return mailwatch("--config", self.folder / "config.yaml", *words, env=rome)


def make_installation(name: str, folder: Path) -> Installation:
    """Write the ledger and the config of a case."""
    folder.mkdir(parents=True, exist_ok=True)
    case = CASES[name]
    write(
        folder / "data",
        {ACCOUNT: lambda at: case.pattern(at - BEGIN)},
        BEGIN + case.start,
        BEGIN + case.end,
        interval=case.interval,
        provider="libero",
        vantage="casa",
        every=10,
        observe=observation_of_mark,
        durable=False,
        monitor_entries=case.monitor_entries(),
        backdated=True,
    ).close()
    target = {
        "name": ACCOUNT, "kind": "imap", "provider": "libero", "interval": f"{case.interval // 1000}s",
        "timeout": f"{min(30, case.interval // 1000)}s",
        "login": {"username": ACCOUNT, "password_file": "secret"},
    }  # fmt: skip
    (folder / "secret").write_text("not used\n")
    (folder / "secret").chmod(0o600)
    process = MailWatchProcess(
        folder, [target], vantage_point={"name": "casa", "place": "Milano, IT"}, claims=CLAIMS
    )
    made = Installation(process.folder, "")
    ids = made.command("outages", "--json")
    (only,) = json.loads(ids.stdout)
    return replace(made, outage=only["id"])
