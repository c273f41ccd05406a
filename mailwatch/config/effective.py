"""The effective config: every default and server filled in, and no secrets."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import yaml

from mailwatch.config.schema import Config
from mailwatch.config.schema_notify import NotifySection, UrlSection
from mailwatch.config.targets import resolved_targets
from mailwatch.time_zone import TimeZoneError


def effective(config: Config) -> dict[str, Any]:
    """Return the config in its long form: accounts as targets, all defaults filled in."""
    written = {
        "accounts",
        "targets",
        "timestamps",
        "witnesses",
        "witness",
        "hub",
        "hub_server",
        "signing",
        "claims",
        "notify",
        "heartbeat",
        "maintenance",
        "backup",
    }
    plain = config.model_dump(mode="json", exclude=written)
    if config.timezone is None:
        del plain["timezone"]
    if config.detection.quorum is None:
        del plain["detection"]["quorum"]
    plain["timestamps"] = [section.model_dump(mode="json", exclude_none=True) for section in config.timestamps]
    for stamping in plain["timestamps"]:
        _hide_arguments(stamping)
    if config.witnesses:
        plain["witnesses"] = [section.model_dump(mode="json") for section in config.witnesses]
    if config.witness:
        plain["witness"] = config.witness.model_dump(mode="json")
    if config.hub:
        plain["hub"] = config.hub.model_dump(mode="json")
    if config.hub_server:
        plain["hub_server"] = config.hub_server.model_dump(mode="json")
    plain["web"] = config.web.model_dump(mode="json", exclude_none=True)
    if config.signing:
        plain["signing"] = config.signing.model_dump(mode="json", exclude_none=True)
    if config.notify:
        plain["notify"] = [_channel(section, config) for section in config.notify]
    if config.backup:
        plain["backup"] = config.backup.model_dump(mode="json")
    if config.heartbeat:
        plain["heartbeat"] = _without_address(config.heartbeat)
    targets = []
    for section, _ in resolved_targets(config):
        target = section.model_dump(mode="json", exclude_none=True)
        if target["provider"] == "":
            del target["provider"]
        if not target["paused"]:
            del target["paused"]
        _hide_arguments(target)
        targets.append(target)
    if config.maintenance:
        rules = [rule.model_dump(mode="json", exclude_none=True) for rule in config.maintenance]
        plain["maintenance"] = rules
    if config.claims:
        plain["claims"] = [section.model_dump(mode="json", exclude_defaults=True) for section in config.claims]
    return {**plain, "targets": targets}


def _channel(section: NotifySection, config: Config) -> dict[str, Any]:
    plain = _without_address(section)
    # Without any time zone the times in messages are in UTC, as `run` warns.
    with contextlib.suppress(TimeZoneError):
        plain.setdefault("timezone", config.zone().key)
    return plain


def _without_address(section: UrlSection) -> dict[str, Any]:
    """Return a section with only the scheme of its address; the rest often contains a secret."""
    plain = section.model_dump(mode="json", exclude_none=True)
    if section.url is not None:
        plain["url"] = f"{section.url.partition('://')[0][:20]}://..." if "://" in section.url else "..."
    return plain


def _hide_arguments(section: dict[str, Any]) -> None:
    """Hide the arguments of a command: one may itself be a secret, for example a token."""
    login = section.get("login") or {}
    if command := login.get("password_command"):
        login["password_command"] = [command[0], *("..." for _ in command[1:])]


def effective_yaml(config: Config) -> str:
    """Return the effective config as YAML, which loads to an equal config."""
    return yaml.safe_dump(effective(config), sort_keys=False, allow_unicode=True)


def digest(config: Config) -> str:
    """Return the SHA-256 of the effective config in hex; it depends on no password and no claim."""
    observed = {key: value for key, value in effective(config).items() if key != "claims"}
    text = json.dumps(observed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def schema() -> dict[str, Any]:
    """Return the JSON Schema of config.yaml, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(mode="validation"),
    }
