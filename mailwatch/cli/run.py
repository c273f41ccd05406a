"""mailwatch run: the monitor itself, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys

import uvloop
from rich.console import Console
from rich.logging import RichHandler

from mailwatch.cli.opening import config_path, options
from mailwatch.cli.zone import zone_or_utc
from mailwatch.config import load, warnings, web_warnings
from mailwatch.daemon import run
from mailwatch.ending import leave


def add(verb: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    options(verb, json=False)
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    path = config_path(args)
    if why := zone_or_utc():
        print(f"warning: {why}", file=sys.stderr)
    _log_to_stderr()
    config = load(path)
    for note in (*web_warnings(config), *warnings(config)):
        print(f"warning: {note}", file=sys.stderr)
    # What is loaded stays; looks leave few cycles behind. Collecting as often as Python does costs a twentieth.
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(path, config))
        # At once: to close the loop would be to wait for threads that hang.
        leave(0)


def _log_to_stderr() -> None:
    """Colour for a person at a terminal; plain lines for a journal."""
    for library in ("alembic", "uvicorn", "httpx"):
        logging.getLogger(library).setLevel(logging.WARNING)
    if sys.stderr.isatty():
        handler: logging.Handler = RichHandler(
            console=Console(stderr=True), show_path=False, rich_tracebacks=False, log_time_format="%H:%M:%S"
        )
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
