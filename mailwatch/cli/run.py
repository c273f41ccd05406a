"""mailwatch run: the monitor itself, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import sys
from datetime import datetime

import uvloop
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from mailwatch.cli.common import add_options, config_path
from mailwatch.cli.resource_limits import check_run_resources, page_handles
from mailwatch.config import Config, load, warnings, web_warnings
from mailwatch.config.targets import resolved_targets
from mailwatch.monitor.process import run
from mailwatch.monitor.signals import exit_now
from mailwatch.store import LedgerWholeError, begin_successor
from mailwatch.store.place import configured_place
from mailwatch.time_zone import zone_or_utc

logger = logging.getLogger(__name__)


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.add_argument(
        "--successor",
        action="store_true",
        help="if the ledger or its keys are lost: begin a new ledger, with a new key, that names the old one",
    )
    add_options(verb, json=False)
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    path, named = config_path(args), args.config is not None or bool(os.environ.get("MAILWATCH_CONFIG"))
    _log_to_stderr()
    config = load(path)
    if why := zone_or_utc(config.timezone):
        logger.warning("%s", why)
    for note in (*web_warnings(config), *warnings(config)):
        logger.warning("%s", note)
    if narrow := check_run_resources(sum(1 for _ in resolved_targets(config)), config.limits.max_concurrent):
        logger.warning("%s", narrow)
    if args.successor:
        begin_if_lost(config)
    # Loaded modules stay: no search for reference cycles need visit them.
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(path, config, page_handles, named=named))
        # Exit at once: closing the loop would wait for threads that hang.
        exit_now(0)


def begin_if_lost(config: Config) -> None:
    """Begin the successor of a lost ledger. Nothing happens if the ledger is whole, as when a service restarts."""
    from mailwatch.cli.ledger import succession_text  # Few starts begin a successor.

    try:
        done = begin_successor(configured_place(config))
    except (LedgerWholeError, FileNotFoundError):
        logger.info("no ledger is lost in %s: --successor changes nothing", config.data_dir)
    else:
        logger.warning("ledger: %s", succession_text(done))


def _log_to_stderr() -> None:
    """Log in colour to a terminal, else in plain lines. Each line has its time with the offset from UTC."""
    for library in ("alembic", "uvicorn", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    handler: logging.Handler = logging.StreamHandler()
    handler.setFormatter(_IsoTimeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if sys.stderr.isatty():
        handler = coloured_handler(Console(stderr=True))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def coloured_handler(console: Console) -> logging.Handler:
    """Return a log handler that writes to a terminal in colour."""
    handler = RichHandler(
        console=console, show_path=False, rich_tracebacks=False,
        log_time_format=lambda at: Text(at.astimezone().isoformat(timespec="seconds")),
    )  # fmt: skip
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


class _IsoTimeFormatter(logging.Formatter):
    """Formats times as ISO 8601."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
