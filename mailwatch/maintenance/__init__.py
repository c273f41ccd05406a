"""Announced maintenance: when it is, and since when it was announced. Pure.

A window counts only from the moment of the record that announced it (notices.py): what is added afterwards hides
nothing. Looks go on and outages are detected all the same; maintenance is only left out of the availability, and
told beside it.
"""

from __future__ import annotations

from mailwatch.maintenance.notices import Notice, Notices, Rule
from mailwatch.maintenance.recurrence import WrongRule
from mailwatch.maintenance.when import When, check, windows

__all__ = ["Notice", "Notices", "Rule", "When", "WrongRule", "check", "windows"]
