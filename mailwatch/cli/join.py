"""mailwatch join: joins a hub by an invitation, and prints what the config then says."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys

import yaml

from mailwatch.cli.common import add_options, open_config
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr
from mailwatch.ledger.cosignature import log_key
from mailwatch.ledger.enrolment import TOKEN, JoinRequest
from mailwatch.store import load_keys


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = "It asks for the token of the invitation, or reads it from standard input."
    verb.add_argument("url", metavar="URL", help="address of the hub")
    verb.add_argument(
        "--send",
        action="append",
        metavar="WHAT",
        help="all, checkpoints (the default: no observation leaves), or the name of a target; may be repeated",
    )
    add_options(verb, json=False)
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    # Imported on first use: they take a while to load.
    from pydantic import ValidationError

    from mailwatch.config.schema_hub import HubSection
    from mailwatch.hub.client import join_hub
    from mailwatch.witness.client import WitnessError
    from mailwatch.witness.keys import witness_vkey

    config = open_config(args)
    keys = load_keys(config.data_dir)
    own = log_key(keys.origin, keys.public)
    given = args.send or ["checkpoints"]
    send: object = given[0] if given in (["all"], ["checkpoints"]) else given
    try:
        # Before the token is used up.
        HubSection.model_validate({"url": args.url, "key": str(own), "send": send})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        print_error(f"mailwatch: {problem['loc'][0]} {problem['msg'].removeprefix('Value error, ')}")
        return 2
    token = _token()
    if not TOKEN.fullmatch(token):
        print_error("mailwatch: a token has 32 digits and letters from a to f")
        return 2
    request = JoinRequest(token, own, witness_vkey(config.data_dir), config.vantage_point.name)
    try:
        hub = asyncio.run(join_hub(args.url, request, keys))
    except WitnessError as error:
        print_error(f"mailwatch: {error}")
        return 1
    lines = yaml.safe_dump({"hub": {"url": args.url, "key": str(hub), "send": send}}, sort_keys=False, width=1000)
    print(lines, end="")
    print_error(tr("joined; write these lines into the config, and reload MailWatch (`mailwatch reload`)"))
    return 0


def _token() -> str:
    if sys.stdin.isatty():
        return getpass.getpass(tr("token of the invitation: ")).strip()
    return sys.stdin.readline(1000).strip()
