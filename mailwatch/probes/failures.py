"""Maps the exceptions of libraries to a Cause; classify.py classifies the replies of servers."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

from aiosmtplib import SMTPResponseException

from mailwatch.facts import ExpiryFacts
from mailwatch.model import Cause, Kind, TlsMode
from mailwatch.probes import cleartext
from mailwatch.probes.certificates import expiry_facts, explain_certificate_error
from mailwatch.probes.classify import NOT_FROM_HERE, Reply, ReplyMeaning, classify, classify_free_text
from mailwatch.probes.connect import MonitorError
from mailwatch.probes.imap_client import ConnectionLostError, ImapCommandError, ServerByeError
from mailwatch.probes.imap_lines import ImapProtocolError
from mailwatch.settings import Target

LOCAL_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Errors caused by a shortage of our own resources."""
_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_OUR_FIREWALL = frozenset({errno.EACCES, errno.EPERM})
_OUR_LOOKUP = frozenset({socket.EAI_MEMORY, socket.EAI_SYSTEM})
_PROGRAMMING_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, BufferError, LookupError, NameError, RuntimeError,
    SystemError, TypeError, ValueError,
)  # fmt: skip
"""Exceptions that only a programming error raises."""
_NOT_TLS = frozenset(
    {
        "WRONG_VERSION_NUMBER",
        "PACKET_LENGTH_TOO_LONG",
        "RECORD_LAYER_FAILURE",
        "HTTP_REQUEST",
        "UNEXPECTED_MESSAGE",
    }
)


class ProbeError(Exception):
    """A failure that the probe has classified itself."""

    def __init__(self, cause: Cause, detail: str, server_text: str = "") -> None:
        super().__init__(detail)
        self.cause = cause
        self.server_text = server_text


class SmtpReplyError(Exception):
    """An unexpected reply of the server to `step` ("greeting" or the command)."""

    def __init__(self, step: str, code: int, text: str) -> None:
        self.step = step
        self.code = code
        self.text = text
        self.note = ""
        self.earlier: SmtpReplyError | None = None
        """The refusal before this one, for example of EHLO before HELO."""
        self.server_text = f"{code} {text}"
        super().__init__(f"{step}: {' '.join(self.server_text.split(chr(10)))}")

    @property
    def status(self) -> str:
        """The enhanced status code, "" without one."""
        return Reply("smtp", self.step, str(self.code), self.text).code

    @property
    def lines(self) -> tuple[str, ...]:
        """The reply line by line, as received (RFC 5321, section 4.2.1)."""
        *more, last = self.text.split("\n")
        return (*(f"{self.code}-{line}" for line in more), f"{self.code} {last}")


class Pop3ProtocolError(Exception):
    """The answer is not POP3. `server_text` is what the server sent instead."""

    def __init__(self, what: str, server_text: str = "") -> None:
        super().__init__(what)
        self.server_text = server_text


class Pop3ReplyError(Exception):
    """The server answered -ERR to `step` ("greeting", "unasked" or the command)."""

    def __init__(self, step: str, server_text: str) -> None:
        super().__init__(f"{step}: {server_text}")
        self.step = step
        self.server_text = server_text
        self.note = ""


class Classification(NamedTuple):
    """The meaning of an exception. `server_text` is the server's text, not yet redacted.

    `lines` are its lines as received, for the record. `known`: whether the text is in the table of replies; None
    if no text decided.
    """

    cause: Cause
    detail: str
    server_text: str = ""
    lines: tuple[str, ...] = ()
    known: bool | None = None
    owner: str = ""
    """The id of a row about the owner's account or setting, which is no rejected password; "" for others."""
    out_of_date: ExpiryFacts | None = None
    """For a certificate that is out of date by our clock: the problem, and the dates of its chain."""


def classify_error(error: BaseException, target: Target) -> Classification:
    """Return the meaning of `error` for the target; an error not in the tables is our own fault.

    Clients wrap errors: an untrusted certificate may arrive as a lost connection. So the whole chain of causes is
    searched for each kind of error, specific kinds before general ones.
    """
    chain = list(_chain(error))
    for judgement in (_protocol_error, _local_shortage, _tls, _network):
        for link in chain:
            classification = judgement(link, target)
            if classification is not None:
                return classification
    for link in chain:
        if isinstance(link, ConnectionError):
            cause = link.__cause__
            if isinstance(cause, _PROGRAMMING_ERRORS):
                # Our bug in parsing received data: the loop drops the connection, with the bug as its cause.
                return Classification(Cause.MONITOR, f"internal error: {type(cause).__name__}: {cause}")
            return Classification(Cause.DISCONNECTED, _error_text(link) or "connection lost")
    return Classification(Cause.MONITOR, f"internal error: {type(error).__name__}: {error}")


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _protocol_error(error: BaseException, target: Target) -> Classification | None:
    clear = target.tls is TlsMode.NONE
    match error:
        case ProbeError():
            return Classification(error.cause, str(error), error.server_text)
        case MonitorError():
            return Classification(Cause.MONITOR, str(error))
        case ImapCommandError():
            no = Reply("imap", error.command, error.status, error.full, clear, error.before)
            return _from_reply(classify(no), f"{error.command}: {error}{error.note}", error.server_text)
        case ServerByeError():
            bye = Reply("imap", error.command, "BYE", error.server_text, clear, error.before)
            return _from_reply(classify(bye), str(error), str(error))
        case ConnectionLostError() if error.before:
            meaning = classify(Reply("imap", error.command, "", "", clear, error.before))
            if meaning.known:
                return _from_reply(meaning, f"nothing more came after: {error.before[-1]}", "")
        case Pop3ReplyError():
            err = Reply("pop3", error.step, "-ERR", error.server_text.removeprefix("-ERR").strip(), clear)
            return _from_reply(classify(err), f"{error}{error.note}", error.server_text)
        case SmtpReplyError():
            return _smtp(error, "mx" if target.kind is Kind.MX else "smtp", clear)
        case ImapProtocolError():
            return _from_free_text("imap", str(error), error.server_text, clear)
        case Pop3ProtocolError():
            return _from_free_text("pop3", str(error), error.server_text, clear)
        case SMTPResponseException():
            return _from_free_text(
                "mx" if target.kind is Kind.MX else "smtp", str(error.message), str(error.message), clear
            )
    return None


