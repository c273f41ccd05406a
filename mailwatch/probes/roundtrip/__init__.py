"""Sends a message to a mailbox and waits for its arrival: a test of the mail service from end to end.

trip              one probe, from one end to the other, if both logins are allowed
message           the message, how it is recognised, and which messages are still under way
submission        submitting it by SMTP
mailbox           the folders where it may arrive, by IMAP
arrival           waiting for it, and messages of earlier probes
headers, dkim     the facts of the arrived copy
delivery_report   the report that none will arrive
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from mailwatch.model import Cause, Observation
from mailwatch.probes.attempts import MARGIN_SECONDS
from mailwatch.probes.connect import MonitorError
from mailwatch.probes.oauth.tokens import AccessTokens, TokenResult
from mailwatch.probes.request import ProbeRequest
from mailwatch.probes.roundtrip.trip import RoundtripContext, RoundtripProbe
from mailwatch.settings import RoundtripTask, Target
from mailwatch.times import now

_STEPS = 60
"""The steps of a round trip: two logins, the submission, and each command of the wait and of the clean-up."""


def max_roundtrip_seconds(target: Target) -> float:
    """Return the longest duration of a round trip in seconds, with each step at its slowest."""
    return _STEPS * target.timeout + 3 * _task(target).deadline + MARGIN_SECONDS


async def probe_roundtrip(request: ProbeRequest) -> Observation:
    """Probe once. Unless both logins are possible, nothing is sent."""
    at, target, task = now(), request.target, _task(request.target)
    missing = TokenResult(cause=Cause.CREDENTIALS, detail="a login was rejected before; it will be tried again")
    if request.with_login:
        task, missing = await _with_tokens(task, request.tokens)
    if missing.cause is not None:
        return Observation(
            target=target.name,
            scheduled_at=request.scheduled_at,
            started_at=at,
            ended_at=max(at, now()),
            outcome=missing.cause.outcome,
            cause=missing.cause,
            detail=f"nothing was sent: {missing.detail}",
        )
    context = request.roundtrip or RoundtripContext(secrets.token_bytes(32))
    return await RoundtripProbe(request, task, context).run()


def _task(target: Target) -> RoundtripTask:
    if not isinstance(target.task, RoundtripTask):
        raise MonitorError("a round trip without its ends")
    return target.task


async def _with_tokens(task: RoundtripTask, tokens: AccessTokens | None) -> tuple[RoundtripTask, TokenResult]:
    """Return the task with the access tokens that its ends need, or why one is missing.

    A rejected token is not renewed here: the end's own probes do that.
    """
    for name, end in (("via", task.via), ("to", task.to)):
        if end.login is not None and end.login.oauth2 is not None and tokens is not None:
            result = await tokens.get_token(end.login)
            if result.token is None:
                return task, result
            fresh = replace(end, login=replace(end.login, password=result.token))
            task = replace(task, via=fresh) if name == "via" else replace(task, to=fresh)
    return task, TokenResult()
