"""Where a set-up takes place: the data folder, the address of the pages, and whether this is a container."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mailwatch.config import ConfigError, load
from mailwatch.config.load import VARIABLES
from mailwatch.config.schema_web import WebSection
from mailwatch.config.types import split_endpoint
from mailwatch.net import is_loopback, parse_address

CONTAINER_VARIABLE = "MAILWATCH_CONTAINER"
"""The environment variable that the image sets. A file system shows no sure sign of a container."""
RESTART_IN_CONTAINER = "docker compose restart mailwatch"
"""The command that restarts MailWatch where the image runs."""
RUN_IN_CONTAINER = "docker compose run --rm --no-deps mailwatch"
"""What runs a command of MailWatch there, before the word of the command."""
SETUP_PATH = "setup"
"""The page of the set-up, below the address of the pages."""


def in_container(environment: Mapping[str, str]) -> bool:
    """Return whether this is a container of MailWatch's image."""
    return environment.get(CONTAINER_VARIABLE, "") not in ("", "false")


def data_dir(config: Path) -> Path:
    """Return the data folder of a config that may not exist yet, or not load."""
    if named := os.environ.get(VARIABLES["data_dir",]):
        return Path(named)
    try:
        return load(config).data_dir
    except (ConfigError, OSError):
        return config.absolute().parent / "data"


def listen_address(config: Path) -> str:
    """Return where the pages listen, HOST:PORT, for a config that may not exist yet."""
    if named := os.environ.get(VARIABLES["web", "listen"]):
        return named
    try:
        return load(config).web.listen
    except (ConfigError, OSError):
        return WebSection().listen


def page_url(listen: str, this_machine: str) -> str:
    """Return the address of the pages for a browser. `this_machine` stands for an address no browser can open."""
    try:
        host, port = split_endpoint(listen)
    except ValueError:
        return f"http://{listen}/"
    address = parse_address(host)
    if address is not None and address.is_unspecified:
        host = this_machine
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def is_open(listen: str) -> bool:
    """Return whether other machines can reach the address. Raises FieldError."""
    return not is_loopback(split_endpoint(listen)[0])
