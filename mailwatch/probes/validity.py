"""The dates of a chain of certificates that our clock calls out of date; whose fault that is, expiry.py says."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any

from mailwatch import certificates

_EXPIRED, _NOT_YET_VALID = 10, 9
"""X509_V_ERR_* of OpenSSL."""
_PROBLEMS = {_EXPIRED: "expired", _NOT_YET_VALID: "not_yet_valid"}


def out_of_date(error: ssl.SSLCertVerificationError) -> dict[str, Any] | None:
    """Return {"problem", "not_before", "not_after"} for the record (milliseconds), None for another problem.

    The dates are those between which every certificate of the chain is valid; absent where one cannot be read.
    """
    problem = _PROBLEMS.get(error.verify_code)
    if problem is None:
        return None
    dates = _common(getattr(error, "chain", ()))
    return {"problem": problem} | ({"not_before": dates[0], "not_after": dates[1]} if dates else {})


def _common(chain: Iterable[bytes]) -> tuple[int, int] | None:
    try:
        read = [certificates.read(der) for der in chain]
        begins = [certificate.not_valid_before_utc.timestamp() for certificate in read]
        ends = [certificate.not_valid_after_utc.timestamp() for certificate in read]
    except certificates.UnreadableCertificate:
        return None
    # Valid to the end of its last second (RFC 5280, section 4.1.2.5).
    return (round(max(begins) * 1000), round(min(ends) * 1000) + 999) if read else None
