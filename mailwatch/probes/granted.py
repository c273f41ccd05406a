"""A look whose login needs an access token: the token is had before, in a time of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from mailwatch.models import Attempt, Cause, Login, Observation, Outcome, Target
from mailwatch.oauth.access import AccessTokens, Supply

Look = Callable[[Target], Awaitable[Observation]]
"""One look at a target, with its login if it has one."""


async def look_granted(target: Target, login: Login, tokens: AccessTokens, look: Look) -> Observation:
    """Look at the target with a token.

    1. Without a token the look goes without a login: what is wrong with the server is told as it is; what
       works is no proof that the mailbox can be used, and the look is unknown.
    2. A token that the server rejects is renewed once, in case it was revoked or ended early. If it cannot be,
       the rejection says nothing of the server, and the look counts as one without a login.
    """
    supply = await tokens.supply(login)
    if supply.token is None:
        return _without(await look(replace(target, login=None)), supply)
    seen = await look(_with(target, login, supply.token))
    facts = _facts(supply)
    if _rejected(seen):
        again = await tokens.supply(login, rejected=supply.token)
        if again.token_ms is not None:
            facts["token_ms"] = facts.get("token_ms", 0) + again.token_ms
        if again.token is None:
            seen = replace(seen, with_login=False, cause=again.cause, detail=f"{seen.detail}; {again.detail}")
        else:
            facts["token_renewed"] = 1
            first, seen = seen, await look(_with(target, login, again.token))
            seen = replace(seen, started_at=first.started_at, attempts=first.attempts + seen.attempts)
    return replace(seen, facts={**(seen.facts or {}), **facts} or None)


def _with(target: Target, login: Login, token: SecretStr) -> Target:
    return replace(target, login=replace(login, password=token))


def _rejected(seen: Observation) -> bool:
    """Whether a server was shown the token and did not take it."""
    last: Attempt | None = seen.attempts[-1] if seen.attempts else None
    return seen.cause is Cause.CREDENTIALS and last is not None and "sasl" in (last.facts or {})


def _without(seen: Observation, supply: Supply) -> Observation:
    facts = {**(seen.facts or {}), **_facts(supply)} or None
    if seen.outcome is not Outcome.UP or supply.cause is None:
        return replace(seen, facts=facts)
    return replace(seen, outcome=supply.cause.outcome, cause=supply.cause, detail=supply.detail, facts=facts)


def _facts(supply: Supply) -> dict[str, Any]:
    return {} if supply.token_ms is None else {"token_ms": supply.token_ms}
