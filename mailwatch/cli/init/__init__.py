"""mailwatch init: asks questions, discovers the servers, tests the login, writes config.yaml."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from mailwatch.cli.common import add_options, language
from mailwatch.cli.init.grant import grant_access, program_words
from mailwatch.cli.init.machine import with_machine
from mailwatch.cli.init.mailbox import (
    add_mailbox_options,
    ask_mailbox,
    check_answers,
    config_path_of,
    end_in_words,
)
from mailwatch.cli.init.prompts import Prompts, texts
from mailwatch.config import Config, ConfigNotFoundError, default_path
from mailwatch.config.secret_files import name_secret
from mailwatch.monitor.first_config import setup_target
from mailwatch.setup.checks import LOCATION, NAME
from mailwatch.setup.code import VALID_MS, create_code
from mailwatch.setup.config_text import config_text
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.places import (
    RESTART_IN_CONTAINER,
    SETUP_PATH,
    data_dir,
    in_container,
    listen_address,
    page_url,
)
from mailwatch.setup.save import save
from mailwatch.setup.texts import texts as config_texts
from mailwatch.times import now


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb, json=False)
    add_mailbox_options(verb)
    verb.add_argument("--name", metavar="NAME", help="name of this vantage point (default: home)")
    verb.add_argument("--place", metavar="PLACE", help='where it is, such as "Milano, IT"')
    verb.add_argument(
        "--timezone", metavar="ZONE", help="time zone of pages and reports (default: that of this machine)"
    )
    verb.add_argument(
        "--listen", metavar="HOST:PORT", help="address of the pages; beyond this machine they get a password"
    )
    verb.add_argument(
        "--web", action="store_true", help="print a one-time code that opens the set-up in the browser, and end"
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    path = (args.config or Path(os.environ.get("MAILWATCH_CONFIG") or "config.yaml")).absolute()
    asker = Prompts(texts(language()), yes=args.yes)
    if args.web:
        return _print_code(asker, args.config)
    if os.path.lexists(path):
        asker.show("there", path=path)
        return 1
    if not os.access(path.parent, os.W_OK | os.X_OK):
        asker.show("no_folder", folder=path.parent)
        return 1
    return end_in_words(asker, lambda: _run_wizard(args, asker, path), lambda: not os.path.lexists(path))


def _own_config(path: Path, given: Path | None) -> Path | None:
    """Return the config that closes the set-up in the browser, since it is the owner's own; None if none does."""
    named = given is not None or bool(os.environ.get("MAILWATCH_CONFIG"))
    target = setup_target(path, named=named) if path.exists() else path
    closes = path if target is None else target
    return closes if os.path.lexists(closes) else None


def _print_code(prompts: Prompts, given: Path | None) -> int:
    """Create a code for the set-up in the browser; print it to stdout, and how to use it to stderr."""
    try:
        path = given or default_path()
    except ConfigNotFoundError:
        path = Path("config.yaml")
    if (own := _own_config(path, given)) is not None:
        prompts.show("web_over", path=own)
        return 1
    code = create_code(data_dir(path), now())
    listen = listen_address(path)
    prompts.show("web_code", minutes=VALID_MS // 60_000)
    print(code, flush=True)
    prompts.show("web_open", page=page_url(listen, prompts.text("this_machine")) + SETUP_PATH)
    if in_container(os.environ):
        prompts.show("port")
    return 0


def _run_wizard(args: argparse.Namespace, asker: Prompts, path: Path) -> int:
    check_answers(args, asker, {"name": NAME, "place": LOCATION})
    asker.show("hello")
    draft, password = ask_mailbox(args, asker, path.parent)
    secret = None
    if password is not None:
        secret = name_secret(path.parent, draft.address)
        draft = replace(draft, password_file=config_path_of(secret, path.parent))
    draft = with_machine(args, asker, draft)
    text = config_text(draft, config_texts(language()), datetime.now(UTC).date())
    config = save(path, text, secret, password or SecretStr(""))
    _print_next_steps(args, asker, draft, path, secret, config)
    return 0


def _print_next_steps(
    args: argparse.Namespace, asker: Prompts, draft: ConfigDraft, path: Path, secret: Path | None, config: Config
) -> None:
    asker.show("wrote", path=path)
    if secret is not None:
        asker.show("wrote_secret", path=secret)
    program, container = program_words(args), in_container(os.environ)
    if draft.authority:
        grant_access(args, asker, draft, config)
    asker.show("next_run", command=RESTART_IN_CONTAINER if container else f"{program} run")
    asker.show("page", page=page_url(config.web.listen, asker.text("this_machine")))
    if draft.pages_hash:
        asker.show("pages_user")
    if container:
        asker.show("port")
