"""What is wrong with a config file, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mailwatch.errors import UsedWrongly

Place = tuple[str | int, ...]
"""Where in the document: ("targets", 0, "interval")."""


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing to mend. `what` says also how; it never repeats a value that may be a secret."""

    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


class ConfigError(UsedWrongly):
    """The config cannot be used. `mistakes` holds all that were found, in the order of the file."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(sorted(set(mistakes)))
        super().__init__("\n".join(map(str, self.mistakes)))


class ConfigNotFound(ConfigError):
    """There is no config file to read."""


class Fault(ValueError):
    """A rule of a section that is broken. `field` names the key inside the section, if there is one."""

    def __init__(self, what: str, field: str = "") -> None:
        super().__init__(what)
        self.field = field


def written(place: Place) -> str:
    """Write a place as an owner would: targets[0].interval."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
