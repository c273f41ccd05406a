"""The section of config.yaml for a database of PostgreSQL, where the ledger is not in a file of SQLite."""

from __future__ import annotations

import re
from typing import Annotated, Self
from urllib.parse import parse_qsl

from pydantic import Field, model_validator

from mailwatch.config.errors import FieldError
from mailwatch.config.types import FolderPath, Section, Variable, checked_by

_FORM = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^@/]*)@)?(?P<hosts>[^@/?#]*)/(?P<name>[^@/?#]+)(?:\?(?P<more>[^#]*))?"
)
"""libpq's, without a fragment: https://www.postgresql.org/docs/15/libpq-connect.html#LIBPQ-CONNSTRING-URIS"""


def _url_problem(url: str) -> str:
    # The address may hold a password, so it is never repeated.
    found = _FORM.fullmatch(url)
    if found is None:
        return "is not postgresql://user@host:5432/database"
    named = {name.lower() for name, _ in parse_qsl(found["more"] or "", keep_blank_values=True)}
    if ":" in (found["user"] or "") or named & {"password", "sslpassword"}:
        return "holds a password; write it into a file, and name that with password_file"
    return ""


DatabaseUrl = Annotated[str, Field(max_length=2000), checked_by(_url_problem)]


class DatabaseSection(Section):
    """PostgreSQL, 15 or later, instead of a file of SQLite (docs/how-to/postgresql.md)."""

    url: DatabaseUrl
    """postgresql://user@host:5432/database, without a password; several hosts with commas between them."""
    password_file: FolderPath | None = None
    """A file whose first line is the password."""
    password_env: Variable | None = None
    """An environment variable that holds the password. Without either, none is given."""

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password_file is not None and self.password_env is not None:
            raise FieldError("has 2 passwords; keep one of password_file, password_env", "password_env")
        return self


def database_from(value: object) -> object:
    """Return the section that a value of the config stands for, None for SQLite. Raises FieldError."""
    # The value may contain a password, so it is not repeated.
    if value == "sqlite":
        return None
    if isinstance(value, str) and value.startswith("postgres"):
        return {"url": value}
    if isinstance(value, dict | DatabaseSection):
        return value
    raise FieldError("is not a known database; write sqlite or postgresql://user@host/database")


def database_as_text(section: DatabaseSection | None) -> object:
    """Return what stands in the config for a section."""
    return "sqlite" if section is None else section.model_dump(mode="json", exclude_none=True)
