"""The device flow: the owner types a code into a browser anywhere (RFC 8628)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from mailwatch.models import OAuth2
from mailwatch.oauth.browser import grant_of
from mailwatch.oauth.endpoints import host_of
from mailwatch.oauth.grant import Grant
from mailwatch.oauth.request import NotServing, Refused, ask, seconds_of, secret_of, token_fields

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
LONGEST = 1800.0
DEFAULT_INTERVAL, SLOWER, LONGEST_INTERVAL = 5.0, 5.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """What the owner types in and where; `seconds` is how long it holds, `interval` how often to ask."""

    user_code: str
    url: str
    device_code: SecretStr
    seconds: float
    interval: float


async def device_code(client: OAuth2) -> Code:
    """Ask for a code (RFC 8628, section 3.1). Raises Refused or NotServing."""
    if not client.device_endpoint:
        raise NotServing("this provider has no device flow for mail; run the login without --device")
    return read_code(client, await ask(client, client.device_endpoint, {"scope": client.scope}))


def read_code(client: OAuth2, answer: Mapping[str, Any]) -> Code:
    """Take the code out of an answer (RFC 8628, section 3.2). Raises NotServing."""
    code = secret_of(answer, "device_code")
    # Google's word for it is older than the RFC's.
    words = _text(answer, "user_code"), _text(answer, "verification_uri") or _text(answer, "verification_url")
    if not code.get_secret_value() or not all(words):
        raise NotServing(f"the device endpoint at {host_of(client.device_endpoint)} answers without a code")
    return Code(
        user_code=words[0],
        url=words[1],
        device_code=code,
        seconds=seconds_of(answer.get("expires_in"), LONGEST, LONGEST),
        interval=seconds_of(answer.get("interval"), DEFAULT_INTERVAL, LONGEST_INTERVAL),
    )


async def device_grant(client: OAuth2, code: Code) -> Grant:
    """Ask until the owner has typed the code in (sections 3.4, 3.5). Raises Refused, NotServing, TimeoutError."""
    fields = token_fields(GRANT_TYPE, device_code=code.device_code.get_secret_value())
    wait = code.interval
    async with asyncio.timeout(code.seconds):
        while True:
            await asyncio.sleep(wait)
            try:
                return grant_of(client, await ask(client, client.token_endpoint, fields))
            except Refused as refused:
                if refused.code == "slow_down":
                    wait = min(wait + SLOWER, LONGEST_INTERVAL)
                elif refused.code != "authorization_pending":
                    raise
            except NotServing:
                # It may be back before the code ends; asked less and less often.
                wait = min(wait * 2, LONGEST_INTERVAL)


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    return value[:500] if isinstance(value, str) and value.isprintable() else ""
