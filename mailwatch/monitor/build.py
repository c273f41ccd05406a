"""Targets, channels, authorities and witnesses, built from the config before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from mailwatch.config import (
    Config,
    WebAccess,
    build_authorities,
    build_channels,
    build_heartbeat,
    build_hub,
    build_targets,
    build_witnesses,
    check_references,
    web_access,
)
from mailwatch.settings import Channel, Hub, Target, TimestampAuthority, Witness

RESTART_ONLY_KEYS = (
    "vantage_point",
    "data_dir",
    "database",
    "detection",
    "web.listen",
    "web.metrics_listen",
    "witness.listen",
    "hub_server",
)
"""Config keys that take effect only at the next start; a reload applies all others (docs/reference/reload.md)."""


@dataclass(frozen=True, slots=True)
class BuiltConfig:
    """What is built from the config, with its secrets: all that a reload changes at once."""

    targets: Sequence[Target]
    authorities: Sequence[TimestampAuthority]
    witnesses: Sequence[Witness]
    channels: Sequence[Channel]
    heartbeat: SecretStr | None
    access: WebAccess
    hub: Hub | None


def build_config(config: Config) -> BuiltConfig:
    """Build the objects that the config describes, and read their secrets. Raises ConfigError."""
    check_references(config)
    return BuiltConfig(
        build_targets(config),
        build_authorities(config),
        build_witnesses(config),
        build_channels(config),
        build_heartbeat(config),
        web_access(config),
        build_hub(config),
    )


def merge_reload(before: Config, given: Config) -> tuple[Config, list[str]]:
    """Return the config in force after a reload, and the changed keys that wait for the next start."""
    waiting = [key for key in RESTART_ONLY_KEYS if _value(before, key) != _value(given, key)]
    kept = {key: _value(before, key) for key in RESTART_ONLY_KEYS if "." not in key}
    listeners = {"listen": before.web.listen, "metrics_listen": before.web.metrics_listen}
    web = given.web.model_copy(update=listeners)
    if before.witness is None or given.witness is None:
        witness = before.witness
    else:
        witness = given.witness.model_copy(update={"listen": before.witness.listen})
    return given.model_copy(update={**kept, "web": web, "witness": witness}), waiting


def _value(config: Config, key: str) -> object:
    found: object = config
    for part in key.split("."):
        found = getattr(found, part, None)
    return found
