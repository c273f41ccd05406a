"""Selects the guard's answers to record: each change, and one at a regular interval."""

from __future__ import annotations

from mailwatch import monotonic
from mailwatch.model import ConnectivityResult
from mailwatch.times import Millis

LOG_INTERVAL_MS: Millis = 3_600_000
OFFLINE_LOG_INTERVAL_MS: Millis = 300_000
"""Milliseconds between two records. An open offline period is known up to the last entry."""


class GuardLog:
    """Remembers the last recorded answer. The entry of a change also dates the last answer of the old state."""

    def __init__(self) -> None:
        self._latest: ConnectivityResult | None = None
        self._asked: Millis = 0
        self._logged_at: Millis = 0
        """Steady-clock times of the latest answer (`_asked`) and of the last recorded one (`_logged_at`)."""

    def entry(self, answer: ConnectivityResult, bound: Millis | None = None) -> dict[str, object] | None:
        """Return the payload to record for a new answer, None for none.

        `bound` is the bound of the wall clock's error in milliseconds.

        `checked_at`: until then at least, the state of the previous entry lasted. The first entry of a run has
        none, since there were no checks between two runs.
        """
        before, self._latest = self._latest, answer
        asked = answer.asked_at - monotonic.offset()
        checked, self._asked = self._asked, asked
        interval = LOG_INTERVAL_MS if answer.online else OFFLINE_LOG_INTERVAL_MS
        old = asked - self._logged_at >= interval
        if before is not None and not old and _state(before) == _state(answer):
            return None
        self._logged_at = asked
        answered = asked if answer.answered_at is None else asked + answer.answered_at - answer.asked_at
        clock = {"boot": monotonic.origin().boot, "asked": asked, "answered": answered}
        clock |= {"checked": checked} if before else {}
        clock |= {} if bound is None else {"bound": bound}
        payload: dict[str, object] = {
            "asked_at": answer.asked_at,
            "online": answer.online,
            "controls": answer.controls,
            "clock": clock,
        }
        apart = {
            "answered_at": answer.answered_at,
            "online4": answer.online4,
            "online6": answer.online6,
            "resolver": answer.resolver or None,
            "lie": list(answer.spoofed) or None,
            "checked_at": before.asked_at if before else None,
        }
        return payload | {key: value for key, value in apart.items() if value is not None}


def _state(answer: ConnectivityResult) -> tuple[bool | None, bool | None, bool | None, str]:
    return answer.online, answer.online4, answer.online6, answer.resolver
