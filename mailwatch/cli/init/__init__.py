"""mailwatch init: asks, discovers the servers, tries the login, writes config.yaml."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from mailwatch.cli.common import language, options
from mailwatch.cli.init.draft import Draft, text_of
from mailwatch.cli.init.login_test import log_in
from mailwatch.cli.init.prompts import (
    ADDRESS,
    CLIENT_ID,
    NAME,
    PLACE,
    USERNAME,
    Asker,
    Missing,
    NotHidden,
    Stopped,
    Wrong,
    clean,
    words,
)
from mailwatch.cli.init.save import keep, name_secret
from mailwatch.cli.init.servers import Servers, find, given
from mailwatch.config import Config
from mailwatch.config.catalogue import Provider
from mailwatch.config.catalogue import server as catalogue_server
from mailwatch.config.types import MAILBOX
from mailwatch.model import Kind

_AUTHORITIES = {"outlook": "microsoft", "microsoft365": "microsoft"}
"""Where providers of the catalogue that take OAuth 2 only have their access granted."""


def add(verb: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    options(verb, json=False)
    verb.add_argument("address", nargs="?", metavar="ADDRESS", help="the mail address; default: ask for it")
    verb.add_argument(
        "--password-file", type=Path, metavar="FILE", help="file with the password; MailWatch uses it where it is"
    )
    verb.add_argument(
        "--channels", metavar="LIST", help="what to check: imap, smtp, pop3, or some of them, separated by commas"
    )
    verb.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="KIND=HOST:PORT",
        help="use this server instead of finding one; may be repeated",
    )
    verb.add_argument("--username", metavar="NAME", help="user name for --server, if it is not the address")
    verb.add_argument("--client-id", metavar="ID", help="your client ID, for providers that accept only OAuth 2")
    verb.add_argument("--name", metavar="NAME", help="name of this vantage point (default: home)")
    verb.add_argument("--place", metavar="PLACE", help='where it is, such as "Milano, IT"')
    verb.add_argument(
        "--yes", action="store_true", help="accept all defaults without asking; works without a terminal"
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    path = (args.config or Path(os.environ.get("MAILWATCH_CONFIG") or "config.yaml")).absolute()
    asker = Asker(words(language()), yes=args.yes)
    if os.path.lexists(path):
        asker.say("there", path=path)
        return 1
    if not os.access(path.parent, os.W_OK | os.X_OK):
        asker.say("no_folder", folder=path.parent)
        return 1
    try:
        return _converse(args, asker, path)
    except Missing as missing:
        print(f"mailwatch: {asker.text('missing', option=missing)}", file=sys.stderr)
        return 2
    except NotHidden:
        print(f"mailwatch: {asker.text('no_hiding')}", file=sys.stderr)
        return 2
    except Wrong as wrong:
        print(f"mailwatch: {wrong}", file=sys.stderr)
        return 2
    except Stopped:
        return 1
    except (EOFError, KeyboardInterrupt) as error:
        if not os.path.lexists(path):
            print(file=sys.stderr)
            asker.say("nothing")
        if isinstance(error, KeyboardInterrupt):
            raise
        return 1


def _converse(args: argparse.Namespace, asker: Asker, path: Path) -> int:
    wanted = _wanted(args, asker)
    checks = {"address": ADDRESS, "name": NAME, "place": PLACE, "username": USERNAME, "client_id": CLIENT_ID}
    for field, check in checks.items():
        if (value := getattr(args, field)) is not None and (wrong := check(value)):
            raise Wrong(f"--{field.replace('_', '-')}: {wrong}".replace("--address", "ADDRESS"))
    if not asker.interactive and not args.yes:
        raise Missing("--yes")
    asker.say("hello")
    address = args.address or asker.ask("ask_address", "ADDRESS", check=ADDRESS)
    servers = _servers(args, asker, address, wanted)
    draft = Draft(name="", place="", address=address, username=args.username or address, servers=servers, kinds=())
    _fitting(args, asker, draft)
    secret, password = None, SecretStr("")
    if servers.provider and _oauth_only(servers.provider, servers):
        draft = _with_client(args, asker, draft, servers.provider)
    else:
        tried = log_in(asker, address, servers, username=args.username, password_file=args.password_file)
        if args.password_file is None:
            secret, password = name_secret(path.parent, address), tried.password
        file = _as_written(secret or args.password_file, path.parent)
        draft = replace(
            draft, username=tried.username, kinds=tried.kinds, left=tried.left, unproven=tried.unproven
        )
        draft = replace(draft, password_file=file)
    draft = _with_place(args, asker, draft)
    text = text_of(draft, asker.words, datetime.now(UTC).date())
    config = keep(path, text, secret, password)
    _tell_what_is_next(args, asker, draft, path, secret, config)
    return 0


def _wanted(args: argparse.Namespace, asker: Asker) -> tuple[Kind, ...]:
    if args.channels is None:
        return MAILBOX
    listed = [word.strip() for word in args.channels.split(",")]
    for word in listed:
        if word not in MAILBOX:
            raise Wrong(asker.text("bad_channels", word=word))
    return tuple(dict.fromkeys(map(Kind, listed)))


def _servers(args: argparse.Namespace, asker: Asker, address: str, wanted: tuple[Kind, ...]) -> Servers:
    if not args.server:
        return find(asker, address, wanted)
    try:
        return Servers(given(args.server, asker))
    except ValueError as error:
        raise Wrong(str(error)) from None


def _oauth_only(provider: Provider, servers: Servers) -> bool:
    found = [catalogue_server(provider.key, door.kind) for door in servers.doors]
    return provider.key in _AUTHORITIES and not any(server and server.takes_password for server in found)


def _fitting(args: argparse.Namespace, asker: Asker, draft: Draft) -> None:
    """Refuse options that would do nothing. Raises Wrong."""
    provider = draft.servers.provider
    granted = provider is not None and _oauth_only(provider, draft.servers)
    useless = {
        "--username": args.username is not None and provider is not None,
        "--password-file": args.password_file is not None and granted,
        "--client-id": args.client_id is not None and not granted,
    }
    who = provider.name if provider else draft.address.rpartition("@")[2]
    for option in (option for option, is_given in useless.items() if is_given):
        raise Wrong(asker.text("not_for", option=option, provider=who))


def _with_client(args: argparse.Namespace, asker: Asker, draft: Draft, provider: Provider) -> Draft:
    asker.say("oauth_only", provider=provider.name)
    asker.say("oauth_client")
    client = args.client_id or asker.ask("ask_client", "--client-id ID", check=CLIENT_ID)
    kinds = tuple(door.kind for door in draft.servers.doors)
    return replace(draft, authority=_AUTHORITIES[provider.key], client_id=client, kinds=kinds)


def _with_place(args: argparse.Namespace, asker: Asker, draft: Draft) -> Draft:
    name = args.name
    if name is None:
        name = asker.ask("ask_name", "--name NAME", default="home", check=NAME)
    place = args.place
    if place is None:
        place = asker.ask("ask_place", "--place PLACE", default="", check=PLACE)
    asker.say("timestamps")
    return replace(draft, name=name, place=place, timestamps=asker.agree("ask_timestamps", default=True))


def _tell_what_is_next(
    args: argparse.Namespace, asker: Asker, draft: Draft, path: Path, secret: Path | None, config: Config
) -> None:
    asker.say("wrote", path=path)
    if secret is not None:
        asker.say("wrote_secret", path=secret)
    program = f"mailwatch --config {shlex.quote(str(args.config))}" if args.config else "mailwatch"
    if draft.authority:
        asker.say("next_login", command=f"{program} login {shlex.quote(clean(draft.address))}")
    asker.say("next_run", command=f"{program} run")
    asker.say("page", listen=config.web.listen)
    asker.say("docker")


def _as_written(file: Path, folder: Path) -> str:
    """Name a file as a config in `folder` does: relative inside it."""
    absolute = file.absolute()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)
