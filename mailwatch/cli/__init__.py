"""The command line: one file per verb; each parses, calls, prints and returns its exit status.

Data goes to stdout, talk to stderr. Exit 0 fine, 1 found a problem, 2 used wrongly; 70 a defect of ours and 71 the
machine lacks something (edge.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path

from mailwatch import __version__
from mailwatch.cli.errors import edge
from mailwatch.monitor.signals import verb_of

VERBS = {
    "run": "watch, record, serve, until SIGTERM; SIGHUP reloads the config",
    "health": "ask the monitor that runs here whether it is alive; exit 0 yes, 1 no",
    "demo": "watch a stand-in provider break and recover; needs no network",
    "init": "set up a mailbox: find its servers, try the login, write config.yaml",
    "login": "grant access to a mailbox by OAuth 2, in your browser",
    "probe": "look once now, logging in; exit 0 all up, 1 some down, 3 some unknown",
    "outages": "list the outages on record, or show one in full",
    "incidents": "list overlapping outages as incidents, or show one in full",
    "offline": "list the times in which our own line was down",
    "availability": "availability of a window, with its coverage",
    "report": "write the evidence of an outage, or of a month or a year, into one file",
    "claim": "write the letter of complaint about an outage, and log what was sent",
    "verify": "check an evidence bundle, offline; exit 1 if it is not valid",
    "merge": "merge the bundles of several vantage points into a joint report",
    "ledger": "check the record of everything seen",
    "backup": "one file to restore from, also while the monitor runs",
    "config": "check, explain or show config.yaml",
    "notify": "try the channels over which you are told",
    "providers": "list the mail providers of the catalogue",
    "completion": "print the script that completes commands in bash, zsh or tcsh",
}


def parse(given: Sequence[str]) -> argparse.Namespace:
    """Read the words of one command; its `run` does it. Exits with 2 where they mean nothing."""
    return parser_with({verb_of(given)}).parse_args(given)


def parser_with(complete: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser of all verbs, with the options of those in `complete`: only their modules are loaded."""
    parser = argparse.ArgumentParser(
        prog="mailwatch",
        description="Watches mailboxes by logging in, and proves their outages.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mailwatch {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the config file")
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

    return edge(command)
