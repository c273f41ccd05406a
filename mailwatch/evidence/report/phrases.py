"""How the reports tell times, durations, shares and digests: in the reader's language and time zone."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from mailwatch.models import Millis


class Phrases:
    """The phrases of one report. `tenths`: clock times with a tenth of a second."""

    def __init__(self, language: str, zone: ZoneInfo, *, tenths: bool = False) -> None:
        self._lang, self._zone, self._tenths = language, zone, tenths
        self._point = "," if language == "it" else "."

    def _both(self, at: Millis) -> str:
        """A time for people: local, with UTC in brackets."""
        utc = datetime.fromtimestamp(at / 1000, UTC)
        return f"{utc.astimezone(self._zone):%d/%m/%Y} {self._clock(at)} ({utc:%H:%M:%S}Z)"

    def _clock(self, at: Millis) -> str:
        local = datetime.fromtimestamp(at // 1000, UTC).astimezone(self._zone)
        return f"{local:%H:%M:%S}" + (f"{self._point}{at % 1000 // 100}" if self._tenths else "")

    def _day(self, at: Millis) -> str:
        return f"{datetime.fromtimestamp(at // 1000, UTC).astimezone(self._zone):%d/%m/%Y}"

    def _stamp(self, text: str) -> str:
        return self._both(round(datetime.fromisoformat(text).timestamp() * 1000))

    def _span(self, millis: int) -> str:
        """A duration for people; seconds with one decimal only where they are all there is."""
        if millis < 60_000:
            return f"{millis / 1000:.1f} s".replace(".", self._point)
        minutes, seconds = divmod(millis // 1000, 60)
        if minutes < 60:
            return f"{minutes} min {seconds:02d} s"
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        day = ("giorno" if days == 1 else "giorni") if self._lang == "it" else ("day" if days == 1 else "days")
        return f"{days} {day} {hours} h {minutes:02d} min" if days else f"{hours} h {minutes:02d} min"

    def _share(self, share: float) -> str:
        """A share as per cent; cut, not rounded, so that 100 % is said only of all."""
        return f"{int(share * 100_000) / 1000:.3f} %".replace(".", self._point)


def pairs(digest: str) -> str:
    """A digest in groups of eight, so that it breaks across lines."""
    return " ".join(digest[at : at + 8] for at in range(0, len(digest), 8))
