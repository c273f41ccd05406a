"""Measures the phases of one attempt, and keeps the server's replies."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from mailwatch import monotonic
from mailwatch.facts import AttemptFacts
from mailwatch.model import Attempt, Cause, Phase, TlsFacts
from mailwatch.probes.redact import Redactor
from mailwatch.times import Millis, now

MAX_REPLIES = 8
PhaseListener = Callable[[Phase, str, int], None]
"""Called live with the phase, "begin" or "end", and the microseconds spent in the phase so far."""


class Recorder:
    """The record of one attempt. The failed phase is the one that an exception passes through."""

    __slots__ = (
        "_clock",
        "_hide",
        "_listener",
        "facts",
        "failed_phase",
        "note",
        "password_sent",
        "phases",
        "replies",
        "started_at",
        "tls",
        "unanswered",
    )

    def __init__(self, redactor: Redactor, listener: PhaseListener | None) -> None:
        self._hide = redactor
        self._listener = listener
        self.started_at: Millis = now()
        self._clock: Millis = monotonic.milliseconds()
        self.phases: dict[Phase, int] = {}
        self.failed_phase: Phase | None = None
        self.replies: list[str] = []
        self.tls: TlsFacts | None = None
        self.note = ""
        self.password_sent = False
        self.facts: AttemptFacts = {}
        self.unanswered: Callable[[], Exception | None] = lambda: None
        """Returns what the server sent before it fell silent, None if nothing."""

    def note_password_sent(self) -> None:
        """Note that the password is being sent: from here on silence may be a delayed refusal."""
        self.password_sent = True

    def phase(self, phase: Phase) -> _PhaseTimer:
        """Measure the body of a `with` block; a phase entered again continues its count."""
        return _PhaseTimer(self, phase)

    def add_reply(self, text: str) -> None:
        """Keep a reply of the server; only the first MAX_REPLIES are kept."""
        if len(self.replies) < MAX_REPLIES:
            self.replies.append(self._hide(text))

    def hide(self, text: str) -> str:
        """Mask the secrets in a text that is not for the record."""
        return self._hide.hide(text)

    def to_attempt(self, peer: str, *, cause: Cause | None = None, detail: str = "") -> Attempt:
        """Return the finished attempt; after an unanswered login, it states whether the password was sent."""
        if self.password_sent and self.failed_phase is Phase.AUTH and cause in (Cause.TIMEOUT, Cause.DISCONNECTED):
            self.facts["password_sent"] = 1
        return Attempt(
            started_at=self.started_at,
            ended_at=max(self.started_at, now()),
            clock=monotonic.since(self._clock),
            peer=peer,
            phases=self.phases,
            cause=cause,
            failed_phase=self.failed_phase if cause else None,
            detail=self._hide(detail or self.note),
            replies=tuple(self.replies),
            tls=self.tls,
            facts=self.facts or None,
        )

    def begin(self, phase: Phase) -> None:
        """Report that a phase begins."""
        if self._listener is not None:
            self._listener(phase, "begin", self.phases.get(phase, 0))

    def end(self, phase: Phase, took: int, failed: bool) -> None:
        """Add a phase that took `took` microseconds, and report its end."""
        total = self.phases[phase] = self.phases.get(phase, 0) + took
        if failed:
            self.failed_phase = phase
        if self._listener is not None:
            self._listener(phase, "end", total)


class _PhaseTimer:
    """A context manager class: a generator-based one costs several times as much."""

    __slots__ = ("_began", "_phase", "_recorder")

    def __init__(self, recorder: Recorder, phase: Phase) -> None:
        self._recorder = recorder
        self._phase = phase

    def __enter__(self) -> None:
        self._recorder.begin(self._phase)
        self._began = time.monotonic_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = (time.monotonic_ns() - self._began) // 1000
        self._recorder.end(self._phase, took, kind is not None)
