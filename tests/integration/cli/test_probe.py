"""`mailwatch probe` says of a login what `mailwatch run` would, and that it sends the password."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mailwatch.model import Cause, Kind, Outcome, TlsMode
from mailwatch.monitor.restore import restore_targets
from mailwatch.settings import Login, Target
from mailwatch.setup import login_test
from mailwatch.times import now
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.scripted_server import CLOSE, SILENCE, Step, scripted_server

USER, PASSWORD = "mario.rossi@example.org", "c4n4ry-of-probe"
LATE = 4.0
"""Seconds until a wrong password is refused; the targets wait for half of them."""
IMAP: list[Step] = [b"* OK [CAPABILITY IMAP4rev1] hi\r\n", "LOGIN "]
POP3: list[Step] = [b"+OK hi\r\n", "USER", b"+OK\r\n", "PASS"]
LINES = {
    Kind.IMAP: (b"* OK [CAPABILITY IMAP4rev1] hi\r\n", b"LOGIN", b"%s NO [AUTHENTICATIONFAILED] no\r\n"),
    Kind.POP3: (b"+OK hi\r\n", b"PASS", b"-ERR [AUTH] no\r\n"),
    Kind.SMTP: (b"220 hi\r\n", b"AUTH", b"535 5.7.8 no\r\n"),
}
ACCEPTED: list[Step] = [
    *IMAP,
    b"TAG OK in\r\n",
    "EXAMINE",
    b"* 0 EXISTS\r\nTAG OK\r\n",
    "LOGOUT",
    b"* BYE\r\nTAG OK\r\n",
]


@contextlib.asynccontextmanager
async def slow(kind: Kind) -> AsyncIterator[int]:
    """A server that answers the password, any password, after LATE."""
    greeting, command, refusal = LINES[kind]

    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.write(greeting)
            while line := await reader.readline():
                tag = line.split()[0]
                if command in line:
                    await asyncio.sleep(LATE)
                    writer.write(refusal.replace(b"%s", tag))
                elif kind is Kind.SMTP:
                    writer.write(b"250-hi\r\n250 AUTH PLAIN\r\n" if b"EHLO" in line else b"250 ok\r\n")
                elif b"CAPA" in line:
                    writer.write(b"+OK\r\nUSER\r\n.\r\n")
                else:
                    writer.write(b"+OK\r\n" if kind is Kind.POP3 else tag + b" OK\r\n")
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def target(port: int, kind: Kind = Kind.IMAP) -> Target:
    login = Login(username=USER, password=SecretStr(PASSWORD))
    plain = Target(name=f"a/{kind}", kind=kind, host="127.0.0.1", port=port, tls=TlsMode.NONE, login=login)
    return replace(plain, provider="p", timeout=2.0, interval=60.0)


def configured(folder: Path, targets: Sequence[Target]) -> Path:
    (folder / "pw").write_text(PASSWORD)
    (folder / "pw").chmod(0o600)
    reported = [
        {
            "name": one.name,
            "kind": one.kind.value,
            "provider": one.provider,
            "host": one.host,
            "port": one.port,
            "tls": "none",
            "timeout": "2s",
            "login": {"username": USER, "password_file": "pw"},
        }
        for one in targets
    ]
    config = folder / "config.yaml"
    settings = {"vantage_point": {"name": "t"}, "data_dir": "data", "guard": "off", "targets": reported}
    config.write_text(json.dumps(settings))
    return config


async def probe(config: Path, *words: str) -> tuple[int, str, str]:
    line = ("-m", "mailwatch", "--config", str(config), "probe", *words)
    made = await asyncio.create_subprocess_exec(
        sys.executable, *line, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await made.communicate()
    assert PASSWORD not in output.decode() + errors.decode()
    return made.returncode or 0, output.decode(), errors.decode()


async def accepted(folder: Path, which: Target) -> PipelineHarness:
    """A ledger in which this very server has accepted this very password."""
    harness = PipelineHarness(folder)
    (folder / "keys" / "targets.key").write_bytes(b"s" * 32)
    await harness.writer.start()
    await restore_targets(harness.pipeline, harness.reader, [which])
    async with scripted_server(ACCEPTED, port=which.port):
        observation = await harness.pipeline.runner.run(harness.pipeline.targets[which.name], which, now())
    assert observation.outcome is Outcome.UP, observation.detail
    await harness.pipeline.recorder.append("observation", observation.ended_at, which.name, observation)
    return harness


def said(one: dict[str, Any]) -> tuple[str, str | None, str | None, bool]:
    return one["outcome"], one["cause"], one["failed_phase"], "set a longer timeout" in one["detail"]


async def test_a_password_that_was_never_accepted_and_gets_no_answer_is_no_outage(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        targets = [target(await stack.enter_async_context(slow(kind)), kind) for kind in LINES]
        status, output, errors = await probe(configured(tmp_path, targets), "--json")
    assert status == 3
    seen = json.loads(output)
    assert [said(one) for one in seen] == [("unknown", "credentials", "auth", True)] * 3
    assert errors == "logs in: the password is sent to 127.0.0.1\n"
    # Nothing is made where `mailwatch run` has never been.
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("end", [SILENCE, CLOSE])
@pytest.mark.parametrize("script", [IMAP, POP3])
async def test_neither_silence_nor_a_disconnect_is_a_rejection(
    tmp_path: Path, script: list[Step], end: Step
) -> None:
    kind = Kind.IMAP if script is IMAP else Kind.POP3
    capa: list[Step] = [] if kind is Kind.IMAP else [b"+OK hi\r\n", "CAPA", b"+OK\r\nUSER\r\n.\r\n", *POP3[1:]]
    async with scripted_server([*(capa or script), end]) as port:
        status, output, _ = await probe(configured(tmp_path, [target(port, kind)]))
    assert status == 3
    assert output.startswith("logs in: the password is sent to 127.0.0.1\n")
    assert "set a longer timeout" in output


async def test_silence_to_a_password_the_ledger_knows_as_accepted_is_the_server(tmp_path: Path) -> None:
    async with scripted_server([CLOSE]) as port:
        pass
    which = target(port)
    harness = await accepted(tmp_path / "data", which)
    async with scripted_server([*IMAP, SILENCE], port=port):
        config = configured(tmp_path, [which])
        status, output, _ = await probe(config, "--json")
        assert (status, [said(one) for one in json.loads(output)]) == (1, [("down", "timeout", "auth", False)])
    await harness.close()


@pytest.mark.parametrize("lost", ["keys/targets.key", "mailwatch.sqlite"])
async def test_a_record_that_cannot_be_read_says_that_nothing_was_accepted(tmp_path: Path, lost: str) -> None:
    async with scripted_server([CLOSE]) as port:
        pass
    which = target(port)
    harness = await accepted(tmp_path / "data", which)
    await harness.close()
    (tmp_path / "data" / lost).write_bytes(b"no such thing")
    async with scripted_server([*IMAP, SILENCE], port=port):
        status, output, errors = await probe(configured(tmp_path, [which]), "--json")
    assert (status, [said(one) for one in json.loads(output)]) == (3, [("unknown", "credentials", "auth", True)])
    assert "Traceback" not in errors


async def test_init_sends_an_unanswered_password_to_no_other_server() -> None:
    received: list[bytes] = []
    async with slow(Kind.IMAP) as port, scripted_server([b"+OK hi\r\n", CLOSE], received=received) as other:
        targets = [target(port), target(other, Kind.POP3)]
        events = [event async for event in login_test.try_logins(targets, seconds=1.0)]
    (seen,) = (event for event in events if isinstance(event, login_test.ServerResult))
    assert (seen.target.kind, seen.observation.cause) == (Kind.IMAP, Cause.CREDENTIALS)
    assert "set a longer timeout" in seen.observation.detail
    assert login_test.report([seen]).verdict is login_test.Verdict.OPEN
    assert received == []
