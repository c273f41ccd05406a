"""The probes against servers that break, lie and stall: named for what they are, in time, within bounds."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import errno
import itertools
import logging
import re
import resource
import secrets
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.connect import Address, Lookup, interleave_families
from mailwatch.probes.failures import SmtpReplyError, classify_error
from mailwatch.probes.imap_client import ImapCommandError, ServerByeError
from mailwatch.probes.redact import Redactor
from mailwatch.settings import Login
from tests.helpers.netns import Namespace
from tests.helpers.scripted_probe import (
    IMAP,
    IMAP_GREETING,
    LOGIN,
    PASSWORD,
    SMTP,
    USER,
    at,
    probe,
    probe_script,
)
from tests.helpers.scripted_server import CLOSE, HELLO, RESET, SILENCE, Endless, Step, scripted_server

IMAP_PHASES = {0: Phase.GREETING, 2: Phase.AUTH, 4: Phase.MAILBOX, 6: Phase.FETCH}

SMTP_PHASES = {
    0: Phase.GREETING,
    2: Phase.GREETING,
    4: Phase.AUTH,
    6: Phase.SUBMIT,
    8: Phase.SUBMIT,
    10: Phase.SUBMIT,
}
LADDERS = {Kind.IMAP: (IMAP, IMAP_PHASES), Kind.SMTP: (SMTP, SMTP_PHASES)}
EACH_STEP = [(kind, at) for kind, (_, phases) in LADDERS.items() for at in phases]


def classification(observation: Observation) -> tuple[Cause | None, Phase | None]:
    return observation.cause, observation.failed_phase


@pytest.mark.parametrize("kind", LADDERS)
async def test_a_server_that_plays_its_part_is_up(kind: Kind) -> None:
    script, phases = LADDERS[kind]
    observation = await probe_script(script, kind)
    assert (observation.outcome, observation.detail) == (Outcome.UP, "")
    assert list(observation.attempts[0].phases) == list(
        dict.fromkeys([Phase.RESOLVE, Phase.CONNECT, *phases.values()])
    )
    assert observation.with_login
    assert observation.attempts[0].replies[0].startswith(("* OK", "220 "))
    assert observation.addresses == ("127.0.0.1",)


@pytest.mark.parametrize(("kind", "step"), EACH_STEP)
async def test_silence_is_a_timeout_in_its_phase(kind: Kind, step: int) -> None:
    script, phases = LADDERS[kind]
    loop = asyncio.get_running_loop()
    began = loop.time()
    observation = await probe_script([*script[:step], SILENCE], kind, timeout=0.2)
    assert classification(observation) == (Cause.TIMEOUT, phases[step])
    assert observation.outcome is Outcome.DOWN
    assert observation.detail == "no answer within 0.2 s"
    assert 0.2 <= loop.time() - began < 2  # a slow machine is not a slow probe


@pytest.mark.parametrize("end", [RESET, CLOSE])
@pytest.mark.parametrize(("kind", "step"), EACH_STEP)
async def test_a_lost_connection_is_disconnected_in_its_phase(kind: Kind, step: int, end: Step) -> None:
    script, phases = LADDERS[kind]
    observation = await probe_script([*script[:step], end], kind)
    assert classification(observation) == (Cause.DISCONNECTED, phases[step])


@pytest.mark.parametrize(("kind", "step"), EACH_STEP)
async def test_garbage_is_protocol_in_its_phase(kind: Kind, step: int) -> None:
    script, phases = LADDERS[kind]
    observation = await probe_script([*script[:step], b"\x00\xff<html>\r\n"], kind)
    assert classification(observation) == (Cause.PROTOCOL, phases[step])
    assert "<html>" in observation.detail
    assert "\x00" not in observation.detail


@pytest.mark.parametrize("chunk", [b"x" * 65536, b"* OK more\r\n" * 1000, b"250-more\r\n" * 1000])
@pytest.mark.parametrize(("kind", "step"), EACH_STEP)
@pytest.mark.slow
async def test_an_answer_without_end_is_protocol_and_costs_little(kind: Kind, step: int, chunk: bytes) -> None:
    script, phases = LADDERS[kind]
    tracemalloc.start()
    try:
        # Tracing allocations makes it slow: the deadline must not come first.
        observation = await probe_script([*script[:step], Endless(chunk)], kind, timeout=60.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert classification(observation) == (Cause.PROTOCOL, phases[step])
    assert peak < 8 * 1024 * 1024
    assert len(repr(observation)) < 8000


async def test_a_literal_of_a_gigabyte_is_protocol() -> None:
    script = [*IMAP[:6], b"* 2 FETCH (BODY[HEADER.FIELDS (DATE)] {1073741824}\r\n", Endless(b"x" * 65536)]
    observation = await probe_script(script)
    assert classification(observation) == (Cause.PROTOCOL, Phase.FETCH)


@pytest.mark.parametrize("goodbye", [SILENCE, RESET, CLOSE, Endless(b"x" * 65536), b"TAG BAD what\r\n"])
@pytest.mark.parametrize("kind", LADDERS)
async def test_a_goodbye_without_answer_changes_nothing(kind: Kind, goodbye: Step) -> None:
    script, _ = LADDERS[kind]
    observation = await probe_script([*script[:-1], goodbye], kind, timeout=0.5)
    assert observation.outcome is Outcome.UP


def replying(step: int, answer: bytes) -> list[Step]:
    return [*IMAP[:step], answer, SILENCE]


@pytest.mark.parametrize(
    ("script", "cause", "phase"),
    [
        (replying(0, b"* BYE shutting down\r\n"), Cause.UNAVAILABLE, Phase.GREETING),
        (replying(0, b"* BYE [UNAVAILABLE] later\r\n"), Cause.UNAVAILABLE, Phase.GREETING),
        (replying(0, b"* BYE Too many connections\r\n"), Cause.THROTTLED, Phase.GREETING),
        (replying(2, b"* BYE internal\r\n"), Cause.UNAVAILABLE, Phase.AUTH),
        (replying(2, b"* BYE [LIMIT] slower\r\n"), Cause.THROTTLED, Phase.AUTH),
        (replying(2, b"TAG NO [AUTHENTICATIONFAILED] no\r\n"), Cause.CREDENTIALS, Phase.AUTH),
        (replying(2, b"TAG NO [UNAVAILABLE] no\r\n"), Cause.UNAVAILABLE, Phase.AUTH),
        (replying(2, b"TAG NO [LIMIT] no\r\n"), Cause.THROTTLED, Phase.AUTH),
        (replying(2, b"TAG NO [INUSE] no\r\n"), Cause.THROTTLED, Phase.AUTH),
        (replying(2, b"TAG BAD what\r\n"), Cause.PROTOCOL, Phase.AUTH),
        (replying(4, b"TAG NO no\r\n"), Cause.MAILBOX, Phase.MAILBOX),
        (replying(4, b"TAG OK\r\n* BYE gone\r\n"), Cause.PROTOCOL, Phase.MAILBOX),
        (replying(4, b"* 2 EXISTS\r\n* BYE gone\r\n"), Cause.UNAVAILABLE, Phase.MAILBOX),
        (replying(6, b"TAG NO no\r\n"), Cause.MAILBOX, Phase.FETCH),
        (replying(6, b"TAG OK nothing\r\n"), Cause.MAILBOX, Phase.FETCH),
    ],
)
async def test_each_imap_reply_has_its_cause(script: list[Step], cause: Cause, phase: Phase) -> None:
    observation = await probe_script(script)
    assert classification(observation) == (cause, phase)
    assert observation.outcome is cause.outcome


@pytest.mark.parametrize(
    ("step", "answer", "cause"),
    [
        (0, b"421 4.3.2 closing\r\n", Cause.UNAVAILABLE),
        (0, b"421 4.7.0 too many connections from you\r\n", Cause.THROTTLED),
        (0, b"554 5.3.2 no service\r\n", Cause.UNAVAILABLE),
        (0, b"250 strange\r\n", Cause.PROTOCOL),
        (0, b"220\xff\r\n421 4.3.2 closing\r\n", Cause.UNAVAILABLE),
        (2, b"502 what\r\n", Cause.PROTOCOL),
        (2, b"421 4.3.2 closing\r\n", Cause.UNAVAILABLE),
        (2, b"250 mail.example.org\r\n", Cause.PROTOCOL),
        (4, b"535 5.7.8 no\r\n", Cause.CREDENTIALS),
        (4, b"454 4.7.0 later\r\n", Cause.UNAVAILABLE),
        (4, b"334 more\r\n", Cause.PROTOCOL),
        (6, b"530 5.7.0 log in\r\n", Cause.REJECTED),
        (6, b"451 4.3.0 later\r\n", Cause.UNAVAILABLE),
        (6, b"450 4.7.1 rate exceeded\r\n", Cause.THROTTLED),
        (8, b"550 5.1.1 nobody here\r\n", Cause.REJECTED),
        (8, b"354 go on\r\n", Cause.PROTOCOL),
        (10, b"500 what\r\n", Cause.PROTOCOL),
    ],
)
async def test_each_smtp_reply_has_its_cause(step: int, answer: bytes, cause: Cause) -> None:
    phase = Phase.AUTH if answer.startswith(b"250 mail") else SMTP_PHASES[step]
    observation = await probe_script([*SMTP[:step], answer, CLOSE], Kind.SMTP)
    assert classification(observation) == (cause, phase)
    if answer[3:4] == b" " and step > 2:
        assert answer.decode().strip() in observation.detail
        assert observation.attempts[0].replies[-1] == answer.decode().strip()


@pytest.mark.parametrize(
    ("command", "words", "cause"),
    [
        ("LOGIN", "NO [EXPIRED] x", Cause.CREDENTIALS),
        ("LOGIN", "NO [AUTHORIZATIONFAILED] x", Cause.CREDENTIALS),
        ("LOGIN", "NO [CONTACTADMIN] x", Cause.CREDENTIALS),
        ("LOGIN", "NO [AUTHENTICATIONFAILED] temporary failure, too many", Cause.CREDENTIALS),
        ("LOGIN", "NO Invalid user or password", Cause.CREDENTIALS),
        ("LOGIN", "NO [ALERT] Invalid credentials", Cause.CREDENTIALS),
        ("LOGIN", "NO [ALERT] Too many simultaneous connections", Cause.THROTTLED),
        ("LOGIN", "NO Maximum number of connections from user+IP exceeded", Cause.THROTTLED),
        ("LOGIN", "NO Temporary authentication failure", Cause.UNAVAILABLE),
        ("LOGIN", "NO Please try again later", Cause.UNAVAILABLE),
        ("LOGIN", "NO backend timed out", Cause.UNAVAILABLE),
        ("LOGIN", "NO [SERVERBUG] x", Cause.UNAVAILABLE),
        ("LOGIN", "NO [CORRUPTION] x", Cause.UNAVAILABLE),
        ("AUTHENTICATE", "NO [UNAVAILABLE] x", Cause.UNAVAILABLE),
        ("AUTHENTICATE", "BAD x", Cause.PROTOCOL),
        ("EXAMINE", "NO [CORRUPTION] x", Cause.MAILBOX),
        ("EXAMINE", "NO [SERVERBUG] Internal error occurred", Cause.MAILBOX),
        ("EXAMINE", "NO [OVERQUOTA] x", Cause.MAILBOX),
        ("EXAMINE", "NO [UNAVAILABLE] x", Cause.UNAVAILABLE),
        ("FETCH", "NO [INUSE] x", Cause.THROTTLED),
        ("FETCH", "BAD x", Cause.PROTOCOL),
        ("CAPABILITY", "NO x", Cause.PROTOCOL),
        ("STARTTLS", "BAD x", Cause.TLS),
    ],
)
def test_an_imap_refusal_has_its_cause(command: str, words: str, cause: Cause) -> None:
    status, _, rest = words.partition(" ")
    assert classify_error(ImapCommandError(command, status, rest), at(1)).cause is cause


@pytest.mark.parametrize(
    ("step", "code", "text", "cause"),
    [
        ("AUTH", 535, "Incorrect authentication data", Cause.CREDENTIALS),
        ("AUTH", 534, "5.7.9 mechanism too weak", Cause.CREDENTIALS),
        ("AUTH", 432, "4.7.12 password transition needed", Cause.CREDENTIALS),
        ("AUTH", 550, "5.7.0 no", Cause.CREDENTIALS),
        ("AUTH", 454, "4.7.0 Too many login attempts", Cause.THROTTLED),
        ("AUTH", 535, "5.7.8 too many failures", Cause.CREDENTIALS),
        ("AUTH", 538, "5.7.11 encryption required", Cause.CREDENTIALS),
        ("AUTH", 504, "unrecognized", Cause.PROTOCOL),
        ("AUTH", 554, "5.3.0 temporary failure", Cause.UNAVAILABLE),
        ("greeting", 451, "4.7.1 greylisted, operated by us", Cause.THROTTLED),
        ("greeting", 550, "5.7.1 rate limit", Cause.THROTTLED),
        ("unasked", 421, "4.4.2 timeout", Cause.UNAVAILABLE),
        ("STARTTLS", 454, "4.7.0 TLS not available", Cause.UNAVAILABLE),
        ("STARTTLS", 502, "not here", Cause.TLS),
        ("MAIL", 553, "5.7.1 sender not owned", Cause.REJECTED),
        ("RCPT", 452, "4.5.3 too many recipients", Cause.THROTTLED),
        ("RCPT", 550, "5.7.1 too many bad words", Cause.REJECTED),
        ("MAIL", 999, "", Cause.PROTOCOL),
        ("MAIL", 25, "", Cause.PROTOCOL),
    ],
)
def test_an_smtp_refusal_has_its_cause(step: str, code: int, text: str, cause: Cause) -> None:
    assert classify_error(SmtpReplyError(step, code, text), at(1)).cause is cause


def raised(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Cause.DNS),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), Cause.DNS),
        (socket.gaierror(socket.EAI_MEMORY, "out of memory"), Cause.MONITOR),
        (raised(socket.gaierror(socket.EAI_AGAIN, ""), OSError(errno.EMFILE, "files")), Cause.MONITOR),
        (OSError(errno.EMFILE, "Too many open files"), Cause.MONITOR),
        (OSError(errno.ENOBUFS, "No buffer space"), Cause.MONITOR),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), Cause.UNREACHABLE),
        (PermissionError(errno.EPERM, "Operation not permitted"), Cause.UNREACHABLE),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), Cause.TIMEOUT),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), Cause.DISCONNECTED),
        (raised(ConnectionError("wrapped"), ssl.SSLError(1, "wrong")), Cause.TLS),
        (raised(ConnectionError("wrapped"), ssl.SSLEOFError(8, "eof")), Cause.DISCONNECTED),
        (raised(ConnectionError("wrapped"), ServerByeError("gone")), Cause.UNAVAILABLE),
        (ZeroDivisionError("ours"), Cause.MONITOR),
        (MemoryError(), Cause.MONITOR),
    ],
)
def test_a_foreign_exception_has_its_cause(error: BaseException, cause: Cause) -> None:
    assert classify_error(error, at(1)).cause is cause


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(served)
    return served


@pytest.fixture(scope="module")
def good(authority: trustme.CA) -> ssl.SSLContext:
    return context(authority.issue_cert("127.0.0.1", "localhost"))


PLAIN_IMAP: list[Step] = [b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n", "STARTTLS", b"TAG OK go\r\n"]
PLAIN_SMTP: list[Step] = [*SMTP[:3], "STARTTLS", b"220 go\r\n"]
SECURED_IMAP: list[Step] = ["CAPABILITY", b"* CAPABILITY IMAP4rev1\r\nTAG OK\r\n", *IMAP[1:]]
BEGINNINGS: list[tuple[Kind, TlsMode, list[Step]]] = [
    (Kind.IMAP, TlsMode.IMPLICIT, []),
    (Kind.IMAP, TlsMode.STARTTLS, PLAIN_IMAP),
    (Kind.SMTP, TlsMode.IMPLICIT, []),
    (Kind.SMTP, TlsMode.STARTTLS, PLAIN_SMTP),
]
each_beginning = pytest.mark.parametrize(("kind", "tls", "before"), BEGINNINGS)


def after(kind: Kind, tls: TlsMode) -> list[Step]:
    """What a server plays once TLS has begun."""
    if tls is TlsMode.IMPLICIT:
        return LADDERS[kind][0]
    return SECURED_IMAP if kind is Kind.IMAP else SMTP[1:]


@each_beginning
async def test_a_secured_server_is_up_and_its_certificate_on_record(
    good: ssl.SSLContext, ca_file: Path, kind: Kind, tls: TlsMode, before: list[Step]
) -> None:
    observation = await probe_script([*before, good, *after(kind, tls)], kind, tls=tls, ca_file=ca_file)
    assert (observation.outcome, observation.detail) == (Outcome.UP, "")
    facts = observation.attempts[0].tls
    assert facts is not None
    assert (facts.version, len(facts.fingerprint)) == ("TLSv1.3", 64)
    assert facts.not_after == 32503680000000


@each_beginning
@pytest.mark.parametrize(
    ("rude", "cause"),
    [
        ([HELLO, RESET], Cause.DISCONNECTED),
        ([HELLO, CLOSE], Cause.DISCONNECTED),
        ([SILENCE], Cause.TIMEOUT),
        ([HELLO, b"220 plain text, not TLS\r\n", SILENCE], Cause.TLS),
    ],
)
async def test_a_handshake_that_fails_is_named(
    ca_file: Path, kind: Kind, tls: TlsMode, before: list[Step], rude: list[Step], cause: Cause
) -> None:
    observation = await probe_script([*before, *rude], kind, tls=tls, ca_file=ca_file, timeout=0.4)
    assert classification(observation) == (cause, Phase.TLS)
    if cause is Cause.TLS:
        assert "answer is not TLS" in observation.detail


def expired(authority: trustme.CA) -> trustme.LeafCert:
    begin, end = (datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) for year in (2019, 2020))
    return authority.issue_cert("127.0.0.1", not_before=begin, not_after=end)


@each_beginning
@pytest.mark.parametrize(
    ("issue", "detail"),
    [
        (expired, "certificate expired on 2020-01-01T00:00:00Z"),
        (lambda ca: ca.issue_cert("other.example", "x.example"), "is for other.example, x.example, not 127.0.0.1"),
        (lambda _: trustme.CA().issue_cert("127.0.0.1"), "issuer not trusted"),
    ],
)
async def test_a_bad_certificate_is_named(
    authority: trustme.CA,
    ca_file: Path,
    kind: Kind,
    tls: TlsMode,
    before: list[Step],
    issue: Callable[[trustme.CA], trustme.LeafCert],
    detail: str,
) -> None:
    script = [*before, context(issue(authority)), SILENCE]
    observation = await probe_script(script, kind, tls=tls, ca_file=ca_file)
    assert classification(observation) == (Cause.TLS, Phase.TLS)
    assert detail in observation.detail


@pytest.mark.parametrize(
    ("kind", "script", "detail"),
    [
        (Kind.IMAP, [b"* OK [CAPABILITY IMAP4rev1] hi\r\n"], "does not offer STARTTLS"),
        (Kind.IMAP, [b"* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n"], "PREAUTH before STARTTLS"),
        (Kind.IMAP, [*PLAIN_IMAP[:2], b"TAG BAD no\r\n"], "STARTTLS: BAD no"),
        (Kind.SMTP, [*SMTP[:2], b"250 mail.example.org\r\n"], "does not offer STARTTLS"),
        (Kind.SMTP, [*PLAIN_SMTP[:4], b"502 5.5.1 no\r\n"], "STARTTLS: 502 5.5.1 no"),
    ],
)
async def test_starttls_withheld_is_tls_and_no_login_is_sent(kind: Kind, script: list[Step], detail: str) -> None:
    received: list[bytes] = []
    async with scripted_server([*script, SILENCE], received=received) as port:
        observation = await probe(at(port, kind, TlsMode.STARTTLS))
    assert classification(observation) == (Cause.TLS, Phase.TLS)
    assert detail in observation.detail
    assert not any(b"LOGIN" in line or b"AUTH" in line for line in received)


@pytest.mark.parametrize(
    ("kind", "before", "injected"),
    [(Kind.IMAP, PLAIN_IMAP, b"* OK injected\r\n"), (Kind.SMTP, PLAIN_SMTP, b"250 injected\r\n")],
)
async def test_plain_text_after_starttls_is_refused(kind: Kind, before: list[Step], injected: bytes) -> None:
    answer = before[-1]
    assert isinstance(answer, bytes)
    script = [*before[:-1], answer + injected, SILENCE]
    observation = await probe_script(script, kind, tls=TlsMode.STARTTLS)
    assert classification(observation) == (Cause.PROTOCOL, Phase.TLS)
    assert "plain text after the answer to STARTTLS" in observation.detail


# Logins


@pytest.mark.parametrize(
    ("capabilities", "password", "expected"),
    [
        ("AUTH=PLAIN", "simple", b"LOGIN"),
        ("AUTH=PLAIN SASL-IR LOGINDISABLED", "simple", b"AUTHENTICATE PLAIN "),
        ("AUTH=PLAIN SASL-IR", "wörd", b"AUTHENTICATE PLAIN "),
        ("", "wörd", b"LOGIN"),
        ("LOGINDISABLED", "simple", None),
        ("AUTH=PLAIN", "with\r\nA1 DELETE INBOX", None),
    ],
)
async def test_imap_logs_in_by_the_way_that_fits(capabilities: str, password: str, expected: bytes | None) -> None:
    received: list[bytes] = []
    login = Login(username=USER, password=SecretStr(password))
    script: list[Step] = [f"* OK [CAPABILITY IMAP4rev1 {capabilities}] hi\r\n".encode(), ".", CLOSE]
    async with scripted_server(script, received=received) as port:
        observation = await probe(at(port, login=login))
    assert observation.failed_phase is Phase.AUTH
    if expected is None:
        assert (received, observation.cause) == ([], Cause.CREDENTIALS)
    else:
        assert received[0].split(b" ", 1)[1].startswith(expected)


CHALLENGE = base64.b64encode(b"<1896.697170952@postoffice.example.net>")


@pytest.mark.parametrize(
    ("offer", "reply", "cause"),
    [
        (b"AUTH LOGIN PLAIN CRAM-MD5", ["^AUTH PLAIN ", b"535 5.7.8 no\r\n"], Cause.CREDENTIALS),
        (
            b"AUTH CRAM-MD5 LOGIN",
            ["^AUTH LOGIN\r", b"334 VXNlcm5hbWU6\r\n", ".", b"334 UGFzc3dvcmQ6\r\n", ".", b"535 no\r\n"],
            Cause.CREDENTIALS,
        ),
        (
            b"AUTH=CRAM-MD5",
            ["^AUTH CRAM-MD5\r", b"334 " + CHALLENGE + b"\r\n", ".", b"535 no\r\n"],
            Cause.CREDENTIALS,
        ),
        (b"AUTH CRAM-MD5", ["^AUTH CRAM-MD5\r", b"334 A\r\n"], Cause.PROTOCOL),
        (b"AUTH XOAUTH2 NTLM", [], Cause.CREDENTIALS),
        (b"SIZE 1000", [], Cause.PROTOCOL),
    ],
)
async def test_smtp_tries_one_mechanism_and_no_second(offer: bytes, reply: list[Step], cause: Cause) -> None:
    received: list[bytes] = []
    script = [*SMTP[:2], b"250-mail.example.org\r\n250 " + offer + b"\r\n", *reply, "never"]
    async with scripted_server(script, received=received) as port:
        observation = await probe(at(port, Kind.SMTP))
    assert classification(observation) == (cause, Phase.AUTH)
    assert len(received) == 1 + sum(isinstance(step, str) for step in reply)
    if not reply:
        assert offer.decode().removeprefix("AUTH ").replace("SIZE 1000", "none") in observation.detail


async def test_a_user_name_without_a_domain_has_no_address_to_submit_from() -> None:
    login = Login(username="mario", password=SecretStr("x"))
    observation = await probe_script([*SMTP[:5], *SMTP[-2:]], Kind.SMTP, login=login)
    assert observation.outcome is Outcome.UP
    assert Phase.SUBMIT not in observation.attempts[0].phases


async def test_preauth_is_up_and_noted() -> None:
    observation = await probe_script([b"* PREAUTH [CAPABILITY IMAP4rev1] hi\r\n", *IMAP[3:]])
    assert observation.outcome is Outcome.UP
    assert "PREAUTH" in observation.detail


async def test_an_empty_mailbox_is_up_without_a_fetch() -> None:
    observation = await probe_script([*IMAP[:4], b"* 0 EXISTS\r\nTAG OK\r\n", *IMAP[-2:]])
    assert observation.outcome is Outcome.UP
    assert Phase.FETCH not in observation.attempts[0].phases


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        (Kind.IMAP, [IMAP_GREETING, *IMAP[-2:]]),
        (Kind.IMAP, [b"* OK hi\r\n", "CAPABILITY", b"* CAPABILITY IMAP4rev1\r\nTAG OK\r\n", *IMAP[-2:]]),
        (Kind.SMTP, [*SMTP[:3], *SMTP[-2:]]),
    ],
)
async def test_without_the_login_the_greeting_is_enough(kind: Kind, script: list[Step]) -> None:
    async with scripted_server(script) as port:
        observation = await probe(at(port, kind), with_login=False)
    assert observation.outcome is Outcome.UP
    assert list(observation.attempts[0].phases) == [Phase.RESOLVE, Phase.CONNECT, Phase.GREETING]
    assert observation.with_login is False


# Addresses


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port that refuses on every address as long as the block lasts: bound, not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.stalls("mailwatch.probes.attempts")
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_answer_that_came_while_we_stood_still_is_no_timeout_of_the_servers(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The deadline and the greeting are both there when we come to: the deadline strikes first."""
    asleep = threading.Event()

    async def watch() -> Observation:
        asyncio.get_running_loop().call_later(0.1, stand_still)
        return await probe(at(port, timeout=0.5))

    def stand_still() -> None:
        asleep.set()
        # As a machine that starves us would have it: a second and more past the deadline.
        threading.Event().wait(1.8)

    def greet() -> None:
        connection, _ = listener.accept()
        with connection:
            asleep.wait()
            connection.sendall(IMAP_GREETING)
            connection.recv(100)

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as server:
        port = listener.getsockname()[1]
        greeted = server.submit(greet)
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            observation = runner.run(watch())
        greeted.result()
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert re.fullmatch(r".*MailWatch itself was stopped for [1-9]\d*\.\d s; was: timeout", observation.detail)


