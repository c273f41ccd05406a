"""Access that the owner grants in any browser, with a code (RFC 8628): for providers that accept only OAuth 2.

The grant is written as `mailwatch login --device` writes it, and removed again if the set-up is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from mailwatch.probes.oauth.flows import DeviceCode, device_code, device_grant
from mailwatch.probes.oauth.grant import GrantBusyError, lock_grant, write_grant
from mailwatch.probes.oauth.http import REQUEST_TIMEOUT_SECONDS, OAuthError, OAuthUnavailableError
from mailwatch.settings import OAuth2
from mailwatch.setup.texts import printable_text


class AccessGrant:
    """One grant. `code` is what the owner types in, and where; `failure` is why there is no grant."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.client_id = ""
        self.code: DeviceCode | None = None
        self.failure = ""
        self.is_open = False
        self._changed = changed
        self._written: Path | None = None

    async def obtain(self, client: OAuth2) -> bool:
        """Have the owner grant access; return whether they did."""
        self.client_id, self.code, self.failure, self.is_open = client.client_id, None, "", True
        try:
            self.code = await device_code(client)
            self._changed()
            grant = await device_grant(client, self.code)
            async with lock_grant(client.grant_file, REQUEST_TIMEOUT_SECONDS):
                is_new = not client.grant_file.exists()
                await asyncio.to_thread(write_grant, client.grant_file, grant)
                self._written = client.grant_file if is_new else None
        except TimeoutError:
            self.failure = "timeout"
        except (OAuthError, OAuthUnavailableError, GrantBusyError, OSError) as error:
            self.failure = printable_text(error)
        finally:
            self.code, self.is_open = None, False
            self._changed()
        return not self.failure

    def keep(self) -> None:
        """Keep the grant: the config uses it now."""
        self._written = None

    def discard(self) -> None:
        """Remove a grant that was written here and not kept."""
        if self._written is not None:
            with contextlib.suppress(OSError):
                self._written.unlink()
            self._written = None
