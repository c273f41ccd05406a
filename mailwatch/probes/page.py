"""What an HTTP answer says of a page: its status (RFC 9110, section 15), where it leads, and its text."""

from __future__ import annotations

import contextlib
import re
from html import unescape

import httpx

from mailwatch.models import Cause, Page
from mailwatch.probes.failures import Failed
from mailwatch.probes.http_client import MAX_PAGE, Body

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
