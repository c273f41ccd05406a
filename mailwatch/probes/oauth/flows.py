"""Lets an owner grant access: in the browser on this machine, or by a code typed into any browser.

The authorization code flow: PKCE, state, and a redirect to the loopback (RFC 6749, section 4.1; RFC 7636, S256;
RFC 8252, section 7.3). If the browser runs on another machine, it cannot open the final address; the owner then
pastes that address here. The device flow: RFC 8628.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from mailwatch.i18n import accepted_language
from mailwatch.net import url_host
from mailwatch.probes.oauth.grant import Grant, new_grant
from mailwatch.probes.oauth.http import (
    OAuthError,
    OAuthUnavailableError,
    access_token,
    request_endpoint,
    seconds_field,
    secret_field,
    token_fields,
)
from mailwatch.settings import OAuth2

_TEXTS = {
    ("it", True): ("Accesso concesso", "MailWatch può ora accedere alla casella. Puoi chiudere questa finestra."),
    ("it", False): ("Accesso non concesso", "Il motivo è scritto nel terminale. Puoi chiudere questa finestra."),
    ("en", True): ("Access granted", "MailWatch can now log in to the mailbox. You can close this window."),
    ("en", False): ("Access not granted", "The reason is in the terminal. You can close this window."),
}
_STYLE = """\
:root{color-scheme:light dark}body{margin:0;min-height:100vh;display:grid;place-items:center;
font:1.1rem/1.5 system-ui,sans-serif;background:Canvas;color:CanvasText}
main{max-width:28rem;padding:2rem;text-align:center}b{display:block;font-size:4rem;line-height:1}
.good b{color:#18794e}.bad b{color:#c62a2f}h1{font-size:1.5rem;margin:.5rem 0}"""
_HEAD = """\
HTTP/1.1 200 OK\r
Content-Type: text/html; charset=utf-8\r
Content-Length: {length}\r
Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r
Cache-Control: no-store\r
Referrer-Policy: no-referrer\r
Connection: close\r
\r
"""


def result_page(*, granted: bool, head: str) -> bytes:
    """Return the page that answers the request with the header `head`."""
    language = _language(head)
    title, words = _TEXTS[language, granted]
    style, mark = ("good", "✓") if granted else ("bad", "✗")
    body = (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title} · MailWatch</title>'
        f"<style>{_STYLE}</style>"
        f'<main class="{style}"><b aria-hidden="true">{mark}</b><h1>{title}</h1><p>{words}</p></main></html>'
    ).encode()
    return _HEAD.format(length=len(body)).encode() + body


def _language(head: str) -> str:
    asked = re.search(r"^accept-language:(.*)$", head, re.IGNORECASE | re.MULTILINE)
    return accepted_language(asked[1] if asked else "")


GRANT_SECONDS = 300.0
"""Seconds in which the owner must grant access."""
MAX_REQUEST_BYTES = 16 * 1024
REQUEST_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class BrowserFlow:
    """One login under way. The owner's browser opens `url`; `handle_redirect` processes its redirect."""

    client: OAuth2
    url: str
    redirect_uri: str
    state: str
    verifier: SecretStr
    _code: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _done: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def handle_redirect(self, url: str) -> bool:
        """Process a redirect; return False if it does not answer this login (RFC 6749, section 10.12)."""
        try:
            query = parse_qs(urlsplit(url.strip()).query, max_num_fields=20)
        except ValueError:
            return False
        if not hmac.compare_digest(query.get("state", [""])[0].encode(), self.state.encode()):
            return False
        if self._code.done():
            return True
        if "error" in query:
            self._code.set_exception(OAuthError(*(words[:200] for words in _error_of(query))))
        elif query.get("code"):
            self._code.set_result(query["code"][0])
        return self._code.done()

    async def grant(self, timeout: float = GRANT_SECONDS) -> Grant:
        """Wait for the owner, then exchange the code. Raises OAuthError, OAuthUnavailableError or TimeoutError."""
        good = False
        try:
            async with asyncio.timeout(timeout):
                code = await self._code
            fields = token_fields(
                "authorization_code",
                code=code,
                redirect_uri=self.redirect_uri,
                code_verifier=self.verifier.get_secret_value(),
            )
            grant = grant_of(self.client, await request_endpoint(self.client, self.client.token_endpoint, fields))
            good = True
            return grant
        finally:
            self._done.set_result(good)

    async def wait_result(self) -> bool:
        """Wait for the end of the flow; return whether access was granted, for the browser's last page."""
        return await asyncio.shield(self._done)


def grant_of(client: OAuth2, answer: dict[str, object]) -> Grant:
    """Return the grant of a token answer. Raises OAuthUnavailableError if it has no refresh token."""
    host = url_host(client.token_endpoint)
    access_token(answer, host)
    refresh = secret_field(answer, "refresh_token")
    if not refresh.get_secret_value():
        raise OAuthUnavailableError(
            f"the token endpoint at {host} gives no refresh token; does the scope ask for one?"
        )
    return new_grant(client, refresh)


