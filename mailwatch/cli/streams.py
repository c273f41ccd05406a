"""Stdin, stdout and stderr, made such that no verb can fail by what stands behind them."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress

_ESCAPE = "mailwatch.escape"


class _Stderr(io.FileIO):
    """Stderr. What it does not take is lost: a full disk under the log must not end the monitor."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        with suppress(OSError):
            super().write(data)
        return len(data)


def prepare_streams() -> None:
    """Open those of the three that are closed on /dev/null, and let the outputs take any text.

    Else the next file that is opened, such as the ledger, would be written to by code that means stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest number that is free: this one.
    codecs.register_error(_ESCAPE, _escape)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - stays open
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ESCAPE)
    # A disk under stderr that is full for a moment must not end what only wanted to say something.
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Stderr(2, "w", closefd=False)),
        encoding=getattr(sys.stderr, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=True,
    )


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Write what an encoding lacks, such as a file name that is not UTF-8, as \uXXXX: also JSON reads that."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end
