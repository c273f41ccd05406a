"""POP3 on a real Dovecot, and on a server that is as rude as it can be."""

from __future__ import annotations

import asyncio
import ssl
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
import trustme
import uvloop
from pydantic import SecretStr

from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.settings import Login, Target
from mailwatch.times import now
from tests.helpers.scripted_server import CLOSE, RESET, SILENCE, Endless, Step, scripted_server
from tests.helpers.targets import Targets
from tests.servers import ALICE, Dovecot

PASSWORD = "pop3-canary-81c2"
IMPLICIT = [Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH, Phase.MAILBOX, Phase.FETCH]
STLS = [Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.TLS, Phase.AUTH, Phase.MAILBOX, Phase.FETCH]


async def probe(target: Target, *, with_login: bool = True) -> Observation:
    return await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), with_login=with_login))


@pytest.mark.parametrize(("tls", "phases"), [(TlsMode.IMPLICIT, IMPLICIT), (TlsMode.STARTTLS, STLS)])
async def test_a_real_mailbox_is_read_down_to_a_message_and_keeps_it(
    dovecot: Dovecot, targets: Targets, tls: TlsMode, phases: list[Phase]
) -> None:
    messages = sorted(path.stat().st_ino for path in dovecot.maildir(ALICE).rglob("*.test*"))
    observation = await probe(targets.pop3(dovecot, tls))
    assert (observation.outcome, observation.detail) == (Outcome.UP, "")
    assert list(observation.attempts[-1].phases) == phases
    left = sorted(dovecot.maildir(ALICE).rglob("*.test*"))
    assert [path.stat().st_ino for path in left if path.stat().st_ino in messages] != []
    assert sorted(path.stat().st_ino for path in left) == messages
    assert not any("S" in path.name.partition(":2,")[2] for path in left), "a message was marked as read"


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("tls", [TlsMode.IMPLICIT, TlsMode.STARTTLS])
def test_either_loop_reads_a_real_mailbox(
    dovecot: Dovecot, targets: Targets, tls: TlsMode, run: Callable[..., Observation]
) -> None:
    observation = run(probe(targets.pop3(dovecot, tls)))
    assert (observation.outcome, observation.detail) == (Outcome.UP, "")


async def test_a_rejected_password_is_no_outage_and_is_tried_once(dovecot: Dovecot, targets: Targets) -> None:
    mark = dovecot.log_size
    observation = await probe(targets.pop3(dovecot, password="wrong"))
    assert (observation.outcome, observation.cause, observation.failed_phase) == (
        Outcome.UNKNOWN,
        Cause.CREDENTIALS,
        Phase.AUTH,
    )
    assert dovecot.log_until("pop3-login: Info: Disconnected", mark).count("auth failed, 1 attempts") == 1


async def test_a_mailbox_that_cannot_be_opened_is_down(own_dovecot: Dovecot, targets: Targets) -> None:
    own_dovecot.break_mailbox(ALICE)
    observation = await probe(targets.pop3(own_dovecot))
    own_dovecot.repair_mailbox(ALICE)
    assert observation.outcome is Outcome.DOWN, observation.detail


def target(port: int, *, login: bool = True, tls: TlsMode = TlsMode.NONE, timeout: float = 5.0) -> Target:
    user = Login(username="a@example.org", password=SecretStr(PASSWORD)) if login else None
    return Target(name="t", kind=Kind.POP3, host="127.0.0.1", port=port, tls=tls, login=user, timeout=timeout)


HELLO: list[Step] = [b"+OK ready\r\n", "^CAPA", b"+OK\r\nUSER\r\nTOP\r\nSASL PLAIN\r\n.\r\n"]
LOGIN: list[Step] = ["^USER a@example.org\r$", b"+OK\r\n", f"^PASS {PASSWORD}\r$"]
IN: list[Step] = [*HELLO, *LOGIN, b"+OK in\r\n", "^STAT"]
LINES = Endless(b"x\r\n" * 1000)

