"""What breaks when, and the config with which MailWatch watches it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mailwatch.cli.demo.line_connection import PASSWORD, USERNAME, Mood
from mailwatch.cli.demo.provider import StandIn

SPEEDS = (0.1, 10.0)
"""The slowest and the fastest that make sense: a login over TLS takes its time."""


@dataclass(frozen=True, slots=True)
class Step:
    """From `at` seconds on, the provider is in that mood."""

    at: float
    mood: Mood


SCRIPT = (
    Step(0, Mood.FINE),
    Step(12, Mood.UNAVAILABLE),
    Step(22, Mood.SILENT),
    Step(32, Mood.REFUSING),
    Step(42, Mood.FINE),
)
"""An outage with three faces, as real ones have."""
PATIENCE = 30.0
"""Seconds after the last step, at any speed, within which every outage must have been seen to close."""

PAUSE = 120.0
"""Seconds from one play to the next, when the demo goes on."""

TARGETS = ("demo-imap", "demo-smtp")


async def play(standin: StandIn, speed: float, script: tuple[Step, ...] = SCRIPT) -> None:
    """Lead the stand-in through the script, `speed` times as fast."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for step in script:
        await asyncio.sleep(began + step.at / speed - loop.time())
        await standin.change(step.mood)


def write_config(standin: StandIn, folder: Path, listen: str, speed: float) -> Path:
    """Write config.yaml and the password file into `folder`, and return the config's path."""
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(PASSWORD + "\n", encoding="utf-8")
    config = folder / "config.yaml"
    text = yaml.safe_dump(_config(standin, listen, speed), sort_keys=False)
    config.write_text(f"# Written by mailwatch demo.\n{text}", encoding="utf-8")
    return config


def _config(standin: StandIn, listen: str, speed: float) -> dict[str, Any]:
    doors = (("imap", standin.imap_port, "implicit"), ("smtp", standin.smtp_port, "starttls"))
    targets = [
        {"name": f"demo-{kind}", "kind": kind, "provider": "demo", "host": "127.0.0.1", "port": port, "tls": tls,
         "ca_file": str(standin.ca_file), "login": {"username": USERNAME, "password_file": "password"}}
        for kind, port, tls in doors
    ]  # fmt: skip
    return {
        "vantage_point": {"name": "demo"},
        "data_dir": "data",
        # There is nothing in a demo that a stranger may not see.
        "web": {"listen": listen, "trust_network": True},
        "defaults": {"interval": _faster(2.0, speed, 0.2), "timeout": _faster(2.0, speed, 1.0)},
        "detection": {
            "open_after": 3,
            "close_after": 2,
            "recheck": [_faster(wait, speed, 0.05) for wait in (0.5, 1.0, 1.0)],
        },
        # No control in the outside world: the demo needs no network, and asks whether this machine is there.
        "clock": {"servers": []},
        "guard": {"controls": [f"127.0.0.1:{standin.control_port}"], "timeout": "2s"},
        "targets": targets,
    }


def _faster(seconds: float, speed: float, least: float) -> str:
    return f"{round(max(seconds / speed, least) * 1000)}ms"
