"""docs/reference/metrics.md: names and types of all metrics from the code, their meanings from metrics.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from mailwatch.metrics import Metrics
from tools.markdown import code, escape, table

FOLDER = Path(__file__).parent


def page() -> str:
    """Return the page. Raises ValueError where a metric has no meaning on file, or a meaning no metric."""
    text = (FOLDER / "metrics.md").read_text(encoding="utf-8")
    return text.replace(
        "<!-- the table -->\n", "\n".join(table(("metric", "type", "labels", "meaning"), _rows())) + "\n"
    )


def _rows() -> Iterator[tuple[str, str, str, str]]:
    known = tomllib.loads((FOLDER / "metrics.toml").read_text(encoding="utf-8"))
    exposed = "".join(part.decode() for part in Metrics(CollectorRegistry()).exposition())
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", exposed, re.MULTILINE))
    if types.keys() != known.keys():
        raise ValueError(f"tools/metrics.toml and the code differ: {sorted(types.keys() ^ known.keys())}")
    for name, facts in known.items():
        yield code(name), types[name], facts.get("labels", ""), escape(facts["meaning"])
