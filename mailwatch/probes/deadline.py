"""How long a probe may take in all, each attempt at its slowest: what takes longer does not end by itself."""

from __future__ import annotations

from mailwatch.models import Delivery, Kind, Target
from mailwatch.oauth.access import PATIENCE
from mailwatch.probes.attempts import GOODBYE, MAX_ATTEMPTS, OTHERS_TIMEOUT

_MX_STEPS = 1 + 5 * (1 + 2)
"""The exchangers' names, then of each of five the addresses, and two connections."""
_ROUNDTRIP_STEPS = 60
"""Two logins, the handing in, and each command of waiting for the message and of clearing up."""
MARGIN = 30.0
"""Seconds for what has a short bound of its own."""


def longest(target: Target) -> float:
    """Return the seconds after which no probe of `target` is under way any more, however slow its server is."""
    if isinstance(target.task, Delivery):
        return _ROUNDTRIP_STEPS * target.timeout + 3 * target.task.deadline + MARGIN
    steps = _MX_STEPS if target.kind is Kind.MX else 1 + MAX_ATTEMPTS
    once = steps * (target.timeout + GOODBYE) + OTHERS_TIMEOUT
    if target.login is not None and target.login.oauth2 is not None:
        # A token that is rejected is renewed, and the probe made again.
        return 2 * (once + PATIENCE) + MARGIN
    return once + MARGIN
