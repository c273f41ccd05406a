"""The demo's stand-in, talked to by the mail clients of the standard library, in each of its moods."""

from __future__ import annotations

import asyncio
import contextlib
import imaplib
import os
import smtplib
import socket
import ssl
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

import pytest

from mailwatch import config
from mailwatch.cli.demo import display, line_connection
from mailwatch.cli.demo.display import ApiSnapshot, all_hold, compare_outages
from mailwatch.cli.demo.line_connection import PASSWORD, USERNAME, Behaviour
from mailwatch.cli.demo.provider import FakeProvider
from mailwatch.cli.demo.runner import LOG_FILE, make_evidence, run_demo, run_forever
from mailwatch.cli.demo.script import SPEEDS, TARGETS, write_config
from mailwatch.cli.language import speaking
from mailwatch.evidence.verify import Trust, verify
from mailwatch.i18n import environment_language, load_texts
from tests.helpers.paths import ROOT
from tests.helpers.patience import PATIENCE

HOST = "127.0.0.1"
IMPATIENCE = 0.3
"""Seconds until a client gives up a provider that is silent."""
T = TypeVar("T")


@pytest.fixture
async def fake_provider(tmp_path: Path) -> AsyncIterator[FakeProvider]:
    async with FakeProvider(tmp_path) as provider:
        yield provider


async def blocking(function: Callable[[], T]) -> T:
    """The standard library's clients block; the stand-in must go on meanwhile."""
    return await asyncio.to_thread(function)


def trusting(fake_provider: FakeProvider) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(fake_provider.ca_file))
    if hasattr(ssl, "VERIFY_X509_STRICT"):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def imap(fake_provider: FakeProvider, timeout: float = 10) -> imaplib.IMAP4_SSL:
    return imaplib.IMAP4_SSL(HOST, fake_provider.imap_port, ssl_context=trusting(fake_provider), timeout=timeout)


def smtp(fake_provider: FakeProvider, timeout: float = 10) -> smtplib.SMTP:
    return smtplib.SMTP(HOST, fake_provider.smtp_port, timeout=timeout)


def submission(fake_provider: FakeProvider) -> smtplib.SMTP:
    client = smtp(fake_provider)
    client.starttls(context=trusting(fake_provider))
    return client


# Fine


async def test_imap_serves_three_dated_messages(fake_provider: FakeProvider) -> None:
    def read() -> list[bytes]:
        with imap(fake_provider) as client:
            assert "AUTH=PLAIN" in client.capabilities
            assert client.login(USERNAME, PASSWORD)[0] == "OK"
            assert client.select("INBOX", readonly=True) == ("OK", [b"3"])
            assert client.noop()[0] == "OK"
            status, data = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (DATE)])")
            assert status == "OK"
            return [part[1] for part in data if isinstance(part, tuple)]

    headers = await blocking(read)
    dates = [parsedate_to_datetime(header.decode().removeprefix("Date: ").strip()) for header in headers]
    assert len(dates) == 3
    assert dates == sorted(dates)


@pytest.mark.parametrize("mood", [Behaviour.FINE, Behaviour.SLOW])
async def test_imap_accepts_sasl_plain_and_refuses_a_wrong_password(
    fake_provider: FakeProvider, mood: Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_connection, "SLOW_SECONDS", 0.05)
    await fake_provider.change(mood)

    def enter(password: str) -> str:
        with imap(fake_provider) as client:
            return client.authenticate("PLAIN", lambda _: f"\0{USERNAME}\0{password}".encode())[0]

    assert await blocking(lambda: enter(PASSWORD)) == "OK"
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        await blocking(lambda: enter("wrong"))


async def test_imap_accepts_a_password_as_literal(fake_provider: FakeProvider) -> None:
    reader, writer = await asyncio.open_connection(HOST, fake_provider.imap_port, ssl=trusting(fake_provider))
    await reader.readline()
    writer.write(f"a LOGIN {USERNAME} {{{len(PASSWORD)}}}\r\n".encode())
    assert (await reader.readline()).startswith(b"+")
    writer.write(f"{PASSWORD}\r\n".encode())
    assert (await reader.readline()).startswith(b"a OK")
    writer.close()


