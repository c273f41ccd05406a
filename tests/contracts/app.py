"""The HTTP app in this process: here alone it is known how the parts of MailWatch are put together."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

PASSWORD = "contracts-only"


@contextlib.asynccontextmanager
async def started(config: Path, *, probing: bool = False) -> AsyncIterator[Any]:
    """The HTTP app of an installation, started as `mailwatch run` starts it; nothing is probed unless wanted."""
    from prometheus_client import CollectorRegistry

    from mailwatch.config import load
    from mailwatch.metrics import Metrics
    from mailwatch.monitor.startup import Startup

    async with contextlib.AsyncExitStack() as undo:
        service = await Startup(config, load(config), Metrics(CollectorRegistry()), undo).run()
        if probing:
            await undo.enter_async_context(service.running(lambda: None))
        yield service.make_app()


async def asked(app: Any, owner: bool, path: str) -> httpx.Response:
    # A defect is a 500 in the snapshot, not the end of all of them.
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40_000), raise_app_exceptions=False)
    auth = httpx.BasicAuth("mailwatch", PASSWORD) if owner else None
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", auth=auth) as client:
        return await client.get(path)
