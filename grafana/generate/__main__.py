"""Write grafana/dashboards and grafana/alerting anew: python -m grafana.generate."""

from __future__ import annotations

import json
from pathlib import Path

from grafana.generate import alerts, internals, outages, overview

FOLDER = Path(__file__).parents[1]


def files() -> dict[Path, str]:
    """Everything that is made, by its file."""
    boards = {board.__name__.rpartition(".")[2]: board.made() for board in (overview, outages, internals)}
    made = {
        FOLDER / "dashboards" / f"{name}.json": json.dumps(board, indent=1, sort_keys=True) + "\n"
        for name, board in boards.items()
    }
    return {**made, FOLDER / "alerting" / "mailwatch-rules.yaml": alerts.made()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
