"""mailwatch pause, mailwatch resume: paused mailboxes are known and shown, but not probed."""

from __future__ import annotations

import argparse

from mailwatch.cli.common import add_options
from mailwatch.cli.config_changes import change_config, reload_monitor, say
from mailwatch.config.edit import ConfigFile
from mailwatch.setup.mailbox_entries import entries_of


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments of either verb."""
    add_options(verb, json=False)
    verb.add_argument(
        "names", nargs="+", metavar="NAME", help="the address of an account, or the name of a target"
    )
    verb.set_defaults(run=_run, paused=verb.prog.split()[-1] == "pause")


def _run(args: argparse.Namespace) -> int:
    def change(file: ConfigFile) -> None:
        for name in dict.fromkeys(args.names):
            for entry in entries_of(file, name):
                file.set_paused(entry, args.paused)

    config, _ = change_config(args, change)
    say("Paused: {names}" if args.paused else "Resumed: {names}", names=", ".join(args.names))
    reload_monitor(config)
    return 0
