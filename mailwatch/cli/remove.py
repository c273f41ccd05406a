"""mailwatch remove: takes mailboxes out of the config; their record stays."""

from __future__ import annotations

import argparse
from pathlib import Path

from mailwatch.cli.common import add_options, config_path
from mailwatch.cli.config_changes import change_config, open_config_file, reload_monitor, say
from mailwatch.cli.init.prompts import Prompts, texts
from mailwatch.cli.language import language
from mailwatch.config.edit import ConfigFile
from mailwatch.setup.mailbox_entries import remove_mailbox


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb, json=False)
    verb.add_argument(
        "names", nargs="+", metavar="NAME", help="the address of an account, or the name of a target"
    )
    verb.add_argument(
        "--keep-password",
        action="store_true",
        help="keep the password file; without it, one in secrets goes too",
    )
    verb.add_argument("--yes", action="store_true", help="do not ask; without a terminal, nothing is asked")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    def change(file: ConfigFile) -> list[Path]:
        return [path for name in dict.fromkeys(args.names) for path in remove_mailbox(file, name)]

    names = ", ".join(args.names)
    prompts = Prompts(texts(language()), yes=args.yes)
    if prompts.interactive and not prompts.yes:
        # A name that is not in the config is an error before the question.
        files = [] if args.keep_password else change(open_config_file(args))
        key = "ask_remove_files" if files else "ask_remove"
        if not prompts.agree(key, default=False, names=names, files=", ".join(map(str, files))):
            prompts.show("nothing")
            return 1
    config, passwords = change_config(args, change)
    say("Removed from {path}: {names}. What is on record stays.", path=config_path(args), names=names)
    if not args.keep_password:
        for path in passwords:
            try:
                path.unlink(missing_ok=True)
                say("Removed: {path}", path=path)
            except OSError as error:
                # The config no longer names it: what is left is to remove the file.
                say("{path} is still there: {why}; remove it by hand", path=path, why=error.strerror)
    reload_monitor(config)
    return 0
