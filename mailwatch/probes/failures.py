"""The one table from foreign exceptions and server replies to a Cause.

IMAP response codes: RFC 5530 and RFC 9051, section 7.1. SMTP reply codes: RFC 5321, section 4.2, and for AUTH
RFC 4954, section 6; enhanced status codes: RFC 3463 and RFC 5248.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

from aiosmtplib import SMTPResponseException

from mailwatch.models import Cause, Kind, Target
from mailwatch.probes import cleartext
from mailwatch.probes.certificates import complaint
from mailwatch.probes.connect import OurFault
from mailwatch.probes.imap_client import Refused, ServerBye
from mailwatch.probes.imap_lines import NotImap

LIMITS = re.compile(
    r"too many|\brate\b|ratelimit|throttl|slow down|concurrent|maximum number of connections|\[limit\]"
    r"|(?:connection|session|login|request|command)s? limit|limit exceeded",
    re.IGNORECASE,
)
PASSING = re.compile(r"temporar|try again|unavailable|internal (?:server )?error|time[d ]? ?out", re.IGNORECASE)
_ENHANCED = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})\b")

OUR_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""What fails for want of something of our own."""
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_OUR_FIREWALL = frozenset({errno.EACCES, errno.EPERM})
_OUR_LOOKUP = frozenset({socket.EAI_MEMORY, socket.EAI_SYSTEM})
_NOT_TLS = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "UNEXPECTED_MESSAGE",
    }
)

_AT_LOGIN = frozenset({"LOGIN", "AUTHENTICATE"})
_AT_MAILBOX = frozenset({"EXAMINE", "SELECT", "FETCH", "LIST", "STATUS", "UID FETCH", "UID SEARCH", "UID STORE"})
_IMAP_CODES = {
    "UNAVAILABLE": Cause.UNAVAILABLE,
    "SERVERBUG": Cause.UNAVAILABLE,
    "CORRUPTION": Cause.UNAVAILABLE,
    "LIMIT": Cause.THROTTLED,
    "INUSE": Cause.THROTTLED,
    "PRIVACYREQUIRED": Cause.PROTOCOL,
    "CLIENTBUG": Cause.PROTOCOL,
}
_IMAP_LOGIN_CODES = frozenset({"AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED", "CONTACTADMIN"})
_SMTP_LOGIN_CODES = frozenset({535, 534, 525, 432})
_SMTP_LOGIN_STATUSES = frozenset({"5.7.8", "5.7.9", "5.7.0", "5.7.13", "5.7.14"})


class Failed(Exception):
    """A failure that the probe itself has judged."""

    def __init__(self, cause: Cause, detail: str, words: str = "") -> None:
        super().__init__(detail)
        self.cause = cause
        self.words = words


class SmtpRefused(Exception):
    """The server's reply to `step` ("greeting" or the command) is not one that goes on from there."""

    def __init__(self, step: str, code: int, text: str) -> None:
        self.step = step
        self.code = code
        self.text = text
        self.note = ""
        self.words = f"{code} {text}"
        super().__init__(f"{step}: {self.words}")

    @property
    def status(self) -> str:
        """Return the enhanced status code, "" without one."""
        found = _ENHANCED.match(self.text)
        return found[1] if found else ""


class Verdict(NamedTuple):
    """What an exception means. `words` are the server's, not yet redacted."""

    cause: Cause
    detail: str
    words: str = ""


