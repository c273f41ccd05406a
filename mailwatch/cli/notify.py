"""mailwatch notify: tests the notification channels and lists rejected messages."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from dataclasses import asdict

from mailwatch.cli.common import add_options, open_config, open_reader, stdout
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr, translated
from mailwatch.cli.terminal_format import add_utc_option, terminal_format
from mailwatch.cli.text_table import Column, TextTable, print_lines
from mailwatch.config import build_channels
from mailwatch.notify import try_channels
from mailwatch.store import Outbox
from mailwatch.store.place import configured_place
from mailwatch.times import rfc3339

MAX_LISTED = 1000


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = verb.add_subparsers(required=True, metavar="test|list")
    test = actions.add_parser("test", help="send a test message to each channel; exit 1 if one fails")
    test.add_argument("channels", nargs="*", metavar="CHANNEL", help="only these channels, for example ntfys-1")
    add_options(test)
    test.set_defaults(run=_test)
    aside = actions.add_parser("list", help="list messages that channels rejected or never accepted, newest first")
    add_options(aside)
    add_utc_option(aside)
    aside.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> int:
    config = open_config(args)
    # The ledger first, as in every verb: it reports whether there is none yet, or no longer one.
    with open_reader(config), contextlib.closing(Outbox(configured_place(config), read_only=True)) as outbox:
        found = outbox.failed_messages(MAX_LISTED)
    if args.json:
        plain = [asdict(one) | {"time": rfc3339(one.time), "done": rfc3339(one.done)} for one in found]
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return 0
    form = terminal_format(args, config)
    table = TextTable(
        (
            Column(header="time"),
            Column(header="channel"),
            Column(header="event"),
            Column(header="answer", below=True, label=""),
            Column(header="message", below=True),
        ),
        form.zone_note(),
    )
    for one in found:
        table.add_row(form.second(one.time), one.channel, one.topic, one.outcome, one.key)
    if found:
        print_lines(stdout(), table)
    else:
        print_error("mailwatch: no message was rejected")
    return 0


def _test(args: argparse.Namespace) -> int:
    config = open_config(args)
    channels = build_channels(config)
    if unknown := set(args.channels) - {channel.name for channel in channels}:
        there = ", ".join(channel.name for channel in channels) or tr("none")
        print_error(f"mailwatch: no channel {', '.join(sorted(unknown))}; the channels are: {there}")
        return 2
    chosen = [channel for channel in channels if not args.channels or channel.name in args.channels]
    answers = asyncio.run(try_channels(chosen, config.vantage_point.name))
    if args.json:
        plain = [{"channel": c.name, "taken": w is None, "why": w} for c, w in zip(chosen, answers, strict=True)]
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        for channel, why in zip(chosen, answers, strict=True):
            print(f"{channel.name}: {tr('sent') if why is None else tr('FAILED: {why}', why=translated(why))}")
    if not chosen:
        print_error(
            "mailwatch: the config has no notify, so no messages are sent; see docs/how-to/notifications.md"
        )
    return 0 if chosen and not any(answers) else 1
