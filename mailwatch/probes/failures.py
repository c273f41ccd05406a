"""The one table from foreign exceptions to a Cause; what servers say is judged by classify.py."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Any, NamedTuple

from aiosmtplib import SMTPResponseException

from mailwatch.model import Cause, Kind, TlsMode
from mailwatch.probes import cleartext
from mailwatch.probes.certificates import complaint, out_of_date
from mailwatch.probes.classify import NOT_FROM_HERE, Judged, Reply, classify, free_text
from mailwatch.probes.connect import OurFault
from mailwatch.probes.imap_client import ConnectionLost, Refused, ServerBye
from mailwatch.probes.imap_lines import NotImap
from mailwatch.settings import Target

OUR_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""What fails for want of something of our own."""
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_OUR_FIREWALL = frozenset({errno.EACCES, errno.EPERM})
_OUR_LOOKUP = frozenset({socket.EAI_MEMORY, socket.EAI_SYSTEM})
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, BufferError, LookupError, NameError, RuntimeError,
    SystemError, TypeError, ValueError,
)  # fmt: skip
"""What only a mistake in a program raises."""
_NOT_TLS = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "UNEXPECTED_MESSAGE",
    }
)


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
        self.earlier: SmtpRefused | None = None
        """What was refused before it, such as EHLO before HELO."""
        self.words = f"{code} {text}"
        super().__init__(f"{step}: {' '.join(self.words.split(chr(10)))}")

    @property
    def status(self) -> str:
        """Return the enhanced status code, "" without one."""
        return Reply("smtp", self.step, str(self.code), self.text).code

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the reply line by line, as it came (RFC 5321, section 4.2.1)."""
        *more, last = self.text.split("\n")
        return (*(f"{self.code}-{line}" for line in more), f"{self.code} {last}")


class NotPop3(Exception):
    """The answer is not the protocol. `words` are what the server sent instead."""

    def __init__(self, what: str, words: str = "") -> None:
        super().__init__(what)
        self.words = words


class Pop3Refused(Exception):
    """The server answered -ERR to `step` ("greeting", "unasked" or the command)."""

    def __init__(self, step: str, words: str) -> None:
        super().__init__(f"{step}: {words}")
        self.step = step
        self.words = words
        self.note = ""


class Verdict(NamedTuple):
    """What an exception means. `words` are the server's, not yet redacted.

    `lines` are the same as they came, for the record. `known` is whether they are in the table of replies; None
    where no words decided.
    """

    cause: Cause
    detail: str
    words: str = ""
    lines: tuple[str, ...] = ()
    known: bool | None = None
    owner: str = ""
    """The row of the table that names the owner's account or setting, which is no rejected password."""
    out_of_date: dict[str, Any] | None = None
    """Of a certificate that is out of date by our clock: the problem, and the dates of its chain."""


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
            ours = link.__cause__
            if isinstance(ours, _FAULTS):
                # In the reading of what came: the loop then drops the connection, and gives that as the reason.
                return Verdict(Cause.MONITOR, f"our own fault: {type(ours).__name__}: {ours}")
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
    clear = target.tls is TlsMode.NONE
    match error:
        case Failed():
            return Verdict(error.cause, str(error), error.words)
        case OurFault():
            return Verdict(Cause.MONITOR, str(error))
        case Refused():
            no = Reply("imap", error.command, error.status, error.full, clear, error.before)
            return _said(classify(no), f"{error.command}: {error}{error.note}", error.words)
        case ServerBye():
            bye = Reply("imap", error.command, "BYE", error.words, clear, error.before)
            return _said(classify(bye), str(error), str(error))
        case ConnectionLost() if error.before:
            said = classify(Reply("imap", error.command, "", "", clear, error.before))
            if said.known:
                return _said(said, f"no more came after: {error.before[-1]}", "")
        case Pop3Refused():
            err = Reply("pop3", error.step, "-ERR", error.words.removeprefix("-ERR").strip(), clear)
            return _said(classify(err), f"{error}{error.note}", error.words)
        case SmtpRefused():
            return _smtp(error, "mx" if target.kind is Kind.MX else "smtp", clear)
        case NotImap():
            return _free("imap", str(error), error.words, clear)
        case NotPop3():
            return _free("pop3", str(error), error.words, clear)
        case SMTPResponseException():
            return _free("mx" if target.kind is Kind.MX else "smtp", str(error.message), str(error.message), clear)
    return None


def _said(found: Judged, detail: str, words: str, lines: tuple[str, ...] = ()) -> Verdict:
    detail = f"{NOT_FROM_HERE}: {detail}" if found.cause is Cause.OFFLINE else detail
    detail = f"{detail}; {found.hint}" if found.hint else detail
    return Verdict(found.cause, detail, words, lines, found.known, found.owner)


def _free(protocol: str, detail: str, words: str, clear: bool) -> Verdict:
    found = free_text(protocol, words, clear=clear) if words else Judged(Cause.PROTOCOL)
    return _said(found, detail, words)._replace(known=found.known if words else None)


def _smtp(error: SmtpRefused, protocol: str, clear: bool) -> Verdict:
    """Judge a reply; where it says nothing, what was refused just before it may."""
    found = classify(Reply(protocol, error.step, str(error.code), error.text, clear))
    if error.earlier is not None and (found.row is None or found.row.weak):
        before = error.earlier
        first = classify(Reply(protocol, before.step, str(before.code), before.text, clear))
        if first.row is not None and not first.row.weak:
            found = first
    lines = (*(error.earlier.lines if error.earlier else ()), *error.lines)
    return _said(found, f"{error}{error.note}", error.words, lines)


def _exhausted(error: BaseException, target: Target) -> Verdict | None:
    if isinstance(error, OSError) and error.errno in OUR_ERRNOS:
        return Verdict(Cause.MONITOR, f"our own fault: {_words(error)}")
    if isinstance(error, MemoryError):
        return Verdict(Cause.MONITOR, "our own fault: no memory is left")
    return None


def _refused_in_clear(kind: Kind, text: str) -> Verdict:
    """Judge a refusal that came in the clear as it would be in place of a greeting."""
    if kind is Kind.SMTP:
        lines = [line[:3] + line[4:] for line in text.splitlines()]
        reply = Reply("smtp", "greeting", text[:3], "\n".join(line[3:] for line in lines))
    elif kind is Kind.IMAP:
        _, status, rest = [*text.split(" ", 2), ""][:3]
        reply = Reply("imap", "greeting", status.upper(), rest)
    else:
        reply = Reply("pop3", "greeting", "-ERR", text[len("-ERR") :].strip())
    return _said(classify(reply), text, text)


def _tls(error: BaseException, target: Target) -> Verdict | None:
    if said := cleartext.words(error):
        if cleartext.is_refusal(target.kind, said):
            verdict = _refused_in_clear(target.kind, said)
            return verdict._replace(detail=f"refused in the clear, before TLS: {verdict.detail}", words=said)
        reason = getattr(error, "reason", None) or type(error).__name__
        return Verdict(Cause.TLS, f"answer is not TLS ({reason})", said)
    match error:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Verdict(Cause.DISCONNECTED, "connection lost")
        case ssl.SSLCertVerificationError():
            return Verdict(Cause.TLS, complaint(error, target.host), out_of_date=out_of_date(error))
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
