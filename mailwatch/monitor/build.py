"""Targets, channels and authorities, built from the config; all that can fail comes before any change."""

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
    build_targets,
    check_references,
    web_access,
)
from mailwatch.settings import Channel, Target, TimestampAuthority

RESTART_ONLY_KEYS = ("vantage_point", "data_dir", "database", "detection", "web.listen")
"""Config keys that take effect only at the next start; a reload applies all others (docs/reference/reload.md)."""


@dataclass(frozen=True, slots=True)
class BuiltConfig:
    """Targets, authorities, channels, heartbeat and access, built from the config with their secrets."""

    targets: Sequence[Target]
    authorities: Sequence[TimestampAuthority]
    channels: Sequence[Channel]
    heartbeat: SecretStr | None
    access: WebAccess


def build_config(config: Config) -> BuiltConfig:
    """Build the objects that the config describes, and read their secrets. Raises ConfigError."""
    check_references(config)
    return BuiltConfig(
        build_targets(config),
        build_authorities(config),
        build_channels(config),
        build_heartbeat(config),
        web_access(config),
    )


def merge_reload(before: Config, given: Config) -> tuple[Config, list[str]]:
    """Return the config in force after a reload, and the changed keys that wait for the next start."""
    waiting = [key for key in RESTART_ONLY_KEYS if _value(before, key) != _value(given, key)]
    kept = {key: _value(before, key) for key in RESTART_ONLY_KEYS if "." not in key}
    web = given.web.model_copy(update={"listen": before.web.listen})
    return given.model_copy(update={**kept, "web": web}), waiting


def _value(config: Config, key: str) -> object:
    found: object = config
    for part in key.split("."):
        found = getattr(found, part)
    return found
