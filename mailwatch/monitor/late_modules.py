"""Loads what a start does without, once MailWatch serves.

It is needed at moments at which it can no longer be loaded: when the file handles run out, when the disk fails, or
after the package was replaced by another version of it.
"""

from __future__ import annotations

import asyncio
import logging

logger = logging.getLogger(__name__)


async def load_late_modules() -> None:
    """Load them in a thread. What cannot be loaded is tried again when it is needed."""
    try:
        await asyncio.to_thread(_load)
    except (ImportError, OSError) as error:
        logger.warning("modules cannot be loaded yet: %s", error)


def _load() -> None:
    # The diagnosis of a failure; grants and heartbeats; timestamp tokens; the set-up of a mailbox in the browser.
    import dns.asyncresolver
    import dns.rcode
    import httpx
    import rfc3161_client
    from asn1crypto import cms, parser, tsp

    from mailwatch.setup import search

    del dns, httpx, rfc3161_client, cms, parser, tsp, search
