"""Write tests/vectors anew: python -m tests.make_vectors. A test compares what it makes with what is there."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers.vector_cases import made

FOLDER = Path(__file__).parent / "vectors"


def files() -> dict[str, bytes]:
    """Return all files of the folder by name: the zips and the index."""
    vectors = list(made())
    index = [
        {"file": one.name, "valid": not one.fails, "fails": one.fails, "why": one.why, "source": one.source}
        for one in vectors
    ]
    text = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    return {one.name: one.content for one in vectors} | {"index.json": text.encode()}


def main() -> None:
    """Replace what is in the folder."""
    made_now = files()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for name, content in made_now.items():
        (FOLDER / name).write_bytes(content)


if __name__ == "__main__":
    main()
