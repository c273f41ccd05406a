"""What an outage counts, in a size that does not grow with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mailwatch.models import Millis, Observation

REPLIES = 5
"""How many of the server's latest distinct words an outage keeps."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an outage needs to know of one of its four looks."""

    index: int
    target: str
    start: Millis
    end: Millis
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What was seen since the last good look, in a size that does not grow with the outage."""

    last_index: int = 0
    down: int = 0
    up: int = 0
    unknown: int = 0
    largest_gap: Millis = 0
    unobserved: Millis = 0
    causes: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, int] = field(default_factory=dict)
    replies: tuple[str, ...] = ()
    seen_until: Millis | None = None
    blind_until: Millis | None = None

    def blind(self, index: int, until: Millis, unknown: int) -> Tally:
        """Take in a gap or an unknown look."""
        told = replace(self, last_index=index, unknown=self.unknown + unknown)
        if self.seen_until is None:
            return told
        counted = self.seen_until if self.blind_until is None else self.blind_until
        return replace(
            told,
            largest_gap=max(self.largest_gap, until - self.seen_until),
            unobserved=self.unobserved + max(0, until - counted),
            blind_until=max(counted, until),
        )

    def seen(self, index: int, look: Observation) -> Tally:
        """Take in the time since the last conclusive look, without counting this one."""
        start, end = look.started_at, look.ended_at
        since = start if self.seen_until is None else self.seen_until
        counted = start if self.blind_until is None else self.blind_until
        return replace(
            self,
            last_index=index,
            largest_gap=max(self.largest_gap, start - since),
            unobserved=self.unobserved + max(0, start - counted),
            seen_until=max(since, end),
            blind_until=None,
        )

    def failed(self, index: int, look: Observation) -> Tally:
        """Take in a bad look."""
        words = [word for attempt in look.attempts[-1:] for word in attempt.replies[-1:]]
        return replace(
            self.seen(index, look),
            down=self.down + 1,
            causes=_counted(self.causes, look.cause),
            phases=_counted(self.phases, look.failed_phase),
            replies=tuple([word for word in self.replies if word not in words] + words)[-REPLIES:],
        )

    def forgiven(self) -> Tally:
        """Forget the bad looks, which led to nothing."""
        return replace(self, down=0, causes={}, phases={}, replies=())


NOTHING = Tally()
"""The tally before anything was seen."""


def _counted(counts: Mapping[str, int], name: str | None) -> Mapping[str, int]:
    return counts if name is None else {**counts, str(name): counts.get(name, 0) + 1}
