"""Writes a file that is whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def alone(path: Path) -> bool:
    """Whether the report alone is wanted, without the evidence around it."""
    return path.suffix.lower() == ".pdf"


def write_whole(path: Path, fill: Callable[[IO[bytes]], object]) -> int:
    """Write beside the wanted name first, for its owner's eyes only; return the size in bytes. Raises OSError."""
    torn = path.with_name(path.name + ".part")
    file = os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(file, "wb") as out:
            fill(out)
        torn.rename(path)
    except BaseException:
        torn.unlink(missing_ok=True)
        raise
    return path.stat().st_size
