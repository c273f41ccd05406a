"""Shared by the verbs that change the config: they save it, and have the running monitor read it again."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from mailwatch.cli.common import config_path
from mailwatch.cli.language import tr
from mailwatch.config import Config
from mailwatch.config.edit import ConfigChangedError, ConfigFile
from mailwatch.config.errors import ConfigNotFoundError
from mailwatch.errors import UsageError
from mailwatch.setup.places import in_container
from mailwatch.store import request_reload

PATIENCE = 5.0
"""Seconds for which a change is made again while other programs change the config."""
PAUSE = 0.05

T = TypeVar("T")


def change_config(args: argparse.Namespace, change: Callable[[ConfigFile], T]) -> tuple[Config, T]:
    """Read the config, change it and save it; again if another program saved its own change meanwhile.

    Return the config that is there now, and what `change` returned. Raises ConfigError, UsageError, OSError.
    """
    end = time.monotonic() + PATIENCE
    while True:
        file = open_config_file(args)
        made = change(file)
        try:
            return file.save(), made
        except ConfigChangedError:
            if time.monotonic() > end:
                raise
            time.sleep(PAUSE)


def open_config_file(args: argparse.Namespace) -> ConfigFile:
    """Read the config that a verb changes. Raises ConfigError, UsageError if there is none."""
    try:
        return ConfigFile.read(config_path(args))
    except ConfigNotFoundError as error:
        (problem,) = error.problems
        # A file that is not there has no line.
        raise UsageError(f"mailwatch: {problem.file} {problem.message}") from None


def say(text: str, /, **fields: object) -> None:
    """Print a message to stderr in the language of the terminal."""
    print(tr(text, **fields), file=sys.stderr)


def reload_monitor(config: Config) -> bool:
    """Have the running monitor read the config again, and print what comes of it. Return whether it was asked."""
    holder = request_reload(config.data_dir)
    if holder:
        say(
            "The running monitor (process {holder}) reads the config again; its log has the result.", holder=holder
        )
    elif holder is None:
        say("No MailWatch runs with this data_dir; the change takes effect at the next start.")
    elif in_container(os.environ):
        say("Now have the running monitor read the config again: docker compose kill -s HUP mailwatch")
    else:
        say("Now have the running monitor read the config again, as its own user: systemctl reload mailwatch")
    return bool(holder)
