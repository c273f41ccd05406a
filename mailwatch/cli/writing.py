"""Writes a file that is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mailwatch.endings import UsedWrongly


def alone(path: Path) -> bool:
    """Whether the report alone is wanted, without the evidence around it."""
    return path.suffix.lower() == ".pdf"


def writable(path: Path) -> None:
    """Raise UsedWrongly where no file can be made, before the work is done that would be for nothing."""
    if path.name in ("", "..") or "\0" in str(path):
        raise UsedWrongly(f"mailwatch: {str(path)!r} is no name of a file; name a new file")
    # To rename a file over a device, as root may, would take the device from all.
    if os.path.lexists(path) and not path.is_file():
        raise UsedWrongly(f"mailwatch: {path} is there and is not a file; name a new file")
    if not path.parent.is_dir():
        raise UsedWrongly(f"mailwatch: {path.parent} is not a folder; make it, or name a file elsewhere")


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> int:
    """Write beside the wanted name first, for its owner's eyes only; return the size in bytes.

    Raises OSError and UsedWrongly.
    """
    writable(path)
    torn = path.with_name(path.name + ".part")
    # What a killed one left, or a link that another put there, is not written to.
    torn.unlink(missing_ok=True)
    file = os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as out:
            fill(out)
        torn.rename(path)
    except BaseException:
        torn.unlink(missing_ok=True)
        raise
    return path.stat().st_size