def _from_reply(found: ReplyMeaning, detail: str, words: str, lines: tuple[str, ...] = ()) -> Classification:
    detail = f"{NOT_FROM_HERE}: {detail}" if found.cause is Cause.OFFLINE else detail
    detail = f"{detail}; {found.hint}" if found.hint else detail
    return Classification(found.cause, detail, words, lines, found.known, found.owner)


def _from_free_text(protocol: str, detail: str, words: str, clear: bool) -> Classification:
    found = classify_free_text(protocol, words, clear=clear) if words else ReplyMeaning(Cause.PROTOCOL)
    return _from_reply(found, detail, words)._replace(known=found.known if words else None)


def _smtp(error: SmtpReplyError, protocol: str, clear: bool) -> Classification:
    """Classify a reply; if it is uninformative, classify the refusal just before it."""
    found = classify(Reply(protocol, error.step, str(error.code), error.text, clear))
    if error.earlier is not None and (found.row is None or found.row.weak):
        before = error.earlier
        first = classify(Reply(protocol, before.step, str(before.code), before.text, clear))
        if first.row is not None and not first.row.weak:
            found = first
    lines = (*(error.earlier.lines if error.earlier else ()), *error.lines)
    return _from_reply(found, f"{error}{error.note}", error.server_text, lines)


def _local_shortage(error: BaseException, target: Target) -> Classification | None:
    if isinstance(error, OSError) and error.errno in LOCAL_ERRNOS:
        return Classification(Cause.MONITOR, f"internal error: {_error_text(error)}")
    if isinstance(error, MemoryError):
        return Classification(Cause.MONITOR, "internal error: out of memory")
    return None


def _cleartext_refusal(kind: Kind, text: str) -> Classification:
    """Classify a refusal in clear text like one in place of a greeting."""
    if kind is Kind.SMTP:
        lines = [line[:3] + line[4:] for line in text.splitlines()]
        reply = Reply("smtp", "greeting", text[:3], "\n".join(line[3:] for line in lines))
    elif kind is Kind.IMAP:
        _, status, rest = [*text.split(" ", 2), ""][:3]
        reply = Reply("imap", "greeting", status.upper(), rest)
    else:
        reply = Reply("pop3", "greeting", "-ERR", text[len("-ERR") :].strip())
    return _from_reply(classify(reply), text, text)


def _tls(error: BaseException, target: Target) -> Classification | None:
    if cleartext_ := cleartext.cleartext_of(error):
        if cleartext.is_refusal(target.kind, cleartext_):
            classification = _cleartext_refusal(target.kind, cleartext_)
            return classification._replace(
                detail=f"refused unencrypted, before TLS: {classification.detail}", server_text=cleartext_
            )
        reason = getattr(error, "reason", None) or type(error).__name__
        return Classification(Cause.TLS, f"answer is not TLS ({reason})", cleartext_)
    match error:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return Classification(Cause.DISCONNECTED, "connection lost")
        case ssl.SSLCertVerificationError():
            return Classification(
                Cause.TLS, explain_certificate_error(error, target.host), out_of_date=expiry_facts(error)
            )
        case ssl.SSLError():
            reason = getattr(error, "reason", None) or str(error)
            return Classification(
                Cause.TLS, f"{'answer is not TLS' if reason in _NOT_TLS else 'TLS failed'} ({reason})"
            )
    return None


def _network(error: BaseException, target: Target) -> Classification | None:
    match error:
        case socket.gaierror() if error.errno in _OUR_LOOKUP:
            return Classification(Cause.MONITOR, f"cannot look up {target.host}: {_error_text(error)}")
        case socket.gaierror():
            return Classification(Cause.DNS, f"{target.host} does not resolve: {_error_text(error)}")
        case TimeoutError():
            return Classification(Cause.TIMEOUT, f"no answer within {target.timeout:g} s")
        case ConnectionRefusedError():
            return Classification(Cause.REFUSED, "connection refused")
        case OSError() if error.errno in _UNREACHABLE:
            return Classification(Cause.UNREACHABLE, _error_text(error))
        case OSError() if error.errno in _OUR_FIREWALL:
            return Classification(Cause.UNREACHABLE, f"{_error_text(error)}: a local firewall?")
    return None


def _error_text(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