async def test_imap_opens_nothing_before_login_and_inbox_only(fake_provider: FakeProvider) -> None:
    def misuse() -> None:
        with imap(fake_provider) as client:
            client.state = "AUTH"  # what imaplib would refuse itself
            with pytest.raises(imaplib.IMAP4.error, match="BAD"):
                client.select("INBOX")
            client.state = "NONAUTH"
            client.login(USERNAME, PASSWORD)
            assert client.select("Archive")[0] == "NO"

    await blocking(misuse)


async def test_submission_accepts_a_login_over_starttls_and_an_envelope(fake_provider: FakeProvider) -> None:
    def submit() -> None:
        with submission(fake_provider) as client:
            assert client.login(USERNAME, PASSWORD)[0] == 235
            assert client.mail("a@provider.example")[0] == 250
            assert client.rcpt("b@provider.example")[0] == 250
            assert client.rset()[0] == 250

    await blocking(submit)


@pytest.mark.parametrize("mechanism", ["plain", "login"])
async def test_submission_knows_both_ways_to_log_in(fake_provider: FakeProvider, mechanism: str) -> None:
    def enter(password: str) -> int:
        with submission(fake_provider) as client:
            client.ehlo()
            client.user, client.password = USERNAME, password
            return client.auth(mechanism.upper(), getattr(client, f"auth_{mechanism}"))[0]

    assert await blocking(lambda: enter(PASSWORD)) == 235
    with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
        await blocking(lambda: enter("wrong"))
    assert caught.value.smtp_code == 535


async def test_submission_refuses_a_password_in_the_clear(fake_provider: FakeProvider) -> None:
    def ask() -> None:
        with smtp(fake_provider) as client:
            client.ehlo()
            assert not client.has_extn("auth")
            assert client.docmd("AUTH", "PLAIN AAAA")[0] == 530
            assert client.docmd("MAIL", "FROM:<a@provider.example>")[0] == 530

    await blocking(ask)


async def test_the_certificate_is_for_this_host_and_from_the_throw_away_authority_only(
    fake_provider: FakeProvider,
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await blocking(
            lambda: imaplib.IMAP4_SSL(HOST, fake_provider.imap_port, ssl_context=ssl.create_default_context())
        )
    assert not list(fake_provider.ca_file.parent.glob("server*")), "the private key stays in memory"


# Broken


async def test_silent_accepts_and_answers_nothing(fake_provider: FakeProvider) -> None:
    await fake_provider.change(Behaviour.SILENT)
    with pytest.raises(TimeoutError):
        await blocking(lambda: imap(fake_provider, IMPATIENCE))
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        await blocking(lambda: smtp(fake_provider, IMPATIENCE))


async def test_a_silent_connection_stays_silent_after_a_change_of_behaviour(fake_provider: FakeProvider) -> None:
    await fake_provider.change(Behaviour.SILENT)
    reader, writer = await asyncio.open_connection(HOST, fake_provider.smtp_port)
    writer.write(b"EHLO me\r\n")
    await fake_provider.change(Behaviour.FINE)
    fresh, other = await asyncio.open_connection(HOST, fake_provider.smtp_port)
    assert (await fresh.readline()).startswith(b"220")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readline(), IMPATIENCE)
    for end in (writer, other):
        end.close()


async def test_bye_instead_of_a_greeting_is_recognised(fake_provider: FakeProvider) -> None:
    await fake_provider.change(Behaviour.BYE)
    with pytest.raises(imaplib.IMAP4.error, match="BYE"):
        await blocking(lambda: imap(fake_provider))
    with pytest.raises(smtplib.SMTPConnectError) as caught:
        await blocking(lambda: smtp(fake_provider))
    assert caught.value.smtp_code == 421


async def test_unavailable_is_answered_to_the_login(fake_provider: FakeProvider) -> None:
    await fake_provider.change(Behaviour.UNAVAILABLE)

    def enter_imap() -> None:
        with imap(fake_provider) as client:
            client.login(USERNAME, PASSWORD)

    def enter_smtp() -> None:
        with submission(fake_provider) as client:
            client.login(USERNAME, PASSWORD)

    with pytest.raises(imaplib.IMAP4.error, match=r"\[UNAVAILABLE\]"):
        await blocking(enter_imap)
    with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
        await blocking(enter_smtp)
    assert caught.value.smtp_code == 454


