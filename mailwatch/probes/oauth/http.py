"""Sends one request to a token or device endpoint, bounded in time and bytes.

RFC 6749, sections 3.2 and 5; RFC 8628. A library's client would read answers without a bound.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pydantic import SecretStr

from mailwatch.net import endpoint_problem, is_loopback, url_host
from mailwatch.settings import OAuth2

REQUEST_TIMEOUT_SECONDS = 15.0
"""Seconds for a whole request."""
MAX_RESPONSE_BYTES = 64 * 1024
MAX_ERROR_CHARS = 200
DEFAULT_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS = 300.0, 86_400.0
"""Seconds of a token's life: if the endpoint does not state it, and at most."""
_CODE = re.compile(r"[\x21-\x7e]{1,60}")
_TRANSIENT_ERRORS = frozenset(
    {"temporarily_unavailable", "server_error", "rate_limit_exceeded", "internal_failure"}
)
_PLAIN = frozenset({"grant_type", "client_id", "scope", "redirect_uri"})
"""Fields that contain no secret."""
_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/x-www-form-urlencoded",
}


class OAuthError(Exception):
    """The endpoint refuses with a code of RFC 6749, section 5.2: the grant or the configuration is not valid."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code


class OAuthUnavailableError(Exception):
    """The endpoint does not answer, or not like a token endpoint: the state of the grant is unknown."""


async def request_endpoint(
    client: OAuth2, endpoint: str, fields: Mapping[str, str], *, timeout: float = REQUEST_TIMEOUT_SECONDS
) -> dict[str, object]:
    """Post `fields` and the client's ID, and return the JSON object. Raises OAuthError or OAuthUnavailableError.

    Redirects are not followed: a token endpoint must answer itself.
    """
    if wrong := endpoint_problem(endpoint):
        raise OAuthUnavailableError(f"the endpoint {wrong}")
    given = {**fields, "client_id": client.client_id}
    if secret := client.client_secret.get_secret_value():
        # In the body, as both Google and Microsoft require (RFC 6749, section 2.3.1).
        given["client_secret"] = secret
    # Empty fields are left out (RFC 6749, section 3.2).
    body = urlencode({key: value for key, value in given.items() if value})
    hidden = [value for key, value in given.items() if key not in _PLAIN]
    # Imported on first use: it takes a tenth of a second, and a start has no grant to renew.
    import httpx

    where = f"the {'token' if endpoint == client.token_endpoint else 'device'} endpoint at {url_host(endpoint)}"
    try:
        async with asyncio.timeout(timeout):
            status, answer = await _post(client, endpoint, body)
    except (TimeoutError, httpx.TimeoutException):
        raise OAuthUnavailableError(f"{where} does not answer within {timeout:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ssl.SSLError) as error:
        # No chain: it would contain the request.
        words = _bounded_text(str(error) or type(error).__name__, hidden)
        raise OAuthUnavailableError(f"{where} cannot be reached: {words}") from None
    return _parse_response(status, answer, hidden, where)


def token_fields(grant_type: str, **fields: str) -> dict[str, str]:
    """Return the fields of a token request, without empty ones."""
    return {"grant_type": grant_type, **{key: value for key, value in fields.items() if value}}


def secret_field(answer: Mapping[str, Any], name: str) -> SecretStr:
    """Return a token of an answer; SecretStr("") if it has none that can be sent."""
    value = answer.get(name)
    # RFC 6749, appendices A.12 and A.17: visible ASCII. Other characters would break the login's syntax.
    good = isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]{1,16384}", value)
    return SecretStr(str(value) if good else "")


def access_token(answer: Mapping[str, Any], host: str) -> tuple[SecretStr, float]:
    """Return the token and its life in seconds (RFC 6749, section 5.1). Raises OAuthUnavailableError."""
    token = secret_field(answer, "access_token")
    if not token.get_secret_value():
        raise OAuthUnavailableError(f"the token endpoint at {host} answers without an access token")
    if str(answer.get("token_type", "bearer")).casefold() != "bearer":
        raise OAuthUnavailableError(f"the token endpoint at {host} issues tokens that are not bearer tokens")
    return token, seconds_field(answer.get("expires_in"), DEFAULT_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS)


def seconds_field(value: object, default: float, most: float) -> float:
    """Return a number of seconds, which some servers send as text; the default unless it is above 0."""
    try:
        # A whole number may exceed the range of a float.
        seconds = float(value) if isinstance(value, int | float | str) else default
    except (ValueError, OverflowError):
        return default
    return min(seconds, most) if seconds > 0 else default


async def _post(client: OAuth2, endpoint: str, body: str) -> tuple[int, bytes]:
    import httpx

    loopback = is_loopback(httpx.URL(endpoint).host)
    verify: ssl.SSLContext | bool = False
    if not loopback or endpoint.startswith("https:"):
        verify = await asyncio.to_thread(ssl.create_default_context, cafile=client.ca_file)
    # A proxy of the environment must not get requests to this machine.
    async with (
        httpx.AsyncClient(verify=verify, timeout=None, trust_env=not loopback) as web,  # noqa: S113 - ask() bounds it
        web.stream("POST", endpoint, content=body.encode(), headers=_HEADERS) as response,
    ):
        if (packed := response.headers.get("content-encoding", "identity")) != "identity":
            # A decompressed piece is in memory before its size is known.
            raise httpx.DecodingError(f"its answer comes as {packed[:40]}, which MailWatch did not request")
        answer = bytearray()
        async for piece in response.aiter_raw():
            answer += piece
            if len(answer) > MAX_RESPONSE_BYTES:
                raise httpx.DecodingError("its answer is longer than 64 KiB")
        return response.status_code, bytes(answer)


def _parse_response(status: int, answer: bytes, hidden: list[str], where: str) -> dict[str, object]:
    try:
        fields = json.loads(answer)
    except (ValueError, RecursionError):
        fields = None
    code = fields.get("error") if isinstance(fields, dict) else None
    if isinstance(code, str) and status < 500 and status != 429 and code not in _TRANSIENT_ERRORS:
        words = fields.get("error_description")
        name = code if _CODE.fullmatch(code) else "unknown"
        raise OAuthError(
            _bounded_text(name, hidden), _bounded_text(words, hidden) if isinstance(words, str) else ""
        )
    if status == 200 and isinstance(fields, dict) and code is None:
        return fields
    if status == 200:
        raise OAuthUnavailableError(f"{where} does not answer with a JSON object")
    raise OAuthUnavailableError(f"{where} answers with HTTP status {status}")


def _bounded_text(text: str, hidden: list[str]) -> str:
    """Truncate a server's text, and remove our secrets, which the server may repeat."""
    text = text[: MAX_ERROR_CHARS * 8]
    for secret in sorted(filter(None, hidden), key=len, reverse=True):
        text = text.replace(secret, "***")
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_ERROR_CHARS].strip()
