"""Makes stdin, stdout and stderr safe: no verb fails because of what they are connected to."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress

_ESCAPE = "mailwatch.escape"


class _Stderr(io.FileIO):
    """Stderr that drops what it cannot write: a full disk under the log must not end the monitor."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        with suppress(OSError):
            super().write(data)
        return len(data)


def prepare_streams() -> None:
    """Open closed standard streams on /dev/null, and let the outputs accept any text.

    Otherwise the next file opened, such as the ledger, would get the descriptor and receive output meant for
    stdout.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # It gets the lowest free descriptor: this one.
    codecs.register_error(_ESCAPE, _escape)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - stays open
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ESCAPE)
    # A disk that is full for a moment under stderr must not end a command that only prints a message.
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Stderr(2, "w", closefd=False)),
        encoding=getattr(sys.stderr, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=True,
    )


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""Write characters that the encoding lacks, such as a file name that is not UTF-8, as \uXXXX, as JSON
    does.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    units = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end
