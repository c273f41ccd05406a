"""What a provider says when it fails or turns us away: real words, judged by the real classifier.

The words are those below and, where MailWatch has its table of replies (mailwatch.probes.classify), its examples.
What they mean is known beforehand; what becomes of them is MailWatch's doing: a limit that is booked as down and
an outage that is booked as unknown break a promise (record_check.py).
"""

from __future__ import annotations

import importlib
import random
from functools import cache
from typing import Any

from mailwatch.model import Cause, Kind, Phase
from mailwatch.probes import failures
from mailwatch.probes.failures import Classification, SmtpReplyError, classify_error
from mailwatch.probes.imap_client import ImapCommandError, ServerByeError
from mailwatch.settings import Target

OWN = {
    Cause.UNAVAILABLE: (
        "imap greeting: BYE Server shutting down.",
        "imap greeting: BYE Internal error, try later",
        "imap LOGIN: NO [UNAVAILABLE] Temporary authentication failure. [mx1:2026-01-05 10:00:00]",
        "smtp greeting: 421 4.3.2 Service not available, closing transmission channel",
        "smtp AUTH: 454 4.7.0 Temporary authentication failure",
        "pop3 greeting: -ERR [SYS/TEMP] Server shutting down",
        "pop3 PASS: -ERR [SYS/TEMP] Temporary authentication failure",
    ),
    Cause.MAILBOX: (
        "imap EXAMINE: NO [SERVERBUG] Internal error occurred. Refer to server log for more information.",
        "imap SELECT: NO Mailbox cannot be opened",
    ),
    Cause.THROTTLED: (
        "imap greeting: BYE Too many connections from your IP address",
        "imap LOGIN: NO [LIMIT] Too many simultaneous connections",
        "smtp greeting: 421 4.7.0 Too many concurrent SMTP connections; please try again later.",
        "smtp AUTH: 454 4.7.0 Too many login attempts, please try again later",
        "pop3 PASS: -ERR [LOGIN-DELAY] minimum time between mail checks violation",
    ),
    Cause.CREDENTIALS: (
        "imap LOGIN: NO [AUTHENTICATIONFAILED] Authentication failed.",
        "smtp AUTH: 535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6",
        "pop3 PASS: -ERR [AUTH] Authentication failed.",
    ),
}
_AT = {
    Phase.GREETING: ("greeting",),
    Phase.AUTH: ("LOGIN", "AUTHENTICATE", "AUTH", "PASS"),
    Phase.MAILBOX: ("EXAMINE", "SELECT"),
}
"""Commands of each phase."""


def says(cause: Cause, target: Target, phase: Phase, seed: float) -> Classification | None:
    """Let the provider say something that means `cause`, and return what MailWatch makes of it.

    The same `seed`, the start of its trouble, says the same each time. None where there are no words for it.
    """
    choice = _known().get((cause, target.kind, phase), [])
    if not choice:
        return None
    return classify_error(_error(random.Random(f"{seed} {target.kind} {phase}").choice(choice)), target)


@cache
def _known() -> dict[tuple[Cause, Kind, Phase], list[str]]:
    found: dict[tuple[Cause, Kind, Phase], list[str]] = {}
    listed = [(cause, reply) for cause, replies in OWN.items() for reply in replies]
    for cause, reply in [*listed, *_table()]:
        protocol, _, command = reply.partition(":")[0].partition(" ")
        for phase, commands in _AT.items():
            if protocol in {kind.value for kind in Kind} and command in commands and _error(reply) is not None:
                found.setdefault((cause, Kind(protocol), phase), []).append(reply)
    return found


def _table() -> list[tuple[Cause, str]]:
    """Read MailWatch's own table of replies; nothing where it has none."""
    try:
        table: Any = importlib.import_module("mailwatch.probes.classify")
    except ModuleNotFoundError:
        return []
    return [(row.cause, reply) for row in table.rows() if not row.clear for reply in row.says]


def _error(said: str) -> Any:
    """Make what a client raises for "PROTOCOL COMMAND: STATUS words"; None where it has no words for it."""
    head, _, text = said.partition(": ")
    protocol, _, command = head.partition(" ")
    status, _, words = text.partition(" ")
    if protocol == "smtp":
        return SmtpReplyError(command, int(status), words) if status.isdecimal() else None
    if protocol == "pop3":
        refused: Any = getattr(failures, "Pop3ReplyError", None)
        return refused(command, text) if refused is not None else None
    if status == "BYE":
        return ServerByeError(words)
    return ImapCommandError(command, status, words) if status in ("NO", "BAD") and command != "greeting" else None
