"""Reads config.yaml and tells all its mistakes at once.

The keys that the environment may set, so that one config serves a machine and a container alike.
"""

from __future__ import annotations

import contextlib
import os
import re
import typing
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mailwatch.config import schema_claims
from mailwatch.config.build import maintenance_mistakes
from mailwatch.config.errors import ConfigError, ConfigNotFound, Fault, Mistake, Place, written
from mailwatch.config.schema import Config
from mailwatch.config.types import MAILBOX
from mailwatch.config.yaml_file import Document, Plain

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
                mistakes.append(f"{variable} is not text; set it to printable UTF-8")
    return mistakes


def source(place: Place) -> str:
    """Say whence the value at a place is, when that is not the file: " (from MAILWATCH_LISTEN)"."""
    variable = VARIABLES.get(place)
    return f" (from {variable})" if variable and os.environ.get(variable) else ""


_PLACES = (Path("config.yaml"), Path("/etc/mailwatch/config.yaml"))

_CURES = {
    "model_type": "must be a mapping; write key: value lines under it",
    "tuple_type": "must be a list; write one - per line, or [a, b]",
    "string_type": "must be text; put it in quotes",
    "int_type": "must be a whole number, without quotes",
    "path_type": "must be a path",
    "missing": "is missing; add it",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "is empty; write it",
    "string_too_long": "is longer than {max_length} characters; shorten it",
    "too_short": "is an empty list; add to it, or remove it",
    "too_long": "has more than {max_length} items; shorten it",
    "enum": "is not known; use {expected}",
    "literal_error": "must be {expected}",
}

_VARIABLE = re.compile(r"\$\{[^}]*\}|^\$[A-Za-z_][A-Za-z0-9_]*$")
_FREE = ("contains", "absent", "password_command", "answer")
"""Keys whose text is for others to read: a page, a shell, a person."""

_NOT_KEYS = {
    "password": "the config must not contain a password; put it into a file and write password_file: PATH "
    "(or password_env, password_command, oauth2)",
    "client_secret": "the config must not contain a secret; put it into a file and write client_secret_file: PATH "
    "(or client_secret_env)",
}


def default_path(places: tuple[Path, ...] = _PLACES) -> Path:
    """Give $MAILWATCH_CONFIG, else the first of ./config.yaml and /etc/mailwatch/config.yaml."""
    if named := os.environ.get("MAILWATCH_CONFIG"):
        return Path(named)
    for path in places:
        # What may not even be looked for is not there: a working directory that is a volume of another owner.
        with contextlib.suppress(PermissionError):
            if path.exists():
                return path
    what = f"does not exist, nor does {places[-1]}; create it with mailwatch init, or use --config"
    raise ConfigNotFound([Mistake(places[0], 1, what)])


