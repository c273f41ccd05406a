"""The stored snapshots, how they are made again, and in what two of them differ."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.paths import ROOT, TESTDATA

EXPECTED = TESTDATA / "contracts" / "expected"
SHOWN = 40
"""Lines of a difference."""


def names(folder: Path) -> set[str]:
    """Return the snapshots of a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def made_now(folder: Path) -> None:
    """Have a process make all snapshots with the program as it is. Raises AssertionError with what it printed."""
    folder.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder.parent), "PYTHONPATH": str(ROOT)}
    environment |= {"TZ": "Europe/Rome", "LC_ALL": "C.UTF-8", "COLUMNS": "100", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "tests.contracts.produce", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-8000:]


def difference(expected: Path, made: Path) -> str:
    """Say in what a snapshot differs from the stored one; "" where it is the same."""
    if not made.exists():
        return "is made no more"
    if not expected.exists():
        return "is new: python -m tests.contracts --write"
    if made.suffix == ".zip":
        return _of_zips(expected, made)
    if made.suffix == ".pdf" or made.name == "zlib":
        return "" if made.suffix != ".pdf" or made.read_bytes() == expected.read_bytes() else "other bytes"
    return _of_texts(expected.read_bytes(), made.read_bytes())


def _of_texts(expected: bytes, made: bytes) -> str:
    if expected == made:
        return ""
    before, after = (text.decode(errors="replace").splitlines() for text in (expected, made))
    lines = list(difflib.unified_diff(before, after, "expected", "made", lineterm="", n=2))
    return "\n".join(line[:300] for line in lines[:SHOWN]) or "other bytes"


def _of_zips(expected: Path, made: Path) -> str:
    """Compare files and their order first; then the bytes, if the same zlib packed both."""
    if differing := "\n".join(_of_members(expected, made)):
        return differing
    same_zlib = (expected.parent / "zlib").read_text() == (made.parent / "zlib").read_text()
    return "packed in another way" if same_zlib and expected.read_bytes() != made.read_bytes() else ""


def _of_members(expected: Path, made: Path) -> Iterator[str]:
    with zipfile.ZipFile(expected) as before, zipfile.ZipFile(made) as after:
        if before.namelist() != after.namelist():
            yield f"the files are {after.namelist()}, not {before.namelist()}"
        for name in before.namelist():
            if name not in after.namelist():
                continue
            facts = [(one.date_time, one.external_attr, one.compress_type, one.extra) for one in
                     (before.getinfo(name), after.getinfo(name))]  # fmt: skip
            if facts[0] != facts[1]:
                yield f"{name}: date, mode, method or extra field is {facts[1]}, not {facts[0]}"
            if differing := _of_texts(before.read(name), after.read(name)):
                yield f"{name}: {'other bytes' if name.endswith('.pdf') else differing}"
