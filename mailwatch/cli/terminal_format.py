"""Times, durations and shares on the terminal: local time, or UTC on request, in the reader's language."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from mailwatch.cli.language import language, tr
from mailwatch.config import Config
from mailwatch.i18n import decimal_point, format_duration, percent_of
from mailwatch.times import EPOCH, Millis, parse_rfc3339

UTC_ZONE = ZoneInfo("UTC")
_MOST_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class TerminalFormat:
    """The formats of one command: a time zone and a language."""

    zone: ZoneInfo
    language: str

    def minute(self, at: Millis) -> str:
        """Return a time to the minute: 2026-01-22 21:55, in Italian 22/01/2026 21:55."""
        return self._time(at, f"{self._date_form} %H:%M")

    def second(self, at: Millis) -> str:
        """Return a time to the second."""
        return self._time(at, f"{self._date_form} %H:%M:%S")

    def day_and_second(self, at: Millis) -> str:
        """Return a time to the second, without its year."""
        return self._time(at, f"{'%d/%m' if self.language == 'it' else '%m-%d'} %H:%M:%S")

    def second_of(self, text: str) -> str:
        """Return an RFC 3339 time to the second."""
        return self.second(parse_rfc3339(text))

    def duration(self, millis: int | None, *, up: bool = False) -> str:
        """Return a duration in milliseconds, rounded down or `up`; "not known" for None."""
        return tr("not known") if millis is None else format_duration(millis / 1000, up, self.language)

    def bounds(self, lower: float | None, upper: float | None) -> str:
        """Return the bounds of a share, with as many decimals as they differ by; once if they are the same.

        Neither overstates: the lower is rounded down, the upper up.
        """
        if lower is None or upper is None:
            return tr("no data")
        decimals = next((d for d in range(1, _MOST_DECIMALS) if (upper - lower) * 100 >= 10.0**-d), _MOST_DECIMALS)
        if lower == upper:
            decimals = 3
        least, most = self._percent(lower, decimals), self._percent(upper, decimals, up=True)
        return f"{least} %" if least == most or lower == upper else f"{least}\u2013{most} %"

    def share(self, share: float) -> str:
        """Return a share, rounded down to a tenth of a per cent; a small one to its first digit."""
        decimals = next((d for d in range(1, _MOST_DECIMALS) if share * 100 >= 10.0**-d), _MOST_DECIMALS)
        return f"{self._percent(share, decimals if share else 1)} %"

    def zone_note(self) -> str:
        """Return which zone the times are in."""
        return tr("Times: {zone}", zone=self.zone.key)

    @property
    def _date_form(self) -> str:
        return "%d/%m/%Y" if self.language == "it" else "%Y-%m-%d"

    def _percent(self, share: float, decimals: int, *, up: bool = False) -> str:
        text = percent_of(share, decimals, up=up)
        if float(text) in (0, 100):
            return text.partition(".")[0]
        return text.replace(".", decimal_point(self.language))

    def _time(self, at: Millis, form: str) -> str:
        local = (EPOCH + timedelta(milliseconds=at)).astimezone(self.zone)
        return f"{local:{form}}{_offset_if_ambiguous(local)}"


def _offset_if_ambiguous(local: datetime) -> str:
    """Return the offset from UTC of a time that comes twice, when the clocks are set back; else ""."""
    offset = local.utcoffset()
    if offset is None or all(local.replace(fold=fold).utcoffset() == offset for fold in (0, 1)):
        return ""
    return f"{local:%z}"


def add_utc_option(parser: argparse.ArgumentParser) -> None:
    """Add --utc."""
    parser.add_argument("--utc", action="store_true", help="print times in UTC, not in local time")


def terminal_format(args: argparse.Namespace, config: Config) -> TerminalFormat:
    """Return the formats of a command. Raises TimeZoneError, unless UTC is requested."""
    return TerminalFormat(UTC_ZONE if args.utc else config.zone(), language())
