"""The command line: one file per verb; each parses, calls, prints and returns its exit status.

Data goes to stdout, talk to stderr. Exit 0 fine, 1 found a problem, 2 used wrongly.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from mailwatch import __version__
from mailwatch.config import ConfigError
from mailwatch.store import KeysMissing, Locked, StoreBroken

VERBS = (
    "run",
    "demo",
    "init",
    "login",
    "probe",
    "outages",
    "incidents",
    "offline",
    "availability",
    "report",
    "claim",
    "verify",
    "merge",
    "ledger",
    "backup",
    "config",
    "providers",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="mailwatch", description="Watches mailboxes by logging in, and proves their outages."
    )
    parser.add_argument("--version", action="version", version=f"mailwatch {__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the config file")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    given = sys.argv[1:] if arguments is None else arguments
    for verb in _wanted(given):
        import_module(f"mailwatch.cli.{verb}").add(subparsers)
    args = parser.parse_args(given)
    try:
        status: int = args.run(args)
    except BrokenPipeError:
        # The reader of our output went away (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except (ConfigError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    except (Locked, KeysMissing, StoreBroken, OSError) as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 1
    return status


def _wanted(given: Sequence[str]) -> Sequence[str]:
    """The verb that is meant, so that the rest of the house need not be loaded; all of them when in doubt."""
    words = (word for before, word in zip(("", *given), given, strict=False) if before != "--config")
    verb = next((word for word in words if not word.startswith("-")), "")
    return (verb,) if verb in VERBS else VERBS
