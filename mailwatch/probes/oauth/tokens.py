"""Supplies access tokens while MailWatch runs, and probes whose login needs one.

A token is requested with the owner's grant, before the probe and with a time limit of its own. It is kept until
shortly before it expires, never on disk. A failure is attributed: a refused, missing or unusable grant is the
owner's (credentials); a token endpoint that does not serve is our dependency (monitor), not the mailbox's outage.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import SecretStr

from mailwatch.facts import ObservationFacts
from mailwatch.model import Attempt, Cause, Observation, Outcome
from mailwatch.net import url_host
from mailwatch.probes.oauth.grant import (
    LOGIN_COMMAND,
    Grant,
    GrantBusyError,
    GrantError,
    lock_grant,
    read_grant,
    write_grant,
)
from mailwatch.probes.oauth.http import (
    REQUEST_TIMEOUT_SECONDS,
    OAuthError,
    OAuthUnavailableError,
    access_token,
    request_endpoint,
    secret_field,
    token_fields,
)
from mailwatch.probes.request import ProbeFunction, ProbeRequest
from mailwatch.settings import Login, OAuth2

logger = logging.getLogger(__name__)

RENEW_BEFORE_SECONDS = 60.0
"""Seconds before its expiry at which a token is renewed (half its life for a short one)."""
WAIT_SECONDS = 5.0
"""Seconds that a probe waits for a token; the request continues, and serves the next probe."""
RETRY_SECONDS = {Cause.CREDENTIALS: (300.0, 1200.0, 3600.0), Cause.MONITOR: (5.0, 10.0, 20.0, 40.0, 60.0)}
"""Seconds until the next request after a refused grant, or from an endpoint that does not serve."""
_CLIENT_ERRORS = frozenset({"invalid_client", "unauthorized_client", "invalid_scope", "deleted_client"})
"""Refusals that a new login does not resolve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenResult:
    """An access token, or why there is none. `token_ms` is the duration of the request, None without a request."""

    token: SecretStr | None = None
    cause: Cause | None = None
    detail: str = ""
    token_ms: int | None = None


@dataclass(slots=True)
class _Account:
    client: OAuth2
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    file_state: tuple[int, ...] = ()
    grant: Grant | None = None
    unsaved: bool = False
    token: SecretStr | None = None
    renew_at: float = 0.0
    expires_at: float = 0.0
    failure: TokenResult | None = None
    failure_count: int = 0
    retry_at: float = 0.0


