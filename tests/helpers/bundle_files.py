"""The files of an evidence bundle, read, changed and packed again."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

Files = dict[str, bytes]


def files_of(bundle: Path) -> Files:
    with zipfile.ZipFile(bundle) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def pack(path: Path, files: Files, *, refresh: bool = True, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip; with `refresh` its manifest fits again, which anyone can do but sign."""
    if refresh:
        listed = {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in files.items()
            if not name.startswith("manifest.")
        }
        files = files | {"manifest.json": json.dumps({"files": listed}).encode()}
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def lines_of(files: Files) -> list[bytes]:
    return files["entries.jsonl"].splitlines(keepends=True)


def put_lines(files: Files, lines: list[bytes]) -> None:
    files["entries.jsonl"] = b"".join(lines)
