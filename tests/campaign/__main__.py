"""python -m tests.campaign: runs a campaign and prints its figures. Exit 0 when every promise was kept, else 1."""

from __future__ import annotations

import argparse
import math
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from tests.campaign.hub_verdict import HubVerdict
from tests.campaign.hub_world import K
from tests.campaign.hub_worlds import hub_results
from tests.campaign.worlds import WEEKS, Campaign, results

SHOWN = 5
"""Failures shown of each world."""
ROWS = (
    "probes",
    "probes booked up",
    "probes booked down",
    "probes booked unknown",
    "probes lost on the way",
    "entries",
    "gaps",
    "starts",
    "kills",
    "reboots",
    "suspends",
    "stalls",
    "steps",
    "reloads",
    "watching: begin",
    "watching: change",
    "watching: continue",
    "watching: end",
    "rejected logins",
    "of hosts not watched then",
    "true outages",
    "longer than the rechecks",
    "found",
    "found afterwards",
    "excused",
    "missed",
    "reported",
    "within bounds",
    "unwatched",
    "over a step of the clock",
    "over a reboot",
    "over a reboot that nobody can date",
    "false",
    "reported, of a login",
    "proven afterwards",
)


def main() -> int:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--weeks", type=int, default=500, help="simulated weeks, in worlds of two (%(default)s)")
    parser.add_argument("--seed", default="1", help="any word (%(default)s)")
    parser.add_argument("--only", type=int, help="the number of one world")
    parser.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--hub", action="store_true", help="three vantage points and a hub")
    parser.add_argument("--liars", type=int, default=1, help="with --hub: how many lie (%(default)s)")
    args = parser.parse_args()
    first = 0 if args.only is None else args.only
    worlds = range(first, first + (math.ceil(args.weeks / WEEKS) if args.only is None else 1))
    talk = Console(stderr=True)
    if args.hub:
        return _hub_campaign(args.seed, worlds, args.jobs, args.liars, talk)
    campaign, began = Campaign(), time.monotonic()
    columns = (TextColumn("worlds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as progress:
        task = progress.add_task("worlds", total=len(worlds))
        for number, verdict in results(args.seed, worlds, args.jobs):
            campaign.add(number, verdict)
            progress.advance(task)
            for failure in verdict.failures[:SHOWN]:
                talk.print(f"world {number}: {failure}"[:1000], style="red", markup=False, highlight=False)
    page = Console()
    page.print(_table(campaign, args.seed, time.monotonic() - began))
    for number in sorted(campaign.failures):
        again = f"python -m tests.campaign --seed {args.seed} --only {number}"
        page.print(f"world {number} broke {len(campaign.failures[number])} promises; again: {again}")
    return 1 if campaign.failures else 0


HUB_ROWS = (
    "entries",
    "pushes",
    "restarts",
    "lies",
    "cut off",
    "clocks wrong",
    "true outages",
    "not seen by enough",
    "seen by enough",
    "confirmed",
    "missed",
    "confirmations",
    "false",
    "within bounds",
    "bounds of honest ones",
    "bounds on both sides",
)


def _hub_campaign(seed: str, worlds: range, jobs: int, liars: int, talk: Console) -> int:
    """Run the campaign of the hub. Exit 0 when every promise was kept, else 1."""
    total, began = HubVerdict(), time.monotonic()
    for number, verdict in hub_results(seed, worlds, jobs, liars):
        total.figures += verdict.figures
        total.failures += verdict.failures
        for failure in verdict.failures[:SHOWN]:
            talk.print(f"world {number}: {failure}"[:1000], style="red", markup=False, highlight=False)
    figures = total.figures
    figures["missed"] = figures["seen by enough"] - figures["confirmed"]
    table = Table(title=f"seed {seed}: {liars} of 3 lie, {K} confirm", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("weeks", f"{len(worlds) * WEEKS:,.0f}")
    for row in HUB_ROWS:
        table.add_row(row, f"{figures[row]:,}")
    table.add_row("broken promises", f"{len(total.failures):,}")
    table.add_row("wall time", f"{time.monotonic() - began:,.0f} s")
    Console().print(table)
    return 1 if total.failures else 0


def _table(campaign: Campaign, seed: str, seconds: float) -> Table:
    table = Table(title=f"seed {seed}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    figures = campaign.figures
    figures["excused"] = campaign.excused.total()
    figures["missed"] = figures["longer than the rechecks"] - figures["found"] - figures["excused"]
    table.add_row("weeks", f"{figures['worlds'] * WEEKS:,.0f}")
    table.add_row("worlds", f"{figures['worlds']:,}")
    for row in ROWS:
        table.add_row(row, f"{figures[row]:,}")
        if row == "excused":
            for why, count in campaign.excused.most_common():
                table.add_row(f"  {why}", f"{count:,}")
    table.add_row("broken promises", f"{sum(map(len, campaign.failures.values())):,}")
    table.add_row("wall time", f"{seconds:,.0f} s")
    return table


if __name__ == "__main__":
    sys.exit(main())
