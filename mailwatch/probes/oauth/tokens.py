"""A look whose login needs an access token: the token is had before, in a time of its own.

Access tokens while MailWatch runs: had from the grant, kept until shortly before they expire, never on disk.

What stands in the way is told by whose it is: a grant that is refused, missing or unusable is the owner's
(credentials); a token endpoint that does not serve is our dependency (monitor), not the mailbox's outage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mailwatch.model import Attempt, Cause, Observation, Outcome
from mailwatch.net import host_of
from mailwatch.probes.oauth.grant import LOGIN, Grant, GrantBusy, GrantUnusable, locked, read_grant, write_grant
from mailwatch.probes.oauth.http import TIMEOUT, NotServing, Refused, access_token, ask, secret_of, token_fields
from mailwatch.settings import Login, OAuth2, Target

logger = logging.getLogger(__name__)

LEEWAY = 60.0
"""Seconds before its end at which a token is renewed (half its life for a short one)."""
PATIENCE = 5.0
"""Seconds that a look is held up for a token; the request goes on, and serves the next one."""
WAITS = {Cause.CREDENTIALS: (300.0, 1200.0, 3600.0), Cause.MONITOR: (5.0, 10.0, 20.0, 40.0, 60.0)}
"""Seconds until a refused grant, or an endpoint that does not serve, is asked again."""
_CONFIGURED = frozenset({"invalid_client", "unauthorized_client", "invalid_scope", "deleted_client"})
"""Refusals that no new login mends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """An access token, or why there is none. `token_ms` is what it took to ask the endpoint, None if not asked."""

    token: SecretStr | None = None
    cause: Cause | None = None
    detail: str = ""
    token_ms: int | None = None


@dataclass(slots=True)
class _Account:
    client: OAuth2
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stamp: tuple[int, ...] = ()
    grant: Grant | None = None
    unsaved: bool = False
    token: SecretStr | None = None
    renew_at: float = 0.0
    ends_at: float = 0.0
    trouble: Supply | None = None
    troubles: int = 0
    again_at: float = 0.0