async def test_a_port_without_a_listener_is_refused() -> None:
    with free_port() as port:
        observation = await probe(at(port))
    assert classification(observation) == (Cause.REFUSED, Phase.CONNECT)
    assert observation.attempts[0].peer == f"127.0.0.1:{port}"
    assert (observation.partial, observation.addresses) == ((), ("127.0.0.1",))


async def test_a_name_that_does_not_resolve_is_dns() -> None:
    observation = await probe(at(1, host="does-not-exist.invalid", timeout=20.0))
    assert classification(observation) == (Cause.DNS, Phase.RESOLVE)
    assert [attempt.peer for attempt in observation.attempts] == [""]
    assert list(observation.attempts[0].phases) == [Phase.RESOLVE]


def found(*addresses: str) -> Callable[[str, int, float], Coroutine[Any, Any, tuple[Address, ...]]]:
    """A name with these addresses."""

    async def lookup(_host: str, port: int, _timeout: float) -> tuple[Address, ...]:
        return tuple(Address(socket.AF_INET, (address, port)) for address in addresses)

    return lookup


async def test_the_next_address_serves_where_the_first_refuses() -> None:
    async with scripted_server(IMAP) as port:
        observation = await probe(at(port), lookup=found("127.0.0.2", "127.0.0.1"))
    assert observation.outcome is Outcome.UP
    assert observation.partial == (f"127.0.0.2:{port}",)
    assert observation.addresses == ("127.0.0.2", "127.0.0.1")
    assert [attempt.cause for attempt in observation.attempts] == [Cause.REFUSED, None]
    assert [Phase.RESOLVE in attempt.phases for attempt in observation.attempts] == [True, False]


