"""Bundles changed by who holds the key: signed anew, so that all files are those of the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mailwatch.evidence.bundle import Bundle
from mailwatch.store.keys import load_keys
from tests.helpers.bundle_files import Files


def signed_again(path: Path, files: Files, data_dir: Path) -> Path:
    """Write the files as a bundle of the ledger in `data_dir`."""
    with path.open("wb") as out:
        bundle = Bundle(out)
        for name, content in files.items():
            if not name.startswith("manifest."):
                bundle.add(name, [content])
        bundle.close(load_keys(data_dir).private)
    return path


def with_json(files: Files, name: str, change: Mapping[str, Any]) -> Files:
    """Return the files with other keys in one of JSON."""
    stated = json.loads(files[name]) | change
    return files | {name: (json.dumps(stated, indent=2, ensure_ascii=False) + "\n").encode()}
