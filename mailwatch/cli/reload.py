"""mailwatch reload: has the running monitor read its config again."""

from __future__ import annotations

import argparse

from mailwatch.cli.common import add_options, open_config
from mailwatch.cli.config_changes import reload_monitor


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = "Exit status: 0 asked, 1 not: no monitor runs, or it cannot be reached from here."
    add_options(verb, json=False)
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # Mistakes are listed here, and not only in the log of the monitor, which would keep its config.
    return 0 if reload_monitor(open_config(args)) else 1
