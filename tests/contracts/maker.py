"""What all snapshots are made with: the stored installations, a command in this process, files to write."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.helpers.paths import TESTDATA

TESTDATA = TESTDATA
STORED = TESTDATA / "contracts"
OLD = TESTDATA / "old"
TIMES = json.loads((STORED / "times.json").read_bytes())
Row = dict[str, Any]


class Maker:
    """Makes the snapshots in `out`, with the stored installations unpacked in `work`."""

    def __init__(self, out: Path, work: Path) -> None:
        self.out, self.work = out, work
        for name in ("home", "away"):
            with tarfile.open(STORED / f"{name}.tar.xz") as tar:
                tar.extractall(work / name, filter="data")

    def text(self, name: str, content: str) -> None:
        """Write a snapshot."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def json(self, name: str, value: Any) -> None:
        """Write a snapshot as JSON; the order of keys is no contract."""
        self.text(name, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def run(self, *words: object) -> tuple[int, str]:
        """Run a command; return its exit status and what it printed."""
        from mailwatch.__main__ import main

        printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with patch.object(sys, "argv", ["mailwatch", *map(str, words)]), contextlib.redirect_stdout(printed):
            try:
                status = main()
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
            printed.flush()
        printed.seek(0)
        return status, printed.read()

    def asked(self, *words: object, config: str = "home") -> Any:
        """Run a command that must end with 0; return what it printed as JSON."""
        status, printed = self.run("--config", self.work / config / "config.yaml", *words, "--json")
        assert status == 0, (words, status, printed)
        return json.loads(printed)


def shape_of(value: Any) -> Any:
    """Keys and types without the values."""
    if isinstance(value, dict):
        return {key: shape_of(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return type(value).__name__
