"""Whether mail is well now: the first thing that is seen, so it must be true and plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NAMES_AT_MOST = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """`answer` says it in words (`answer` and `answer_text` of the pages); `state` is its colour and sign."""

    answer: str
    state: str
    count: int
    of: int
    names: tuple[str, ...]
    """Some of those that are not well, or of which nothing is known."""
    more: int
    """How many of them are not named."""


def verdict(targets: Sequence[dict[str, Any]], *, ill: bool) -> Verdict:
    """Judge by the states of all targets. `ill`: what is shown may be old, so nothing is said of mail.

    One that is down outweighs all; what is not known is not called well, nor all the rest unknown because of it.
    """
    up = [told["target"] for told in targets if told["state"] == "up"]
    down = [told["target"] for told in targets if told["state"] == "down"]
    doubtful = [told["target"] for told in targets if told["state"] not in ("up", "down")]
    of = len(targets)
    if ill or not targets:
        return Verdict("ill" if ill else "none", "unknown", 0, of, (), 0)
    if down:
        return _named("down" if len(down) == of else "part", "down", len(down), of, down)
    if doubtful:
        return _named("doubt" if up else "unknown", "unknown", len(up), of, doubtful)
    return Verdict("up", "up", len(up), of, (), 0)


def _named(answer: str, state: str, count: int, of: int, names: Sequence[str]) -> Verdict:
    return Verdict(answer, state, count, of, tuple(names[:NAMES_AT_MOST]), len(names[NAMES_AT_MOST:]))
