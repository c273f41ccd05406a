"""Look at a webmail page as a browser does: over TLS, along its redirects, down to its text.

Nobody logs in. Cookies are kept from redirect to redirect, as some pages insist on, and forgotten after the look.

What an HTTP answer says of a page: its status (RFC 9110, section 15), where it leads, and its text.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from email.utils import mktime_tz, parsedate_tz
from html import unescape
from typing import Any

import httpx

from mailwatch import __version__
from mailwatch.model import Cause, Phase, TlsMode
from mailwatch.probes.attempts import MAX_ATTEMPTS, TRY_NEXT
from mailwatch.probes.connect import Address, Call, Goodbye, OurFault
from mailwatch.probes.failures import Failed, judge
from mailwatch.probes.http_client import MAX_PAGE, Body, HttpClient
from mailwatch.settings import Page, Target

MAX_ADDRESS = 8000
"""Characters of an address that a redirect leads to (RFC 9110, section 4.1)."""
MAX_TOLD = 200
MAX_TYPE = 1000
"""Characters of a Content-Type that are parsed, which takes long for the parameters of a long one."""
MAX_HEAD = 65_536
"""Characters of a page in which its title is looked for."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NOT_FOR_US = {401: "a login", 403: "no permission", 407: "a proxy's login", 451: "legal reasons"}
"""Says that we may not see the page, and nothing of what its users see."""
_WALL_HEADERS = ("cf-mitigated", "x-amzn-waf-action")
_WALL = re.compile(
    r"_cf_chl_opt|cf-challenge|cf-browser-verification|_incapsula_resource|px-captcha"
    r"|verify(?:ing)? (?:that )?you are (?:a )?human|making sure you.{1,6}re not a bot",
    re.IGNORECASE,
)
"""What only the page of a bot wall has; a captcha alone may well stand beside a login form."""
_CAPTCHA = re.compile(r"g-recaptcha|h-captcha|cf-turnstile", re.IGNORECASE)
_CHARSET = re.compile(r"utf-?(8|16)|(us-)?ascii|iso-?8859|latin|windows-|cp\d|koi8|gb|big5|euc|shift|iso-2022")
"""Those of web pages: Python knows some that take minutes for a page."""
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]{0,200})", re.IGNORECASE)


def told(url: httpx.URL) -> str:
    """Write an address for the record: without user, query, fragment and path parameters, which hold tokens."""
    path = url.raw_path.partition(b"?")[0].partition(b";")[0]
    return f"{url.scheme}://{(url.netloc + path).decode('ascii')}"[:MAX_TOLD]


def onward(answer: httpx.Response, left: int) -> httpx.URL | None:
    """Judge the status: return where it leads, None for a page that is to be read. Raises Failed.

    `left` is how many redirects may be followed.
    """
    status, said = answer.status_code, _said(answer)
    for name in _WALL_HEADERS:
        if name in answer.headers:
            raise Failed(Cause.THROTTLED, f"a bot wall answers instead of the page: {said} ({name})")
    if status in _REDIRECTS:
        return _redirect(answer, left)
    if 200 <= status <= 299 or status == 503:
        return None
    if status in _NOT_FOR_US:
        raise Failed(Cause.THROTTLED, f"the page is not shown to us but {_NOT_FOR_US[status]}: {said}")
    if status == 429:
        raise Failed(Cause.THROTTLED, said)
    if 400 <= status <= 599:
        raise Failed(Cause.UNAVAILABLE, said)
    raise Failed(Cause.PROTOCOL, f"no answer to GET: {said}")


