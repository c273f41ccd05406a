"""mailwatch ack: acknowledges an outage or incident, so that reminders of it stop."""

from __future__ import annotations

import argparse

from mailwatch.cli.common import add_options, open_config, open_reader
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr
from mailwatch.monitor.acknowledge import acknowledge
from mailwatch.store.acknowledgements import MAX_NOTE, UnknownSubjectError
from mailwatch.store.place import configured_place


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb, json=False)
    verb.add_argument("id", metavar="ID", help="the id of an outage or incident, or its beginning")
    verb.add_argument("--note", default="", metavar="TEXT", help="a note, such as who takes care of it")
    verb.add_argument(
        "--undo", "--withdraw", dest="withdraw", action="store_true", help="withdraw it: remind again"
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if len(args.note) > MAX_NOTE:
        print_error(f"mailwatch: the note is longer than {MAX_NOTE} characters; shorten it")
        return 2
    config = open_config(args)
    try:
        with open_reader(config) as reader:
            whole = acknowledge(reader, configured_place(config), args.id, args.note, withdraw=args.withdraw)
    except UnknownSubjectError as error:
        print_error(f"mailwatch: {error}; `mailwatch incidents` and `mailwatch outages` list them")
        return 1
    if args.withdraw:
        print(tr("{id}: reminders are sent again", id=whole))
    else:
        print(tr("{id}: acknowledged; no more reminders of it", id=whole))
    return 0
