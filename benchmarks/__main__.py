"""`python -m benchmarks [NAME ...] [--seconds N] [--json FILE]`; without names, all of NAMES."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import (
    bounded,
    collective,
    evidence,
    hub,
    ingest,
    load,
    merge,
    pages,
    postgresql,
    probe,
    response_times,
    schedule,
    storage,
)
from mailwatch import __version__
from mailwatch.times import now, rfc3339

SECONDS = {"probe": 15.0, "schedule": 90.0, "ingest": 10.0, "load": 30.0, "pages": 60.0, "postgresql": 30.0}
LONGEST = 600.0
NAMES = (*SECONDS, "bounded", "times", "storage", "evidence", "merge", "hub", "collective")
ENTRIES = 1_000_000
BUNDLES = 500


def main() -> None:
    """Measure, print, and write what was measured as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", metavar="|".join(NAMES), help="default: all")
    parser.add_argument("--seconds", type=float, help="how long each measurement takes")
    parser.add_argument("--entries", type=int, default=ENTRIES, help="of the long ledger of evidence")
    parser.add_argument("--days", type=float, default=bounded.DAYS, help="of the ledger of bounded")
    parser.add_argument("--bundles", type=int, default=BUNDLES, help="that are merged")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE")
    options = parser.parse_args()
    wanted = options.which or NAMES
    if unknown := set(wanted) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if options.seconds is not None and not 1 <= options.seconds <= LONGEST:
        parser.error(f"--seconds must be between 1 and {LONGEST:g}")
    console = Console()
    results: dict[str, Any] = {"taken_at": rfc3339(now()), "machine": _machine()}
    for name in wanted:
        match name:
            case "bounded":
                results[name] = bounded.show(bounded.measure(options.days, console), console)
            case "evidence":
                results[name] = evidence.show(evidence.measure(options.entries, console), console)
            case "collective":
                results[name] = collective.show(collective.measure(console), console)
            case "hub":
                results[name] = hub.show(hub.measure(console), console)
            case "load":
                wanted_seconds = options.seconds or SECONDS[name]
                results[name] = load.show(load.measure(wanted_seconds, options.entries, console), console)
            case "times":
                results[name] = response_times.show(response_times.measure(console), console)
            case "storage":
                results[name] = storage.show(storage.measure(console), console)
            case "postgresql":
                wanted_seconds = options.seconds or SECONDS[name]
                results[name] = postgresql.show(postgresql.measure(wanted_seconds, console), console)
            case "merge":
                results[name] = merge.show(merge.measure(options.bundles), console)
            case _:
                results[name] = _run(name, options.seconds or SECONDS[name], console)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    results["machine"]["load_at_end"] = os.getloadavg()
    options.json.write_text(json.dumps(results, indent=2) + "\n")
    console.print(
        f"written to {options.json}; load of the machine {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores"
    )


def _run(name: str, seconds: float, console: Console) -> dict[str, Any]:
    with console.status(f"{name}: about {seconds:g} s for each measurement"):
        match name:
            case "probe":
                return probe.show(probe.measure(seconds), console)
            case "schedule":
                return schedule.show(schedule.measure(seconds), console)
            case "pages":
                return pages.show(pages.measure(seconds), console)
            case _:
                return ingest.show(ingest.measure(seconds), console)


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "mailwatch": __version__,
    }


if __name__ == "__main__":
    main()
