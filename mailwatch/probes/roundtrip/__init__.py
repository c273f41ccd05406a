"""Send a message to a mailbox and wait until it is there: what a mail service is for, end to end.

trip              one probe, from the one end to the other, if both may be logged in to
message           what is sent, how it is recognised, and which messages are still on their way
submission        handing it in by SMTP
mailbox           the folders where it may arrive, by IMAP
arrival           waiting for it, and messages of earlier probes
headers, dkim     what the arrived copy shows
delivery_report   the report that none will come
"""

from __future__ import annotations

from dataclasses import replace

from mailwatch.model import Cause, Observation
from mailwatch.probes.connect import Lookup, TlsContexts
from mailwatch.probes.oauth.tokens import AccessTokens, TokenResult
from mailwatch.probes.recorder import PhaseListener
from mailwatch.probes.roundtrip.trip import RoundtripContext, RoundtripProbe
from mailwatch.settings import RoundtripTask, Target
from mailwatch.times import Millis, now


async def probe_roundtrip(
    target: Target,
    task: RoundtripTask,
    *,
    scheduled_at: Millis,
    contexts: TlsContexts,
    context: RoundtripContext,
    lookup: Lookup,
    listener: PhaseListener | None = None,
    with_login: bool = True,
    tokens: AccessTokens | None = None,
) -> Observation:
    """Probe once. Raises nothing but CancelledError. Without both logins nothing is sent."""
    at = now()
    missing = TokenResult(cause=Cause.CREDENTIALS, detail="a login was rejected before; it will be tried again")
    if with_login:
        task, missing = await _with_tokens(task, tokens)
    if missing.cause is not None:
        return Observation(
            target=target.name,
            scheduled_at=scheduled_at,
            started_at=at,
            ended_at=max(at, now()),
            outcome=missing.cause.outcome,
            cause=missing.cause,
            detail=f"nothing was sent: {missing.detail}",
        )
    run = RoundtripProbe(target, task, contexts, context, lookup, listener)
    return await run.run(scheduled_at)


async def _with_tokens(task: RoundtripTask, tokens: AccessTokens | None) -> tuple[RoundtripTask, TokenResult]:
    """Return the task with access tokens where its ends want them, or why there is none.

    One that was rejected is not renewed here: the probes of the end itself do that.
    """
    for name, end in (("via", task.via), ("to", task.to)):
        if end.login is not None and end.login.oauth2 is not None and tokens is not None:
            result = await tokens.get_token(end.login)
            if result.token is None:
                return task, result
            fresh = replace(end, login=replace(end.login, password=result.token))
            task = replace(task, via=fresh) if name == "via" else replace(task, to=fresh)
    return task, TokenResult()
