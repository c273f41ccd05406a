"""Reads as much of a faulty config as can be read, so that one run finds the mistakes of the rest too.

load() already reports what is wrong with the places left out here. What stands in their stead is neither probed
nor used: the result is only for reference_problems() and the like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from mailwatch.config.errors import ConfigError, FieldError, KeyPath
from mailwatch.config.load import apply_environment
from mailwatch.config.schema import Config
from mailwatch.config.yaml_file import YamlDocument, YamlValue
from mailwatch.ledger.cosignature import cosigner_key

_MAX_ROUNDS = 50
"""Most times that something is left out; with each, the rest is checked anew."""


def _witness_key(number: int) -> str:
    private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"left out {number}".encode()).digest())
    return str(cosigner_key(private.public_key()))


_STAND_INS: dict[str, Callable[[int], YamlValue]] = {
    "accounts": lambda number: {"address": f"{number}@libero.it", "channels": ["mx"], "password_env": "X"},
    "targets": lambda number: {"name": f"left out {number}", "kind": "imap", "host": "localhost"},
    "timestamps": lambda number: {"url": f"http://left-out-{number}.invalid"},
    "notify": lambda _: {"url": "json://localhost"},
    "witnesses": lambda number: {"url": "http://localhost/", "key": _witness_key(number)},
}
"""An entry in place of a faulty one, so that the others keep their places. None of them has a secret."""


def salvage(path: Path) -> Config | None:
    """Return a faulty config without the places that load() refuses; None if nothing can be read."""
    try:
        document = YamlDocument(path)
    except ConfigError:
        return None
    data = document.data
    if not isinstance(data, dict) or _holds_nul(data):
        return None
    apply_environment(data)
    for _ in range(_MAX_ROUNDS):
        try:
            config = Config.model_validate(data, context={"folder": path.absolute().parent})
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                fault = detail.get("ctx", {}).get("error")
                field = (fault.field,) if isinstance(fault, FieldError) and fault.field else ()
                _leave_out(data, (*detail["loc"], *field))
            continue
        config.attach(document)
        return config
    return None


def _holds_nul(data: YamlValue) -> bool:
    """Whether a text has a NUL character, with which it can be no path."""
    if isinstance(data, dict):
        return any(_holds_nul(value) for value in data.values())
    if isinstance(data, list):
        return any(_holds_nul(value) for value in data)
    return isinstance(data, str) and "\0" in data


def _leave_out(data: dict[str, YamlValue], place: KeyPath) -> None:
    """Remove the key at a place, if there is one, else the section around it. In a list, replace the entry."""
    section, *inner = place
    parent, key = _innermost(data, place)
    if isinstance(parent, dict) and parent is not data and len(inner) > (section in _STAND_INS):
        del parent[key]
        return
    items = data.get(str(section))
    if section in _STAND_INS and isinstance(items, list) and inner and isinstance(inner[0], int):
        stand_in = _STAND_INS[str(section)](inner[0])
        if items[inner[0]] != stand_in:
            items[inner[0]] = stand_in
            _leave_out_references(data)
            return
    data.pop(str(section), None)


def _innermost(data: dict[str, YamlValue], place: KeyPath) -> tuple[YamlValue, str]:
    """Return the innermost mapping around a place, and the key in it; no mapping if the place does not exist."""
    parent: YamlValue = None
    key, here = "", data
    for part in place:
        if isinstance(here, dict) and part in here:
            parent, key = here, str(part)
            here = here[key]  # type: ignore[assignment]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            here = here[part]
        else:
            return None, ""
    return parent, key


def _leave_out_references(data: dict[str, YamlValue]) -> None:
    """Leave out what names targets, as a target that it names may be left out."""
    targets = data.get("targets")
    for number, item in enumerate(targets if isinstance(targets, list) else []):
        if isinstance(targets, list) and isinstance(item, dict) and item.get("kind") == "roundtrip":
            targets[number] = _STAND_INS["targets"](number)
    for section in ("maintenance", "claims"):
        data.pop(section, None)