class AccessTokens:
    """Supplies access tokens for logins; one request at a time for each account."""

    def __init__(
        self,
        *,
        wait_seconds: float = WAIT_SECONDS,
        timeout: float = REQUEST_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wait_seconds = wait_seconds
        self._timeout = timeout
        self._clock = clock
        self._accounts: dict[Path, _Account] = {}
        self._renewals: set[asyncio.Task[TokenResult]] = set()

    def identity(self, login: Login) -> str:
        """Return the grant's identity: kept over token rotations, changed by a new login; "" without a grant."""
        if login.oauth2 is None:
            return ""
        account = self._account(login.oauth2)
        with contextlib.suppress(GrantError):
            self._load_grant(account, login.oauth2, login.username)
        return account.grant.identity if account.grant else ""

    async def get_token(self, login: Login, *, rejected: SecretStr | None = None) -> TokenResult:
        """Return a token for the login, other than `rejected`, which the mail server refused."""
        client = login.oauth2
        if client is None:
            return TokenResult(token=login.password)
        account = self._account(client)
        task = asyncio.ensure_future(self._get_token(account, client, login.username, rejected))
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)
        # Not cancelled: a probe that ends while the endpoint rotates the grant must not lose the new one.
        done, _ = await asyncio.wait({task}, timeout=self._wait_seconds)
        if done:
            return task.result()
        host = url_host(client.token_endpoint)
        late = f"no access token: {host} did not issue one within {self._wait_seconds:g} s"
        return self._cached(account) or TokenResult(cause=Cause.MONITOR, detail=late)

    async def finish(self, seconds: float) -> None:
        """Wait up to `seconds` for the requests under way, before the process ends."""
        if self._renewals:
            await asyncio.wait(self._renewals, timeout=seconds)

    async def _get_token(
        self, account: _Account, client: OAuth2, address: str, rejected: SecretStr | None
    ) -> TokenResult:
        async with account.lock:
            try:
                self._load_grant(account, client, address)
            except GrantError as error:
                return self._failed(account, address, Cause.CREDENTIALS, str(error))
            if rejected is not None and rejected == account.token:
                account.token = None
            now = self._clock()
            if account.token is not None and now < account.renew_at:
                return TokenResult(token=account.token)
            if account.failure is not None and now < account.retry_at:
                return self._cached(account) or replace(account.failure, token_ms=None)
            return await self._renew_and_return(account, client, address)

    async def _renew_and_return(self, account: _Account, client: OAuth2, address: str) -> TokenResult:
        began = time.monotonic()

        def spent() -> int:
            return round((time.monotonic() - began) * 1000)

        try:
            async with lock_grant(client.grant_file, self._timeout):
                await self._renew(account, client, address)
        except GrantError as error:
            return self._failed(account, address, Cause.CREDENTIALS, str(error))
        except OAuthError as error:
            advice = f"run {LOGIN_COMMAND} {address}"
            if error.code in _CLIENT_ERRORS:
                advice = "check client_id, its secret and scope"
            detail = f"the token endpoint at {url_host(client.token_endpoint)} refuses ({error}); {advice}"
            return self._failed(account, address, Cause.CREDENTIALS, detail, spent())
        except (OAuthUnavailableError, GrantBusyError) as error:
            return self._failed(account, address, Cause.MONITOR, f"no access token: {error}", spent())
        except OSError as error:
            detail = f"no access token: {client.grant_file} cannot be written: {error.strerror}"
            return self._failed(account, address, Cause.MONITOR, detail, spent())
        if account.failure is not None:
            logger.info("%s: access tokens arrive again", address)
        account.failure, account.failure_count = None, 0
        return TokenResult(token=account.token, token_ms=spent())

    async def _renew(self, account: _Account, client: OAuth2, address: str) -> None:
        """Request a token. It is not used before a new grant that came with it is on disk."""
        # Another process may have rotated the grant before we got the lock.
        self._load_grant(account, client, address)
        if account.unsaved:
            await self._save_grant(account, client)
        grant = account.grant
        if grant is None:
            raise GrantError(f"access is not granted yet; run {LOGIN_COMMAND} {address}")
        fields = token_fields("refresh_token", refresh_token=grant.refresh_token.get_secret_value())
        answer = await request_endpoint(client, client.token_endpoint, fields, timeout=self._timeout)
        token, life = access_token(answer, url_host(client.token_endpoint))
        rotated = secret_field(answer, "refresh_token")
        if rotated.get_secret_value() and rotated != grant.refresh_token:
            account.grant, account.unsaved = replace(grant, refresh_token=rotated), True
            await self._save_grant(account, client)
        now = self._clock()
        account.token = token
        account.renew_at, account.expires_at = now + life - min(RENEW_BEFORE_SECONDS, life / 2), now + life

    async def _save_grant(self, account: _Account, client: OAuth2) -> None:
        if account.grant is not None:
            await asyncio.to_thread(write_grant, client.grant_file, account.grant)
        account.unsaved, account.file_state = False, _file_state(client.grant_file)

    def _account(self, client: OAuth2) -> _Account:
        account = self._accounts.setdefault(client.grant_file, _Account(client))
        if account.client != client:
            # A reload changed the client: earlier tokens and failures no longer apply.
            account.client, account.token, account.failure, account.retry_at = client, None, None, 0.0
        return account

    def _load_grant(self, account: _Account, client: OAuth2, address: str) -> None:
        """Read the grant file if it changed. A grant not written yet takes precedence over an older file."""
        file_state = _file_state(client.grant_file)
        if file_state == account.file_state and account.grant is not None and _same(account.grant, client):
            return
        known = account.grant
        account.grant, account.file_state, account.unsaved = None, file_state, False
        account.grant = read_grant(client, address)
        if known is None or known.identity != account.grant.identity:
            # A new login: the old token and old failures do not apply to it.
            account.token, account.retry_at = None, 0.0

    def _cached(self, account: _Account) -> TokenResult | None:
        """Return the current token while it is valid, for an endpoint that does not serve a new one."""
        lives = account.token is not None and self._clock() < account.expires_at
        return TokenResult(token=account.token) if lives else None

    def _failed(
        self, account: _Account, address: str, cause: Cause, detail: str, token_ms: int | None = None
    ) -> TokenResult:
        if account.failure is None or account.failure.cause is not cause:
            account.failure_count = 0
            logger.warning("%s: %s", address, detail)
        if cause is Cause.CREDENTIALS:
            account.token = None
        waits = RETRY_SECONDS[cause]
        wait = waits[min(account.failure_count, len(waits) - 1)]
        account.failure_count += 1
        account.failure = TokenResult(cause=cause, detail=detail, token_ms=token_ms)
        account.retry_at = self._clock() + wait
        return self._cached(account) or account.failure


