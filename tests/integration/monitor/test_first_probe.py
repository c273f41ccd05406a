"""A start probes before its pages are made: on a busy machine these take seconds."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from starlette.types import ASGIApp

from mailwatch.config import load
from mailwatch.monitor.process import Daemon
from mailwatch.web.app import create_app
from tests.helpers.patience import PATIENCE
from tests.servers import HOST, free_port


async def test_the_first_probe_waits_for_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    probed = threading.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        probed.set()
        writer.close()

    def slow(*given: object) -> ASGIApp:
        assert probed.wait(PATIENCE)
        return create_app(*given)  # type: ignore[arg-type]

    monkeypatch.setattr("mailwatch.monitor.startup.create_app", slow)
    server = await asyncio.start_server(answer, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    config = tmp_path / "config.yaml"
    written = {
        "vantage_point": {"name": "here"},
        "web": {"listen": f"{HOST}:{free_port()}"},
        "guard": "off",
        "clock": {"servers": []},
        "targets": [{"name": "lab", "kind": "imap", "host": HOST, "port": port, "tls": "none"}],
    }
    config.write_text(json.dumps(written))
    daemon = Daemon(config, load(config), lambda _targets, _at_once: 100, named=True)
    caplog.set_level("INFO")
    async with server, asyncio.timeout(2 * PATIENCE), asyncio.TaskGroup() as group:
        running = group.create_task(daemon.run())
        while "monitoring 1 target" not in caplog.text and not running.done():
            await asyncio.sleep(0.01)
        daemon.ending.set()
