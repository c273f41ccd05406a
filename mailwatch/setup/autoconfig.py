"""Mail servers as a domain itself publishes them, or Mozilla's ISPDB for it: what Thunderbird asks.

https://www.bucksch.org/1/projects/thunderbird/autoconfiguration/config-file-format.html describes the file. It is
asked for without the mail address: only the domain leaves this machine. Everything is bounded: time, bytes,
redirects, elements. What it names is a claim, as DNS is: a server outside the domain needs the user's word.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit
from xml.parsers import expat

import httpx

from mailwatch.model import Kind, TlsMode
from mailwatch.setup.servers import ServerCandidate, Source, ascii_domain, in_order, is_host_name

SECONDS = 8.0
"""Seconds for each address, with its redirects: one that is silent takes no time from the others."""
MAX_BYTES = 128 * 1024
MAX_ELEMENTS = 2000
MAX_DEPTH = 20
MAX_REDIRECTS = 3
ISPDB = "https://autoconfig.thunderbird.net/v1.1/"
_PATHS = ("autoconfig.{domain}/mail/config-v1.1.xml", "{domain}/.well-known/autoconfig/mail/config-v1.1.xml")
_KINDS = {
    ("incomingServer", "imap"): Kind.IMAP,
    ("incomingServer", "pop3"): Kind.POP3,
    ("outgoingServer", "smtp"): Kind.SMTP,
}
_TLS = {"SSL": TlsMode.IMPLICIT, "STARTTLS": TlsMode.STARTTLS}
"""The socket types that encrypt; a password never goes out in the clear."""
_PASSWORD_WAYS = frozenset({"", "password-cleartext", "password-encrypted", "plain", "secure"})


class AutoconfigError(Exception):
    """There is no usable answer; the text says why."""


@dataclass(frozen=True, slots=True)
class AutoconfigAnswer:
    """The servers of the first address that answered, `url`; or why none did, in `failure`."""

    candidates: tuple[ServerCandidate, ...] = ()
    url: str = ""
    failure: str = ""


def autoconfig_urls(domain: str, source: Source) -> tuple[tuple[str, ...], ...]:
    """Return the addresses to ask, best first; those of a group are asked at once. HTTPS goes first."""
    if source is Source.ISPDB:
        return ((f"{ISPDB}{domain}",),)
    paths = [path.format(domain=domain) for path in _PATHS]
    return tuple(f"https://{path}" for path in paths), tuple(f"http://{path}" for path in paths)


async def ask_autoconfig(
    address: str,
    urls: Sequence[Collection[str]],
    source: Source,
    *,
    seconds: float = SECONDS,
    ssl_context: ssl.SSLContext | None = None,
) -> AutoconfigAnswer:
    """Ask the groups of addresses one after the other, until one has servers for `address`. Raises nothing."""
    failures: list[str] = []
    if ssl_context is None:
        ssl_context = await asyncio.to_thread(ssl.create_default_context)
    async with httpx.AsyncClient(verify=ssl_context, timeout=None) as web:  # noqa: S113
        for group in urls:
            asked = [asyncio.create_task(_ask(web, url, address, source, seconds)) for url in group]
            try:
                # The best address that answers counts; nothing waits for those after it.
                for url, answer in zip(group, asked, strict=True):
                    try:
                        return AutoconfigAnswer(await answer, url)
                    except AutoconfigError as error:
                        failures.append(f"{urlsplit(url).hostname}: {error}")
            finally:
                for answer in asked:
                    answer.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
    return AutoconfigAnswer(failure="; ".join(dict.fromkeys(failures)))


async def _ask(
    web: httpx.AsyncClient, url: str, address: str, source: Source, seconds: float
) -> tuple[ServerCandidate, ...]:
    """Return the servers, at least one. Raises AutoconfigError."""
    try:
        async with asyncio.timeout(seconds):
            found = parse_autoconfig(await _get(web, url), address, source)
    except TimeoutError:
        raise AutoconfigError(f"no answer within {seconds:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise AutoconfigError(str(error)[:200] or type(error).__name__) from None
    if not found:
        raise AutoconfigError("it names no server that takes a password over an encrypted connection")
    return found


async def _get(web: httpx.AsyncClient, url: str) -> bytes:
    """Return a page, following redirects to names, never from https to http. Raises AutoconfigError, HTTPError."""
    for _ in range(MAX_REDIRECTS + 1):
        async with web.stream("GET", url, headers={"Accept-Encoding": "identity"}) as response:
            if response.is_redirect:
                url = _redirect(url, response.headers.get("location", ""))
                continue
            if response.status_code != httpx.codes.OK:
                raise AutoconfigError(f"HTTP status {response.status_code}")
            if (packed := response.headers.get("content-encoding", "identity")) != "identity":
                # A decompressed piece is in memory before its size is known.
                raise AutoconfigError(f"its answer comes as {packed[:40]}, which MailWatch did not request")
            content = bytearray()
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > MAX_BYTES:
                    raise AutoconfigError(f"its answer is longer than {MAX_BYTES // 1024} KiB")
            return bytes(content)
    raise AutoconfigError(f"more than {MAX_REDIRECTS} redirects")


def _redirect(url: str, location: str) -> str:
    """Return where a redirect leads. Raises AutoconfigError if it leaves HTTPS, or names no host."""
    target = urljoin(url, location)
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not is_host_name(parts.hostname or ""):
        raise AutoconfigError("it redirects to an address that is not a web page with a name")
    if url.startswith("https:") and parts.scheme != "https":
        raise AutoconfigError("it redirects from https to http")
    return target


@dataclass(slots=True)
class _Server:
    """One server element while it is read."""

    kind: Kind
    host: str = ""
    port: str = ""
    socket_type: str = ""
    username: str = ""
    ways: tuple[str, ...] = ()


def parse_autoconfig(content: bytes, address: str, source: Source) -> tuple[ServerCandidate, ...]:
    """Return the first usable server of each kind, with its user name for `address`. Raises AutoconfigError.

    A document type is refused, and with it every entity: they can name files, and grow without end.
    """
    reader = _Reader()
    try:
        reader.read(content)
    except (expat.ExpatError, LookupError, ValueError) as error:
        # An encoding that Python does not know is a LookupError.
        raise AutoconfigError(f"its answer is not XML: {error}") from None
    best: dict[Kind, ServerCandidate] = {}
    for server in reader.servers:
        if server.kind not in best and (candidate := _candidate(server, address, source)):
            best[server.kind] = candidate
    return in_order(tuple(best.values()))


def _candidate(server: _Server, address: str, source: Source) -> ServerCandidate | None:
    tls = _TLS.get(server.socket_type)
    # One that takes only other ways of authentication is of no use here.
    usable = not server.ways or not _PASSWORD_WAYS.isdisjoint(server.ways)
    host = _filled(server.host, address).casefold()
    if tls is None or not usable or not is_host_name(host) or not server.port.isdecimal():
        return None
    port = int(server.port[:6])
    username = _filled(server.username, address)
    if not 0 < port < 65536 or not username.isprintable() or len(username) > 255 or "%" in username:
        return None
    named = "" if username == address else username
    return ServerCandidate(kind=server.kind, host=host, port=port, tls=tls, source=source, username=named)


def _filled(text: str, address: str) -> str:
    local, _, domain = address.rpartition("@")
    places = {
        "%EMAILADDRESS%": address,
        "%EMAILLOCALPART%": local,
        "%EMAILDOMAIN%": ascii_domain(address) or domain,
    }
    for place, value in places.items():
        text = text.replace(place, value)
    return text


class _Reader:
    """Reads the servers of a document, and nothing else of it."""

    _TEXTS = {"hostname": "host", "port": "port", "socketType": "socket_type", "username": "username"}  # noqa: RUF012

    def __init__(self) -> None:
        self.servers: list[_Server] = []
        self._open: _Server | None = None
        self._text = ""
        self._depth = self._elements = 0

    def read(self, content: bytes) -> None:
        """Read a document. Raises AutoconfigError, ExpatError."""
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.ExternalEntityRefHandler = self._refuse
        parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
        parser.Parse(content, True)

    def _refuse(self, *_: object) -> int:
        raise AutoconfigError("its answer declares a document type, which MailWatch refuses")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_DEPTH or self._elements > MAX_ELEMENTS:
            raise AutoconfigError("its answer has more elements than a description of servers")
        self._text = ""
        if kind := _KINDS.get((name, attributes.get("type", "").casefold())):
            self._open = _Server(kind)

    def _characters(self, text: str) -> None:
        self._text = (self._text + text)[:1000]

    def _end(self, name: str) -> None:
        self._depth -= 1
        server, text, self._text = self._open, self._text.strip(), ""
        if server is None:
            return
        if name in ("incomingServer", "outgoingServer"):
            self.servers.append(server)
            self._open = None
        elif name == "authentication":
            server.ways = (*server.ways, text.casefold())
        elif (field := self._TEXTS.get(name)) and not getattr(server, field):
            setattr(server, field, text)
