"""What one probe is asked: which target, when it was due, and what it shares with other probes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from mailwatch.model import Observation
from mailwatch.probes.connect import Lookup, TlsContexts, resolve
from mailwatch.probes.recorder import PhaseListener
from mailwatch.settings import Target
from mailwatch.times import Millis

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

    from mailwatch.probes.oauth.tokens import AccessTokens
    from mailwatch.probes.roundtrip.trip import RoundtripContext


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """One probe to be made. The target has the server, its login, the encryption and the timeout.

    `contexts` are made once and shared by all probes.
    """

    target: Target
    _: KW_ONLY
    scheduled_at: Millis
    contexts: TlsContexts
    with_login: bool = True
    """False while the login is held back: then the probe ends after the greeting."""
    every_address: bool = False
    """Whether to probe the name's other addresses too, as far as the greeting: what they answer decides nothing,
    and is recorded in `facts` and `partial`."""
    listener: PhaseListener | None = None
    """Called live with each phase."""
    lookup: Lookup = resolve
    tokens: AccessTokens | None = None
    """Supplies a login by OAuth 2; without them it is our own fault that it fails."""
    roundtrip: RoundtripContext | None = None
    """For round trips; without it their messages are not followed up."""
    resolver: Resolver | None = None
    """Asked for the exchangers of an mx target, instead of the system's."""


ProbeFunction = Callable[[ProbeRequest], Awaitable[Observation]]