async def test_the_next_address_serves_where_the_first_is_silent() -> None:
    with socket.socket() as deaf, contextlib.ExitStack() as callers:
        deaf.bind(("127.0.0.2", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        async with scripted_server(IMAP, port=port):
            observation = await probe(at(port, timeout=0.5), lookup=found("127.0.0.2", "127.0.0.1"))
    assert [attempt.cause for attempt in observation.attempts] == [Cause.TIMEOUT, None]
    assert observation.outcome is Outcome.UP


async def test_the_last_address_decides_and_no_more_than_four_are_tried() -> None:
    with free_port() as port:
        observation = await probe(at(port), lookup=found(*(f"127.0.0.{n}" for n in range(1, 7))))
    assert [attempt.peer for attempt in observation.attempts] == [f"127.0.0.{n}:{port}" for n in range(1, 5)]
    assert classification(observation) == (Cause.REFUSED, Phase.CONNECT)
    assert (len(observation.addresses), observation.partial) == (6, ())


async def test_a_name_with_many_dead_addresses_of_one_family_is_reached_by_the_other() -> None:
    """RFC 8305 section 4: four IPv6 addresses that do not answer are no outage for those who have IPv4."""

    async def lookup(_host: str, port: int, _timeout: float) -> tuple[Address, ...]:
        six = [Address(socket.AF_INET6, (f"::{n}", port, 0, 0)) for n in range(2, 8)]
        return (*six, Address(socket.AF_INET, ("127.0.0.1", port)))

    async with scripted_server(IMAP) as port:
        observation = await probe(at(port), lookup=lookup)
    assert [attempt.peer for attempt in observation.attempts] == [f"[::2]:{port}", f"127.0.0.1:{port}"]
    assert (observation.outcome, len(observation.addresses)) == (Outcome.UP, 7)
    assert observation.partial == (f"[::2]:{port}",)


async def test_an_address_family_without_a_route_uses_up_no_attempt() -> None:
    """IPv4 first, as a line without IPv6 has it sorted: the fourth IPv4 address is reached all the same."""

    async def lookup(_host: str, port: int, _timeout: float) -> tuple[Address, ...]:
        four = [Address(socket.AF_INET, (f"127.0.0.{n}", port)) for n in (2, 3, 4, 1)]
        return (*four, *(Address(socket.AF_INET6, (f"2001:db8::{n}", port, 0, 0)) for n in range(4)))

    namespace = Namespace(f"mw-{secrets.token_hex(4)}")
    try:
        observation = namespace.run_async(lambda: _probe_one_of_four(lookup))
    finally:
        namespace.close()
    assert observation.outcome is Outcome.UP
    assert [attempt.cause for attempt in observation.attempts[1::2]] == [Cause.UNREACHABLE] * 3


async def _probe_one_of_four(lookup: Lookup) -> Observation:
    async with scripted_server(IMAP) as port:
        return await probe(at(port), lookup=lookup)


@given(st.lists(st.tuples(st.sampled_from([socket.AF_INET, socket.AF_INET6]), st.integers(1, 9)), max_size=9))
def test_families_take_turns_and_nothing_is_lost(event: list[tuple[int, int]]) -> None:
    given_ = [Address(family, (str(number), 993)) for family, number in event]
    turns = interleave_families(given_)
    assert sorted(turns) == sorted(set(given_))
    assert turns[:1] == tuple(given_[:1])
    for family in (socket.AF_INET, socket.AF_INET6):
        assert [a for a in turns if a.family == family] == list(
            dict.fromkeys(a for a in given_ if a.family == family)
        )
    both = min(sum(a.family == family for a in turns) for family in (socket.AF_INET, socket.AF_INET6))
    assert all(a.family != b.family for a, b in itertools.pairwise(turns[: 2 * both]))


async def test_every_address_of_the_name_is_recorded_while_an_outage_is_open() -> None:
    script: list[Step] = [IMAP_GREETING, r"LOGIN |LOGOUT", b"TAG NO [UNAVAILABLE] later\r\n"]
    received: list[bytes] = []
    async with scripted_server(script, received=received, host="0.0.0.0") as port:
        addresses = found("127.0.0.1", "127.0.0.2", "127.0.0.3")
        observation = await probe(at(port), lookup=addresses, every_address=True)
    assert [attempt.peer for attempt in observation.attempts] == [f"127.0.0.1:{port}"]
    assert classification(observation) == (Cause.UNAVAILABLE, Phase.AUTH)
    assert observation.facts == {"others": [{"peer": f"127.0.0.2:{port}"}, {"peer": f"127.0.0.3:{port}"}]}
    # One login and no more, however many addresses there are.
    assert sum(b"LOGIN" in line for line in received) == 1


async def test_an_address_that_does_not_serve_beside_one_that_does_is_partial() -> None:
    async with scripted_server(IMAP) as port:
        observation = await probe(at(port), lookup=found("127.0.0.1", "127.0.0.2"), every_address=True)
    assert (observation.outcome, observation.partial) == (Outcome.UP, (f"127.0.0.2:{port}",))
    assert observation.facts is not None
    (other,) = observation.facts["others"]
    assert (other["cause"], other["failed_phase"]) == ("refused", "connect")


async def test_an_address_that_connects_is_the_last_one_tried() -> None:
    """Each rejected login counts at the provider: no second address for it."""
    async with scripted_server(replying(2, b"TAG NO [AUTHENTICATIONFAILED]\r\n")) as port:
        observation = await probe(at(port), lookup=found("127.0.0.2", "127.0.0.1", "127.0.0.1"))
    assert [attempt.cause for attempt in observation.attempts] == [Cause.REFUSED, Cause.CREDENTIALS]
    assert (observation.cause, observation.partial) == (Cause.CREDENTIALS, ())


async def test_a_server_that_connects_and_is_silent_is_not_asked_again_at_its_next_address() -> None:
    async with scripted_server([SILENCE]) as port:
        observation = await probe(at(port, timeout=0.2), lookup=found("127.0.0.1", "127.0.0.1"))
    assert len(observation.attempts) == 1
    assert classification(observation) == (Cause.TIMEOUT, Phase.GREETING)


async def test_a_lookup_that_found_no_thread_is_our_own_fault() -> None:
    busy, threads = threading.Event(), ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(threads)
    held = threads.submit(busy.wait)
    try:
        observation = await probe(at(1, host="localhost", timeout=0.1))
    finally:
        busy.set()
    assert held.result()
    assert classification(observation) == (Cause.MONITOR, Phase.RESOLVE)
    assert "no thread" in observation.detail


Seen = list[tuple[Phase, str, int]]


async def test_the_phases_are_reported_live() -> None:
    seen: Seen = []
    async with scripted_server([*IMAP[:2], b"TAG NO [AUTHENTICATIONFAILED]\r\n"]) as port:
        observation = await probe(at(port), listener=lambda *event: seen.append(event))
    walked = [Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.AUTH]
    assert [event[:2] for event in seen] == [(phase, word) for phase in walked for word in ("begin", "end")]
    assert {phase: seconds for phase, word, seconds in seen if word == "end"} == observation.attempts[0].phases


# Our own faults


async def test_our_own_fault_is_unknown_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(f"a bug that knows {PASSWORD} of {USER}")

    async with scripted_server([SILENCE]) as port:
        observation = await probe(at(port), listener=broken)
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError: a bug that knows *** of ***" in caplog.text


async def test_a_ca_file_that_cannot_be_read_is_our_own_fault(caplog: pytest.LogCaptureFixture) -> None:
    async with scripted_server([SILENCE]) as port:
        observation = await probe(at(port, tls=TlsMode.IMPLICIT, ca_file=Path("/nowhere/ca.pem")))
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert "/nowhere/ca.pem" in observation.detail
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("kind", [Kind.WEBMAIL, Kind.ROUNDTRIP])
async def test_a_kind_without_a_probe_is_our_own_fault(kind: Kind) -> None:
    assert (await probe(at(1, kind))).cause is Cause.MONITOR


@pytest.mark.parametrize("host", ["127.0.0.1", "does-not-exist.invalid"])
async def test_no_file_handle_left_is_our_own_fault(host: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with scripted_server([SILENCE]) as port:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(int(path.name) for path in Path("/proc/self/fd").iterdir()), hard)
        )
        held = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(socket.socket())
            observation = await probe(at(port, host=host))
        finally:
            for sock in held:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.MONITOR)


