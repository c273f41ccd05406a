"""Opens all that a config names, and lists every mistake at once: secrets, certificates, folders, addresses."""

from __future__ import annotations

from collections.abc import Callable

from mailwatch.config.access import web_access
from mailwatch.config.build import build_authorities, build_hub, build_witnesses
from mailwatch.config.channels import build_channels, build_heartbeat
from mailwatch.config.errors import ConfigError, ConfigProblem
from mailwatch.config.preflight import check_references
from mailwatch.config.schema import Config
from mailwatch.config.targets import build_targets
from mailwatch.settings import Target


def reference_problems(config: Config) -> tuple[tuple[ConfigProblem, ...], int]:
    """Open everything that the config names, as `run` does. Return every mistake, and the number of targets."""
    problems: set[ConfigProblem] = set()
    targets: list[Target] = []
    steps: tuple[Callable[[], object], ...] = (
        lambda: check_references(config),
        lambda: targets.extend(build_targets(config)),
        lambda: build_authorities(config),
        lambda: build_witnesses(config),
        lambda: build_hub(config),
        lambda: build_channels(config),
        lambda: build_heartbeat(config),
        lambda: web_access(config),
    )
    for step in steps:
        try:
            step()
        except ConfigError as error:
            problems.update(error.problems)
    return tuple(sorted(problems)), len(targets)