async def test_refusing_drops_connections_and_serves_again_on_the_same_port(fake_provider: FakeProvider) -> None:
    reader, writer = await asyncio.open_connection(HOST, fake_provider.smtp_port)
    await reader.readline()
    await fake_provider.change(Behaviour.REFUSING)
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    for connect in (imap, smtp):
        with pytest.raises(ConnectionRefusedError):
            await blocking(partial(connect, fake_provider))
    await fake_provider.change(Behaviour.FINE)
    (await blocking(lambda: imap(fake_provider))).shutdown()
    (await blocking(lambda: smtp(fake_provider))).close()


@pytest.mark.parametrize("mood", list(Behaviour))
async def test_the_control_endpoint_answers_in_every_behaviour(
    fake_provider: FakeProvider, mood: Behaviour
) -> None:
    await fake_provider.change(mood)
    _, writer = await asyncio.open_connection(HOST, fake_provider.control_port)
    writer.close()


async def test_the_true_outage_lasts_from_the_first_broken_behaviour_to_the_first_good_one(
    fake_provider: FakeProvider,
) -> None:
    assert fake_provider.down_time() is None
    for mood in (Behaviour.SLOW, Behaviour.UNAVAILABLE, Behaviour.REFUSING):
        await fake_provider.change(mood)
    began = fake_provider.history[2][0]
    assert fake_provider.down_time() == (began, None)
    await fake_provider.change(Behaviour.FINE)
    assert fake_provider.down_time() == (began, fake_provider.history[-1][0])


async def test_after_the_end_the_port_is_closed(tmp_path: Path) -> None:
    async with FakeProvider(tmp_path) as fake_provider:
        ports = (fake_provider.imap_port, fake_provider.smtp_port, fake_provider.control_port)
    for port in ports:
        with socket.socket() as other:
            assert other.connect_ex((HOST, port)) != 0


# The demo around it


def test_both_languages_say_the_same_things_with_the_same_facts() -> None:
    def facts(text: str) -> set[str | None]:
        return {field for _, field, _, _ in Formatter().parse(text) if field}

    english, italian = (load_texts("mailwatch.cli.demo", f"{each}.yaml").loaded for each in ("en", "it"))
    assert english.keys() == italian.keys()
    for key, text in english.items():
        assert facts(str(text)) == facts(str(italian[key])), key
    assert {*Behaviour, "up", "suspect", "down", "recovering", "unknown", "open", "closed"} <= english.keys()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "it_IT.UTF-8"}, "it"),
        ({"LANG": "it_IT.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "it_IT"}, "it"),
        ({}, "en"),
    ],
)
def test_the_language_is_the_one_of_the_environment(environment: dict[str, str], expected: str) -> None:
    assert environment_language(environment) == expected


@pytest.mark.parametrize("speed", [*SPEEDS, 1.0])
async def test_the_config_of_the_demo_loads(fake_provider: FakeProvider, tmp_path: Path, speed: float) -> None:
    loaded = config.load(write_config(fake_provider, tmp_path, "127.0.0.1:8080", speed))
    targets = config.build_targets(loaded)
    assert tuple(target.name for target in targets) == TARGETS
    assert [target.port for target in targets] == [fake_provider.imap_port, fake_provider.smtp_port]
    for target in targets:
        assert target.login is not None
        assert target.login.password.get_secret_value() == PASSWORD
    assert not [note for note in config.warnings(loaded) if "others" in note.message]


def outage(target: str, least: float, most: float | None) -> dict[str, Any]:
    state = "open" if most is None else "closed"
    return {"target": target, "state": state, "duration": {"min": least, "max": most}}


@pytest.mark.parametrize(
    ("outages", "expected"),
    [
        ([outage("a", 29.0, 31.0), outage("b", 30.0, 30.0)], True),
        ([outage("a", 29.0, 31.0), outage("b", 30.1, 31.0)], False),
        ([outage("a", 29.0, 31.0), outage("b", 28.0, 29.9)], False),
        ([outage("a", 29.0, 31.0), outage("b", 29.0, None)], False),
        ([outage("a", 29.0, 31.0)], False),
        ([outage("a", 29.0, 31.0), outage("a", 29.0, 31.0), outage("b", 29.0, 31.0)], False),
        ([], False),
    ],
)
def test_the_demo_succeeds_only_with_one_closed_outage_per_target_around_the_truth(
    outages: list[dict[str, Any]], expected: bool
) -> None:
    seen = ApiSnapshot(targets=[], outages=outages, outcomes={})
    assert all_hold(compare_outages(seen, (1_000, 31_000)), ("a", "b")) is expected


