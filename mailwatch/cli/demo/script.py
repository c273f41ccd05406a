"""The script of the demo's outage, and the config with which MailWatch monitors the fake provider."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import yaml

from mailwatch.cli.demo.line_connection import PASSWORD, USERNAME, Behaviour
from mailwatch.cli.demo.provider import FakeProvider

SPEEDS = (0.1, 10.0)
"""The slowest and the fastest useful speed factors: a login over TLS takes time."""


@dataclass(frozen=True, slots=True)
class ScriptStep:
    """From `at` seconds on, the provider shows `behaviour`."""

    at: float
    behaviour: Behaviour


SCRIPT = (
    ScriptStep(0, Behaviour.FINE),
    ScriptStep(12, Behaviour.UNAVAILABLE),
    ScriptStep(22, Behaviour.SILENT),
    ScriptStep(32, Behaviour.REFUSING),
    ScriptStep(42, Behaviour.FINE),
)
"""One outage with three kinds of failure, as real outages have."""
CLOSE_SECONDS = 30.0
"""Seconds after the last step, at any speed, within which every outage must close."""

PAUSE_SECONDS = 120.0
"""Seconds between two plays of the script with --serve."""

TARGETS = ("demo-imap", "demo-smtp")


async def play_script(provider: FakeProvider, speed: float, script: tuple[ScriptStep, ...] = SCRIPT) -> None:
    """Lead the provider through the script, `speed` times as fast."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for step in script:
        await asyncio.sleep(began + step.at / speed - loop.time())
        await provider.change(step.behaviour)


def write_config(provider: FakeProvider, folder: Path, listen: str, speed: float) -> Path:
    """Write config.yaml and the password file into `folder`; return the config's path."""
    secret = folder / "password"
    secret.touch(mode=0o600)
    secret.write_text(PASSWORD + "\n", encoding="utf-8")
    config = folder / "config.yaml"
    text = yaml.safe_dump(_config(provider, listen, speed), sort_keys=False)
    config.write_text(f"# Written by mailwatch demo.\n{text}", encoding="utf-8")
    return config


def _config(provider: FakeProvider, listen: str, speed: float) -> dict[str, object]:
    listeners = (("imap", provider.imap_port, "implicit"), ("smtp", provider.smtp_port, "starttls"))
    targets = [
        {"name": f"demo-{kind}", "kind": kind, "provider": "demo", "host": "127.0.0.1", "port": port, "tls": tls,
         "ca_file": str(provider.ca_file), "login": {"username": USERNAME, "password_file": "password"}}
        for kind, port, tls in listeners
    ]  # fmt: skip
    return {
        "vantage_point": {"name": "demo"},
        "data_dir": "data",
        # Nothing in the demo is private.
        "web": {"listen": listen, "trust_network": True},
        "defaults": {"interval": _faster(2.0, speed, 0.2), "timeout": _faster(2.0, speed, 1.0)},
        "detection": {
            "open_after": 3,
            "close_after": 2,
            "recheck": [_faster(wait, speed, 0.05) for wait in (0.5, 1.0, 1.0)],
        },
        # No control server outside: the demo needs no network, and its control endpoint is on this machine.
        "clock": {"servers": []},
        "guard": {"controls": [f"127.0.0.1:{provider.control_port}"], "timeout": "2s"},
        "targets": targets,
    }


def _faster(seconds: float, speed: float, least: float) -> str:
    return f"{round(max(seconds / speed, least) * 1000)}ms"
