"""The last steps of a succession: the old files go into the archive, and the new ledger takes their place.

The new ledger is built whole in the folder `succession` first; the file `ready.json` in it decides. Before that, a
kill changes nothing. After it, each start completes what is left: every step is a rename that can be repeated.

The archive is a data_dir of its own for reading. `closed.json` in it keeps its key from signing anything more.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from mailwatch.files import sync_folder, write_atomic
from mailwatch.store.committed_tail import EARLIER_FILE, TAIL_FILE
from mailwatch.store.errors import LedgerClosedError, StoreDamagedError, StoreUnavailableError
from mailwatch.store.sqlite import database, write_ahead_log
from mailwatch.times import Millis, now

WORK_FOLDER = "succession"
ARCHIVE_FOLDER = "archive"
CLOSED_FILE = "closed.json"
"""In an archive: which ledger goes on for it (`successor`, its verifier key), and since when (`closed`, ms)."""
_READY, _ARCHIVED = "ready.json", "archived"


@dataclass(frozen=True, slots=True)
class ReadyPlan:
    """A decided succession. `archive`: the folder, relative to the data_dir. `successor`: the new verifier key."""

    archive: str
    successor: str
    closed: Millis


def decide(data_dir: Path, archive: str, successor: str) -> None:
    """Decide the succession whose new ledger is in the work folder: from here on it is completed. Raises
    OSError.
    """
    plan = {"archive": archive, "successor": successor, "closed": now()}
    write_atomic(data_dir / WORK_FOLDER / _READY, json.dumps(plan).encode())


def complete_succession(data_dir: Path) -> bool:
    """Complete a decided succession, or remove one that was not decided; return whether there was one to complete.

    Only for the process that holds the lock. Raises StoreDamagedError, OSError.
    """
    work = data_dir / WORK_FOLDER
    plan = _read_plan(work)
    if plan is None:
        if work.exists():
            shutil.rmtree(work)
        return False
    archive = data_dir / plan.archive
    if not (work / _ARCHIVED).exists():
        for folder in (archive.parent, archive):
            folder.mkdir(mode=0o700, exist_ok=True)
        closed = {"successor": plan.successor, "closed": plan.closed}
        write_atomic(archive / CLOSED_FILE, json.dumps(closed).encode())
        names = (
            write_ahead_log(data_dir).name,
            "tokens",
            database(data_dir).name,
            TAIL_FILE,
            EARLIER_FILE,
            "keys",
        )
        _move(names, data_dir, archive)
        for parent in (archive, archive.parent, data_dir):
            sync_folder(parent)
        # Only now can a file at the old places be the successor's.
        write_atomic(work / _ARCHIVED, b"")
    _move((database(data_dir).name, "keys"), work, data_dir)
    sync_folder(data_dir)
    (work / _READY).unlink()
    sync_folder(work)
    shutil.rmtree(work)
    return True


def _move(names: tuple[str, ...], source: Path, target: Path) -> None:
    for name in names:
        if (source / name).exists():
            (source / name).rename(target / name)
    # SQLite makes this file anew; it belongs to no other file.
    (source / f"{database(source).name}-shm").unlink(missing_ok=True)


def _read_plan(work: Path) -> ReadyPlan | None:
    try:
        return ReadyPlan(**json.loads((work / _READY).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        what = f"{work / _READY} cannot be read"
        raise StoreDamagedError(f"{what}; restore the ledger from your backup (docs/how-to/backup.md)") from None


def check_settled(data_dir: Path) -> None:
    """Raise StoreUnavailableError if a succession was decided and not completed."""
    if (data_dir / WORK_FOLDER / _READY).exists():
        raise StoreUnavailableError(
            f"the ledger in {data_dir} is being replaced by its successor, and that was interrupted; "
            "`mailwatch run` completes it",
            "the ledger is being replaced by its successor",
        )


def check_not_closed(data_dir: Path) -> None:
    """Raise LedgerClosedError if the ledger in a data_dir has a successor: its key signs nothing more."""
    if not (data_dir / CLOSED_FILE).exists():
        return
    try:
        successor = str(json.loads((data_dir / CLOSED_FILE).read_bytes())["successor"]).partition("+")[0]
    except (OSError, ValueError, KeyError, TypeError):
        successor = "another ledger"
    raise LedgerClosedError(
        f"the ledger in {data_dir} is closed: {successor} goes on for it. Read it with `mailwatch outages` and "
        "`mailwatch report`; to monitor, name the data_dir of the successor",
        "the ledger is closed",
    )