@pytest.mark.slow
async def test_the_demo_ends_with_an_outage_whose_bounds_hold_the_truth(tmp_path: Path) -> None:
    displayed: list[tuple[Behaviour, set[str]]] = []

    def show(mood: Behaviour, seen: ApiSnapshot, url: str) -> None:
        displayed.append((mood, {target["state"] for target in seen.targets}))

    result = await run_demo(tmp_path, 6, show)
    assert all_hold(result.verdicts, TARGETS), result
    # Each for a second at this speed: a busy machine may see one too late.
    moods = {mood for mood, _ in displayed}
    assert Behaviour.FINE in moods
    assert moods & {Behaviour.UNAVAILABLE, Behaviour.REFUSING}
    assert any("down" in states for _, states in displayed)
    causes = set().union(*(verdict.outage["causes"] for verdict in result.verdicts))
    assert {"unavailable", "timeout", "refused"} <= causes
    assert PASSWORD.encode() not in (tmp_path / LOG_FILE).read_bytes()
    made = await make_evidence(tmp_path, result.verdicts[0].outage["id"], "it")
    assert [claim for claim in verify(made, Trust()) if not claim.valid] == []
    with zipfile.ZipFile(made) as opened:
        assert {"report.pdf", "VERIFICA.md"} <= set(opened.namelist())


@pytest.mark.slow
async def test_the_demo_repeats_and_ignores_container_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILWATCH_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("MAILWATCH_LISTEN", "127.0.0.1:1")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        listen = f"{HOST}:{probe.getsockname()[1]}"
    moods: list[Behaviour] = []
    outages: set[str] = set()
    twice = asyncio.Event()

    def show(mood: Behaviour, seen: ApiSnapshot, url: str) -> None:
        assert url == f"http://{listen}"
        if moods[-1:] != [mood]:
            moods.append(mood)
        outages.update(outage["id"] for outage in seen.outages)
        if moods.count(Behaviour.UNAVAILABLE) > 1 and len(outages) > len(TARGETS):
            twice.set()

    folder = tmp_path / "demo"
    folder.mkdir()
    playing = asyncio.create_task(run_forever(folder, 6, listen, show, pause=0.5))
    waiting = asyncio.create_task(twice.wait())
    await asyncio.wait({playing, waiting}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    assert twice.is_set(), (moods, outages, playing)
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert (folder / "data" / "mailwatch.sqlite").exists()
    assert not (tmp_path / "elsewhere").exists()


async def test_the_command_serves_until_it_is_stopped_whatever_lies_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('this click.py is not part of MailWatch')\n")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        listen = f"{HOST}:{probe.getsockname()[1]}"
    words = ("demo", "--serve", listen, "--speed", "6", "--lang", "it", "--keep", str(tmp_path / "demo"))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "mailwatch", *words, cwd=tmp_path,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while f"pagina di stato, fino alla fine della demo: http://{listen}" not in "".join(lines):
            lines.append((await process.stderr.readline()).decode())
            assert lines[-1], lines
        process.terminate()
        rest = (await process.stderr.read()).decode()
        assert await process.wait() == 0, (lines, rest)
    assert "interrotto" in rest


def test_the_record_is_in_local_time_and_in_the_readers_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Rome")
    outage = {
        "id": "1", "target": "demo-imap", "state": "closed",
        "last_good": "2026-01-22T21:55:00.000Z", "first_bad": "2026-01-22T21:55:01.000Z",
        "last_bad": "2026-01-22T21:55:28.500Z", "first_good": "2026-01-22T21:55:29.000Z",
        "duration": {"min": 27.5, "max": 29.0, "estimate": 28.0, "uncertainty": 0.5},
        "observations": {"down": 24, "up": 0, "unknown": 0}, "causes": {"refused": 10, "timeout": 1},
        "phases": {"connect": 11}, "largest_gap": 2.0, "ledger": {"first": 1, "last": 9},
    }  # fmt: skip
    with speaking("it"):
        words = load_texts("mailwatch.cli.demo", "it.yaml")
        facts = display.outage_facts(words, display.OutageComparison(outage=outage, truth=28.0))
        lines = "\n".join(line.plain for line in facts.lines(None))
    for text in (
        "22/01/2026 22:55:01", "fra 27,5 s e 29,0 s", "28,0 s ± 0,5 s", "24 falliti",
        "connessione rifiutata (10)",
    ):  # fmt: skip
        assert text in lines
    assert all(line == line.rstrip() for line in lines.splitlines())
