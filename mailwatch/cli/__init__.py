"""The command line: one file per verb. Each adds its arguments, calls, prints and returns an exit status.

Data goes to stdout, messages to stderr. Exit status: 0 success, 1 a problem found, 2 wrong usage, 70 a defect in
MailWatch, 71 a lack of resources (errors.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path

from mailwatch import __version__
from mailwatch.cli.errors import run_command
from mailwatch.monitor.signals import command_verb

VERBS = {
    "run": "run the monitor until SIGTERM; SIGHUP reloads the config",
    "health": "ask the running monitor whether it is alive; exit 0 yes, 1 no",
    "demo": "show how MailWatch detects an outage of a fake provider; needs no account and no network",
    "init": "set up a mailbox: find its servers, try the login, write config.yaml",
    "login": "grant access to a mailbox by OAuth 2, in your browser",
    "probe": "check targets once, with the login; exit 0 all up, 1 some down, 3 some unknown",
    "outages": "list the outages on record, or show one in full",
    "incidents": "list incidents (overlapping outages of one provider), or show one in full",
    "offline": "list the times when our own line was down",
    "availability": "compute the availability in a window of time, and how much of it was observed",
    "report": "write the evidence of an outage, or of a window of time, into one file",
    "claim": "write a letter of complaint about an outage, and log what you sent",
    "verify": "verify an evidence bundle offline; exit 1 if it is not valid",
    "merge": "merge the bundles of several vantage points into a joint report",
    "ledger": "verify the record of all observations",
    "backup": "back up ledger, keys and tokens into one file, also while the monitor runs",
    "config": "check or show config.yaml",
    "notify": "test the notification channels, and list rejected messages",
    "providers": "list the mail providers that MailWatch knows",
    "completion": "print a script that completes commands in bash, zsh or tcsh",
}


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Parse one command; its `run` attribute executes it. Exits with status 2 on wrong usage."""
    return parser_with({command_verb(given)}).parse_args(given)


def parser_with(complete: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser of all verbs. Only the verbs in `complete` have their modules loaded and options added."""
    parser = argparse.ArgumentParser(
        prog="mailwatch",
        description="Monitors mailboxes by logging in to them, and proves their outages.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mailwatch {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="path of the config file")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, does in VERBS.items():
        verb = subparsers.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        if name in complete:
            import_module(f"mailwatch.cli.{name}").add(verb)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        args = parse(given)
        status: int = args.run(args)
        return status

    return run_command(command)