def wrong(page: Page, answer: httpx.Response, body: Body) -> Failed | None:
    """Say what is wrong with a page that was read, None if it is as it should be."""
    text = _text(body.data, _charset(answer))
    where = "the page" if body.whole else f"the first {MAX_PAGE >> 20} MiB of the page"
    walled = Failed(Cause.THROTTLED, "a bot wall answers instead of the page", _title(text))
    if answer.status_code == 503:
        # Bot walls like this status; a status page with a captcha in it is one of them.
        wall = _WALL.search(text) or _CAPTCHA.search(text)
        return walled if wall else Failed(Cause.UNAVAILABLE, _said(answer), _title(text))
    if page.absent and page.absent in text:
        return Failed(Cause.UNAVAILABLE, f'{where} contains "{page.absent}"', _title(text))
    if page.contains and page.contains in text:
        return None
    if _WALL.search(text):
        return walled
    if page.contains:
        return Failed(Cause.UNAVAILABLE, f'{where} does not contain "{page.contains}"', _title(text))
    return None


def _redirect(answer: httpx.Response, left: int) -> httpx.URL:
    where = answer.headers.get("location", "")
    if not where or len(where) > MAX_ADDRESS:
        raise Failed(Cause.PROTOCOL, f"{_said(answer)} leads {'too far' if where else 'nowhere'}")
    try:
        url = answer.request.url.join(where)
    except httpx.InvalidURL as error:
        raise Failed(Cause.PROTOCOL, f"{_said(answer)} leads to what is no address") from error
    if url.scheme == "http":
        raise Failed(Cause.TLS, f"redirected to {told(url)}, without encryption")
    if url.scheme != "https" or not url.host:
        raise Failed(Cause.PROTOCOL, f"redirected to {url.scheme}:, which is no page")
    if not left:
        raise Failed(Cause.PROTOCOL, f"too many redirects, the next to {told(url)}")
    return url


def _said(answer: httpx.Response) -> str:
    said = f"{answer.status_code} {answer.reason_phrase}".strip()
    later = answer.headers.get("retry-after")
    return f"{said} (Retry-After: {later[:100]})" if later else said


def _charset(answer: httpx.Response) -> str | None:
    """Return the page's charset as the server names it; a type as long as a page names none."""
    short = len(answer.headers.get("content-type", "")) <= MAX_TYPE
    return answer.charset_encoding if short else None


def _text(page: bytes, charset: str | None) -> str:
    if charset and _CHARSET.match(charset):
        with contextlib.suppress(LookupError):
            return page.decode(charset, "replace")
    return page.decode("utf-8", "replace")


def _title(text: str) -> str:
    found = _TITLE.search(text[:MAX_HEAD])
    return " ".join(unescape(found[1]).split()) if found else ""


MAX_REDIRECTS = 5
HEADERS = {
    "User-Agent": f"MailWatch/{__version__}",
    "Accept": "text/html, */*;q=0.8",
    "Accept-Encoding": "gzip",
    "Connection": "close",
}


async def probe(call: Call) -> Goodbye:
    """Walk the phases; the first failure raises. Returns how to say goodbye: by nothing.

    `facts` tells the hops, each with its address without query and its status, and how many bytes the page has.
    """
    page = call.target.task
    if not isinstance(page, Page):
        raise OurFault("a webmail target needs a page")
    try:
        url = httpx.URL(page.url)
    except httpx.InvalidURL as error:
        raise OurFault(f"the url cannot be read: {error}") from error
    with contextlib.ExitStack() as closing:
        await _Visit(call, closing).to(page, url)
    return _leave


def by_their_clock(headers: httpx.Headers) -> httpx.Headers:
    """Write the end of each cookie as seconds from the answer's own Date: our clock may be wrong, or theirs."""
    return httpx.Headers([
        (name, _lasting(value, headers.get("date", ""))) if name.lower() == b"set-cookie" else (name, value)
        for name, value in headers.raw
    ])  # fmt: skip


def _lasting(cookie: bytes, date: str) -> bytes:
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
    """Read an HTTP date (RFC 9110, section 5.6.7) as Unix seconds; None for what is none."""
    try:
        parsed = parsedate_tz(date)
        return None if parsed is None else mktime_tz(parsed)
    except (ValueError, OverflowError, TypeError):
        return None