def judge(error: BaseException, target: Target) -> Verdict:
    """Return what `error` means for the target; what has no place in the table is our own fault.

    Clients wrap: an untrusted certificate can arrive as a lost connection. So each kind is looked for in the
    whole chain of causes, the telling kinds before the general ones.
    """
    chain = list(_chain(error))
    for judgement in (_own, _exhausted, _tls, _network):
        for link in chain:
            verdict = judgement(link, target)
            if verdict is not None:
                return verdict
    for link in chain:
        if isinstance(link, ConnectionError):
            return Verdict(Cause.DISCONNECTED, _words(link) or "connection lost")
    return Verdict(Cause.MONITOR, f"our own fault: {type(error).__name__}: {error}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _own(error: BaseException, target: Target) -> Verdict | None:
    match error:
        case Failed():
            return Verdict(error.cause, str(error), error.words)
        case OurFault():
            return Verdict(Cause.MONITOR, str(error))
        case Refused():
            return Verdict(_refused(error), f"{error.command}: {error}{error.note}", error.words)
        case SmtpRefused():
            return Verdict(_smtp_refused(error), f"{error}{error.note}", error.words)
        case ServerBye():
            limited = LIMITS.search(error.words) or "[INUSE]" in error.words.upper()
            return Verdict(Cause.THROTTLED if limited else Cause.UNAVAILABLE, str(error), str(error))
        case NotImap():
            return Verdict(Cause.PROTOCOL, str(error), error.words)
        case SMTPResponseException():
            return Verdict(Cause.PROTOCOL, str(error.message), str(error.message))
    return None


def _exhausted(error: BaseException, target: Target) -> Verdict | None:
    if isinstance(error, OSError) and error.errno in OUR_ERRNOS:
        return Verdict(Cause.MONITOR, f"our own fault: {_words(error)}")
    return None


def _refused_in_clear(kind: Kind, text: str) -> Exception:
    """Return what the client would have raised, had it heard this refusal in place of a greeting."""
    if kind is Kind.SMTP:
        return SmtpRefused("greeting", int(text[:3]), re.sub(r"(?m)^\d{3}[ -]?", "", text))
    if kind is Kind.IMAP:
        return ServerBye(text.partition(" ")[2].partition(" ")[2])
    limited = LIMITS.search(text) or re.search(r"\[(?:IN-USE|LOGIN-DELAY)\]", text, re.IGNORECASE)
    return Failed(Cause.THROTTLED if limited else Cause.UNAVAILABLE, f"greeting: {text}", text)


def _tls(error: BaseException, target: Target) -> Verdict | None:
    if said := cleartext.words(error):
        if cleartext.is_refusal(target.kind, said):
            verdict = _own(_refused_in_clear(target.kind, said), target)
            assert verdict is not None
            return verdict._replace(detail=f"refused in the clear, before TLS: {verdict.detail}", words=said)
        reason = getattr(error, "reason", None) or type(error).__name__
        return Verdict(Cause.TLS, f"answer is not TLS ({reason})", said)
    match error:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Verdict(Cause.DISCONNECTED, "connection lost")
        case ssl.SSLCertVerificationError():
            return Verdict(Cause.TLS, complaint(error, target.host))
        case ssl.SSLError():
            reason = getattr(error, "reason", None) or str(error)
            return Verdict(Cause.TLS, f"{'answer is not TLS' if reason in _NOT_TLS else 'TLS failed'} ({reason})")
    return None


def _network(error: BaseException, target: Target) -> Verdict | None:
    match error:
        case socket.gaierror() if error.errno in _OUR_LOOKUP:
            return Verdict(Cause.MONITOR, f"cannot look up {target.host}: {_words(error)}")
        case socket.gaierror():
            return Verdict(Cause.DNS, f"{target.host} does not resolve: {_words(error)}")
        case TimeoutError():
            return Verdict(Cause.TIMEOUT, f"no answer within {target.timeout:g} s")
        case ConnectionRefusedError():
            return Verdict(Cause.REFUSED, "connection refused")
        case OSError() if error.errno in _UNREACHABLE:
            return Verdict(Cause.UNREACHABLE, _words(error))
        case OSError() if error.errno in _OUR_FIREWALL:
            return Verdict(Cause.UNREACHABLE, f"{_words(error)}: a local firewall?")
    return None


def _words(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _refused(reply: Refused) -> Cause:
    """Judge NO and BAD. A code decides; words do only where there is none, or one that says nothing."""
    if reply.code in ("CORRUPTION", "SERVERBUG") and reply.command in _AT_MAILBOX:
        return Cause.MAILBOX
    if reply.code in _IMAP_CODES:
        return _IMAP_CODES[reply.code]
    if reply.command == "STARTTLS":
        return Cause.TLS
    if reply.status == "BAD":
        return Cause.PROTOCOL
    if reply.command in _AT_LOGIN and reply.code in _IMAP_LOGIN_CODES:
        return Cause.CREDENTIALS
    if LIMITS.search(reply.text):
        return Cause.THROTTLED
    if reply.command in _AT_MAILBOX:
        return Cause.MAILBOX
    if reply.command not in _AT_LOGIN:
        return Cause.PROTOCOL
    return Cause.UNAVAILABLE if PASSING.search(reply.text) else Cause.CREDENTIALS


def _smtp_refused(reply: SmtpRefused) -> Cause:
    """Judge a reply code by where it came; 2xx and 3xx out of place are no answer to what was said."""
    if not 400 <= reply.code <= 599:
        return Cause.PROTOCOL
    if reply.step == "AUTH" and reply.code in _SMTP_LOGIN_CODES:
        return Cause.CREDENTIALS
    if LIMITS.search(reply.text) and (reply.code < 500 or reply.step in ("greeting", "AUTH")):
        return Cause.THROTTLED
    if reply.code < 500 or reply.step == "greeting":
        return Cause.UNAVAILABLE
    match reply.step:
        case "AUTH":
            return _login_refused(reply)
        case "STARTTLS":
            return Cause.TLS
        case "MAIL" | "RCPT" | "DATA" | "message":
            return Cause.REJECTED
    return Cause.PROTOCOL


def _login_refused(reply: SmtpRefused) -> Cause:
    if reply.code in (500, 501, 502, 503, 504, 530, 538):
        return Cause.PROTOCOL
    if reply.status in _SMTP_LOGIN_STATUSES:
        return Cause.CREDENTIALS
    return Cause.UNAVAILABLE if PASSING.search(reply.text) else Cause.CREDENTIALS