ENDS: list[tuple[str, Sequence[Step], Cause, Phase]] = [
    ("silent at once", [SILENCE], Cause.TIMEOUT, Phase.GREETING),
    ("closes at once", [CLOSE], Cause.DISCONNECTED, Phase.GREETING),
    ("resets at once", [RESET], Cause.DISCONNECTED, Phase.GREETING),
    ("speaks SMTP", [b"220 hello\r\n"], Cause.PROTOCOL, Phase.GREETING),
    ("refuses all", [b"-ERR [SYS/TEMP] back soon\r\n"], Cause.UNAVAILABLE, Phase.GREETING),
    ("refuses, no code", [b"-ERR go away\r\n"], Cause.UNAVAILABLE, Phase.GREETING),
    ("too many", [b"-ERR too many connections\r\n"], Cause.THROTTLED, Phase.GREETING),
    ("endless line", [Endless(b"x" * 4096)], Cause.PROTOCOL, Phase.GREETING),
    ("endless capabilities", [*HELLO[:2], b"+OK\r\n", LINES], Cause.PROTOCOL, Phase.GREETING),
    ("silent at CAPA", [*HELLO[:2], SILENCE], Cause.TIMEOUT, Phase.GREETING),
    ("silent at USER", [*HELLO, "^USER", SILENCE], Cause.TIMEOUT, Phase.AUTH),
    ("resets at PASS", [*HELLO, *LOGIN, RESET], Cause.DISCONNECTED, Phase.AUTH),
    ("rejects with code", [*HELLO, *LOGIN, b"-ERR [AUTH] no\r\n"], Cause.CREDENTIALS, Phase.AUTH),
    ("rejects without", [*HELLO, *LOGIN, b"-ERR bad password\r\n"], Cause.CREDENTIALS, Phase.AUTH),
    ("rejects USER", [*HELLO, "^USER", b"-ERR [AUTH] no\r\n"], Cause.CREDENTIALS, Phase.AUTH),
    ("login is down", [*HELLO, *LOGIN, b"-ERR [SYS/TEMP] no\r\n"], Cause.UNAVAILABLE, Phase.AUTH),
    ("login down, words", [*HELLO, *LOGIN, b"-ERR temporary failure\r\n"], Cause.UNAVAILABLE, Phase.AUTH),
    ("locked by another", [*HELLO, *LOGIN, b"-ERR [IN-USE] locked\r\n"], Cause.THROTTLED, Phase.AUTH),
    ("too often", [*HELLO, *LOGIN, b"-ERR [LOGIN-DELAY] wait\r\n"], Cause.THROTTLED, Phase.AUTH),
    ("garbage at PASS", [*HELLO, *LOGIN, b"\xff\xfe\r\n"], Cause.PROTOCOL, Phase.AUTH),
    ("says twice", [*HELLO, "^USER", b"+OK\r\n+OK\r\n"], Cause.PROTOCOL, Phase.AUTH),
    ("no mailbox", [*IN, b"-ERR no mailbox\r\n"], Cause.MAILBOX, Phase.MAILBOX),
    ("no number", [*IN, b"+OK lots\r\n"], Cause.PROTOCOL, Phase.MAILBOX),
    ("no message", [*IN, b"+OK 2 99\r\n", "^TOP 2 0", b"-ERR gone\r\n"], Cause.MAILBOX, Phase.FETCH),
    ("stops in a message", [*IN, b"+OK 2 99\r\n", "^TOP", b"+OK\r\nSub", SILENCE], Cause.TIMEOUT, Phase.FETCH),
    ("endless message", [*IN, b"+OK 2 99\r\n", "^TOP", b"+OK\r\n", LINES], Cause.PROTOCOL, Phase.FETCH),
]  # fmt: skip


@pytest.mark.parametrize(("script", "cause", "phase"), [e[1:] for e in ENDS], ids=[e[0] for e in ENDS])
async def test_each_end_has_its_cause_and_phase(
    script: Sequence[Step], cause: Cause, phase: Phase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    began = asyncio.get_running_loop().time()
    async with scripted_server(script) as port:
        observation = await probe(target(port, timeout=0.5 if SILENCE in script else 5.0))
    assert (observation.cause, observation.failed_phase, observation.outcome) == (cause, phase, cause.outcome), (
        observation.detail
    )
    assert asyncio.get_running_loop().time() - began < 5
    assert PASSWORD not in repr(observation) + caplog.text


async def test_an_endless_answer_does_not_fill_the_memory() -> None:
    async with scripted_server([*IN, b"+OK 1 9\r\n", "^TOP", b"+OK\r\n", Endless(b"y" * 1000 + b"\r\n")]) as port:
        tracemalloc.start()
        await probe(target(port))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 12 * 1024 * 1024


async def test_an_empty_mailbox_is_up_without_a_fetch() -> None:
    async with scripted_server([*IN, b"+OK 0 0\r\n", "^QUIT", b"+OK\r\n"]) as port:
        observation = await probe(target(port))
    assert observation.outcome is Outcome.UP
    assert list(observation.attempts[-1].phases)[-1] is Phase.MAILBOX


async def test_a_server_without_capa_is_still_logged_in_to() -> None:
    script: list[Step] = [
        b"+OK\r\n",
        "^CAPA",
        b"-ERR what?\r\n",
        *LOGIN,
        b"+OK\r\n",
        "^STAT",
        b"+OK 3 9\r\n",
        "^QUIT",
    ]
    async with scripted_server(script) as port:
        assert (await probe(target(port))).outcome is Outcome.UP


async def test_without_a_login_it_ends_after_the_capabilities() -> None:
    async with scripted_server([*HELLO, "^QUIT", b"+OK\r\n"]) as port:
        observation = await probe(target(port, login=False))
    assert (observation.outcome, observation.with_login) == (Outcome.UP, False)


async def test_an_echoed_password_is_hidden() -> None:
    async with scripted_server([*HELLO, *LOGIN, f"-ERR [AUTH] no such password: {PASSWORD}\r\n".encode()]) as port:
        observation = await probe(target(port))
    assert PASSWORD not in repr(observation)
    assert "***" in observation.attempts[-1].replies[-1]


@pytest.fixture(scope="module")
def server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_plain_text_slipped_in_behind_stls_is_a_failure(server_tls: ssl.SSLContext) -> None:
    offer: list[Step] = [b"+OK ready\r\n", "^CAPA", b"+OK\r\nSTLS\r\n.\r\n", "^STLS"]
    async with scripted_server([*offer, b"+OK begin\r\n+OK injected\r\n", server_tls]) as port:
        observation = await probe(target(port, tls=TlsMode.STARTTLS))
    assert (observation.cause, observation.failed_phase) == (Cause.PROTOCOL, Phase.TLS)
    async with scripted_server([*offer, b"+OK begin\r\n", server_tls]) as port:
        observation = await probe(target(port, tls=TlsMode.STARTTLS))
    assert observation.cause is Cause.TLS, observation.detail
    assert "not trusted" in observation.detail


async def test_a_server_that_does_not_offer_stls_is_not_sent_a_password() -> None:
    received: list[bytes] = []
    async with scripted_server([*HELLO, CLOSE], received=received) as port:
        observation = await probe(target(port, tls=TlsMode.STARTTLS))
    assert (observation.cause, observation.failed_phase) == (Cause.TLS, Phase.TLS)
    assert received == [b"CAPA"]