@contextlib.asynccontextmanager
async def authorization(client: OAuth2, username: str) -> AsyncIterator[BrowserFlow]:
    """Listen for the redirect while the context lasts. Raises OSError if no port is free."""
    flows: list[BrowserFlow] = []
    answering: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_serve_redirect(flows[0], reader, writer))
        answering.add(task)
        task.add_done_callback(answering.discard)

    async with contextlib.AsyncExitStack() as stack:
        listener = await asyncio.start_server(accept, "127.0.0.1", 0, limit=MAX_REQUEST_BYTES)
        stack.callback(listener.close)
        port = listener.sockets[0].getsockname()[1]
        if client.redirect_host == "localhost":
            # A browser may resolve the name to ::1 first.
            with contextlib.suppress(OSError):
                second = await asyncio.start_server(accept, "::1", port, limit=MAX_REQUEST_BYTES)
                stack.callback(second.close)
        flow = _start_flow(client, username, f"http://{client.redirect_host}:{port}")
        flows.append(flow)
        try:
            yield flow
        finally:
            # Let the browser receive its last page.
            if answering:
                await asyncio.wait(answering, timeout=2)
            for task in answering:
                task.cancel()


def _start_flow(client: OAuth2, username: str, redirect_uri: str) -> BrowserFlow:
    # 43 and 64 characters; RFC 7636, section 4.1, allows 43 to 128.
    state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
    url = with_query(
        client.authorization_endpoint,
        response_type="code",
        client_id=client.client_id,
        redirect_uri=redirect_uri,
        scope=client.scope,
        state=state,
        code_challenge=code_challenge(verifier),
        code_challenge_method="S256",
        login_hint=username,
        # Google's parameter for a refresh token; others ignore unknown parameters (RFC 6749, section 3.1).
        access_type="offline",
    )
    return BrowserFlow(
        client=client, url=url, redirect_uri=redirect_uri, state=state, verifier=SecretStr(verifier)
    )


def code_challenge(verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636, section 4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def with_query(endpoint: str, **fields: str) -> str:
    """Add the fields that are not empty to an endpoint's query (RFC 6749, section 3.1)."""
    parts = urlsplit(endpoint)
    given = [(key, value) for key, value in fields.items() if value]
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *given])
    return urlunsplit(parts._replace(query=query))


async def _serve_redirect(flow: BrowserFlow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
        async with asyncio.timeout(REQUEST_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.partition("\r\n")[0].split(" ", 2)
        if method == "GET" and urlsplit(target).path == "/" and flow.handle_redirect(target):
            writer.write(result_page(granted=await flow.wait_result(), head=head))
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _error_of(query: dict[str, list[str]]) -> tuple[str, str]:
    words = (query["error"][0], query.get("error_description", [""])[0])
    code, description = ("".join(c if c.isprintable() else " " for c in text) for text in words)
    return code, description


GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
MAX_CODE_SECONDS = 1800.0
DEFAULT_INTERVAL_SECONDS, SLOW_DOWN_SECONDS, MAX_INTERVAL_SECONDS = 5.0, 5.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCode:
    """The code that the owner types in, and where; valid for `seconds`, to be polled every `interval` seconds."""

    user_code: str
    url: str
    device_code: SecretStr
    seconds: float
    interval: float


async def device_code(client: OAuth2) -> DeviceCode:
    """Request a code (RFC 8628, section 3.1). Raises OAuthError or OAuthUnavailableError."""
    if not client.device_endpoint:
        raise OAuthUnavailableError("this provider has no device flow for mail; run the login without --device")
    return read_code(client, await request_endpoint(client, client.device_endpoint, {"scope": client.scope}))


def read_code(client: OAuth2, answer: Mapping[str, Any]) -> DeviceCode:
    """Return the code of an answer (RFC 8628, section 3.2). Raises OAuthUnavailableError."""
    code = secret_field(answer, "device_code")
    # Google's field name is older than the RFC's.
    words = _text(answer, "user_code"), _text(answer, "verification_uri") or _text(answer, "verification_url")
    if not code.get_secret_value() or not all(words):
        raise OAuthUnavailableError(
            f"the device endpoint at {url_host(client.device_endpoint)} answers without a code"
        )
    return DeviceCode(
        user_code=words[0],
        url=words[1],
        device_code=code,
        seconds=seconds_field(answer.get("expires_in"), MAX_CODE_SECONDS, MAX_CODE_SECONDS),
        interval=seconds_field(answer.get("interval"), DEFAULT_INTERVAL_SECONDS, MAX_INTERVAL_SECONDS),
    )


async def device_grant(client: OAuth2, code: DeviceCode) -> Grant:
    """Poll until the owner has typed the code (RFC 8628, sections 3.4 and 3.5).

    Raises OAuthError, OAuthUnavailableError or TimeoutError.
    """
    fields = token_fields(GRANT_TYPE, device_code=code.device_code.get_secret_value())
    wait = code.interval
    async with asyncio.timeout(code.seconds):
        while True:
            await asyncio.sleep(wait)
            try:
                return grant_of(client, await request_endpoint(client, client.token_endpoint, fields))
            except OAuthError as refused:
                if refused.code == "slow_down":
                    wait = min(wait + SLOW_DOWN_SECONDS, MAX_INTERVAL_SECONDS)
                elif refused.code != "authorization_pending":
                    raise
            except OAuthUnavailableError:
                # The endpoint may recover before the code expires; poll it less and less often.
                wait = min(wait * 2, MAX_INTERVAL_SECONDS)


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    return value[:500] if isinstance(value, str) and value.isprintable() else ""
