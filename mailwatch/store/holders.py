"""Which other programs have a file open, as far as the system lets us see: Linux, by /proc."""

from __future__ import annotations

import os
from pathlib import Path

MOST = 3
"""Programs that are named."""


def holders(file: Path) -> str:
    """Name the other programs that have a file open; "another program" where none can be seen."""
    try:
        wanted = file.stat()
        others = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    except OSError:
        return "another program"
    names = [
        f"{_name(folder)} (process {folder.name})"
        for folder in others
        if folder.name != str(os.getpid()) and _has_open(folder, wanted)
    ]
    return " and ".join(names[:MOST]) or "another program"


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        opened = list((process / "fd").iterdir())
    except OSError:
        return False
    for name in opened:
        try:
            found = name.stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a program"