class AccessTokens:
    """Supplies logins with access tokens; one request at a time for each account."""

    def __init__(
        self,
        *,
        patience: float = PATIENCE,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._timeout = timeout
        self._clock = clock
        self._accounts: dict[Path, _Account] = {}
        self._renewals: set[asyncio.Task[Supply]] = set()

    def identity(self, login: Login) -> str:
        """Name the grant: the same over rotations of its refresh token, another after a new login; "" without."""
        if login.oauth2 is None:
            return ""
        account = self._account(login.oauth2)
        with contextlib.suppress(GrantUnusable):
            self._read(account, login.oauth2, login.username)
        return account.grant.identity if account.grant else ""

    async def supply(self, login: Login, *, rejected: SecretStr | None = None) -> Supply:
        """Return a token for the login; another one than `rejected`, which the mail server did not take."""
        client = login.oauth2
        if client is None:
            return Supply(token=login.password)
        account = self._account(client)
        task = asyncio.ensure_future(self._supply(account, client, login.username, rejected))
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)
        # Not awaited itself: a look that ends while the endpoint rotates the grant must not lose the new one.
        done, _ = await asyncio.wait({task}, timeout=self._patience)
        if done:
            return task.result()
        late = (
            f"no access token: {host_of(client.token_endpoint)} did not hand one out within {self._patience:g} s"
        )
        return self._spare(account) or Supply(cause=Cause.MONITOR, detail=late)

    async def finish(self, seconds: float) -> None:
        """Wait for requests that are under way, before the process ends."""
        if self._renewals:
            await asyncio.wait(self._renewals, timeout=seconds)

    async def _supply(self, account: _Account, client: OAuth2, address: str, rejected: SecretStr | None) -> Supply:
        async with account.lock:
            try:
                self._read(account, client, address)
            except GrantUnusable as error:
                return self._troubled(account, address, Cause.CREDENTIALS, str(error))
            if rejected is not None and rejected == account.token:
                account.token = None
            now = self._clock()
            if account.token is not None and now < account.renew_at:
                return Supply(token=account.token)
            if account.trouble is not None and now < account.again_at:
                return self._spare(account) or replace(account.trouble, token_ms=None)
            return await self._renewed(account, client, address)

    async def _renewed(self, account: _Account, client: OAuth2, address: str) -> Supply:
        began = time.monotonic()

        def spent() -> int:
            return round((time.monotonic() - began) * 1000)

        try:
            async with locked(client.grant_file, self._timeout):
                await self._renew(account, client, address)
        except GrantUnusable as error:
            return self._troubled(account, address, Cause.CREDENTIALS, str(error))
        except Refused as error:
            cure = f"run {LOGIN} {address}"
            if error.code in _CONFIGURED:
                cure = "check client_id, its secret and scope"
            detail = f"the token endpoint at {host_of(client.token_endpoint)} refuses ({error}); {cure}"
            return self._troubled(account, address, Cause.CREDENTIALS, detail, spent())
        except (NotServing, GrantBusy) as error:
            return self._troubled(account, address, Cause.MONITOR, f"no access token: {error}", spent())
        except OSError as error:
            detail = f"no access token: {client.grant_file} cannot be written: {error.strerror}"
            return self._troubled(account, address, Cause.MONITOR, detail, spent())
        if account.trouble is not None:
            logger.info("%s: access tokens are had again", address)
        account.trouble, account.troubles = None, 0
        return Supply(token=account.token, token_ms=spent())

    async def _renew(self, account: _Account, client: OAuth2, address: str) -> None:
        """Ask for a token. Nothing that is new is used before the grant it came with is on disk."""
        # Another process may have rotated it before we got the lock.
        self._read(account, client, address)
        if account.unsaved:
            await self._keep(account, client)
        grant = account.grant
        if grant is None:
            raise GrantUnusable(f"access is not granted yet; run {LOGIN} {address}")
        fields = token_fields("refresh_token", refresh_token=grant.refresh_token.get_secret_value())
        answer = await ask(client, client.token_endpoint, fields, timeout=self._timeout)
        token, life = access_token(answer, host_of(client.token_endpoint))
        rotated = secret_of(answer, "refresh_token")
        if rotated.get_secret_value() and rotated != grant.refresh_token:
            account.grant, account.unsaved = replace(grant, refresh_token=rotated), True
            await self._keep(account, client)
        now = self._clock()
        account.token = token
        account.renew_at, account.ends_at = now + life - min(LEEWAY, life / 2), now + life

    async def _keep(self, account: _Account, client: OAuth2) -> None:
        if account.grant is not None:
            await asyncio.to_thread(write_grant, client.grant_file, account.grant)
        account.unsaved, account.stamp = False, _stamp(client.grant_file)

    def _account(self, client: OAuth2) -> _Account:
        account = self._accounts.setdefault(client.grant_file, _Account(client))
        if account.client != client:
            # A reload changed how it is asked for: the token and the trouble of before say nothing of it.
            account.client, account.token, account.trouble, account.again_at = client, None, None, 0.0
        return account

    def _read(self, account: _Account, client: OAuth2, address: str) -> None:
        """Take in the file if it changed. A grant that could not be written yet goes before an older file."""
        stamp = _stamp(client.grant_file)
        if stamp == account.stamp and account.grant is not None and _same(account.grant, client):
            return
        known = account.grant
        account.grant, account.stamp, account.unsaved = None, stamp, False
        account.grant = read_grant(client, address)
        if known is None or known.identity != account.grant.identity:
            # A new login: neither the old token nor the old trouble says anything of it.
            account.token, account.again_at = None, 0.0

    def _spare(self, account: _Account) -> Supply | None:
        """Return the old token as long as it lives, when the endpoint does not serve a new one."""
        lives = account.token is not None and self._clock() < account.ends_at
        return Supply(token=account.token) if lives else None

    def _troubled(
        self, account: _Account, address: str, cause: Cause, detail: str, token_ms: int | None = None
    ) -> Supply:
        if account.trouble is None or account.trouble.cause is not cause:
            account.troubles = 0
            logger.warning("%s: %s", address, detail)
        if cause is Cause.CREDENTIALS:
            account.token = None
        waits = WAITS[cause]
        wait = waits[min(account.troubles, len(waits) - 1)]
        account.troubles += 1
        account.trouble = Supply(cause=cause, detail=detail, token_ms=token_ms)
        account.again_at = self._clock() + wait
        return self._spare(account) or account.trouble


def _same(grant: Grant, client: OAuth2) -> bool:
    return (grant.client_id, grant.token_endpoint) == (client.client_id, client.token_endpoint)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when the file is written anew, or its mode is; () when it is not there."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode


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
