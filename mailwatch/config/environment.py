"""The keys that the environment may set, so that one config serves a machine and a container alike."""

from __future__ import annotations

import os

from mailwatch.config.document import Plain
from mailwatch.config.mistakes import Place

VARIABLES: dict[Place, str] = {
    ("data_dir",): "MAILWATCH_DATA_DIR",
    ("web", "listen"): "MAILWATCH_LISTEN",
    ("web", "trust_network"): "MAILWATCH_TRUST_NETWORK",
}
"""Which key is set by which variable. An empty variable sets nothing."""


def override(data: dict[str, Plain]) -> list[str]:
    """Put what the environment says in place of what the file says; return what is wrong with it.

    A faulty `web:` stays, to be refused.
    """
    mistakes = []
    for place, variable in VARIABLES.items():
        section: Plain = data
        for key in place[:-1]:
            section = section.setdefault(str(key), {}) if isinstance(section, dict) else None
        if isinstance(section, dict) and (value := os.environ.get(variable)):
            section[str(place[-1])] = value
            if not value.isprintable():
                mistakes.append(f"{variable} holds what is no text; set it to printable UTF-8")
    return mistakes


def source(place: Place) -> str:
    """Say whence the value at a place is, when that is not the file: " (from MAILWATCH_LISTEN)"."""
    variable = VARIABLES.get(place)
    return f" (from {variable})" if variable and os.environ.get(variable) else ""
