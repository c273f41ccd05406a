"""The first config: where a set-up writes it, whether it still may, and the one-time code for it."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import SecretStr

from mailwatch.config import Config
from mailwatch.config.secret_files import name_secret
from mailwatch.i18n import Language
from mailwatch.setup.code import VALID_MS, create_code
from mailwatch.setup.config_text import config_text
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.places import SETUP_PATH, in_container, page_url
from mailwatch.setup.save import save
from mailwatch.setup.texts import texts
from mailwatch.times import now

logger = logging.getLogger(__name__)
EXAMPLE_NAME = "config.example.yaml"
"""The config that comes with MailWatch; a set-up writes `config.yaml` beside it."""


def setup_target(path: Path, *, named: bool) -> Path | None:
    """Return the file that a set-up would write; None if the config is the owner's own.

    A config named by the user is their own, but for the example. One that was found is the packaged one if a
    `config.yaml` in the working directory would come before it.
    """
    if named and path.name != EXAMPLE_NAME:
        return None
    target = path.absolute().with_name("config.yaml") if named else Path("config.yaml").absolute()
    return None if target == path.absolute() else target


def has_own_mailbox(config: Config) -> bool:
    """Return whether a config has an account, or a target with a login."""
    return bool(config.accounts) or any(target.login is not None for target in config.targets)


def write_first_config(
    target: Path, draft: ConfigDraft, password: SecretStr | None, language: Language
) -> tuple[str, Path | None]:
    """Write the config and the password file. Return the text and that file. Raises ConfigError, OSError.

    The text is without the hash of the pages' password.
    """
    secret = None
    if password is not None:
        secret = name_secret(target.parent, draft.address)
        draft = replace(draft, password_file=str(secret.relative_to(target.parent)))
    text = config_text(draft, texts(language), datetime.now(UTC).date())
    save(target, text, secret, password or SecretStr(""))
    # Salt and hash would allow offline guessing.
    return text.replace(draft.pages_hash, "$argon2id$...") if draft.pages_hash else text, secret


def log_new_code(data_dir: Path, listen: str) -> None:
    """Log a new one-time code and where to enter it."""
    try:
        code = create_code(data_dir, now())
    except OSError as error:
        logger.warning("the set-up in the browser has no code: %s; make one with mailwatch init --web", error)
        return
    page = "http://THIS-MACHINE:8080/" if in_container(os.environ) else page_url(listen, "THIS-MACHINE")
    logger.info("set-up code: %s, valid %d min: %s%s", code, VALID_MS // 60_000, page, SETUP_PATH)
