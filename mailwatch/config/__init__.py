"""Reads config.yaml strictly: no key in it is silently ignored.

loaded = load(default_path())         # raises ConfigError with every mistake and its file:line
targets = build_targets(loaded)       # accounts expanded, secrets read
build_authorities(loaded)             # the authorities that timestamp the ledger
build_hub(loaded)                     # the hub to which it is pushed
build_witnesses(loaded)               # the witnesses that cosign it
build_channels(loaded)                # where notifications go
check_references(loaded)              # do the named files and addresses exist
web_access(loaded)                    # who may see which pages
for mistake in warnings(loaded): ...  # allowed, but deserves a warning
"""

from __future__ import annotations

from mailwatch.config.access import WebAccess, web_access, web_warnings
from mailwatch.config.advice import advice
from mailwatch.config.build import build_authorities, build_hub, build_maintenance, build_witnesses
from mailwatch.config.channels import build_channels, build_heartbeat, channel_warnings
from mailwatch.config.effective import digest, effective, effective_yaml, schema
from mailwatch.config.errors import ConfigError, ConfigNotFoundError, ConfigProblem
from mailwatch.config.load import default_path, load
from mailwatch.config.preflight import check_references
from mailwatch.config.references import reference_problems
from mailwatch.config.salvage import salvage
from mailwatch.config.schema import Config
from mailwatch.config.targets import build_targets, warnings

__all__ = [
    "Config",
    "ConfigError",
    "ConfigNotFoundError",
    "ConfigProblem",
    "WebAccess",
    "advice",
    "build_authorities",
    "build_channels",
    "build_heartbeat",
    "build_hub",
    "build_maintenance",
    "build_targets",
    "build_witnesses",
    "channel_warnings",
    "check_references",
    "default_path",
    "digest",
    "effective",
    "effective_yaml",
    "load",
    "reference_problems",
    "salvage",
    "schema",
    "warnings",
    "web_access",
    "web_warnings",
]
