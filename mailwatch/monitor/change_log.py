"""Logs changes of targets: the first of a provider at once, and those that follow within a minute in one line.

When a provider falls, its thirty mailboxes would write ninety lines, which hide everything else.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

LINES_AT_ONCE = 3
"""Lines of a provider that are not collected: the usual channels of one mailbox."""
WINDOW_SECONDS = 60.0
"""Seconds after the first line in which further changes of the same kind are collected."""
MOST_NAMES = 10
"""Most targets that a line names."""


@dataclass(slots=True)
class _Window:
    """The changes that came after the first lines: the target of each, and the line it would write alone."""

    logger: logging.Logger
    level: int
    lines: int = 1
    followers: list[tuple[str, str]] = field(default_factory=list)


class ChangeLog:
    """Used in one event loop."""

    def __init__(self, seconds: float = WINDOW_SECONDS) -> None:
        self._seconds = seconds
        self._windows: dict[tuple[str, str], _Window] = {}

    def log(self, logger: logging.Logger, level: int, provider: str, what: str, target: str, line: str) -> None:
        """Log that `what` is now so of a target: by `line`, or with others of its provider."""
        key = (provider, what)
        window = self._windows.get(key)
        if window is not None and window.lines == LINES_AT_ONCE:
            window.followers.append((target, line))
            return
        logger.log(level, "%s", line)
        if window is not None:
            window.lines += 1
        elif provider:
            self._windows[key] = _Window(logger, level)
            asyncio.get_running_loop().call_later(self._seconds, self._close, key)

    def flush(self) -> None:
        """Log what was collected, at the end."""
        for key in list(self._windows):
            self._close(key)

    def _close(self, key: tuple[str, str]) -> None:
        window = self._windows.pop(key, None)
        if window is None or not window.followers:
            return
        provider, what = key
        if len(window.followers) == 1:
            window.logger.log(window.level, "%s", window.followers[0][1])
            return
        names = [target for target, _ in window.followers]
        others = f" and {len(names) - MOST_NAMES} others" if len(names) > MOST_NAMES else ""
        window.logger.log(
            window.level, "%s: %d more targets: %s: %s%s",
            provider, len(names), what, ", ".join(names[:MOST_NAMES]), others,
        )  # fmt: skip