class _Visit:
    """One look at a page, from its address to where the redirects end."""

    def __init__(self, call: Call, closing: contextlib.ExitStack) -> None:
        self._call = call
        self._closing = closing
        self._phase = call.recorder.phase
        self._until = asyncio.get_running_loop().time() + call.target.timeout
        self._cookies = httpx.Cookies()
        self._hop: dict[str, Any] = {}

    async def to(self, page: Page, url: httpx.URL) -> None:
        """Follow the redirects and judge what is at their end."""
        self._begin(url)
        here, client = self._call, await HttpClient.open(self._call)
        for left in range(MAX_REDIRECTS, -1, -1):
            with self._named(here.target):
                with self._phase(Phase.GREETING):
                    answer = await self._ask(client, url)
                    there = onward(answer, left)
                if there is None:
                    await self._judge(page, answer, client)
                    return
            url = there
            self._begin(url)
            here, client = await self._reach(here, url)

    def _begin(self, url: httpx.URL) -> None:
        self._hop = {"url": told(url)}
        self._call.recorder.facts.setdefault("hops", []).append(self._hop)

    async def _ask(self, client: HttpClient, url: httpx.URL) -> httpx.Response:
        answer = await client.ask(httpx.Request("GET", url, headers=HEADERS, cookies=self._cookies))
        answer.headers = by_their_clock(answer.headers)
        self._cookies.extract_cookies(answer)
        self._hop["status"] = answer.status_code
        self._call.recorder.heard(f"{answer.status_code} {answer.reason_phrase}")
        return answer

    async def _judge(self, page: Page, answer: httpx.Response, client: HttpClient) -> None:
        with self._phase(Phase.FETCH):
            body = await client.page(answer.headers.get("content-encoding", ""))
            self._call.recorder.facts["bytes"] = len(body.data)
            failure = wrong(page, answer, body)
            if failure is not None:
                raise failure

    async def _reach(self, here: Call, url: httpx.URL) -> tuple[Call, HttpClient]:
        """Connect for the next hop: anew, and to another host after asking for its addresses."""
        host, port, recorder = url.raw_host.decode("ascii"), url.port or 443, self._call.recorder
        target = replace(self._call.target, host=host, port=port, tls=TlsMode.IMPLICIT)
        own = recorder.tls
        with self._named(target):
            if (host, port) == (here.target.host, here.target.port):
                addresses: tuple[Address, ...] = (here.address,)
            else:
                with self._phase(Phase.RESOLVE):
                    addresses = await self._call.lookup(host, port, self._left())
            there, client = await self._connect(target, addresses[:MAX_ATTEMPTS])
        # The attempt's TLS facts are those of its own peer.
        seen, recorder.tls = recorder.tls, own
        if seen is not None and seen != own:
            self._hop["tls"] = {name: value for name, value in asdict(seen).items() if value is not None}
        return there, client

    async def _connect(self, target: Target, addresses: tuple[Address, ...]) -> tuple[Call, HttpClient]:
        """Try the addresses of a further host in turn; a silent one leaves time for those behind it."""
        calls = [Call(target, address, None, self._call.recorder, self._call.contexts) for address in addresses]
        for number, call in enumerate(calls[:-1]):
            try:
                async with asyncio.timeout(self._left() / (len(calls) - number)):
                    return call, await self._open(call)
            except Exception as error:
                if judge(error, target).cause not in TRY_NEXT:
                    raise
                self._hop.setdefault("unserved", []).append(call.address.peer)
        return calls[-1], await self._open(calls[-1])

    async def _open(self, call: Call) -> HttpClient:
        self._closing.callback(call.close)
        self._hop["peer"] = call.address.peer
        return await HttpClient.open(call)

    def _left(self) -> float:
        return max(0.0, self._until - asyncio.get_running_loop().time())

    @contextlib.contextmanager
    def _named(self, target: Target) -> Iterator[None]:
        """Name the host in a failure that is not of the target's own one."""
        try:
            yield
        except Exception as error:
            if target.host == self._call.target.host:
                raise
            verdict = judge(error, target)
            raise Failed(verdict.cause, f"{target.host}: {verdict.detail}", verdict.words) from error


async def _leave() -> None:
    """HTTP has no goodbye: `Connection: close` said it."""
