"""What a config lacks although it is valid; only `mailwatch config check` says it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailwatch.config.errors import ConfigProblem, FieldError
from mailwatch.config.schema import Config
from mailwatch.config.secrets import read_secret

_APP_PASSWORDS = {
    "gmail": re.compile(r"[a-z]{4}( ?[a-z]{4}){3}"),
    "icloud": re.compile(r"[a-z]{4}(-[a-z]{4}){3}"),
    "yahoo": re.compile(r"[a-z]{4}( ?[a-z]{4}){3}"),
    "aol": re.compile(r"[a-z]{4}( ?[a-z]{4}){3}"),
}
"""The form of the passwords that these providers make for mail programs; they refuse the account's own."""


def advice(config: Config) -> Iterator[ConfigProblem]:
    """Yield what evidence or a login lacks. Reads password files, and runs no command."""
    logs_in = bool(config.accounts) or any(target.login for target in config.targets)
    if logs_in and not config.timestamps:
        what = (
            "timestamps: no external authority timestamps the record, so a provider may say that it was made up "
            "later; add timestamps: [{url: http://timestamp.digicert.com}]"
        )
        yield config.problem((), what)
    if config.retention.keep is not None and not config.timestamps:
        what = (
            "retention.keep drops nothing without timestamps: what no authority has stamped is kept; add "
            "timestamps: [{url: http://timestamp.digicert.com}], or remove keep"
        )
        yield config.problem(("retention", "keep"), what)
    for number, account in enumerate(config.accounts):
        provider = account.catalogue_provider()
        form = _APP_PASSWORDS.get(provider.key) if provider else None
        if provider is None or form is None or (account.password_file is None and account.password_env is None):
            continue
        try:
            password = read_secret(account.password_file, account.password_env)
        except FieldError:
            continue  # A mistake, which is listed with the others.
        if not form.fullmatch(password.get_secret_value()):
            what = (
                f"{provider.name} takes an app password from mail programs, and this does not look like one; make "
                "one in the security settings of the account, or use oauth2 if the provider has it"
            )
            yield config.problem(("accounts", number), f"accounts[{number}]: {what}")
