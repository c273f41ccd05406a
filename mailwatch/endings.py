"""Errors that end a command: each is told in its own words, without a traceback."""

from __future__ import annotations


class UsedWrongly(Exception):
    """The user can mend it, in the config or on the command line: exit 2. It names file and line itself."""


class Refused(Exception):
    """It was asked for rightly and must not be done: exit 1."""
