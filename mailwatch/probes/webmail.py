"""Probes a webmail page as a browser does: over TLS, along its redirects, to its text.

There is no login. Cookies are kept between redirects, as some pages require, and discarded after the probe. A page
is judged by its status (RFC 9110, section 15), its redirects, and its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from email.utils import mktime_tz, parsedate_tz
from html import unescape

import httpx

from mailwatch import __version__
from mailwatch.facts import PageHop
from mailwatch.model import Cause, Phase, TlsMode
from mailwatch.probes.attempts import MAX_ATTEMPTS, RETRYABLE_CAUSES
from mailwatch.probes.connect import Address, CloseCallback, MonitorError, ProbeContext
from mailwatch.probes.failures import ProbeError, classify_error
from mailwatch.probes.http_client import MAX_PAGE_BYTES, Body, HttpClient
from mailwatch.settings import Target, WebmailTask

MAX_REDIRECT_CHARS = 8000
"""Characters of a redirect's address (RFC 9110, section 4.1)."""
MAX_RECORDED_CHARS = 200
MAX_CONTENT_TYPE_CHARS = 1000
"""Characters of a Content-Type that are parsed; many parameters would take long."""
MAX_TITLE_SEARCH_CHARS = 65_536
"""Characters of a page that are searched for its title."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ACCESS_STATUSES = {401: "a login", 403: "no permission", 407: "a proxy's login", 451: "legal reasons"}
"""Statuses that deny us the page, and say nothing about what its users get."""
_BOT_WALL_HEADERS = ("cf-mitigated", "x-amzn-waf-action")
_BOT_WALL = re.compile(
    r"_cf_chl_opt|cf-challenge|cf-browser-verification|_incapsula_resource|px-captcha"
    r"|verify(?:ing)? (?:that )?you are (?:a )?human|making sure you.{1,6}re not a bot",
    re.IGNORECASE,
)
"""Text found only on the page of a bot wall; a captcha alone may also accompany a login form."""
_CAPTCHA = re.compile(r"g-recaptcha|h-captcha|cf-turnstile", re.IGNORECASE)
_CHARSET = re.compile(r"utf-?(8|16)|(us-)?ascii|iso-?8859|latin|windows-|cp\d|koi8|gb|big5|euc|shift|iso-2022")
"""Charsets of web pages: Python has some that take minutes for a page."""
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,200})", re.IGNORECASE)


def recordable_url(url: httpx.URL) -> str:
    """Return an address for the record, without its possible tokens: user, query, fragment, path parameters."""
    path = url.raw_path.partition(b"?")[0].partition(b";")[0]
    return f"{url.scheme}://{(url.netloc + path).decode('ascii')}"[:MAX_RECORDED_CHARS]


def redirect_target(answer: httpx.Response, left: int) -> httpx.URL | None:
    """Evaluate the status: return the redirect's address, None for a page to be read. Raises ProbeError.

    `left` is the number of redirects that may still be followed.
    """
    status, status_text = answer.status_code, _status_text(answer)
    for name in _BOT_WALL_HEADERS:
        if name in answer.headers:
            raise ProbeError(Cause.THROTTLED, f"a bot wall answers instead of the page: {status_text} ({name})")
    if status in _REDIRECTS:
        return _redirect(answer, left)
    if 200 <= status <= 299 or status == 503:
        return None
    if status in _ACCESS_STATUSES:
        raise ProbeError(
            Cause.THROTTLED, f"the page is not shown to us but {_ACCESS_STATUSES[status]}: {status_text}"
        )
    if status == 429:
        raise ProbeError(Cause.THROTTLED, status_text)
    if 400 <= status <= 599:
        raise ProbeError(Cause.UNAVAILABLE, status_text)
    raise ProbeError(Cause.PROTOCOL, f"no answer to GET: {status_text}")


def page_problem(page: WebmailTask, answer: httpx.Response, body: Body) -> ProbeError | None:
    """Return what is wrong with a page that was read, None if nothing is."""
    text = _text(body.data, _charset(answer))
    where = "the page" if body.whole else f"the first {MAX_PAGE_BYTES >> 20} MiB of the page"
    walled = ProbeError(Cause.THROTTLED, "a bot wall answers instead of the page", _title(text))
    if answer.status_code == 503:
        # Bot walls often use this status; a page with it and a captcha is one.
        wall = _BOT_WALL.search(text) or _CAPTCHA.search(text)
        return walled if wall else ProbeError(Cause.UNAVAILABLE, _status_text(answer), _title(text))
    if page.absent and page.absent in text:
        return ProbeError(Cause.UNAVAILABLE, f'{where} contains "{page.absent}"', _title(text))
    if page.contains and page.contains in text:
        return None
    if _BOT_WALL.search(text):
        return walled
    if page.contains:
        return ProbeError(Cause.UNAVAILABLE, f'{where} does not contain "{page.contains}"', _title(text))
    return None


def _redirect(answer: httpx.Response, left: int) -> httpx.URL:
    where = answer.headers.get("location", "")
    if not where or len(where) > MAX_REDIRECT_CHARS:
        raise ProbeError(Cause.PROTOCOL, f"{_status_text(answer)} leads {'too far' if where else 'nowhere'}")
    try:
        url = answer.request.url.join(where)
    except httpx.InvalidURL as error:
        raise ProbeError(Cause.PROTOCOL, f"{_status_text(answer)} leads to what is no address") from error
    if url.scheme == "http":
        raise ProbeError(Cause.TLS, f"redirected to {recordable_url(url)}, without encryption")
    if url.scheme != "https" or not url.host:
        raise ProbeError(Cause.PROTOCOL, f"redirected to {url.scheme}:, which is no page")
    if not left:
        raise ProbeError(Cause.PROTOCOL, f"too many redirects, the next to {recordable_url(url)}")
    return url


def _status_text(answer: httpx.Response) -> str:
    text = f"{answer.status_code} {answer.reason_phrase}".strip()
    later = answer.headers.get("retry-after")
    return f"{text} (Retry-After: {later[:100]})" if later else text


def _charset(answer: httpx.Response) -> str | None:
    """Return the charset that the server declares; None also for a very long Content-Type."""
    short = len(answer.headers.get("content-type", "")) <= MAX_CONTENT_TYPE_CHARS
    return answer.charset_encoding if short else None


def _text(page: bytes, charset: str | None) -> str:
    if charset and _CHARSET.match(charset):
        with contextlib.suppress(LookupError):
            return page.decode(charset, "replace")
    return page.decode("utf-8", "replace")


def _title(text: str) -> str:
    found = _TITLE.search(text[:MAX_TITLE_SEARCH_CHARS])
    return " ".join(unescape(found[1]).split()) if found else ""


MAX_REDIRECTS = 5
HEADERS = {
    "User-Agent": f"MailWatch/{__version__}",
    "Accept": "text/html, */*;q=0.8",
    "Accept-Encoding": "gzip",
    "Connection": "close",
}


async def probe(call: ProbeContext) -> CloseCallback:
    """Run the phases; the first failure raises. Return a callback that does nothing: HTTP needs no closing.

    `facts` has the hops, each with its status and its address without query, and the bytes of the page.
    """
    page = call.target.task
    if not isinstance(page, WebmailTask):
        raise MonitorError("a webmail target needs a page")
    try:
        url = httpx.URL(page.url)
    except httpx.InvalidURL as error:
        raise MonitorError(f"the url cannot be read: {error}") from error
    with contextlib.ExitStack() as closing:
        await _PageVisit(call, closing).follow(page, url)
    return _close


def with_relative_expiry(headers: httpx.Headers) -> httpx.Headers:
    """Make the expiry of each cookie relative to the answer's Date: our clock may be wrong, or the server's."""
    return httpx.Headers([
        (name, _with_max_age(value, headers.get("date", ""))) if name.lower() == b"set-cookie" else (name, value)
        for name, value in headers.raw
    ])  # fmt: skip


def _with_max_age(cookie: bytes, date: str) -> bytes:
    parts = cookie.split(b";")
    fields = {part.partition(b"=")[0].strip().lower(): part.partition(b"=")[2].strip() for part in parts[1:]}
    if b"expires" not in fields or b"max-age" in fields:
        return cookie
    ends, here = _seconds(fields[b"expires"].decode("latin-1")), _seconds(date)
    if ends is None or here is None:
        return cookie
    kept = [part for part in parts if part.partition(b"=")[0].strip().lower() != b"expires"]
    return b";".join([*kept, b" Max-Age=%d" % (ends - here)])


def _seconds(date: str) -> int | None:
    """Parse an HTTP date (RFC 9110, section 5.6.7) to Unix seconds; None if invalid."""
    try:
        parsed = parsedate_tz(date)
        return None if parsed is None else mktime_tz(parsed)
    except (ValueError, OverflowError, TypeError):
        return None


class _PageVisit:
    """One probe of a page, from its address to the end of its redirects."""

    def __init__(self, call: ProbeContext, closing: contextlib.ExitStack) -> None:
        self._call = call
        self._closing = closing
        self._phase = call.recorder.phase
        self._until = asyncio.get_running_loop().time() + call.target.timeout
        self._cookies = httpx.Cookies()
        self._hop: PageHop = {}

    async def follow(self, page: WebmailTask, url: httpx.URL) -> None:
        """Follow the redirects and check the last page."""
        self._begin_hop(url)
        here, client = self._call, await HttpClient.open(self._call)
        for left in range(MAX_REDIRECTS, -1, -1):
            with self._name_host(here.target):
                with self._phase(Phase.GREETING):
                    answer = await self._ask(client, url)
                    there = redirect_target(answer, left)
                if there is None:
                    await self._check_page(page, answer, client)
                    return
            url = there
            self._begin_hop(url)
            here, client = await self._connect_hop(here, url)

    def _begin_hop(self, url: httpx.URL) -> None:
        self._hop = {"url": recordable_url(url)}
        self._call.recorder.facts.setdefault("hops", []).append(self._hop)

    async def _ask(self, client: HttpClient, url: httpx.URL) -> httpx.Response:
        answer = await client.send(httpx.Request("GET", url, headers=HEADERS, cookies=self._cookies))
        answer.headers = with_relative_expiry(answer.headers)
        self._cookies.extract_cookies(answer)
        self._hop["status"] = answer.status_code
        self._call.recorder.add_reply(f"{answer.status_code} {answer.reason_phrase}")
        return answer

    async def _check_page(self, page: WebmailTask, answer: httpx.Response, client: HttpClient) -> None:
        with self._phase(Phase.FETCH):
            body = await client.read_body(answer.headers.get("content-encoding", ""))
            self._call.recorder.facts["bytes"] = len(body.data)
            failure = page_problem(page, answer, body)
            if failure is not None:
                raise failure

    async def _connect_hop(self, here: ProbeContext, url: httpx.URL) -> tuple[ProbeContext, HttpClient]:
        """Connect for the next hop; if its host is another one, resolve it first."""
        host, port, recorder = url.raw_host.decode("ascii"), url.port or 443, self._call.recorder
        target = replace(self._call.target, host=host, port=port, tls=TlsMode.IMPLICIT)
        own = recorder.tls
        with self._name_host(target):
            if (host, port) == (here.target.host, here.target.port):
                addresses: tuple[Address, ...] = (here.address,)
            else:
                with self._phase(Phase.RESOLVE):
                    addresses = await self._call.lookup(host, port, self._seconds_left())
            there, client = await self._connect(target, addresses[:MAX_ATTEMPTS])
        # The TLS facts of the attempt are those of its own peer.
        seen, recorder.tls = recorder.tls, own
        if seen is not None and seen != own:
            self._hop["tls"] = {"version": seen.version, "cipher": seen.cipher, "fingerprint": seen.fingerprint}
            if seen.not_after is not None:
                self._hop["tls"]["not_after"] = seen.not_after
        return there, client

    async def _connect(self, target: Target, addresses: tuple[Address, ...]) -> tuple[ProbeContext, HttpClient]:
        """Try the addresses of a further host in turn; a silent one leaves time for the rest."""
        calls = [
            ProbeContext(target, address, None, self._call.recorder, self._call.contexts) for address in addresses
        ]
        for number, call in enumerate(calls[:-1]):
            try:
                async with asyncio.timeout(self._seconds_left() / (len(calls) - number)):
                    return call, await self._open(call)
            except Exception as error:
                if classify_error(error, target).cause not in RETRYABLE_CAUSES:
                    raise
                self._hop.setdefault("unserved", []).append(call.address.peer)
        return calls[-1], await self._open(calls[-1])

    async def _open(self, call: ProbeContext) -> HttpClient:
        self._closing.callback(call.close)
        self._hop["peer"] = call.address.peer
        return await HttpClient.open(call)

    def _seconds_left(self) -> float:
        return max(0.0, self._until - asyncio.get_running_loop().time())

    @contextlib.contextmanager
    def _name_host(self, target: Target) -> Iterator[None]:
        """Name the host in a failure if it is not the target's own."""
        try:
            yield
        except Exception as error:
            if target.host == self._call.target.host:
                raise
            classification = classify_error(error, target)
            raise ProbeError(
                classification.cause, f"{target.host}: {classification.detail}", classification.server_text
            ) from error


async def _close() -> None:
    """Do nothing: `Connection: close` already ended the session."""
