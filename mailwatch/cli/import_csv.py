"""mailwatch import: adds many mailboxes from a table (CSV); all of them, or none."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from mailwatch.cli.common import add_options
from mailwatch.cli.config_changes import open_config_file, reload_monitor, say
from mailwatch.cli.errors import print_error
from mailwatch.config.edit import ConfigFile
from mailwatch.config.errors import ConfigProblem
from mailwatch.config.secrets import readable_by_others
from mailwatch.setup.login_test import ServerResult, Verdict, report, try_logins
from mailwatch.setup.mailbox_table import (
    COLUMNS,
    TEMPLATE,
    MailboxRow,
    MailboxTable,
    add_rows,
    read_table,
    row_targets,
)

MAX_TESTS = 4
"""Most mailboxes whose login is tested at the same time, one at a provider."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = (
        "Each row is a mailbox; the first row names the columns. Passwords in the table go to files in secrets. "
        "If one row has a mistake, nothing is written."
    )
    add_options(verb, json=False)
    verb.add_argument("file", type=Path, nargs="?", metavar="FILE.csv", help="the table; see --template")
    verb.add_argument("--test", action="store_true", help="log in to each mailbox first; a rejection is a mistake")
    verb.add_argument("--dry-run", action="store_true", help="list the mistakes and write nothing")
    verb.add_argument("--skip-existing", action="store_true", help="leave out mailboxes that the config has")
    verb.add_argument("--template", action="store_true", help="print a table to fill in")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.template:
        say("Columns: {columns}", columns=", ".join(COLUMNS))
        print(TEMPLATE, end="")
        return 0
    if args.file is None:
        print_error("mailwatch: name the table: mailwatch import FILE.csv; see mailwatch import --template")
        return 2
    file = open_config_file(args)
    table = read_table(args.file, file)
    problems = [*table.problems]
    if not args.skip_existing:
        what = "is already in the config; remove the row, or add --skip-existing"
        problems += [ConfigProblem(args.file, line, f"{address} {what}") for line, address in table.known]
    if args.test and not problems:
        problems += asyncio.run(_test(args.file, file, table.rows))
    for problem in sorted(problems):
        print_error(str(problem))
    if problems:
        say("Nothing was written.")
        return 1
    return _write(args, file, table)


def _write(args: argparse.Namespace, file: ConfigFile, table: MailboxTable) -> int:
    add_rows(file, table.rows)
    if args.dry_run:
        say("No mistakes: {count} mailboxes would be added to {path}.", count=len(table.rows), path=file.path)
        return 0
    if not table.rows:
        say("There is no new mailbox in {path}.", path=args.file)
        return 0
    config = file.save()
    say("Added to {path}: {count} mailboxes.", path=file.path, count=len(table.rows))
    if table.holds_passwords:
        say("{path} still holds the passwords in clear: delete it (shred -u).", path=args.file)
        if readable_by_others(args.file):
            say("Others can read it now.")
    reload_monitor(config)
    return 0


async def _test(path: Path, file: ConfigFile, rows: Sequence[MailboxRow]) -> list[ConfigProblem]:
    """Log in to each mailbox, as `run` will, and return those that rejected the login."""
    places = asyncio.Semaphore(MAX_TESTS)
    providers: dict[str, asyncio.Lock] = {}

    async def one(row: MailboxRow) -> list[ConfigProblem]:
        targets = row_targets(file, row)
        provider = targets[0].provider if targets else ""
        # Many logins at once from one address look like an attack to a provider.
        async with providers.setdefault(provider, asyncio.Lock()), places:
            results = [event async for event in try_logins(targets) if isinstance(event, ServerResult)]
        judged = report(results)
        for result in results:
            outcome = "works" if result.works else result.reason
            print(f"{result.target.name}: {outcome}", file=sys.stderr, flush=True)
        if judged.verdict is Verdict.REJECTED and judged.deciding:
            what = f"{row.address}: the server rejected the login: {judged.deciding.observation.detail}"
            return [ConfigProblem(path, row.line, what)]
        return []

    async with asyncio.TaskGroup() as group:
        running = [group.create_task(one(row)) for row in rows]
    return [problem for task in running for problem in task.result()]
