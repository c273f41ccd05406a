"""mailwatch init: asks questions, discovers the servers, tests the login, writes config.yaml."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from mailwatch.cli.common import add_options, language
from mailwatch.cli.init.draft import ConfigDraft, config_text
from mailwatch.cli.init.login_test import test_login
from mailwatch.cli.init.prompts import (
    ADDRESS,
    CLIENT_ID,
    LOCATION,
    NAME,
    USERNAME,
    MissingAnswerError,
    OptionError,
    PasswordVisibleError,
    Prompts,
    WizardStoppedError,
    printable_text,
    texts,
)
from mailwatch.cli.init.save import name_secret, save
from mailwatch.cli.init.servers import MailboxServers, find_servers, parse_server_options
from mailwatch.config import Config
from mailwatch.config.catalogue import Provider
from mailwatch.config.catalogue import server as catalogue_server
from mailwatch.kinds import MAILBOX_KINDS
from mailwatch.model import Kind

_AUTHORITIES = {"outlook": "microsoft", "microsoft365": "microsoft"}
"""OAuth authority of each catalogue provider that accepts only OAuth 2."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb, json=False)
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
    asker = Prompts(texts(language()), yes=args.yes)
    if os.path.lexists(path):
        asker.show("there", path=path)
        return 1
    if not os.access(path.parent, os.W_OK | os.X_OK):
        asker.show("no_folder", folder=path.parent)
        return 1
    try:
        return _run_wizard(args, asker, path)
    except MissingAnswerError as missing:
        print(f"mailwatch: {asker.text('missing', option=missing)}", file=sys.stderr)
        return 2
    except PasswordVisibleError:
        print(f"mailwatch: {asker.text('no_hiding')}", file=sys.stderr)
        return 2
    except OptionError as wrong:
        print(f"mailwatch: {wrong}", file=sys.stderr)
        return 2
    except WizardStoppedError:
        return 1
    except (EOFError, KeyboardInterrupt) as error:
        if not os.path.lexists(path):
            print(file=sys.stderr)
            asker.show("nothing")
        if isinstance(error, KeyboardInterrupt):
            raise
        return 1


def _run_wizard(args: argparse.Namespace, asker: Prompts, path: Path) -> int:
    wanted = _requested_kinds(args, asker)
    checks = {"address": ADDRESS, "name": NAME, "place": LOCATION, "username": USERNAME, "client_id": CLIENT_ID}
    for field, check in checks.items():
        if (value := getattr(args, field)) is not None and (wrong := check(value)):
            raise OptionError(f"--{field.replace('_', '-')}: {wrong}".replace("--address", "ADDRESS"))
    if not asker.interactive and not args.yes:
        raise MissingAnswerError("--yes")
    asker.show("hello")
    address = args.address or asker.ask("ask_address", "ADDRESS", check=ADDRESS)
    servers = _servers(args, asker, address, wanted)
    draft = ConfigDraft(
        name="", place="", address=address, username=args.username or address, servers=servers, kinds=()
    )
    _check_options(args, asker, draft)
    secret, password = None, SecretStr("")
    if servers.provider and _oauth_only(servers.provider, servers):
        draft = _with_client(args, asker, draft, servers.provider)
    else:
        tried = test_login(asker, address, servers, username=args.username, password_file=args.password_file)
        if args.password_file is None:
            secret, password = name_secret(path.parent, address), tried.password
        file = _config_path_of(secret or args.password_file, path.parent)
        draft = replace(
            draft, username=tried.username, kinds=tried.kinds, skipped=tried.skipped, untested=tried.untested
        )
        draft = replace(draft, password_file=file)
    draft = _with_vantage_point(args, asker, draft)
    text = config_text(draft, asker.texts, datetime.now(UTC).date())
    config = save(path, text, secret, password)
    _print_next_steps(args, asker, draft, path, secret, config)
    return 0


def _requested_kinds(args: argparse.Namespace, asker: Prompts) -> tuple[Kind, ...]:
    if args.channels is None:
        return MAILBOX_KINDS
    listed = [word.strip() for word in args.channels.split(",")]
    for word in listed:
        if word not in MAILBOX_KINDS:
            raise OptionError(asker.text("bad_channels", word=word))
    return tuple(dict.fromkeys(map(Kind, listed)))


def _servers(args: argparse.Namespace, asker: Prompts, address: str, wanted: tuple[Kind, ...]) -> MailboxServers:
    if not args.server:
        return find_servers(asker, address, wanted)
    try:
        return MailboxServers(parse_server_options(args.server, asker))
    except ValueError as error:
        raise OptionError(str(error)) from None


def _oauth_only(provider: Provider, servers: MailboxServers) -> bool:
    found = [catalogue_server(provider.key, candidate.kind) for candidate in servers.candidates]
    return provider.key in _AUTHORITIES and not any(server and server.takes_password for server in found)


def _check_options(args: argparse.Namespace, asker: Prompts, draft: ConfigDraft) -> None:
    """Reject options that would have no effect. Raises OptionError."""
    provider = draft.servers.provider
    granted = provider is not None and _oauth_only(provider, draft.servers)
    useless = {
        "--username": args.username is not None and provider is not None,
        "--password-file": args.password_file is not None and granted,
        "--client-id": args.client_id is not None and not granted,
    }
    who = provider.name if provider else draft.address.rpartition("@")[2]
    for option in (option for option, is_given in useless.items() if is_given):
        raise OptionError(asker.text("not_for", option=option, provider=who))


def _with_client(args: argparse.Namespace, asker: Prompts, draft: ConfigDraft, provider: Provider) -> ConfigDraft:
    asker.show("oauth_only", provider=provider.name)
    asker.show("oauth_client")
    client = args.client_id or asker.ask("ask_client", "--client-id ID", check=CLIENT_ID)
    kinds = tuple(candidate.kind for candidate in draft.servers.candidates)
    return replace(draft, authority=_AUTHORITIES[provider.key], client_id=client, kinds=kinds)


def _with_vantage_point(args: argparse.Namespace, asker: Prompts, draft: ConfigDraft) -> ConfigDraft:
    name = args.name
    if name is None:
        name = asker.ask("ask_name", "--name NAME", default="home", check=NAME)
    place = args.place
    if place is None:
        place = asker.ask("ask_place", "--place PLACE", default="", check=LOCATION)
    asker.show("timestamps")
    return replace(draft, name=name, place=place, timestamps=asker.agree("ask_timestamps", default=True))


def _print_next_steps(
    args: argparse.Namespace, asker: Prompts, draft: ConfigDraft, path: Path, secret: Path | None, config: Config
) -> None:
    asker.show("wrote", path=path)
    if secret is not None:
        asker.show("wrote_secret", path=secret)
    program = f"mailwatch --config {shlex.quote(str(args.config))}" if args.config else "mailwatch"
    if draft.authority:
        asker.show("next_login", command=f"{program} login {shlex.quote(printable_text(draft.address))}")
    asker.show("next_run", command=f"{program} run")
    asker.show("page", listen=config.web.listen)
    asker.show("docker")


def _config_path_of(file: Path, folder: Path) -> str:
    """Return the path of a file as a config in `folder` writes it: relative if inside the folder."""
    absolute = file.absolute()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)
