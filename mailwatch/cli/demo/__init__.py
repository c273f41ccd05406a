"""mailwatch demo: an outage from its start to its record, in a minute, without account or network."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from mailwatch.cli.common import stdout
from mailwatch.cli.demo import display
from mailwatch.cli.demo.display import ApiSnapshot, all_hold
from mailwatch.cli.demo.line_connection import Behaviour
from mailwatch.cli.demo.runner import (
    LOG_FILE,
    DemoError,
    DemoResult,
    Display,
    make_evidence,
    run_demo,
    run_forever,
)
from mailwatch.cli.demo.script import SPEEDS, TARGETS
from mailwatch.cli.language import language, speaking
from mailwatch.cli.text_table import print_lines
from mailwatch.config.errors import FieldError
from mailwatch.config.types import split_endpoint
from mailwatch.i18n import LANGUAGES, Texts, load_texts
from mailwatch.time_zone import zone_or_utc
from mailwatch.times import rfc3339


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.add_argument(
        "--speed",
        type=_parse_speed,
        default=1.0,
        metavar="FACTOR",
        help="speed of the schedule; 2 is twice as fast",
    )
    verb.add_argument("--lang", choices=LANGUAGES, help="language; default: as in LANG")
    verb.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep config, ledger and log in this folder; it must be new or empty",
    )
    verb.add_argument("--json", action="store_true", help="print the record as JSON")
    verb.add_argument(
        "--serve",
        type=_listen_address,
        metavar="HOST:PORT",
        help="go on: break every few minutes, and serve the pages at this address",
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    lang = args.lang or language()
    words = load_texts("mailwatch.cli.demo", f"{lang}.yaml")
    folder = _folder(args.keep)
    if folder is None:
        print(f"mailwatch demo: {args.keep} is not empty; name a new folder", file=sys.stderr)
        return 2
    if why := zone_or_utc():
        print(f"warning: {why}", file=sys.stderr)
    print(words["starting"].format(folder=folder), file=sys.stderr)
    with speaking(lang):
        return _play(args, words, folder, lang)


def _play(args: argparse.Namespace, words: Texts, folder: Path, lang: str) -> int:
    """Play the demo in a folder and print its result."""
    try:
        with _display(words) as show:
            if args.serve:
                asyncio.run(run_forever(folder, args.speed, args.serve, show))
            result = asyncio.run(run_demo(folder, args.speed, show))
        files = [
            asyncio.run(make_evidence(folder, comparison.outage["id"], lang)) for comparison in result.verdicts[:1]
        ]
    except DemoError as failure:
        print(
            words[failure.text_key].format(log=folder / LOG_FILE, **failure.facts),
            *_tail(folder),
            sep="\n",
            file=sys.stderr,
        )
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(words["stopped"], file=sys.stderr)
        # With --serve the demo runs until it is stopped, so that is success.
        return 0 if args.serve else 130
    finally:
        print(words["kept"].format(folder=folder, config=folder / "config.yaml"), file=sys.stderr)
    return _print_result(words, result, files, as_json=args.json)


def _print_result(words: Texts, result: DemoResult, files: list[Path], *, as_json: bool) -> int:
    fine = all_hold(result.verdicts, TARGETS)
    if as_json:
        print(_json(result, files, fine))
    else:
        console = stdout()
        for comparison in result.verdicts:
            print_lines(console, display.outage_facts(words, comparison))
            text = display.comparison_text(words, comparison)
            console.print(
                Text(text, "bold green" if comparison.holds else "bold red"), "", sep="\n", soft_wrap=True
            )
        for path in files:
            print(words["evidence"].format(path=path))
        print(words["page_over"], file=sys.stderr)
    if not fine:
        print(words["incomplete"], file=sys.stderr)
    return 0 if fine else 1


def _folder(wanted: Path | None) -> Path | None:
    """Create the folder for the demo's files; return None if it is not empty."""
    folder = (wanted or Path(tempfile.mkdtemp(prefix="mailwatch-demo-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return None if any(folder.iterdir()) else folder


@contextlib.contextmanager
def _display(words: Texts) -> Iterator[Display]:
    """Display snapshots: redrawn on a terminal, else each change as a line."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as screen:
            yield lambda mood, seen, url: screen.update(display.live_view(words, mood, seen, url), refresh=True)
        return
    narrator = display.PlainNarrator(words)

    def show(behaviour: Behaviour, snapshot: ApiSnapshot, url: str) -> None:
        for line in narrator.new_lines(behaviour, snapshot, url):
            print(line, file=sys.stderr, flush=True)

    yield show


def _json(result: DemoResult, files: list[Path], fine: bool) -> str:
    began, ended = result.down_time or (None, None)
    truth = {
        "began": None if began is None else rfc3339(began),
        "ended": None if ended is None else rfc3339(ended),
        "seconds": None if began is None or ended is None else (ended - began) / 1000,
    }
    outages = [{**comparison.outage, "holds_the_truth": comparison.holds} for comparison in result.verdicts]
    result_json = {"proven": fine, "truth": truth, "outages": outages, "evidence": [str(path) for path in files]}
    return json.dumps(result_json, indent=2, ensure_ascii=False)


def _tail(folder: Path) -> list[str]:
    log = folder / LOG_FILE
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:] if log.exists() else []


def _parse_speed(text: str) -> float:
    slowest, fastest = SPEEDS
    with contextlib.suppress(ValueError):
        speed = float(text)
        if slowest <= speed <= fastest:
            return speed
    raise argparse.ArgumentTypeError(f"must be a number from {slowest:g} to {fastest:g}")


def _listen_address(text: str) -> str:
    try:
        _, port = split_endpoint(text)
    except FieldError as fault:
        raise argparse.ArgumentTypeError(str(fault)) from None
    if port == 0:
        raise argparse.ArgumentTypeError("needs a port other than 0")
    return text
