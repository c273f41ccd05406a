"""Logs in with an access token: OAUTHBEARER (RFC 7628) and its predecessor XOAUTH2, as documented by Google."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import NamedTuple

from mailwatch.model import Cause
from mailwatch.probes.connect import MonitorError, ProbeContext
from mailwatch.probes.failures import ProbeError
from mailwatch.probes.redact import wire
from mailwatch.settings import Login, Target

MAX_CHALLENGE_CHARS = 8192
MAX_STATUS_CHARS = 100


class Mechanism(NamedTuple):
    """The data to send. `failure_response` answers a challenge that reports a failure: then the server refuses."""

    name: str
    initial: bytes
    failure_response: bytes


def choose_mechanism(context: ProbeContext, login: Login, offered: Iterable[str]) -> Mechanism:
    """Choose OAUTHBEARER if it is offered, else XOAUTH2.

    Raises ProbeError(credentials) without either: either the server changed or the owner configured the wrong
    method. Accounts that logged in before show which, if they fail together. Raises MonitorError without a token.
    """
    names = {name.upper() for name in offered}
    name = next((name for name in ("OAUTHBEARER", "XOAUTH2") if name in names), None)
    if name is None:
        offered_names = " ".join(sorted(names)) or "none"
        raise ProbeError(Cause.CREDENTIALS, f"the server offers neither OAUTHBEARER nor XOAUTH2 ({offered_names})")
    user, token = wire(login.username), wire(login.password.get_secret_value())
    if not token:
        raise MonitorError("no access token was supplied")
    if any(c in user + token for c in b"\1\r\n\0"):
        raise ProbeError(Cause.CREDENTIALS, "the user name contains control characters; nothing was sent")
    context.recorder.facts["sasl"] = name
    return bearer_mechanism(name, user, token, context.target)


def bearer_mechanism(name: str, user: bytes, token: bytes, target: Target) -> Mechanism:
    """Return the mechanism with the client's data in base64."""
    if name == "XOAUTH2":
        return Mechanism(name, b64encode(b"user=%b\1auth=Bearer %b\1\1" % (user, token)), b"")
    # RFC 5801, section 4: escape "=" and "," in the name.
    identity = user.replace(b"=", b"=3D").replace(b",", b"=2C")
    host = wire(target.host)
    words = b"n,a=%b,\1host=%b\1port=%d\1auth=Bearer %b\1\1" % (identity, host, target.port, token)
    return Mechanism(name, b64encode(words), b64encode(b"\1"))


def failure_status(challenge: bytes) -> str:
    """Return the server's reason (RFC 7628, section 3.2.2) as ", status: invalid_token"; "" without a reason."""
    try:
        fields = json.loads(b64decode(challenge.strip()[:MAX_CHALLENGE_CHARS], validate=True))
    except (ValueError, binascii.Error, RecursionError):
        return ""
    code = fields.get("status") if isinstance(fields, dict) else None
    return f", status: {str(code)[:MAX_STATUS_CHARS]}" if isinstance(code, str | int) and code else ""
