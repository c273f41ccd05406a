"""The errors of a config file, with their place in it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mailwatch.errors import UsageError

KeyPath = tuple[str | int, ...]
"""A place in the document: ("targets", 0, "interval")."""


@dataclass(frozen=True, slots=True, order=True)
class ConfigProblem:
    """One problem to fix. `message` also says how to fix it; it never repeats a possibly secret value."""

    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class ConfigError(UsageError):
    """The config cannot be used. `problems` has all problems found, in file order."""

    def __init__(self, problems: Iterable[ConfigProblem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


class ConfigNotFoundError(ConfigError):
    """No config file exists."""


class FieldError(ValueError):
    """A value breaks a rule of its section. `field` is the key inside the section, if there is one."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Problems:
    """Collects the problems of a config, to raise all of them at once."""

    def __init__(self, locate: Callable[[KeyPath, str], ConfigProblem]) -> None:
        self._locate = locate
        self._found: list[ConfigProblem] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, place: KeyPath, what: str) -> None:
        """Add a problem at a place, with the place at the start of its message."""
        self._found.append(self._locate(place, f"{format_key_path(place)}: {what}"))

    @contextlib.contextmanager
    def at(self, *place: str | int) -> Iterator[None]:
        """Add a FieldError raised within the context as a problem at `place`, or at the error's field below it."""
        try:
            yield
        except FieldError as error:
            self.add((*place, error.field) if error.field else place, str(error))

    def check(self) -> None:
        """Raise ConfigError if there are problems."""
        if self._found:
            raise ConfigError(self._found)


def format_key_path(place: KeyPath) -> str:
    """Return a place as text: targets[0].interval."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
