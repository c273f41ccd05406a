"""Grants access to a mailbox by OAuth 2 as soon as the config has it, or names the command for later."""

from __future__ import annotations

import argparse
import os
import shlex

from mailwatch.cli.init.prompts import Prompts
from mailwatch.cli.login import log_in
from mailwatch.config import Config
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.places import RUN_IN_CONTAINER, in_container
from mailwatch.setup.texts import printable_text


def program_words(args: argparse.Namespace) -> str:
    """Return the words that run another command on the same config."""
    return f"mailwatch --config {shlex.quote(str(args.config))}" if args.config else "mailwatch"


def grant_access(args: argparse.Namespace, prompts: Prompts, draft: ConfigDraft, config: Config) -> None:
    """Let the user grant access at once; else name the command for later. A failed login is no failed set-up."""
    container = in_container(os.environ)
    at_once = prompts.interactive and not prompts.yes and prompts.agree("ask_login_now", default=True)
    # A browser outside the container does not reach the address that it would be sent back to.
    if not at_once or log_in(config, draft.address, device=container) != 0:
        program = RUN_IN_CONTAINER if container else program_words(args)
        prompts.show("next_login", command=f"{program} login {shlex.quote(printable_text(draft.address))}")
