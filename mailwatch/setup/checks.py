"""Checks single answers by the rules of the config; a rejection has the config's message."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mailwatch.config.types import Address, Host, Label, Port, Text

Check = Callable[[object], str]
"""Returns what is wrong with a value, "" if nothing is."""


_PLAIN = {
    "string_too_long": "is longer than {max_length} characters; shorten it",
    "string_too_short": "is empty; write it",
    "greater_than_equal": "is not a port from 1 to 65535",
    "less_than_equal": "is not a port from 1 to 65535",
}
"""In place of pydantic's messages; only ports are numbers here."""


def _make_check(rule: TypeAdapter[object]) -> Check:
    def problem(value: object) -> str:
        try:
            rule.validate_python(value)
        except ValidationError as error:
            found = error.errors(include_input=False)[0]
            return _PLAIN.get(found["type"], "").format(**found.get("ctx", {})) or str(found["msg"]).removeprefix(
                "Value error, "
            )
        return ""

    return problem


_ADDRESS, NAME, LOCATION, HOST, PORT = map(_make_check, map(TypeAdapter, (Address, Label, Text, Host, Port)))
_NOT_IN_ADDRESS = re.compile(r'[<>()\\,;"]')
_NOT_IN_LOCAL_PART = re.compile(r"[\[\]:]")
"""Signs that no address has which a person types (RFC 5322, section 3.2.3); a domain may be an IP in brackets."""


def ADDRESS(value: object) -> str:  # noqa: N802  A check as the others.
    """Check a mail address, more strictly than the config does, which may have an old one."""
    if isinstance(value, str) and (
        _NOT_IN_ADDRESS.search(value) or _NOT_IN_LOCAL_PART.search(value.rpartition("@")[0])
    ):
        return "is not a mail address; write for example mario.rossi@libero.it"
    return _ADDRESS(value)


USERNAME = CLIENT_ID = LOCATION


def ca_file_problem(text: str) -> str:
    """Return why a file cannot serve as the certificates to trust, "" if it can."""
    try:
        ssl.create_default_context(cafile=Path(text).expanduser())
    except ssl.SSLError:
        return "holds no certificate (PEM)"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, RuntimeError):
        return "is not the path of a file"
    return ""
