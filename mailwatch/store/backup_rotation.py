"""Backups in a folder, of which the newest are kept: mailwatch-LEDGER-20261130T084500Z.tar.gz.

The name has the ledger and the time, so that a folder may hold the backups of several ledgers, and anything else.
Only files with such a name of the same ledger are ever removed, and only after a newer backup is complete.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailwatch.files import sync_folder
from mailwatch.store.backup import Backup, backup, check_ledger_exists
from mailwatch.store.keys import load_keys
from mailwatch.store.place import Place, place_of
from mailwatch.times import EPOCH, Millis

_NAME = re.compile(r"mailwatch-([0-9a-f]{16})-([0-9]{8}T[0-9]{6}Z)\.tar\.gz")
_TIME_FORM = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedBackup:
    """A new backup, and the older ones that were removed."""

    file: Path
    made: Backup
    removed: tuple[Path, ...]


def back_up_and_rotate(where: Path | Place, folder: Path, keep: int, at: Millis) -> RotatedBackup:
    """Write a backup of a ledger into `folder`, which is created (0700); keep the newest `keep` of its ledger.

    `at` is the time for its name. Raises what `backup` raises; then nothing is removed.
    """
    check_ledger_exists(where)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(f"{folder} is not a folder; name another place") from None
    ledger = _ledger_of(place_of(where).data_dir)
    moment = datetime.fromtimestamp(at // 1000, UTC)
    file = folder / f"mailwatch-{ledger}-{moment:{_TIME_FORM}}.tar.gz"
    made = backup(where, file)
    removed = []
    for path in _superfluous(folder, ledger, file, keep, at):
        # A backup that another process removed, or that may not be removed, must not fail the new one.
        with contextlib.suppress(OSError):
            path.unlink()
            removed.append(path)
    with contextlib.suppress(OSError):
        sync_folder(folder)
    return RotatedBackup(file=file, made=made, removed=tuple(removed))


def latest_backup(data_dir: Path, folder: Path, at: Millis) -> Millis | None:
    """Return the time of the newest backup of this ledger in `folder`, not after `at`; None without one."""
    times = (time for time, _ in _backups(folder, _ledger_of(data_dir)) if time <= at)
    return max(times, default=None)


def _superfluous(folder: Path, ledger: str, new: Path, keep: int, at: Millis) -> Iterable[Path]:
    """Return all but the newest `keep` backups. `new` is never among them."""
    # A backup from the future was made under a wrong clock: it counts as the oldest, not as the newest for ever.
    others = [(time if time <= at else 0, path) for time, path in _backups(folder, ledger) if path != new]
    newest_first = sorted(others, reverse=True)
    return [path for _, path in newest_first[keep - 1 :]]


def _backups(folder: Path, ledger: str) -> list[tuple[Millis, Path]]:
    """Return the backups of a ledger in a folder, with their times. Links and folders of such a name are none."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name and name[1] == ledger and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(ValueError):
                    moment = datetime.strptime(name[2], _TIME_FORM).replace(tzinfo=UTC)
                    found.append((round((moment - EPOCH).total_seconds() * 1000), folder / entry.name))
    return found


def _ledger_of(data_dir: Path) -> str:
    return load_keys(data_dir).origin.rpartition("/")[2]