async def test_a_cancelled_probe_is_cancelled() -> None:
    received: list[bytes] = []
    async with scripted_server([*IMAP[:2], SILENCE], received=received) as port:
        task = asyncio.ensure_future(probe(at(port)))
        while not received:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


# Secrets


def forms(password: str) -> list[str]:
    """The password as it may come back."""
    return [
        password,
        password.upper(),
        password.replace("\\", "\\\\").replace('"', '\\"'),
        base64.b64encode(password.encode()).decode(),
        base64.b64encode(f"\0{USER}\0{password}".encode()).decode(),
        base64.b64encode(f"authzid\0{USER}\0{password}".encode()).decode(),
        USER,
        USER.partition("@")[0],
        base64.b64encode(USER.encode()).decode(),
    ]


CANARIES = (PASSWORD, "canary-0123", "mario.rossi", base64.b64encode(PASSWORD.encode()).decode()[:16])


@pytest.mark.parametrize("echo", forms(PASSWORD))
@pytest.mark.parametrize(
    ("kind", "step", "answer"),
    [
        (Kind.IMAP, 2, "TAG NO [AUTHENTICATIONFAILED] you said (%s)\r\n"),
        (Kind.IMAP, 2, "TAG NO you said %s\r\n"),
        (Kind.IMAP, 2, "* BYE you said %s\r\n"),
        (Kind.IMAP, 2, "you said %s\r\n"),
        (Kind.SMTP, 4, "535-5.7.8 you\r\n535 5.7.8 said %s\r\n"),
        (Kind.SMTP, 4, "you said %s\r\n"),
    ],
)
async def test_secrets_echoed_by_a_server_are_in_no_record_and_no_log(
    caplog: pytest.LogCaptureFixture, kind: Kind, step: int, answer: str, echo: str
) -> None:
    caplog.set_level(logging.DEBUG)
    script: list[Step] = [*LADDERS[kind][0][:step], (answer % echo).encode(), CLOSE]
    observation = await probe_script(script, kind)
    kept = repr(observation) + caplog.text
    assert "***" in observation.detail
    for canary in (*CANARIES, *forms(PASSWORD)):
        assert canary not in kept


