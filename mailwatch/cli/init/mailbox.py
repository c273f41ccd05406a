"""Asks for one mailbox: its address, servers and login, for the verbs that write it into a config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from mailwatch.cli.init.login import LoginOptions, LoginPrompts
from mailwatch.cli.init.prompts import (
    MissingAnswerError,
    OptionError,
    PasswordVisibleError,
    Prompts,
    WizardStoppedError,
)
from mailwatch.cli.init.servers import find_servers, parse_server_options
from mailwatch.cli.language import translated
from mailwatch.kinds import MAILBOX_KINDS
from mailwatch.model import Kind
from mailwatch.setup.checks import ADDRESS, CLIENT_ID, USERNAME, Check, ca_file_problem
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.servers import MailboxServers, oauth_authority


def add_mailbox_options(verb: argparse.ArgumentParser) -> None:
    """Add the arguments that name a mailbox, and --yes."""
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
        help="use this server instead of finding one, with /starttls if its port does not tell; may be repeated",
    )
    verb.add_argument("--username", metavar="NAME", help="user name for --server, if it is not the address")
    verb.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="trust the certificates in this file, for servers of your own"
    )
    verb.add_argument("--client-id", metavar="ID", help="your client ID, for providers that accept only OAuth 2")
    verb.add_argument(
        "--yes", action="store_true", help="accept all defaults without asking; works without a terminal"
    )


def end_in_words(prompts: Prompts, act: Callable[[], int], unwritten: Callable[[], bool]) -> int:
    """Run a verb that asks; return its exit status. `unwritten` returns whether nothing has been written."""
    try:
        return act()
    except MissingAnswerError as missing:
        print(f"mailwatch: {prompts.text('missing', option=missing)}", file=sys.stderr)
        return 2
    except PasswordVisibleError:
        print(f"mailwatch: {prompts.text('no_hiding')}", file=sys.stderr)
        return 2
    except OptionError as wrong:
        print(f"mailwatch: {translated(str(wrong))}", file=sys.stderr)
        return 2
    except WizardStoppedError:
        return 1
    except (EOFError, KeyboardInterrupt) as error:
        if unwritten():
            print(file=sys.stderr)
            prompts.show("nothing")
        if isinstance(error, KeyboardInterrupt):
            raise
        return 1


def check_answers(args: argparse.Namespace, prompts: Prompts, more: Mapping[str, Check] = {}) -> None:
    """Check the options that answer questions, `more` beside those of every mailbox.

    Raises OptionError, MissingAnswerError.
    """
    _requested_kinds(args, prompts)
    checks = {"address": ADDRESS, **more, "username": USERNAME, "client_id": CLIENT_ID}
    for field, check in checks.items():
        if (value := getattr(args, field)) is not None and (wrong := check(value)):
            raise OptionError(f"--{field.replace('_', '-')}: {wrong}".replace("--address", "ADDRESS"))
    if not prompts.interactive and not args.yes:
        raise MissingAnswerError("--yes")


def ask_mailbox(
    args: argparse.Namespace, prompts: Prompts, folder: Path, known: Callable[[str], str] = lambda _: ""
) -> tuple[ConfigDraft, SecretStr | None]:
    """Ask for the mailbox of a config in `folder`, and test its login. Return it, and a password to be stored.

    `known` returns why an address cannot be added, as words to follow it, "" if it can. The password is None if
    the draft has its file, or a login by OAuth 2.

    Raises OptionError, MissingAnswerError, PasswordVisibleError, WizardStoppedError, EOFError.
    """
    wanted = _requested_kinds(args, prompts)

    def check(text: str) -> str:
        return ADDRESS(text) or known(text)

    address = args.address or prompts.ask("ask_address", "ADDRESS", check=check)
    if wrong := known(address):
        raise OptionError(f"{address} {wrong}")
    # Corrected, if the user says that it was a typing error.
    address, servers = _servers(args, prompts, address, wanted)
    if wrong := known(address):
        raise OptionError(f"{address} {wrong}")
    draft = ConfigDraft(
        name="", place="", address=address, username=args.username or address, servers=servers, kinds=()
    )
    _check_options(args, prompts, draft)
    if oauth_authority(servers):
        return _with_client(args, prompts, draft), None
    options = LoginOptions(
        username=args.username,
        password_file=args.password_file,
        ca_file=args.ca_file,
    )
    tried = LoginPrompts(prompts, address, servers, options).ask()
    draft = replace(
        draft,
        username=tried.username,
        kinds=tried.kinds,
        skipped=tried.skipped,
        untested=tried.untested,
        password_file=config_path_of(args.password_file, folder) if args.password_file else "",
        ca_file=config_path_of(tried.ca_file, folder) if tried.ca_file else "",
    )
    return draft, None if args.password_file else tried.password


def config_path_of(file: Path, folder: Path) -> str:
    """Return the path of a file as a config in `folder` writes it: relative if inside the folder."""
    absolute = file.absolute()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _requested_kinds(args: argparse.Namespace, prompts: Prompts) -> tuple[Kind, ...]:
    if args.channels is None:
        return MAILBOX_KINDS
    listed = [word.strip() for word in args.channels.split(",")]
    for word in listed:
        if word not in MAILBOX_KINDS:
            raise OptionError(prompts.text("bad_channels", word=word))
    return tuple(dict.fromkeys(map(Kind, listed)))


def _servers(
    args: argparse.Namespace, prompts: Prompts, address: str, wanted: tuple[Kind, ...]
) -> tuple[str, MailboxServers]:
    if not args.server:
        return find_servers(prompts, address, wanted)
    try:
        return address, MailboxServers(parse_server_options(args.server, prompts))
    except ValueError as error:
        raise OptionError(str(error)) from None


def _check_options(args: argparse.Namespace, prompts: Prompts, draft: ConfigDraft) -> None:
    """Reject options that would have no effect. Raises OptionError."""
    provider = draft.servers.provider
    granted = bool(oauth_authority(draft.servers))
    if args.ca_file is not None and (wrong := ca_file_problem(str(args.ca_file))):
        raise OptionError(prompts.text("bad_file", file=f"--ca-file {args.ca_file}", what=wrong))
    useless = {
        "--username": args.username is not None and provider is not None,
        "--ca-file": args.ca_file is not None and provider is not None,
        "--password-file": args.password_file is not None and granted,
        "--client-id": args.client_id is not None and not granted,
    }
    who = provider.name if provider else draft.address.rpartition("@")[2]
    for option in (option for option, is_given in useless.items() if is_given):
        raise OptionError(prompts.text("not_for", option=option, provider=who))


def _with_client(args: argparse.Namespace, prompts: Prompts, draft: ConfigDraft) -> ConfigDraft:
    servers = draft.servers
    prompts.show("oauth_only", provider=servers.provider.name if servers.provider else "")
    if args.client_id is None:
        for step in ("oauth_client", "oauth_register", "oauth_platform", "oauth_permissions", "oauth_copy"):
            prompts.show(step)
    client = args.client_id or prompts.ask("ask_client", "--client-id ID", check=CLIENT_ID)
    kinds = tuple(candidate.kind for candidate in servers.candidates)
    return replace(draft, authority=oauth_authority(servers), client_id=client, kinds=kinds)