def _same(grant: Grant, client: OAuth2) -> bool:
    return (grant.client_id, grant.token_endpoint) == (client.client_id, client.token_endpoint)


def _file_state(path: Path) -> tuple[int, ...]:
    """Return a value that changes when the file is rewritten or its mode changes; () if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode


async def probe_with_oauth(
    request: ProbeRequest, login: Login, tokens: AccessTokens, probe: ProbeFunction
) -> Observation:
    """Run `probe` with a token for `login`, which is the target's.

    1. Without a token, `probe` runs without a login: a failure of the server is reported as it is; a success does
       not prove that the mailbox can be used, so the observation is unknown.
    2. A token that the server rejects is renewed once, in case it was revoked or expired early. If it cannot be
       renewed, the rejection says nothing about the server, and the observation counts as one without a login.
    """
    result = await tokens.get_token(login)
    if result.token is None:
        return _unknown_without_token(await probe(_with_login(request, None)), result)
    observation = await probe(_with_login(request, replace(login, password=result.token)))
    facts = _token_facts(result)
    if _token_rejected(observation):
        again = await tokens.get_token(login, rejected=result.token)
        if again.token_ms is not None:
            facts["token_ms"] = facts.get("token_ms", 0) + again.token_ms
        if again.token is None:
            observation = replace(
                observation, with_login=False, cause=again.cause, detail=f"{observation.detail}; {again.detail}"
            )
        else:
            facts["token_renewed"] = 1
            first, observation = (
                observation,
                await probe(_with_login(request, replace(login, password=again.token))),
            )
            observation = replace(
                observation, started_at=first.started_at, attempts=first.attempts + observation.attempts
            )
    return replace(observation, facts={**(observation.facts or {}), **facts} or None)


def _with_login(request: ProbeRequest, login: Login | None) -> ProbeRequest:
    return replace(request, target=replace(request.target, login=login))


def _token_rejected(observation: Observation) -> bool:
    """Return whether a server received the token and rejected it."""
    last: Attempt | None = observation.attempts[-1] if observation.attempts else None
    return observation.cause is Cause.CREDENTIALS and last is not None and "sasl" in (last.facts or {})


def _unknown_without_token(observation: Observation, result: TokenResult) -> Observation:
    facts: ObservationFacts | None = {**(observation.facts or {}), **_token_facts(result)} or None
    if observation.outcome is not Outcome.UP or result.cause is None:
        return replace(observation, facts=facts)
    return replace(
        observation, outcome=result.cause.outcome, cause=result.cause, detail=result.detail, facts=facts
    )


def _token_facts(result: TokenResult) -> ObservationFacts:
    return {} if result.token_ms is None else {"token_ms": result.token_ms}