def test_replies_are_bounded_and_visible() -> None:
    redact = Redactor(LOGIN)
    assert redact("a\x1b[2Jb\x00\r\n\u202e") == "a\\x1b[2Jb\\x00\\r\\n\\u202e"
    assert len(redact("x" * 100_000)) == 500
    assert PASSWORD[:8] not in redact("x" * 495 + PASSWORD)
    assert redact("Mario.Rossi@example.org, mario.rossi and mario.rossini") == "***, *** and mario.rossini"
    assert Redactor(None)("nothing to hide") == "nothing to hide"


# Both loops


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def everything_closed(ca: trustme.CA, ca_file: Path) -> None:
    """Probes that end in each way leave no file handle behind."""
    good = context(ca.issue_cert("127.0.0.1"))
    bad = context(ca.issue_cert("other.example"))
    contexts = TlsContexts()
    ends: list[tuple[TlsMode, list[Step], Cause | None, Phase | None]] = [
        (TlsMode.IMPLICIT, [good, *IMAP], None, None),
        (TlsMode.IMPLICIT, [good, SILENCE], Cause.TIMEOUT, Phase.GREETING),
        (TlsMode.IMPLICIT, [SILENCE], Cause.TIMEOUT, Phase.TLS),
        (TlsMode.IMPLICIT, [HELLO, RESET], Cause.DISCONNECTED, Phase.TLS),
        (TlsMode.IMPLICIT, [HELLO, CLOSE], Cause.DISCONNECTED, Phase.TLS),
        (TlsMode.IMPLICIT, [HELLO, b"not TLS\r\n", SILENCE], Cause.TLS, Phase.TLS),
        (TlsMode.IMPLICIT, [bad, SILENCE], Cause.TLS, Phase.TLS),
        (TlsMode.IMPLICIT, [good, Endless(b"x" * 65536)], Cause.PROTOCOL, Phase.GREETING),
        (TlsMode.STARTTLS, [*PLAIN_IMAP, good, *SECURED_IMAP], None, None),
        (TlsMode.STARTTLS, [*PLAIN_IMAP, SILENCE], Cause.TIMEOUT, Phase.TLS),
        (TlsMode.STARTTLS, [*PLAIN_IMAP, HELLO, RESET], Cause.DISCONNECTED, Phase.TLS),
        (TlsMode.STARTTLS, [*PLAIN_IMAP, HELLO, CLOSE], Cause.DISCONNECTED, Phase.TLS),
        (TlsMode.STARTTLS, [*PLAIN_IMAP, bad, SILENCE], Cause.TLS, Phase.TLS),
        (TlsMode.NONE, [*IMAP[:2], RESET], Cause.DISCONNECTED, Phase.AUTH),
        (TlsMode.NONE, [SILENCE], Cause.TIMEOUT, Phase.GREETING),
    ]
    before = 0
    # The loop opens some for itself: counted from the second probe on.
    for tls, script, cause, phase in [ends[0], *ends]:
        async with scripted_server(script) as port:
            target = at(port, tls=tls, ca_file=ca_file, timeout=0.4)
            observation = await observe(ProbeRequest(target, scheduled_at=1, contexts=contexts))
        assert classification(observation) == (cause, phase), (script, observation)
        for _ in range(10):
            await asyncio.sleep(0)
        before = before or open_files()
        assert open_files() <= before, script


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_on_either_loop_each_end_is_reported_and_nothing_stays_open(
    run: Callable[[Coroutine[Any, Any, None]], None], authority: trustme.CA, ca_file: Path
) -> None:
    run(everything_closed(authority, ca_file))
