"""The password of the pages, as the set-up stores it."""

from __future__ import annotations

from pydantic import SecretStr

MIN_PASSWORD_CHARS = 8
MAX_PASSWORD_CHARS = 1000


def password_problem(password: SecretStr) -> str:
    """Return why a password does not do for pages that other machines reach, as the key of a text, "" if it does.

    Blanks at its ends do not count: they are the first that anyone would try, and easily lost.
    """
    typed = password.get_secret_value()
    if len(typed.strip()) >= MIN_PASSWORD_CHARS and len(typed) <= MAX_PASSWORD_CHARS:
        return ""
    return "blank" if MIN_PASSWORD_CHARS <= len(typed) <= MAX_PASSWORD_CHARS else "short"


def pages_hash(password: SecretStr) -> str:
    """Return the argon2id hash for `web.password_hash`. Blocks for some tens of milliseconds."""
    from argon2 import PasswordHasher  # Only users who set a password should wait for argon2.

    return PasswordHasher().hash(password.get_secret_value())
