"""The request for one probe: the target, its due time, and the resources shared with other probes."""

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
    """The request for one probe. The target has the server, its login, the encryption and the timeout.

    `contexts` are created once and shared by all probes.
    """

    target: Target
    _: KW_ONLY
    scheduled_at: Millis
    contexts: TlsContexts
    with_login: bool = True
    """False while logins are suspended: then the probe ends after the greeting."""
    every_address: bool = False
    """Whether to probe the name's other addresses too, up to the greeting. They decide nothing, and are recorded
    in `facts` and `partial`.
    """
    listener: PhaseListener | None = None
    """Called live with each phase."""
    lookup: Lookup = resolve
    tokens: AccessTokens | None = None
    """Supplies the tokens for OAuth 2 logins; without it such a login fails by our own fault."""
    roundtrip: RoundtripContext | None = None
    """The context of a round trip; without it, messages under way are not followed up."""
    resolver: Resolver | None = None
    """Resolves the exchangers of an mx target, instead of the system's resolver."""


ProbeFunction = Callable[[ProbeRequest], Awaitable[Observation]]
