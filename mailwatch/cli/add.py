"""mailwatch add: adds a mailbox to the config; asks, finds the servers and tests the login as init does."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mailwatch.cli.common import add_options
from mailwatch.cli.config_changes import open_config_file, reload_monitor, say
from mailwatch.cli.init.grant import grant_access
from mailwatch.cli.init.mailbox import add_mailbox_options, ask_mailbox, check_answers, end_in_words
from mailwatch.cli.init.prompts import Prompts, texts
from mailwatch.cli.language import language, tr
from mailwatch.config.edit import ConfigFile, ConfigReadOnlyError
from mailwatch.setup.entries import add_mailbox
from mailwatch.setup.texts import printable_text
from mailwatch.setup.texts import texts as config_texts


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb, json=False)
    add_mailbox_options(verb)
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    prompts = Prompts(texts(language()), yes=args.yes)
    file = open_config_file(args)
    before = file.raw
    return end_in_words(prompts, lambda: _ask_and_add(args, prompts, file), lambda: file.raw == before)


def _ask_and_add(args: argparse.Namespace, prompts: Prompts, file: ConfigFile) -> int:
    check_answers(args, prompts)
    # Before the questions: the answers would be for nothing.
    if reason := file.read_only_reason():
        raise ConfigReadOnlyError([file.problem(f"cannot be changed: {reason}")])
    say("This adds a mailbox to {path}. Ctrl-C cancels; nothing is written before the end.", path=file.path)
    draft, password = ask_mailbox(args, prompts, file.path.absolute().parent, lambda text: _known(file, text))
    if password is not None:
        draft = replace(draft, password_file=file.stage_password(draft.address, password))
    add_mailbox(file, draft, config_texts(language()))
    config = file.save()
    say("Added to {path}: {names}", path=file.path, names=printable_text(draft.address))
    if password is not None:
        prompts.show("wrote_secret", path=Path(file.path.absolute().parent, draft.password_file))
    if draft.authority:
        grant_access(args, prompts, draft, config)
    reload_monitor(config)
    return 0


def _known(file: ConfigFile, address: str) -> str:
    """Return that the config has an address already, as words to follow it, "" if not."""
    names = {str(item.get("address")).casefold() for item in file.data("accounts")}
    names |= {str(item.get("name")).casefold().rpartition("/")[0] for item in file.data("targets")}
    return tr("is already in the config; nothing to add") if address.casefold() in names else ""
