"""Reads config.yaml, and some keys from the environment, and reports all mistakes at once.

The environment may set a few keys, so that one config suits both a machine and a container.
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
from mailwatch.config.build import maintenance_problems
from mailwatch.config.errors import (
    ConfigError,
    ConfigNotFoundError,
    ConfigProblem,
    FieldError,
    KeyPath,
    format_key_path,
)
from mailwatch.config.schema import Config
from mailwatch.config.yaml_file import YamlDocument, YamlValue
from mailwatch.kinds import MAILBOX_KINDS

VARIABLES: dict[KeyPath, str] = {
    ("data_dir",): "MAILWATCH_DATA_DIR",
    ("web", "listen"): "MAILWATCH_LISTEN",
    ("web", "metrics_listen"): "MAILWATCH_METRICS_LISTEN",
    ("web", "trust_network"): "MAILWATCH_TRUST_NETWORK",
}
"""The environment variables that set keys. An empty variable sets nothing."""


def apply_environment(data: dict[str, YamlValue]) -> list[str]:
    """Replace values of the file by those of the environment; return the mistakes in these.

    A faulty `web:` is left for validation to refuse.
    """
    problems = []
    for place, variable in VARIABLES.items():
        section: YamlValue = data
        for key in place[:-1]:
            section = section.setdefault(str(key), {}) if isinstance(section, dict) else None
        if isinstance(section, dict) and (value := os.environ.get(variable)):
            section[str(place[-1])] = value
            if not value.isprintable():
                problems.append(f"{variable} is not text; set it to printable UTF-8")
    return problems


def environment_source(place: KeyPath) -> str:
    """Return the source of a value that is not from the file, as text: " (from MAILWATCH_LISTEN)"."""
    variable = VARIABLES.get(place)
    return f" (from {variable})" if variable and os.environ.get(variable) else ""


_DEFAULT_PATHS = (Path("config.yaml"), Path("/etc/mailwatch/config.yaml"))

_ADVICE = {
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

# Up to the next ${ only, so that many of them take no more than linear time.
_VARIABLE = re.compile(r"\$\{(?:[^}$]|\$(?!\{))*\}|^\$[A-Za-z_][A-Za-z0-9_]*$")
_FREE_TEXT_KEYS = ("contains", "absent", "password_command", "answer")
"""Keys whose text is meant for others: a page, a shell, a person."""

_REJECTED_KEYS = {
    "password": "the config must not contain a password; put it into a file and write password_file: PATH "
    "(or password_env, password_command, oauth2)",
    "client_secret": "the config must not contain a secret; put it into a file and write client_secret_file: PATH "
    "(or client_secret_env)",
}


_SYNONYMS = {
    **dict.fromkeys(("notifications", "notification", "notifiers", "alerts", "channels"), "notify"),
    **dict.fromkeys(("mailboxes", "mailbox", "account", "emails"), "accounts"),
    **dict.fromkeys(("monitors", "servers", "hosts"), "targets"),
    **dict.fromkeys(("tz", "time_zone", "zone"), "timezone"),
    **dict.fromkeys(("email", "mail"), "address"),
    **dict.fromkeys(("user", "login_name"), "username"),
    **dict.fromkeys(("type", "protocol"), "kind"),
    **dict.fromkeys(("server", "hostname"), "host"),
    **dict.fromkeys(("every", "frequency"), "interval"),
}
"""The keys that other words mean, of which few letters agree."""
_SECTIONS_OF_KEYS = (
    "defaults",
    "accounts",
    "targets",
    "web",
    "notify",
    "detection",
    "guard",
    "timestamps",
    "backup",
)
"""The sections that a key may have been meant for, the likeliest first."""


def default_path(paths: tuple[Path, ...] = _DEFAULT_PATHS) -> Path:
    """Return $MAILWATCH_CONFIG, else ./config.yaml or /etc/mailwatch/config.yaml. Raises ConfigNotFoundError."""
    if named := os.environ.get("MAILWATCH_CONFIG"):
        return Path(named)
    for path in paths:
        # A folder that may not be searched counts as empty: a working directory that is another owner's volume.
        with contextlib.suppress(PermissionError):
            if path.exists():
                return path
    what = f"does not exist, nor does {paths[-1]}; create it with mailwatch init, or use --config"
    raise ConfigNotFoundError([ConfigProblem(paths[0], 1, what)])


def load(path: Path, raw: bytes | None = None) -> Config:
    """Load a config file. Raises ConfigError with all mistakes, each with its line.

    `raw`: what the file would hold, to check a change before it is written.
    """
    document = YamlDocument(path, raw)
    problems = list(document.problems)
    if not isinstance(document.data, dict):
        problems.append(document.problem((), "is empty or not a mapping; see config.example.yaml"))
        raise ConfigError(problems)
    problems += _empty_keys(document, document.data, ())
    problems += [ConfigProblem(path, 1, what) for what in apply_environment(document.data)]
    problems += _unexpanded_variables(document, document.data, ())
    problems += _duplicate_names(document, document.data)
    if not document.data.get("accounts") and not document.data.get("targets"):
        problems.append(document.problem((), "there is nothing to monitor; add accounts or targets"))
    try:
        config = Config.model_validate(document.data, context={"folder": path.absolute().parent})
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [_problem(document, detail) for detail in details if not _already_reported(detail)]
        raise ConfigError(problems) from None
    problems += schema_claims.duplicate_claims(document, config.claims)
    config.attach(document)
    if problems := problems or list(maintenance_problems(config)):
        raise ConfigError(problems)
    return config


def _already_reported(detail: ErrorDetails) -> bool:
    """Return whether `_empty_keys`, or an item of the list, already has the problem."""
    if detail["type"] in ("missing", "extra_forbidden"):
        return False
    if detail["type"] == "literal_error" and detail["ctx"]["expected"] == "''":
        # A key may be empty, or a value whose own mistake is listed too.
        return True
    return detail["input"] is None or (detail["type"] == "too_short" and bool(detail["input"]))


def _empty_keys(document: YamlDocument, data: YamlValue, place: KeyPath) -> Iterator[ConfigProblem]:
    """Yield a problem for each key without a value: it never means the default, least of all under `login:`."""
    if data is None:
        yield document.problem(place, f"{format_key_path(place)}: is empty; give it a value or remove it")
    elif isinstance(data, dict):
        for key, value in data.items():
            yield from _empty_keys(document, value, (*place, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _empty_keys(document, value, (*place, number))


def _unexpanded_variables(document: YamlDocument, data: YamlValue, place: KeyPath) -> Iterator[ConfigProblem]:
    """Yield a problem for each variable of compose or a shell: unexpanded, it would be sent to a server."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key not in _FREE_TEXT_KEYS:
                yield from _unexpanded_variables(document, value, (*place, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _unexpanded_variables(document, value, (*place, number))
    elif isinstance(data, str) and _VARIABLE.search(data):
        name = f"{format_key_path(place)}{environment_source(place)}"
        advice = "write the value itself, or for a secret the _file or _env key"
        what = f"{name}: MailWatch does not replace variables such as ${{NAME}}; {advice}"
        yield document.problem(place, what)


def _problem(document: YamlDocument, detail: ErrorDetails) -> ConfigProblem:
    # Without the marks of pydantic for the choices of a value.
    place: KeyPath = tuple(part for part in detail["loc"] if not str(part).startswith(("function-", "literal[")))
    kind = detail["type"]
    fault = detail.get("ctx", {}).get("error")
    if isinstance(fault, FieldError) and fault.field:
        place = (*place, fault.field)
    name = f"{format_key_path(place)}{environment_source(place)}:" if place else ""
    what = _unknown_key(place) if kind == "extra_forbidden" else _what(detail)
    return document.problem(place, f"{name} {what}")


def section_problems(error: ValidationError) -> Iterator[str]:
    """Yield the mistakes of a single section, each with its key: "channels: lists the same channel twice"."""
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            # An item of the list is wrong, which is reported too.
            continue
        fault = detail.get("ctx", {}).get("error")
        place = (*detail["loc"], fault.field) if isinstance(fault, FieldError) and fault.field else detail["loc"]
        yield f"{format_key_path(place)}: {_what(detail)}" if place else _what(detail)


def _what(detail: ErrorDetails) -> str:
    """Return what is wrong with a value, and how to fix it."""
    fault = detail.get("ctx", {}).get("error")
    if isinstance(fault, FieldError):
        return str(fault)
    kind = detail["type"]
    if kind == "int_type" and re.fullmatch(r"0[0-9]+", str(detail["input"])):
        return "has a leading zero; write it without, and without quotes"
    if kind in _ADVICE:
        return _ADVICE[kind].format_map(detail.get("ctx", {})).replace("'", "")
    return detail["msg"].lower() + "; correct it"


def _unknown_key(place: KeyPath) -> str:
    name = str(place[-1])
    if name in _REJECTED_KEYS:
        return _REJECTED_KEYS[name]
    known = _known_keys(place[:-1])
    near = [_SYNONYMS[name]] if _SYNONYMS.get(name) in known else get_close_matches(name, known, n=1)
    if near:
        return f"unknown key; did you mean '{near[0]}'?"
    if sections := [section for section in _SECTIONS_OF_KEYS if name in _known_keys((section,))]:
        return f"unknown key here; write it in {', '.join(sections)}"
    return f"unknown key; use one of {', '.join(known)}"


def _known_keys(place: KeyPath) -> list[str]:
    """Return the keys of a section."""
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


def _duplicate_names(document: YamlDocument, data: dict[str, YamlValue]) -> Iterator[ConfigProblem]:
    """Yield a problem for each name of two targets, also among the targets of accounts.

    Works on the plain data, so that it is reported together with problems of shape.
    """
    seen: dict[str, KeyPath] = {}
    twice: set[KeyPath] = set()
    for name, place in _names(data):
        if name in seen and place[0] == "accounts" == seen[name][0]:
            # One mistake, however many channels the account has.
            if place not in twice:
                what = f"{name.rpartition('/')[0]} is already an account, on line {document.line(seen[name])}"
                yield document.problem(place, f"{format_key_path(place)}: {what}; keep one")
            twice.add(place)
        elif name in seen:
            first = document.line(seen[name])
            yield document.problem(place, f"the name '{name}' is already on line {first}; names must differ")
        seen.setdefault(name, place)


def _names(data: dict[str, YamlValue]) -> Iterator[tuple[str, KeyPath]]:
    for section in ("accounts", "targets"):
        items = data.get(section)
        for number, item in enumerate(items if isinstance(items, list) else []):
            if not isinstance(item, dict):
                continue
            place: KeyPath = (section, number)
            address, name, channels = item.get("address"), item.get("name"), item.get("channels")
            if section == "targets" and isinstance(name, str):
                yield name, (*place, "name")
            elif section == "accounts" and isinstance(address, str):
                # A channel listed twice in one account is a mistake of its own.
                kinds = dict.fromkeys(map(str, channels)) if isinstance(channels, list) else MAILBOX_KINDS
                for kind in kinds:
                    yield f"{address}/{kind}", (*place, "address")
