"""python -m tests.chaos: runs the scenarios and prints their figures. Exit 1 where a promise was broken."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from tests.chaos.figures import Figures, Scale
from tests.chaos.scenarios import SCENARIOS, run


def main() -> int:
    """Run the scenarios that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("scenario", nargs="*", metavar="SCENARIO", help=f"one of {', '.join(SCENARIOS)} (all)")
    parser.add_argument("--seed", default="1", help="any word (%(default)s)")
    parser.add_argument("--kills", type=int, default=40, help="how many kills (%(default)s)")
    parser.add_argument("--hours", type=float, default=1.0, help="virtual, of hostile servers (%(default)s)")
    parser.add_argument("--thorough", action="store_true", help="every case of every scenario")
    parser.add_argument("--jobs", type=int, default=2, help="scenarios at a time (%(default)s)")
    args = parser.parse_args()
    if unknown := set(args.scenario) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    scale = Scale(seed=args.seed, kills=args.kills, hours=args.hours, thorough=args.thorough)
    began = time.monotonic()
    page, done = Console(width=110), []
    for figures in run(args.scenario or SCENARIOS, scale, args.jobs):
        done.append(figures)
        page.print(_table([figures], scale))
        for what in figures.notes:
            page.print(f"{figures.name}: {what}", markup=False, highlight=False)
        for what in figures.broken:
            page.print(f"{figures.name} BROKEN: {what}", style="red", markup=False, highlight=False)
    page.print(_table(done, scale))
    page.print(
        f"{sum(len(figures.broken) for figures in done)} broken promises, {time.monotonic() - began:,.0f} s"
    )
    return 1 if any(figures.broken for figures in done) else 0


def _table(done: list[Figures], scale: Scale) -> Table:
    machine = f"{os.cpu_count()} processors, {platform.system()}, Python {platform.python_version()}"
    title = f"{datetime.now(UTC):%Y-%m-%d}, seed {scale.seed}, {machine}"
    table = Table(title=title, show_header=False, min_width=80)
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    for figures in done:
        table.add_section()
        name = figures.name
        for what, number in figures.counts.items():
            table.add_row(name, what, f"{number:,}")
            name = ""
        for what, (value, unit) in figures.most.items():
            table.add_row(name, what, f"{value:,.1f} {unit}")
        table.add_row("", "broken promises", f"{len(figures.broken):,}", style="red" if figures.broken else None)
        table.add_row("", "wall time", f"{figures.seconds:,.0f} s")
    return table


if __name__ == "__main__":
    sys.exit(main())
