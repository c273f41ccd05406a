"""Which of the guard's regular answers are put on record: each change, and a sign of life now and then."""

from __future__ import annotations

from typing import Any

from mailwatch import monotonic
from mailwatch.model import ConnectivityResult
from mailwatch.times import Millis

LOG_INTERVAL_MS: Millis = 3_600_000
OFFLINE_LOG_INTERVAL_MS: Millis = 300_000
"""How long nothing may be recorded. An open offline period is known as far as the last entry."""


class GuardLog:
    """Remembers what was recorded last. The entry of a change also says when the old state was last seen."""

    def __init__(self) -> None:
        self._latest: ConnectivityResult | None = None
        self._asked: Millis = 0
        self._logged_at: Millis = 0
        """When the latest was asked for, and the last one put on record, on the steady clock."""

    def entry(self, answer: ConnectivityResult, bound: Millis | None = None) -> dict[str, Any] | None:
        """Return the payload that an answer of just now deserves, None for none.

        `bound` is by how many milliseconds the wall clock may be off.

        `checked_at`: until then at least all was as the entry before says. The first entry of a run has none,
        for between two runs there were no checks.
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
        payload: dict[str, Any] = {
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
