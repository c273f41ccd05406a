"""Look at a webmail page as a browser does: over TLS, along its redirects, down to its text.

Nobody logs in. Cookies are kept from redirect to redirect, as some pages insist on, and forgotten after the look.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from email.utils import mktime_tz, parsedate_tz
from typing import Any

import httpx

from mailwatch import __version__
from mailwatch.models import Page, Phase, Target, TlsMode
from mailwatch.probes.attempts import MAX_ATTEMPTS, TRY_NEXT
from mailwatch.probes.connect import Address, Call, Goodbye, OurFault
from mailwatch.probes.failures import Failed, judge
from mailwatch.probes.http_client import HttpClient
from mailwatch.probes.page import onward, told, wrong

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
