"""Pings an address while MailWatch is healthy, so that an outside service notices when it is dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pydantic import SecretStr

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0


class Heartbeat:
    """Requests an address regularly; `change` replaces it while running, and None stops the requests."""

    def __init__(self, url: SecretStr | None, every: float, healthy: Callable[[], bool]) -> None:
        self._url, self._every, self._healthy = url, every, healthy
        self._changed = asyncio.Event()

    @property
    def settings(self) -> tuple[SecretStr | None, float]:
        """The requested address, and the seconds between two requests."""
        return self._url, self._every

    def change(self, url: SecretStr | None, every: float) -> None:
        """Replace the address and the interval."""
        if (url, every) != self.settings:
            self._url, self._every = url, every
            self._changed.set()

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            self._changed.clear()
            async with asyncio.TaskGroup() as group:
                asking = self._url and group.create_task(send_heartbeats(self._url, self._every, self._healthy))
                await self._changed.wait()
                if asking:
                    asking.cancel()


async def send_heartbeats(url: SecretStr, every: float, healthy: Callable[[], bool]) -> None:
    """Request `url` every `every` seconds while `healthy` returns True, until cancelled. Log a failure once."""
    # Imported on first use: it takes a tenth of a second, and few have a heartbeat.
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)
    failing = False
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False) as client:
        while True:
            if healthy():
                try:
                    async with (
                        asyncio.timeout(TIMEOUT_SECONDS),
                        client.stream("GET", url.get_secret_value()) as answer,
                    ):
                        ok = answer.is_success
                        why = f"status {answer.status_code}"
                except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
                    # The error's text is dropped, since it may repeat the address.
                    ok, why = False, type(error).__name__
                if not ok and not failing:
                    logger.warning("heartbeat: it was not taken: %s; it is tried again", why)
                elif ok and failing:
                    logger.warning("heartbeat: it is taken again")
                failing = not ok
            await asyncio.sleep(every)
