"""What a server says in the clear where TLS should begin is read, whole, and judged as what it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from pydantic import SecretStr

from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.settings import Login, Target
from mailwatch.times import now
from tests.helpers.scripted_server import CLOSE, HELLO, SILENCE, Step, scripted_server

Run = Callable[[Coroutine[Any, Any, Observation]], Observation]
RUNS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
LIMITS = [
    (Kind.SMTP, b"421 Too many concurrent SMTP connections; please try again later.\r\n"),
    (Kind.SMTP, b"421-mail.example.org\r\n421 4.7.0 Too many connections from 192.0.2.1\r\n"),
    (Kind.IMAP, b"* BYE Too many connections from your address\r\n"),
    (Kind.IMAP, b"* BYE [INUSE] come back later\r\n"),
    (Kind.POP3, b"-ERR too many connections\r\n"),
    (Kind.POP3, b"-ERR [LOGIN-DELAY] wait\r\n"),
]
NO_SERVICE = [
    (Kind.SMTP, b"421 Service not available\r\n"),
    (Kind.SMTP, b"554 No SMTP service here\r\n"),
    (Kind.IMAP, b"* BYE shutting down\r\n"),
    (Kind.POP3, b"-ERR internal server error\r\n"),
]
NO_REFUSAL = [
    (Kind.SMTP, b"220 mail.example.org ready\r\n"),
    (Kind.IMAP, b"* OK ready\r\n"),
    (Kind.POP3, b"+OK ready\r\n"),
    (Kind.IMAP, b"421 Too many connections\r\n"),
    (Kind.SMTP, b"HTTP/1.1 400 Bad Request\r\n"),
]


def probed(
    run: Run, kind: Kind, *script: Step, tls: TlsMode = TlsMode.IMPLICIT, timeout: float = 20.0
) -> Observation:
    async def probe() -> Observation:
        async with scripted_server(script) as port:
            target = Target(
                name="lab",
                kind=kind,
                host="127.0.0.1",
                port=port,
                tls=tls,
                login=Login(username="a@example.org", password=SecretStr("canary")),
                timeout=timeout,
            )
            return await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts()))

    return run(probe())


def recorded(observation: Observation) -> list[str]:
    """The lines on record."""
    return r"\n".join(observation.attempts[-1].replies).split(r"\n")


def cuts(words: bytes) -> list[list[Step]]:
    """The same words, all at once and in packets, before and after the client's hello, and how it ends then."""
    # OpenSSL reads five bytes before it knows that this is none of its own.
    ways: list[list[Step]] = [[words, HELLO], [HELLO, words], [words[:2], HELLO, words[2:]]]
    ways += [[words[:7], HELLO, words[7:]], [words[:-1], HELLO, words[-1:]]]
    return [[*way, end] for way in ways for end in (CLOSE, SILENCE)]


def observed_cuts(run: Run, kind: Kind, words: bytes) -> Iterator[tuple[list[Step], Observation]]:
    """What a probe observes of each of them."""
    return ((script, probed(run, kind, *script)) for script in cuts(words))


@RUNS
@pytest.mark.parametrize(("kind", "words"), LIMITS)
@pytest.mark.slow
def test_a_limit_stated_in_the_clear_is_caused_by_us(run: Run, kind: Kind, words: bytes) -> None:
    for script, observation in observed_cuts(run, kind, words):
        assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.THROTTLED), script
        assert recorded(observation) == words.decode().split("\r\n")[:-1], script


@RUNS
@pytest.mark.parametrize(("kind", "words"), NO_SERVICE)
@pytest.mark.slow
def test_a_service_that_is_not_available_says_so_in_the_clear(run: Run, kind: Kind, words: bytes) -> None:
    for script, observation in observed_cuts(run, kind, words):
        assert (observation.outcome, observation.cause) == (Outcome.DOWN, Cause.UNAVAILABLE), script


@RUNS
@pytest.mark.parametrize(("kind", "words"), NO_REFUSAL)
@pytest.mark.slow
def test_other_plain_text_is_no_tls_and_is_on_record(run: Run, kind: Kind, words: bytes) -> None:
    for script, observation in observed_cuts(run, kind, words):
        assert (observation.cause, observation.failed_phase) == (Cause.TLS, Phase.TLS), script
        assert "answer is not TLS" in observation.detail
        assert recorded(observation) == words.decode().split("\r\n")[:-1], script


@RUNS
def test_text_sent_before_our_hello_is_read_after_a_disconnect(run: Run) -> None:
    """It closes with our hello unread, so that its kernel resets the connection."""
    observation = probed(run, Kind.SMTP, LIMITS[0][1])
    assert observation.cause in (Cause.THROTTLED, Cause.DISCONNECTED)


@RUNS
@pytest.mark.parametrize("junk", [b"\x00\x01\x02\x03\x04\x05", b"\x80\x2e\x01\x00\x02 binary", b"\xff" * 4000])
def test_binary_data_is_not_recorded_as_a_reply(run: Run, junk: bytes) -> None:
    observation = probed(run, Kind.SMTP, HELLO, junk, CLOSE)
    assert observation.cause is Cause.TLS
    assert all(len(reply) < 1000 for reply in observation.attempts[-1].replies)


@RUNS
def test_a_flood_of_text_is_bounded(run: Run) -> None:
    observation = probed(run, Kind.SMTP, HELLO, b"421 " + b"x" * 100_000, CLOSE)
    assert observation.cause is Cause.UNAVAILABLE
    assert len(observation.attempts[-1].replies[0]) <= 1000


@RUNS
def test_plain_text_in_place_of_a_handshake_after_starttls_is_read_too(run: Run) -> None:
    script: list[Step] = [b"* OK [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n", "STARTTLS", b"TAG OK go on\r\n"]
    script += [HELLO, b"* BYE Too many connections\r\n", SILENCE]
    observation = probed(run, Kind.IMAP, *script, tls=TlsMode.STARTTLS)
    assert (observation.cause, observation.failed_phase) == (Cause.THROTTLED, Phase.TLS)


def test_a_line_that_never_ends_does_not_outlast_the_timeout() -> None:
    began = time.monotonic()
    observation = probed(asyncio.run, Kind.SMTP, HELLO, b"421 Too many connections", SILENCE, timeout=0.5)
    assert observation.cause in (Cause.THROTTLED, Cause.TIMEOUT)
    assert time.monotonic() - began < 20
