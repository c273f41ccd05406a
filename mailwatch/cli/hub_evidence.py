"""mailwatch hub evidence: one joint zip of what the members of this hub pushed."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from rich.console import Console

from mailwatch.analysis.confirmation import ConfirmedOutage
from mailwatch.cli.common import add_options, open_config, open_reader, parse_window_options, printable
from mailwatch.cli.errors import print_error
from mailwatch.cli.files import check_writable, write_output
from mailwatch.cli.language import language, tr, translated
from mailwatch.cli.resource_limits import check_pdf_resources
from mailwatch.config import Config
from mailwatch.errors import OperationError
from mailwatch.i18n import LANGUAGES
from mailwatch.model import Kind
from mailwatch.store import Reader, Tokens, load_keys
from mailwatch.store.hub_register import HubRegister
from mailwatch.store.place import configured_place


def add(action: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    action.add_argument(
        "outage",
        metavar="ENTRY",
        type=int,
        nargs="?",
        help="the entry that confirmed an outage; see `mailwatch hub confirmed`",
    )
    when = "2026-01, 2026-01-22 (local time) or 2026-01-22T21:55:00+01:00"
    action.add_argument(
        "--from", dest="start", metavar="TIME", help=f"instead of an outage, a window of time: {when}"
    )
    action.add_argument("--to", dest="end", metavar="TIME", help="end of the window, not included")
    action.add_argument("--provider", default="", metavar="NAME", help="only this provider, of a window")
    action.add_argument(
        "--kind", default="", choices=[kind.value for kind in Kind], help="only this kind of check"
    )
    action.add_argument("--target", default="", metavar="NAME", help="only targets of this name")
    action.add_argument("-o", "--output", type=Path, required=True, metavar="JOINT.zip", help="file to write")
    action.add_argument("--lang", choices=LANGUAGES, default=language(), help="language of the report")
    add_options(action, json=False)
    action.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    whole = args.start is not None and args.end is not None
    if whole == (args.outage is not None) or (args.start is None) != (args.end is None):
        print_error("mailwatch: write `mailwatch hub evidence ENTRY`, or `... evidence --from TIME --to TIME`")
        return 2
    check_writable(args.output)
    check_pdf_resources()
    config = open_config(args)
    with open_reader(config) as reader, contextlib.ExitStack() as stack:
        return _make(args, config, reader, stack)


def _make(args: argparse.Namespace, config: Config, reader: Reader, stack: contextlib.ExitStack) -> int:
    # Imported on first use: Typst takes a while to load.
    from mailwatch.evidence.ledger_range import EvidenceError
    from mailwatch.evidence.rendering import Rendering
    from mailwatch.hub.consents import agreements
    from mailwatch.hub.joint_case import Hub, asked_of, joint_case
    from mailwatch.hub.member_bundle import Asked

    place, keys = configured_place(config), load_keys(config.data_dir)
    register = stack.enter_context(contextlib.closing(HubRegister(place, read_only=True)))
    tokens = stack.enter_context(contextlib.closing(Tokens(place)))
    hub = Hub(
        place, keys, reader, tokens, config.vantage_point.name, register.members(), agreements(reader, keys.origin)
    )
    outage = None if args.outage is None else _confirmed(reader, args.outage)
    if outage is None:
        window = parse_window_options(config, args.start, args.end)
        asked = Asked(window, args.provider, args.kind, args.target)
    else:
        asked = asked_of(outage, next((one.time for one in reader.entries(descending=True, limit=1)), 0))
    how = Rendering(args.lang, config.zone(), "")
    with Console(stderr=True).status(tr("making the bundles")) as status:

        def show(done: int, count: int) -> None:
            status.update(f"{tr('making the bundles')}: {done}/{count}")

        try:
            case = stack.enter_context(joint_case(hub, asked, how, args.output.absolute().parent, outage, show))
        except EvidenceError as error:
            print_error(f"mailwatch: {error}")
            return 1
        size = write_output(args.output, case.write)
    for part in case.absent:
        print_error(f"mailwatch: {part.name} left out: {printable(translated(part.detail))}")
    count, absent = len(case.bundles), len(case.absent)
    print(translated(f"{args.output}: {size:,} bytes; {count} of {count + absent} vantage points"))
    print(translated(f"signed by {keys.origin}"))
    return 0


def _confirmed(reader: Reader, entry: int) -> ConfirmedOutage:
    from mailwatch.hub.quorum import confirmed_outages

    found = next((one for one in confirmed_outages(reader) if one.entry == entry), None)
    if found is None:
        raise OperationError(f"entry {entry} confirmed no outage; `mailwatch hub confirmed` lists them")
    return found
