"""Whether mail works now: the first thing on the page, so it must be true and plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_NAMES = 5


@dataclass(frozen=True, slots=True)
class StatusSummary:
    """`answer` says it in words (`answer` and `answer_text` of the pages); `state` is its colour and sign."""

    answer: str
    state: str
    count: int
    of: int
    names: tuple[str, ...]
    """Some of those that are not up, or of which nothing is known."""
    more: int
    """How many of them are not named."""


def status_summary(targets: Sequence[dict[str, Any]], *, stale: bool) -> StatusSummary:
    """Summarise the states of all targets. `stale`: what is shown may be old, so no state of mail is given.

    One that is down outweighs all; what is not known is not called up, nor all the rest unknown because of it.
    """
    up = [target["target"] for target in targets if target["state"] == "up"]
    down = [target["target"] for target in targets if target["state"] == "down"]
    doubtful = [target["target"] for target in targets if target["state"] not in ("up", "down")]
    of = len(targets)
    if stale or not targets:
        return StatusSummary("ill" if stale else "none", "unknown", 0, of, (), 0)
    if down:
        return _named("down" if len(down) == of else "part", "down", len(down), of, down)
    if doubtful:
        return _named("doubt" if up else "unknown", "unknown", len(up), of, doubtful)
    return StatusSummary("up", "up", len(up), of, (), 0)


def _named(answer: str, state: str, count: int, of: int, names: Sequence[str]) -> StatusSummary:
    return StatusSummary(answer, state, count, of, tuple(names[:MAX_NAMES]), len(names[MAX_NAMES:]))