def load(path: Path) -> Config:
    """Read a config file. Raises ConfigError with all mistakes, each at its line."""
    document = Document(path)
    mistakes = list(document.mistakes)
    if not isinstance(document.data, dict):
        mistakes.append(document.mistake((), "is empty or not a mapping; see config.example.yaml"))
        raise ConfigError(mistakes)
    mistakes += _empty(document, document.data, ())
    mistakes += [Mistake(path, 1, what) for what in override(document.data)]
    mistakes += _unfilled(document, document.data, ())
    mistakes += _twice(document, document.data)
    if not document.data.get("accounts") and not document.data.get("targets"):
        mistakes.append(document.mistake((), "there is nothing to monitor; add accounts or targets"))
    try:
        config = Config.model_validate(document.data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        details = error.errors(include_url=False)
        mistakes += [_mistake(document, detail) for detail in details if not _told(detail)]
        raise ConfigError(mistakes) from None
    mistakes += schema_claims.twice(document, config.claims)
    config._document = document
    if mistakes := mistakes or list(maintenance_mistakes(config)):
        raise ConfigError(mistakes)
    return config


def _told(detail: ErrorDetails) -> bool:
    """Whether the mistake is already told, by `_empty` or at an item of the list that misses it."""
    if detail["type"] in ("missing", "extra_forbidden"):
        return False
    return detail["input"] is None or (detail["type"] == "too_short" and bool(detail["input"]))


def _empty(document: Document, data: Plain, place: Place) -> Iterator[Mistake]:
    """Find keys without a value: nobody means the default by that, least of all under `login:`."""
    if data is None:
        yield document.mistake(place, f"{written(place)}: is empty; give it a value or remove it")
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _empty(document, value, (*place, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _empty(document, value, (*place, number))


def _unfilled(document: Document, data: Plain, place: Place) -> Iterator[Mistake]:
    """Find variables as compose and shells have them: taken as they stand, they would be sent to the servers."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key not in _FREE:
                yield from _unfilled(document, value, (*place, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _unfilled(document, value, (*place, number))
    elif isinstance(data, str) and _VARIABLE.search(data):
        what = "MailWatch does not replace variables such as ${NAME}; write the value itself, or for a secret the "
        yield document.mistake(place, f"{written(place)}{source(place)}: {what}_file or _env key")


def _mistake(document: Document, detail: ErrorDetails) -> Mistake:
    place: Place = detail["loc"]
    kind = detail["type"]
    fault = detail.get("ctx", {}).get("error")
    if isinstance(fault, Fault) and fault.field:
        place = (*place, fault.field)
    name = f"{written(place)}{source(place)}:" if place else ""
    if kind == "extra_forbidden":
        return document.mistake(place, f"{name} {_unknown(place)}")
    if isinstance(fault, Fault):
        what = str(fault)
    elif kind == "int_type" and re.fullmatch(r"0[0-9]+", str(detail["input"])):
        what = "has a leading zero; write it without, and without quotes"
    elif kind in _CURES:
        what = _CURES[kind].format_map(detail.get("ctx", {})).replace("'", "")
    else:
        what = detail["msg"].lower() + "; correct it"
    return document.mistake(place, f"{name} {what}")


def _unknown(place: Place) -> str:
    name = str(place[-1])
    if name in _NOT_KEYS:
        return _NOT_KEYS[name]
    known = _keys(place[:-1])
    near = get_close_matches(name, known, n=1)
    return f"unknown key; did you mean '{near[0]}'?" if near else f"unknown key; use one of {', '.join(known)}"


def _keys(place: Place) -> list[str]:
    """Give the keys that a section knows."""
    model: type[BaseModel] = Config
    for part in place:
        if isinstance(part, str):
            model = next(_models(model.model_fields[part].annotation))
    return list(model.model_fields)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _twice(document: Document, data: dict[str, Plain]) -> Iterator[Mistake]:
    """Find names that two targets would share, also among those that accounts expand to.

    Done on the plain data, so that it is told together with mistakes of shape.
    """
    seen: dict[str, Place] = {}
    for name, place in _names(data):
        if name in seen:
            first = document.line(seen[name])
            yield document.mistake(place, f"the name '{name}' is already on line {first}; names must differ")
        seen.setdefault(name, place)


def _names(data: dict[str, Plain]) -> Iterator[tuple[str, Place]]:
    for section in ("accounts", "targets"):
        items = data.get(section)
        for number, item in enumerate(items if isinstance(items, list) else []):
            if not isinstance(item, dict):
                continue
            place: Place = (section, number)
            address, name, channels = item.get("address"), item.get("name"), item.get("channels")
            if section == "targets" and isinstance(name, str):
                yield name, (*place, "name")
            elif section == "accounts" and isinstance(address, str):
                # Twice the same channel in one account is that account's own mistake.
                kinds = dict.fromkeys(map(str, channels)) if isinstance(channels, list) else MAILBOX
                for kind in kinds:
                    yield f"{address}/{kind}", (*place, "address")
