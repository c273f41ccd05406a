"""Answers of web servers, name servers, time servers, and what is asked of our own pages."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.message
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.rrset
from prometheus_client import CollectorRegistry

from mailwatch.guard.control_dates import parse_http_date
from mailwatch.guard.diagnosis import lookup_names
from mailwatch.guard.sntp import SntpError, read_answer
from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Kind, TlsMode
from mailwatch.probes import sasl, webmail
from mailwatch.probes.failures import ProbeError
from mailwatch.probes.mx_lookup import Exchanger, lookup_addresses, lookup_exchangers
from mailwatch.probes.oauth import flows, http
from mailwatch.probes.oauth.flows import result_page
from mailwatch.probes.roundtrip.dkim import lookup_txt
from mailwatch.settings import OAuth2, WebmailTask
from mailwatch.settings import Target as Watched
from mailwatch.setup import discovery
from mailwatch.setup.autoconfig import AutoconfigError, parse_autoconfig
from mailwatch.setup.servers import Source, is_host_name
from tests.fuzz import wire
from tests.fuzz.target import Target, Wrong

WEBMAIL = Watched(
    name="w",
    kind=Kind.WEBMAIL,
    host="web.example",
    port=443,
    tls=TlsMode.NONE,
    timeout=30.0,
    task=WebmailTask(url="https://web.example/", contains="Accedi", absent="manutenzione"),
)
HTML = b"<html><head><title>Webmail &amp; x</title></head><body>Accedi cf-challenge</body></html>"
PACKED = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
GZIP = PACKED.compress(HTML * 50) + PACKED.flush()
PAGES = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b"
    % (len(HTML), HTML),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nSet-Cookie: a=b; Domain=x; Expires=Mon, 02 Jan 2023 10:00:00 GMT\r\n"
    b"\r\n%x\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (len(HTML), HTML),
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(GZIP), GZIP),
    b"HTTP/1.1 302 Found\r\nLocation: https://other.example:444/a;b?c#d\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\n\r\n<title>Just a moment...</title>_cf_chl_opt",
    b"HTTP/1.0 100 Continue\r\n\r\nHTTP/1.0 429 Too Many\r\ncf-mitigated: challenge\r\n\r\n",
]
ANSWERS = [
    b'200 {"access_token": "ya29.x", "token_type": "Bearer", "expires_in": 3599, "refresh_token": "1//x", "scope": "s"}',
    b'400 {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}',
    b'200 {"device_code": "d", "user_code": "U-C", "verification_uri": "https://x/", "expires_in": 1800, "interval": 5}',
    b'400 {"error": "authorization_pending"}',
    b"502 <html>",
    b'200 ["a"]',
    b"200 {}",
    b'429 {"error": {"code": 1}}',
]
CLIENT = OAuth2(
    client_id="x",
    token_endpoint="https://t.example/",
    scope="s",
    authorization_endpoint="https://a.example/",
    device_endpoint="https://t.example/device",
    grant_file=Path("grant"),
)


def _oauth(data: bytes) -> None:
    status, _, body = data.partition(b" ")
    with contextlib.suppress(http.OAuthError, http.OAuthUnavailableError):
        code = int(status[:3]) if status[:3].isdigit() else 200
        answer = http._parse_response(code, body, [wire.PASSWORD], "the token endpoint at t.example")
        for take in (
            lambda: http.access_token(answer, "t.example"),
            lambda: flows.grant_of(CLIENT, answer),
            lambda: flows.read_code(CLIENT, answer),
        ):
            with contextlib.suppress(http.OAuthError, http.OAuthUnavailableError):
                take()
        http.secret_field(answer, "refresh_token")
    sasl.failure_status(body)


def _redirected(data: bytes) -> None:
    text = data.decode("latin-1")
    made: list[bool] = []

    async def meet() -> None:
        flow = flows._start_flow(CLIENT, "a@example.org", "http://127.0.0.1:1")
        made.append(flow.handle_redirect(text.replace("STATE", flow.state)))
        with contextlib.suppress(http.OAuthError):
            if flow._code.done():
                flow._code.result()

    wire.run(meet())
    result_page(granted=True, head=text)


class StubResolver(dns.asyncresolver.Resolver):
    """A resolver that gets its answers from the test, of which each is a message as it came off the wire."""

    def __init__(self, answers: list[bytes]) -> None:
        super().__init__(configure=False)
        self.nameservers = ["127.0.0.1"]
        self._answers = answers

    async def resolve(self, qname: Any, rdtype: Any = "A", *_: Any, **named: Any) -> Any:
        """As the library reads it, and raising what it raises."""
        name = dns.name.from_text(qname) if isinstance(qname, str) else qname
        kind = dns.rdatatype.from_text(rdtype)
        wired = self._answers.pop(0) if self._answers else b""
        asked = dns.message.make_query(name, kind)
        try:
            message = dns.message.from_wire(wired)
            assert isinstance(message, dns.message.QueryMessage)
            message.question = asked.question
            answer = dns.resolver.Answer(name, kind, dns.rdataclass.IN, message, "127.0.0.1", 53)
        except Exception as error:
            reply = [("Do53:127.0.0.1@53", False, 53, error, None)]
            raise dns.resolver.NoNameservers(request=asked, errors=reply) from error  # type: ignore[no-untyped-call]
        if answer.rrset is None and named.get("raise_on_no_answer", True):
            raise dns.resolver.NoAnswer(response=message)  # type: ignore[no-untyped-call]
        return answer


def _answer(name: str, *found: tuple[str, str]) -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, "A"))
    for kind, text in found:
        message.answer.append(dns.rrset.from_text(name, 60, "IN", kind, text))
    return message.to_wire()


NAMES = [
    wire.ANSWER.join(
        [_answer("example.org.", ("MX", "10 mx.example.org.")), _answer("mx.example.org.", ("A", "192.0.2.1"))]
    ),
    wire.ANSWER.join(
        [_answer("example.org.", ("MX", "0 .")), _answer("mx.example.org.", ("AAAA", "2001:db8::1"))]
    ),
    wire.ANSWER.join(
        [
            _answer("_imaps._tcp.example.org.", ("SRV", "0 1 993 imap.example.org.")),
            _answer("_imap._tcp.example.org.", ("SRV", "0 0 0 .")),
        ]
    ),
    _answer("example.org.", ("CNAME", "other.example.")),
    _answer("k._domainkey.example.org.", ("TXT", '"v=DKIM1; p=AAAA" "x"')),
]


def _names(data: bytes) -> None:
    answers = data.split(wire.ANSWER)

    async def meet() -> None:
        with contextlib.suppress(ProbeError):
            for each in await lookup_exchangers("example.org", StubResolver(list(answers)), 1.0):
                with contextlib.suppress(ProbeError):
                    await lookup_addresses(each, 25, StubResolver(answers[1:]), 1.0)
        with contextlib.suppress(ProbeError):
            await lookup_addresses(Exchanger("mx.example.org", 1), 25, StubResolver(list(answers)), 1.0)
        await discovery.query_dns("example.org", StubResolver(list(answers)))
        canonical(await lookup_names("example.org", 1.0, StubResolver(list(answers))))
        with contextlib.suppress(TimeoutError):
            await lookup_txt("k._domainkey.example.org.", StubResolver(list(answers)))

    wire.logged.clear()
    wire.run(meet())
    if wire.logged:
        raise Wrong("logged: " + "\n".join(wire.logged))


NONCE = b"12345678"
TIME = (
    bytes.fromhex("240200ec000000250000003a0a0a0a0a")
    + bytes(8)
    + NONCE
    + bytes.fromhex("e8e9a1b2c3d4e5f6e8e9a1b2c3d4ffff")
)


def _time(data: bytes) -> None:
    with contextlib.suppress(SntpError):
        found = read_answer(data, nonce=NONCE, sent_ns=1_700_000_000 * 10**9, elapsed_ns=20_000_000, server="s")
        if found.bound_us < 0 or found.delay_us < 0:
            raise Wrong("a bound below nothing")


AUTOCONFIG = (
    b'<?xml version="1.0"?><clientConfig version="1.1"><emailProvider id="x"><incomingServer type="imap">'
    b"<hostname>imap.%EMAILDOMAIN%</hostname><port>993</port><socketType>SSL</socketType>"
    b"<username>%EMAILLOCALPART%</username><authentication>password-cleartext</authentication>"
    b'</incomingServer><outgoingServer type="smtp"><hostname>smtp.x.it</hostname><port>587</port>'
    b"<socketType>STARTTLS</socketType></outgoingServer></emailProvider></clientConfig>"
)


def _autoconfig(data: bytes) -> None:
    with contextlib.suppress(AutoconfigError):
        for found in parse_autoconfig(data, "mario@example.org", Source.AUTOCONFIG):
            if not is_host_name(found.host) or not 0 < found.port < 65536 or not found.username.isprintable():
                raise Wrong("a server that cannot be used")


def _date(data: bytes) -> None:
    parse_http_date(data, 0, 10)


@cache
def _pages() -> tuple[Callable[..., Awaitable[None]], contextlib.AsyncExitStack]:
    """Start a MailWatch that watches nothing that answers, for its pages."""
    from mailwatch.config import load
    from mailwatch.metrics import Metrics
    from mailwatch.monitor.startup import Startup

    folder = Path(tempfile.mkdtemp(prefix="mailwatch-fuzz-"))
    undo = contextlib.AsyncExitStack()
    undo.callback(shutil.rmtree, folder, ignore_errors=True)
    settings = {
        "vantage_point": {"name": "t"},
        "data_dir": "data",
        "guard": "off",
        "clock": {"servers": []},
        "targets": [{"name": "lab", "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none"}],
    }
    (folder / "config.yaml").write_text(json.dumps(settings))

    async def start() -> Any:
        service = await Startup(
            folder / "config.yaml", load(folder / "config.yaml"), Metrics(CollectorRegistry()), undo
        ).run()
        return service.make_app()

    return wire.run(start()), undo


ASKED = [
    b"GET /api/v1/observations?target=lab&from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00%2B01:00&limit=10&before=7\n",
    b"GET /api/v1/observations.csv?outcome=down&after=1\n",
    b"GET /api/v1/outages?open=true&from=0001-01-01T00:00:00%2B14:00\n",
    b"GET /api/v1/availability?from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z&target=lab\n",
    b"GET /api/v1/offline?from=9999-12-31T23:59:59.999-14:00\n",
    b"GET /api/v1/outages/0123456789ab\n",
    b"GET /?lang=it\naccept-language: it;q=0.5, en\ncookie: a=b; lang=it\n",
    b"GET /outages?page=2\nhost: 127.0.0.1:8080\n",
    b"GET /observations?target=lab&before=5&outcome=up\naccept: text/html\n",
    b"GET /incidents/abc\n",
    b"GET /metrics\n",
    b"GET /ledger\n",
    b"GET /about\naccept: text/html,*/*;q=0.8\n",
    b"GET /static/style.css\nif-none-match: x\nrange: bytes=0-1\n",
    b"POST /login\ncontent-type: application/x-www-form-urlencoded\n\npassword=x&next=%2F",
    b"HEAD /readyz\n",
    b"GET /healthz\n",
    b"GET /api/v1/targets\nauthorization: Basic eDp5\nx-forwarded-for: 1.2.3.4\n",
    b"GET /api/openapi.json\n",
    b"GET /login?next=//evil.example\n",
    b"POST /logout\norigin: https://x\nsec-fetch-site: cross-site\n",
]


def _page(data: bytes) -> None:
    """Ask our own pages; no question is a fault of theirs."""
    app, _ = _pages()
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    words = [*first.split(b" ", 2), b"", b""][:2]
    path, _, query = words[1].partition(b"?")
    headers = [
        (name.strip().lower(), value.strip())
        for name, colon, value in (line.partition(b":") for line in lines)
        if colon
    ]
    if not any(name == b"host" for name, _ in headers):
        headers.append((b"host", b"127.0.0.1:8080"))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "method": words[0].decode("latin-1"),
        "path": path.decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8080),
    }
    statuses: list[int] = []

    coming: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return coming.pop() if coming else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    wire.logged.clear()
    wire.run(app(scope, receive, send))
    if not statuses or (statuses[0] >= 500 and path not in (b"/readyz",)):
        raise Wrong(f"answered {statuses}" + "\n".join(wire.logged))


def targets() -> list[Target]:
    """All readers of what comes over a network but mail."""
    redirects = [
        b"/?state=STATE&code=abc",
        b"/?state=STATE&error=access_denied&error_description=no",
        b"/?code=%ff&state=x",
        b"GET /?state=STATE HTTP/1.1\r\nAccept-Language: it, en;q=0.5\r\n\r\n",
        b"http://[::1/?state=STATE",
    ]
    date = b"HTTP/1.1 200 OK\r\nDate: Mon, 02 Jan 2023 10:00:00 GMT\r\nAge: 17\r\n\r\n"
    return [
        Target("webmail", lambda data: wire.play(data, WEBMAIL, webmail.probe), PAGES, 30),
        Target("oauth", _oauth, ANSWERS, 80, words=[wire.PASSWORD.encode()]),
        Target("oauth-redirect", _redirected, redirects, 20),
        Target("dns", _names, NAMES, 4),
        Target("sntp", _time, [TIME], 120),
        Target("http-date", _date, [date], 30),
        Target("autoconfig", _autoconfig, [AUTOCONFIG], 60, words=[b"<!DOCTYPE", b"<!ENTITY", b"&a;"]),
        Target(
            "pages",
            _page,
            ASKED,
            4,
            words=[b"&limit=", b"&target=", b"%00", b"%ED%A0%80", b"+14:00", b"\nhost: "],
        ),
    ]
