"""Which failures a target can have: every one is created at 0, so that its first occurrence shows as a rise."""

from __future__ import annotations

from functools import cache

from mailwatch.models import Cause, Kind, Phase, Target, TlsMode

_LOST = (Cause.TIMEOUT, Cause.DISCONNECTED)
_ANSWERED = (*_LOST, Cause.PROTOCOL, Cause.UNAVAILABLE, Cause.THROTTLED)
_CAUSES: dict[Phase, tuple[Cause, ...]] = {
    Phase.RESOLVE: (Cause.DNS, Cause.TIMEOUT),
    Phase.CONNECT: (*_LOST, Cause.REFUSED, Cause.UNREACHABLE),
    Phase.TLS: (*_LOST, Cause.TLS),
    Phase.GREETING: _ANSWERED,
    Phase.AUTH: (*_ANSWERED, Cause.CREDENTIALS, Cause.MAILBOX),
    Phase.MAILBOX: (*_ANSWERED, Cause.MAILBOX, Cause.CREDENTIALS),
    Phase.FETCH: (*_ANSWERED, Cause.MAILBOX),
    Phase.SUBMIT: (*_ANSWERED, Cause.REJECTED, Cause.CREDENTIALS),
    Phase.DELIVER: (*_LOST, Cause.UNDELIVERED, Cause.REJECTED),
}
_WITH_LOGIN: dict[Kind, tuple[Phase, ...]] = {
    Kind.IMAP: (Phase.AUTH, Phase.MAILBOX, Phase.FETCH),
    Kind.POP3: (Phase.AUTH, Phase.MAILBOX, Phase.FETCH),
    Kind.SMTP: (Phase.AUTH, Phase.SUBMIT),
    Kind.MX: (),
    Kind.WEBMAIL: (),
    Kind.ROUNDTRIP: (Phase.AUTH, Phase.SUBMIT, Phase.DELIVER),
}
_OF_PAGES = ((Cause.TLS, Phase.GREETING), *((cause, Phase.FETCH) for cause in _ANSWERED))
"""Webmail: redirected to a page without TLS, and what is wrong with the page itself."""


def possible_failures(target: Target) -> tuple[tuple[str, str], ...]:
    """Return the (cause, phase) that a target of that kind, encryption and login can fail with."""
    # A round trip has the logins of its ends.
    return _possible(target.kind, target.tls, any(end.login is not None for end in target.ends))


@cache
def _possible(kind: Kind, tls: TlsMode, login: bool) -> tuple[tuple[str, str], ...]:
    phases = [Phase.RESOLVE, Phase.CONNECT, Phase.GREETING]
    if tls is not TlsMode.NONE:
        phases.append(Phase.TLS)
    if login:
        phases.extend(_WITH_LOGIN[kind])
    if kind is Kind.MX:
        phases.append(Phase.SUBMIT)
    found = [(cause.value, phase.value) for phase in phases for cause in _CAUSES[phase]]
    if tls is TlsMode.STARTTLS:
        # STARTTLS is a command, and what follows it can be any answer.
        found.extend((cause.value, Phase.TLS.value) for cause in _ANSWERED if cause not in _LOST)
    if kind is Kind.WEBMAIL:
        found.extend((cause.value, phase.value) for cause, phase in _OF_PAGES)
    if kind is Kind.MX:
        # A null MX; and who refuses our HELO.
        found.extend((Cause.REJECTED.value, phase.value) for phase in (Phase.RESOLVE, Phase.GREETING))
    # A login that is held back after a rejection is no failure of a phase, and neither are our own.
    found.extend((cause.value, "none") for cause in (Cause.OFFLINE, Cause.MONITOR))
    if login:
        found.append((Cause.CREDENTIALS.value, "none"))
    return tuple(found)
