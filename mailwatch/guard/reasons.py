"""What asking a control comes to, in one word, and what many of them amount to."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterable

OK = "ok"
MONITOR = "monitor"
"""Why a control could not be asked by our own fault; it says nothing of the line."""
INTERCEPTED = "intercepted"
"""Somebody else answered in the control's place."""
NOT_AWAITED = "not awaited"
DISCONNECTED = "disconnected"

_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: DISCONNECTED,
    errno.ECONNABORTED: DISCONNECTED,
    errno.EPIPE: DISCONNECTED,
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.EACCES: "prohibited",
    errno.EPERM: "prohibited",
}
_EXPIRED, _NOT_YET_VALID = 10, 9


def reason_of(error: OSError) -> str:
    """Name what kept a control from being reached; what has no name is our own fault."""
    match error:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return DISCONNECTED
        case ssl.SSLCertVerificationError() if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            # Name and issuer were right: it is our clock that is wrong, or nobody knows.
            return MONITOR
        case ssl.SSLError():
            return INTERCEPTED
        case TimeoutError():
            # ETIMEDOUT of the kernel is a TimeoutError too, and so is the end of our own patience.
            return _REASONS.get(error.errno or errno.ETIMEDOUT, MONITOR)
        case ConnectionError() if error.errno is None:
            return DISCONNECTED
    return _REASONS.get(error.errno or 0, MONITOR)


def verdict(reasons: Iterable[str]) -> bool | None:
    """Return whether one is OK; None when none is, and not all were asked."""
    told = list(reasons)
    if OK in told:
        return True
    return None if MONITOR in told or not told else False
