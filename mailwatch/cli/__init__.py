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
from types import ModuleType

from mailwatch import __version__
from mailwatch.cli.errors import run_command
from mailwatch.cli.language import tr
from mailwatch.cli.parser import Parser, RootParser
from mailwatch.monitor.signals import command_verb

GROUPS = {
    "Monitor": {
        "run": "run the monitor until SIGTERM; SIGHUP reloads the config",
        "probe": "check mailboxes once, phase by phase, with the login",
        "outages": "list the outages on record, or show one in full",
        "incidents": "list outages of one provider as one, with a timeline",
        "ack": "take note of an outage or incident: no more reminders",
        "offline": "list the times when our own line was down",
        "availability": "compute the availability in a window of time",
        "health": "ask the running monitor whether it is alive",
        "nodes": "list the nodes that share the ledger in PostgreSQL",
        "notify": "test the notification channels; list rejected messages",
    },
    "Evidence": {
        "report": "write the evidence of an outage, a month or a year",
        "claim": "write a letter of complaint; log what you sent",
        "declare": "write a statement of which ledger is yours, to be sent by mail",
        "verify": "verify an evidence bundle offline",
        "merge": "merge bundles of several vantage points into one",
        "ledger": "verify the record of all observations",
        "backup": "back up ledger, keys and tokens into one file",
        "migrate": "move the ledger to PostgreSQL, or back to SQLite",
    },
    "Set-up": {
        "demo": "watch an outage of a fake provider, in a minute",
        "init": "set up a mailbox: servers, login, config.yaml",
        "add": "add a mailbox to config.yaml: servers, login",
        "import": "add many mailboxes from a CSV file",
        "remove": "take mailboxes out of config.yaml",
        "pause": "pause the checks of mailboxes",
        "resume": "resume the checks of mailboxes",
        "reload": "have the running monitor read config.yaml again",
        "login": "grant access to a mailbox by OAuth 2",
        "config": "check or show config.yaml",
        "providers": "list the mail providers that MailWatch knows",
        "join": "push your ledger to a hub, by an invitation",
        "hub": "invite vantage points to your hub, list or remove them",
        "completion": "print a script for completion in bash, zsh or tcsh",
    },
}
"""The verbs by group, with a line of help. A new verb: a line here, a module with `add`, its Italian."""
MODULES = {"import": "import_csv", "resume": "pause"}
"""The module of a verb, if not its name."""
VERBS = {name: does for verbs in GROUPS.values() for name, does in verbs.items()}


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Parse one command; its `run` attribute executes it. Exits with status 2 on wrong usage."""
    return parser_with({command_verb(given)}).parse_args(given)


def parser_with(complete: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser of all verbs. Only the verbs in `complete` have their modules loaded and options added."""
    parser = RootParser(
        prog="mailwatch",
        description="Monitors mailboxes by logging in to them, and proves their outages.",
        epilog="`mailwatch COMMAND --help` explains a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mailwatch {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="path of the config file")
    parser.verbs = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    parser.groups = GROUPS
    for name, does in VERBS.items():
        # Translated first: a pattern would not find the text with its capital letter and full stop.
        sentence = tr(does)
        verb = parser.verbs.add_parser(name, help=does, description=f"{sentence[0].upper()}{sentence[1:]}.")
        if name in complete:
            load_verb(name).add(verb)
    return parser


def load_verb(name: str) -> ModuleType:
    """Import the module of a verb, which adds its arguments."""
    return import_module(f"mailwatch.cli.{MODULES.get(name, name)}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> int:
        args = parse(given)
        status: int = args.run(args)
        return status

    return run_command(command)
