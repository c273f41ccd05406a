"""mailwatch completion SHELL: prints the script that completes commands, options and file names in a shell.

shtab generates it from the parsers of all verbs, so that it is always up to date.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

SHELLS = ("bash", "zsh", "tcsh")


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # Imported here, since the table of verbs imports this module.
    from mailwatch.cli import VERBS, parser_with

    parser = parser_with(VERBS)
    _complete_files(parser)
    print(shtab.complete(parser, args.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Make the shell complete file names where a parser or one of its subcommands takes a path."""
    # argparse has no public way to list a parser's actions.
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for subparser in action.choices.values():
                _complete_files(subparser)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
