"""What the nodes of one ledger must have alike in their configs, as digests. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from mailwatch.config.effective import effective
from mailwatch.config.schema import Config

_PLACES = ("_file", "_command", "_env")
"""How the names of keys end that say where a secret or a certificate is on one machine."""
_TIMES = ("interval", "timeout")


def compared_parts(config: Config) -> dict[str, str]:
    """Return a digest (8 hex digits) of each part of a config that decides what goes on record, by its name.

    Where the secrets and certificates are may differ from machine to machine, and what one machine listens on.
    """
    written = _without_places(effective(config))
    targets = sorted(written["targets"], key=lambda target: str(target["name"]))
    times = {target["name"]: [target.pop(name, None) for name in _TIMES] for target in targets}
    parts = {
        "vantage_point": written["vantage_point"],
        "targets": targets,
        "intervals": times,
        "detection": written["detection"],
        "guard": written["guard"],
        "maintenance": written.get("maintenance", []),
        "timestamps": written["timestamps"],
        "notify": written.get("notify", []),
    }
    return {name: _digest(part) for name, part in parts.items()}


def _without_places(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _without_places(each) for key, each in value.items() if not key.endswith(_PLACES)}
    return [_without_places(each) for each in value] if isinstance(value, list) else value


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
