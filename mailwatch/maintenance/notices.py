"""Which time was announced as maintenance before it came.

A notice says which rules are in force, from its own moment until the next notice. So a window counts from the
moment at which it was announced, at the earliest: one that is announced while it lasts counts for the rest of it,
one that is announced afterwards not at all, and one that is withdrawn counts until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mailwatch.maintenance.when import When, windows
from mailwatch.models import Millis
from mailwatch.windows import Window, merged

_WHEN = ("timezone", "rrule", "cron", "start", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule as it is announced. `targets` are opaque ids, None means all targets.

    `providers` were named in the config; their targets at that time are in `targets`.
    """

    name: str
    when: When
    targets: frozenset[str] | None = None
    providers: tuple[str, ...] = ()

    def covers(self, target: str) -> bool:
        """Whether it is about the target of that opaque id."""
        return self.targets is None or target in self.targets

    def payload(self) -> dict[str, Any]:
        """Write it in canonical form, for the record. What is not said is left out."""
        told: dict[str, Any] = {"name": self.name}
        told |= {key: getattr(self.when, key) for key in _WHEN if getattr(self.when, key)}
        if self.when.duration:
            told["duration_ms"] = self.when.duration
        if self.targets is not None:
            told["targets"] = sorted(self.targets)
        return told | {"providers": sorted(self.providers)} if self.providers else told

    @classmethod
    def read(cls, payload: dict[str, Any]) -> Rule:
        """Read what `payload` wrote. Raises WrongRule, KeyError or TypeError for anything else."""
        when = When.of(duration=payload.get("duration_ms", 0), **{k: payload[k] for k in _WHEN if k in payload})
        targets = frozenset(payload["targets"]) if "targets" in payload else None
        return cls(name=payload["name"], when=when, targets=targets, providers=tuple(payload.get("providers", ())))


@dataclass(frozen=True, slots=True)
class Notice:
    """From `at` on these rules are in force."""

    at: Millis
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Notices:
    """All that was announced, in the order of the record."""

    notices: tuple[Notice, ...] = ()

    def of(self, target: str, start: Millis, end: Millis) -> tuple[Window, ...]:
        """Return the maintenance of a target in [start, end): cut to it, in order, apart from each other."""
        if not self.notices:
            return ()
        return merged(
            (max(begin, since), min(finish, until))
            for since, until, rules in self._terms(start, end)
            for rule in rules
            if rule.covers(target)
            for begin, finish in windows(rule.when, since, until)
        )

    def _terms(self, start: Millis, end: Millis) -> Iterator[tuple[Millis, Millis, tuple[Rule, ...]]]:
        """The parts of [start, end) in which the same rules were in force."""
        for number, notice in enumerate(self.notices):
            over = self.notices[number + 1].at if number + 1 < len(self.notices) else end
            since, until = max(start, notice.at), min(end, over)
            if since < until and notice.rules:
                yield since, until, notice.rules
