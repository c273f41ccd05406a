"""Faults of webmail. The ladder: TLS, the request, the headers of the answer, the page."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

from mailwatch.model import Cause, Kind, Phase, TlsMode
from mailwatch.settings import Target, WebmailTask
from tests.helpers.faults.fault import (
    PASSWORD,
    SHORT_TIMEOUT_SECONDS,
    Fault,
    Place,
    closed_port,
    full_backlog,
    no_such_name,
    plays,
)
from tests.helpers.faults.secured import TLS, Issue, expired, good, of_another, secured, self_made
from tests.helpers.scripted_server import CLOSE, HELLO, RESET, SILENCE, Endless, Step

GET = "^GET /mail[?]token=[^ ]* HTTP/1.1\r$"
LOGIN = "<title>Login</title><input type=password> Password"
DRIP = Endless(b"x", pause=0.05)

_fault = partial(Fault, kind=Kind.WEBMAIL)


def answer(status: str, body: str | bytes = "", *headers: str) -> bytes:
    """An answer with its length; a token in the address must not be shown to anyone."""
    data = body.encode() if isinstance(body, str) else body
    lines = (f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *headers)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + data


def serves(*script: Step, issue: Issue = good, at: Place | None = None) -> Place:
    """A server that plays the script behind TLS, and a target that probes its page."""
    inner = at or secured(*script, issue=issue)

    @contextlib.asynccontextmanager
    async def place(target: Target) -> AsyncIterator[Target]:
        endless = SILENCE in script or DRIP in script
        async with inner(replace(target, login=None)) as found:
            yield replace(
                found,
                tls=TlsMode.IMPLICIT,
                timeout=SHORT_TIMEOUT_SECONDS if endless else found.timeout,
                task=WebmailTask(
                    url=f"https://{found.host}:{found.port}/mail?token={PASSWORD}",
                    contains="Password",
                    absent="manutenzione",
                ),
            )

    return place


def _answers(
    what: str, words: bytes, cause: Cause | None, phase: Phase | None, *, says: str = "", lesson: str = ""
) -> Fault:
    return _fault(what=what, cause=cause, phase=phase, place=serves(GET, words, CLOSE), says=says, lesson=lesson)


def _breaks(what: str, cause: Cause, phase: Phase, *script: Step, says: str = "") -> Fault:
    return _fault(what=what, cause=cause, phase=phase, place=serves(*script), says=says)


def _certificate(what: str, issue: Issue, says: str) -> Fault:
    return _fault(what=what, cause=Cause.TLS, phase=Phase.TLS, place=serves(SILENCE, issue=issue), says=says)


BOMB = gzip.compress(b"\0" * 64 * 1024 * 1024, 9)
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"

FAULTS: list[Fault] = [
    _answers("everything works", answer("200 OK", LOGIN), None, None),
    _answers(
        "everything works, compressed",
        answer("200 OK", gzip.compress(LOGIN.encode()), "Content-Encoding: gzip"),
        None,
        None,
    ),
    _answers(
        "everything works, in chunks",
        HEADERS + b"Transfer-Encoding: chunked\r\n\r\n8\r\nPassword\r\n0\r\n\r\n",
        None,
        None,
    ),
    _answers("everything works, as long as the connection does", HEADERS + b"\r\n" + LOGIN.encode(), None, None),
    _fault(what="the name does not resolve", cause=Cause.DNS, phase=Phase.RESOLVE, place=serves(at=no_such_name)),
    _fault(
        what="no program listens on the port",
        cause=Cause.REFUSED,
        phase=Phase.CONNECT,
        place=serves(at=closed_port),
    ),
    _fault(
        what="the connection is not accepted",
        cause=Cause.TIMEOUT,
        phase=Phase.CONNECT,
        place=serves(at=full_backlog),
    ),
    _fault(
        what="silence instead of a handshake",
        cause=Cause.TIMEOUT,
        phase=Phase.TLS,
        place=serves(at=plays(SILENCE)),
    ),
    _fault(
        what="speaks without TLS",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=serves(at=plays(HELLO, b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        says="answer is not TLS",
    ),
    _breaks("silence after the request", Cause.TIMEOUT, Phase.GREETING, TLS, GET, SILENCE),
    _breaks("silence in the headers", Cause.TIMEOUT, Phase.GREETING, GET, HEADERS, SILENCE),
    _breaks("silence in the page", Cause.TIMEOUT, Phase.FETCH, GET, HEADERS + b"\r\nPassw", SILENCE),
    _breaks("a page that drips without end", Cause.TIMEOUT, Phase.FETCH, GET, HEADERS + b"\r\n", DRIP),
    _breaks("the connection is reset after the request", Cause.DISCONNECTED, Phase.GREETING, GET, RESET),
    _breaks(
        "the connection is reset in the page",
        Cause.DISCONNECTED,
        Phase.FETCH,
        GET,
        HEADERS + b"Content-Length: 9\r\n\r\nPass",
        RESET,
    ),
    _breaks("leaves without an answer", Cause.DISCONNECTED, Phase.GREETING, GET, CLOSE),
    _answers(
        "promises more bytes than it sends",
        HEADERS + b"Content-Length: 9000\r\n\r\n" + LOGIN.encode(),
        Cause.DISCONNECTED,
        Phase.FETCH,
    ),
    _answers(
        "two lengths that differ",
        HEADERS + b"Content-Length: 8\r\nContent-Length: 9\r\n\r\nPassword",
        Cause.PROTOCOL,
        Phase.GREETING,
    ),
    _answers(
        "leaves in the middle of a chunk",
        HEADERS + b"Transfer-Encoding: chunked\r\n\r\nff\r\nPassword",
        Cause.DISCONNECTED,
        Phase.FETCH,
    ),
    _answers(
        "a chunk without length",
        HEADERS + b"Transfer-Encoding: chunked\r\n\r\nPassword\r\n0\r\n\r\n",
        Cause.PROTOCOL,
        Phase.FETCH,
    ),
    _breaks(
        "speaks SMTP on the HTTPS port",
        Cause.PROTOCOL,
        Phase.GREETING,
        b"220 mail ready\r\n",
        SILENCE,
        says="220 mail ready",
    ),
    _answers("a status line that is none", b"HTTP/1.1 two hundred\r\n\r\n", Cause.PROTOCOL, Phase.GREETING),
    _breaks("a header without end", Cause.PROTOCOL, Phase.GREETING, GET, HEADERS, Endless(b"X: " + b"x" * 4096)),
    _breaks("headers without end", Cause.PROTOCOL, Phase.GREETING, GET, HEADERS, Endless(b"X: x\r\n" * 1000)),
    _breaks(
        "interim answers without end",
        Cause.PROTOCOL,
        Phase.GREETING,
        GET,
        Endless(b"HTTP/1.1 102 Wait\r\n\r\n" * 100),
    ),
    _breaks(
        "a page without end",
        Cause.UNAVAILABLE,
        Phase.FETCH,
        GET,
        HEADERS + b"\r\n",
        Endless(b"x" * 4096),
        says="first 1 MiB",
    ),
    _breaks(
        "a chunk extension without end",
        Cause.PROTOCOL,
        Phase.FETCH,
        GET,
        HEADERS + b"Transfer-Encoding: chunked\r\n\r\n8;",
        Endless(b"x" * 4096),
    ),
    _answers(
        "64 MiB in a small gzip file",
        answer("200 OK", BOMB, "Content-Encoding: gzip"),
        Cause.UNAVAILABLE,
        Phase.FETCH,
        says="first 1 MiB",
    ),
    _answers(
        "calls gzip what is not", answer("200 OK", LOGIN, "Content-Encoding: gzip"), Cause.PROTOCOL, Phase.FETCH
    ),
    _answers(
        "compressed data that ends early",
        answer("200 OK", gzip.compress(LOGIN.encode())[:-9], "Content-Encoding: gzip"),
        Cause.PROTOCOL,
        Phase.FETCH,
    ),
    _answers(
        "an encoding that was not asked for",
        answer("200 OK", LOGIN, "Content-Encoding: br"),
        Cause.PROTOCOL,
        Phase.FETCH,
    ),
    _answers(
        "redirects in a circle",
        answer("302 Found", "", f"Location: /mail?token={PASSWORD}"),
        Cause.PROTOCOL,
        Phase.GREETING,
        says="too many redirects",
    ),
    _answers("redirects to nowhere", answer("302 Found"), Cause.PROTOCOL, Phase.GREETING),
    _answers(
        "redirects to what is no address",
        answer("301 Moved", "", "Location: https://[::1"),
        Cause.PROTOCOL,
        Phase.GREETING,
    ),
    _answers(
        "redirects to an address of 9 kB",
        answer("301 Moved", "", f"Location: /{'x' * 9000}"),
        Cause.PROTOCOL,
        Phase.GREETING,
        says="leads too far",
    ),
    _answers(
        "redirects to http",
        answer("301 Moved", "", f"Location: http://127.0.0.1/?t={PASSWORD}"),
        Cause.TLS,
        Phase.GREETING,
        says="without encryption",
    ),
    _answers("says 404", answer("404 Not Found", LOGIN), Cause.UNAVAILABLE, Phase.GREETING, says="404 Not Found"),
    _answers("says 500", answer("500 Oh no", LOGIN), Cause.UNAVAILABLE, Phase.GREETING, says="500"),
    _answers("says 502", answer("502 Bad Gateway"), Cause.UNAVAILABLE, Phase.GREETING, says="502"),
    _answers(
        "says 503 and when to come back",
        answer("503 Busy", "soon", "Retry-After: 3600"),
        Cause.UNAVAILABLE,
        Phase.FETCH,
        says="Retry-After: 3600",
    ),
    _answers(
        "says 101, which MailWatch did not request",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        Cause.PROTOCOL,
        Phase.GREETING,
    ),
    _answers(
        "says 429",
        answer("429 Too Many Requests", "", "Retry-After: 60"),
        Cause.THROTTLED,
        Phase.GREETING,
        says="Retry-After: 60",
    ),
    _answers(
        "says 401", answer("401 Unauthorized", "", "WWW-Authenticate: Basic"), Cause.THROTTLED, Phase.GREETING
    ),
    _answers("says 403", answer("403 Forbidden"), Cause.THROTTLED, Phase.GREETING),
    _answers(
        "a bot wall with 403",
        answer("403 Forbidden", "", "cf-mitigated: challenge"),
        Cause.THROTTLED,
        Phase.GREETING,
        says="bot wall",
    ),
    _answers(
        "a bot wall with 202",
        answer("202 Accepted", "", "x-amzn-waf-action: challenge"),
        Cause.THROTTLED,
        Phase.GREETING,
        says="bot wall",
    ),
    _answers(
        "a bot wall with 503",
        answer("503 Busy", '<div class="h-captcha">Password</div>'),
        Cause.THROTTLED,
        Phase.FETCH,
        says="bot wall",
    ),
    _answers(
        "a bot wall with 503 and no captcha",
        answer("503 Busy", "<script>_cf_chl_opt={}</script>"),
        Cause.THROTTLED,
        Phase.FETCH,
        says="bot wall",
    ),
    _answers(
        "a bot wall with 200",
        answer("200 OK", "Verify you are human"),
        Cause.THROTTLED,
        Phase.FETCH,
        says="bot wall",
    ),
    _answers(
        "the page lacks its text",
        answer("200 OK", "<title>Welcome</title>"),
        Cause.UNAVAILABLE,
        Phase.FETCH,
        says='does not contain "Password"',
        lesson="A maintenance page with status 200 was taken for a good one: a status says nothing of the page.",
    ),
    _answers("an empty page", answer("204 No Content"), Cause.UNAVAILABLE, Phase.FETCH),
    _answers(
        "the page has the text that it must not",
        answer("200 OK", f"{LOGIN} in manutenzione"),
        Cause.UNAVAILABLE,
        Phase.FETCH,
        says='contains "manutenzione"',
    ),
    _answers(
        "the text in letters that are none",
        answer("200 OK", b"Passw\xf2rd", "Content-Type: text/html; charset=punycode"),
        Cause.UNAVAILABLE,
        Phase.FETCH,
    ),
    _certificate("the certificate expired", expired, "certificate expired"),
    _certificate("the certificate is for another name", of_another, "other.example"),
    _certificate("the certificate is of an unknown issuer", self_made, "issuer not trusted"),
]
