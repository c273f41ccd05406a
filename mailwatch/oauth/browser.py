"""The authorization code flow in the owner's own browser: PKCE, state, and a redirect to the loopback.

RFC 6749, section 4.1; RFC 7636 (S256); RFC 8252, section 7.3. The browser may run on another machine: then the
address that it ends at, which it cannot open there, is pasted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from authlib.common.security import generate_token
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from pydantic import SecretStr

from mailwatch.models import OAuth2
from mailwatch.oauth.endpoints import host_of
from mailwatch.oauth.grant import Grant, granted
from mailwatch.oauth.page import page
from mailwatch.oauth.request import NotServing, Refused, access_token, ask, secret_of, token_fields

PATIENCE = 300.0
"""Seconds that the owner has to grant access."""
MAX_REQUEST = 16 * 1024
REQUEST_TIME = 10.0


@dataclass(slots=True, kw_only=True)
class Flow:
    """One login under way. `url` is where the owner's browser must go; `redirected` takes where it came back."""

    client: OAuth2
    url: str
    redirect_uri: str
    state: str
    verifier: SecretStr
    _code: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    _done: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def redirected(self, url: str) -> bool:
        """Take in a redirect; False for one that is not the answer to this login (RFC 6749, section 10.12)."""
        try:
            query = parse_qs(urlsplit(url.strip()).query, max_num_fields=20)
        except ValueError:
            return False
        if not hmac.compare_digest(query.get("state", [""])[0].encode(), self.state.encode()):
            return False
        if self._code.done():
            return True
        if "error" in query:
            self._code.set_exception(Refused(*(words[:200] for words in _error(query))))
        elif query.get("code"):
            self._code.set_result(query["code"][0])
        return self._code.done()

    async def grant(self, timeout: float = PATIENCE) -> Grant:
        """Wait for the owner, then exchange the code. Raises Refused, NotServing, or TimeoutError."""
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
            grant = grant_of(self.client, await ask(self.client, self.client.token_endpoint, fields))
            good = True
            return grant
        finally:
            self._done.set_result(good)

    async def ended(self) -> bool:
        """Wait until the flow is over and say whether it was granted, for the browser's last page."""
        return await asyncio.shield(self._done)


def grant_of(client: OAuth2, answer: dict[str, object]) -> Grant:
    """Take the grant out of a token answer. Raises NotServing when it has no refresh token."""
    host = host_of(client.token_endpoint)
    access_token(answer, host)
    refresh = secret_of(answer, "refresh_token")
    if not refresh.get_secret_value():
        raise NotServing(f"the token endpoint at {host} gives no refresh token; does the scope ask for one?")
    return granted(client, refresh)


@contextlib.asynccontextmanager
async def authorization(client: OAuth2, username: str) -> AsyncIterator[Flow]:
    """Listen for the redirect as long as the block lasts. Raises OSError when no port is free."""
    flows: list[Flow] = []
    answering: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_answer(flows[0], reader, writer))
        answering.add(task)
        task.add_done_callback(answering.discard)

    async with contextlib.AsyncExitStack() as stack:
        listener = await asyncio.start_server(accept, "127.0.0.1", 0, limit=MAX_REQUEST)
        stack.callback(listener.close)
        port = listener.sockets[0].getsockname()[1]
        if client.redirect_host == "localhost":
            # A browser may take the name to be ::1 first.
            with contextlib.suppress(OSError):
                second = await asyncio.start_server(accept, "::1", port, limit=MAX_REQUEST)
                stack.callback(second.close)
        flow = _begin(client, username, f"http://{client.redirect_host}:{port}")
        flows.append(flow)
        try:
            yield flow
        finally:
            # The browser gets its last page before we go.
            if answering:
                await asyncio.wait(answering, timeout=2)
            for task in answering:
                task.cancel()


def _begin(client: OAuth2, username: str, redirect_uri: str) -> Flow:
    state, verifier = generate_token(43), generate_token(64)
    url = prepare_grant_uri(
        client.authorization_endpoint,
        client_id=client.client_id,
        response_type="code",
        redirect_uri=redirect_uri,
        scope=client.scope,
        state=state,
        code_challenge=create_s256_code_challenge(verifier),
        code_challenge_method="S256",
        login_hint=username,
        # Google's own word for a refresh token; others ignore what they do not know (RFC 6749, section 3.1).
        access_type="offline",
    )
    return Flow(client=client, url=url, redirect_uri=redirect_uri, state=state, verifier=SecretStr(verifier))


async def _answer(flow: Flow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError):
        async with asyncio.timeout(REQUEST_TIME):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.partition("\r\n")[0].split(" ", 2)
        if method == "GET" and urlsplit(target).path == "/" and flow.redirected(target):
            writer.write(page(granted=await flow.ended(), head=head))
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _error(query: dict[str, list[str]]) -> tuple[str, str]:
    words = (query["error"][0], query.get("error_description", [""])[0])
    code, description = ("".join(c if c.isprintable() else " " for c in text) for text in words)
    return code, description
