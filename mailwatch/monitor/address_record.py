"""Records our public address, so that a provider finds us in its logs; only where the config names a server.

Nothing waits for the server, and no answer of it is a finding about the line: that is what the guard is for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from mailwatch.config.schema_guard import GuardSection
from mailwatch.config.types import split_endpoint
from mailwatch.guard.address_log import AddressLog
from mailwatch.guard.public_address import FAMILIES, Family, PublicAddress, StunError, ask_public_address
from mailwatch.monitor.pipeline import Pipeline

logger = logging.getLogger(__name__)

KIND = "address"
ASK_SECONDS = 600.0
"""Most seconds between two requests, so that a new address is noticed in time."""


class AddressRecorder:
    """Asks for our public address over IPv4 and IPv6: regularly, at an outage, and when the line came back."""

    def __init__(self, monitor: Pipeline, section: GuardSection | None) -> None:
        self._monitor, self.section = monitor, section
        self._log = AddressLog()
        self._at_outage = False
        monitor.recorder.on_outage_recorded.append(self.request_now)

    def set_section(self, section: GuardSection | None) -> None:
        """Replace the section `guard:`; if it differs, ask at once."""
        if section != self.section:
            self.section = section
            self._monitor.attribution.address_wanted.set()

    def request_now(self) -> None:
        """Ask now, since an outage opened or closed, whose range of the ledger should have our address."""
        self._at_outage = True
        self._monitor.attribution.address_wanted.set()

    async def run(self) -> None:
        """Record our address until cancelled. Raises StoreError."""
        wanted = self._monitor.attribution.address_wanted
        while True:
            wanted.clear()
            given = self.section.public_address if self.section else None
            if given is not None:
                at_outage, self._at_outage = self._at_outage, False
                await self._record(at_outage)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if given is None else min(given.every, ASK_SECONDS)):
                    await wanted.wait()

    async def _record(self, at_outage: bool) -> None:
        section = self.section
        if section is None or section.public_address is None:
            return
        every = round(section.public_address.every * 1000)
        server, timeout = section.public_address.stun, section.timeout
        for found in await asyncio.gather(*(self._ask(server, family, timeout) for family in FAMILIES)):
            if found is not None and self._log.wants(found, every, at_outage=at_outage):
                await self._monitor.recorder.append(KIND, found.at, None, found.as_json())
                self._log.recorded(found)

    async def _ask(self, server: str, family: Family, timeout: float) -> PublicAddress | None:
        """Return our address over one family, None if unknown."""
        try:
            return await ask_public_address(*split_endpoint(server), family, timeout)
        except (StunError, OSError) as error:
            why = str(error) or type(error).__name__
            logger.debug("public address: no answer from %s over IPv%d: %s", server, family, why)
        except Exception:
            self._monitor.metrics.internal_error()
            logger.exception("public address: the request failed: internal error")
        return None
