"""Damaged databases: each page of a ledger's SQLite file, spoilt one at a time, as disks and people spoil them."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADER = 100
"""Bytes at the beginning of page 1 that say that it is a database (https://www.sqlite.org/fileformat.html)."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page by its number (from 1), the table or index that it is of ("" if it is free), and its kind."""

    number: int
    owner: str
    kind: str

    def __str__(self) -> str:
        """For the ids of tests."""
        return f"{self.number}-{self.owner or 'free'}-{self.kind}"


def fold(file: Path) -> None:
    """Bring the log of a database that nobody has open into the file itself."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def pages(file: Path) -> list[Page]:
    """List the pages of a database that nobody has open."""
    fold(file)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (count,) = connection.execute("PRAGMA page_count").fetchone()
        used = {
            number: Page(number, owner, kind)
            for number, owner, kind in connection.execute("SELECT pageno, name, pagetype FROM dbstat")
        }
    return [used.get(number, Page(number, "", "free")) for number in range(1, count + 1)]


def one_of_each(found: list[Page]) -> list[Page]:
    """Choose the last page of each kind of each table and index: there new rows go."""
    return list({(page.owner, page.kind): page for page in found}.values())


def is_without_rows(file: Path, page: Page) -> bool:
    """Return whether a page has no cells (https://www.sqlite.org/fileformat.html, section 1.6)."""
    start = (page.number - 1) * page_size(file) + (HEADER if page.number == 1 else 0)
    return file.read_bytes()[start + 3 : start + 5] == bytes(2)


def damage_page(file: Path, page: Page, how: str, seed: int = 0) -> None:
    """Overwrite a page in the file: with zeros, with random bytes, or with the half of it torn ("half")."""
    size = page_size(file)
    with file.open("r+b") as disk:
        disk.seek((page.number - 1) * size)
        before = disk.read(size)
        noise = random.Random(seed + page.number).randbytes(size)
        after = {"zeros": bytes(size), "random": noise, "half": before[: size // 2] + noise[size // 2 :]}[how]
        disk.seek((page.number - 1) * size)
        disk.write(after)


def page_size(file: Path) -> int:
    """Read it from the header, which must be whole."""
    with file.open("rb") as disk:
        size = int.from_bytes(disk.read(HEADER)[16:18])
    return 65_536 if size == 1 else size


@contextlib.contextmanager
def damaged(file: Path, page: Page, how: str) -> Iterator[None]:
    """Spoil a page, and put it back as it was."""
    size, before = page_size(file), file.read_bytes()
    damage_page(file, page, how)
    try:
        yield
    finally:
        start = (page.number - 1) * size
        with file.open("r+b") as disk:
            disk.seek(start)
            disk.write(before[start : start + size])


def damaged_pages(file: Path, hows: tuple[str, ...] = ("zeros", "random", "half")) -> Iterator[tuple[Page, str]]:
    """Yield each page of a database with each way of damage; it is spoilt until the next one is asked for."""
    for page in pages(file):
        for how in hows:
            with damaged(file, page, how):
                yield page, how
