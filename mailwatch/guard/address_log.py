"""Selects the public addresses to record: each change, one at a regular interval, and one at each outage."""

from __future__ import annotations

from mailwatch import monotonic
from mailwatch.guard.public_address import PublicAddress
from mailwatch.times import Millis

OUTAGE_LOG_MS: Millis = 60_000
"""Milliseconds; at an outage, an address recorded so shortly before is not recorded again."""


class AddressLog:
    """Remembers the last recorded address of each family."""

    def __init__(self) -> None:
        self._logged: dict[int, tuple[PublicAddress, Millis]] = {}
        """With the time of its record on the steady clock, by family."""

    def wants(self, found: PublicAddress, every: Millis, *, at_outage: bool = False) -> bool:
        """Return whether to record what was found now. `every`: the interval of records."""
        at, (before, logged_at) = monotonic.milliseconds(), self._logged.get(found.family, (None, 0))
        changed = before is None or (before.address, before.server) != (found.address, found.server)
        return changed or at - logged_at >= (min(every, OUTAGE_LOG_MS) if at_outage else every)

    def recorded(self, found: PublicAddress) -> None:
        """Remember what is on disk now."""
        self._logged[found.family] = found, monotonic.milliseconds()
