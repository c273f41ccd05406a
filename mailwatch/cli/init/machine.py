"""Asks about this machine: its name and place, the time zone, who may open the pages, guard and timestamps."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from mailwatch.cli.init.prompts import OptionError, Prompts
from mailwatch.config.access import BIND_VARIABLE
from mailwatch.config.errors import FieldError
from mailwatch.config.types import split_endpoint
from mailwatch.config.zones import find_zone, similar_zones
from mailwatch.net import is_loopback
from mailwatch.setup.checks import LOCATION, NAME
from mailwatch.setup.draft import ConfigDraft
from mailwatch.setup.pages import MIN_PASSWORD_CHARS, pages_hash, password_problem
from mailwatch.setup.places import in_container
from mailwatch.time_zone import TimeZoneError, local_zone

_UTC = frozenset({"UTC", "Etc/UTC", "Etc/UCT", "UCT", "Universal", "Zulu", "GMT", "Etc/GMT"})
OPEN_LISTEN = "0.0.0.0:8080"
"""Where the pages listen for other machines, unless the user names an address."""


def with_machine(args: argparse.Namespace, prompts: Prompts, draft: ConfigDraft) -> ConfigDraft:
    """Return the draft with the answers. Raises OptionError, EOFError, and those of Prompts."""
    name = args.name
    if name is None:
        name = prompts.ask("ask_name", "--name NAME", default="home", check=NAME)
    place = args.place
    if place is None:
        place = prompts.ask("ask_place", "--place PLACE", default="", check=LOCATION)
    draft = replace(draft, name=name, place=place, timezone=_timezone(args, prompts))
    draft = _with_pages(args, prompts, draft)
    prompts.show("guard")
    guard = prompts.agree("ask_guard", default=True)
    if not guard:
        prompts.show("guard_off")
    prompts.show("timestamps")
    return replace(draft, guard=guard, timestamps=prompts.agree("ask_timestamps", default=True))


def listen_problem(text: str) -> str:
    """Return what is wrong with HOST:PORT, "" if nothing."""
    try:
        split_endpoint(text)
    except FieldError as error:
        return str(error)
    return ""


def _timezone(args: argparse.Namespace, prompts: Prompts) -> str:
    if args.timezone is not None:
        if not (zone := find_zone(args.timezone)):
            raise OptionError(f"--timezone: {prompts.text('no_zone', **_zone_facts(args.timezone))}")
        return zone
    try:
        default = local_zone().key
    except TimeZoneError:
        default = "UTC"
    if prompts.yes:
        return default
    if default in _UTC and prompts.texts["default_zone"]:
        # A container knows no other; a speaker of Italian hardly lives by UTC.
        default = prompts.texts["default_zone"]
    while True:
        answer = prompts.ask("ask_timezone", "--timezone ZONE", default=default)
        if zone := find_zone(answer):
            return zone
        prompts.show("no_zone", **_zone_facts(answer))


def _zone_facts(text: str) -> dict[str, str]:
    return {"zone": text, "like": ", ".join(similar_zones(text)) or "Europe/Rome"}


def _with_pages(args: argparse.Namespace, prompts: Prompts, draft: ConfigDraft) -> ConfigDraft:
    """Ask who may open the pages; for other machines, set their password."""
    if args.listen is not None:
        if wrong := listen_problem(args.listen):
            raise OptionError(f"--listen: {wrong}")
        listen = args.listen
    elif prompts.agree("ask_pages", default=False):
        listen = OPEN_LISTEN
        # In the container the image's own address wins, and the port is published outside.
        if not in_container(os.environ):
            listen = prompts.ask("ask_listen", "--listen HOST:PORT", default=OPEN_LISTEN, check=listen_problem)
    else:
        return draft
    if is_loopback(split_endpoint(listen)[0]):
        return replace(draft, listen=listen)
    if in_container(os.environ) and is_loopback(os.environ.get(BIND_VARIABLE, "") or "127.0.0.1"):
        prompts.show("publish")
    return replace(draft, listen=listen, pages_hash=_ask_pages_hash(prompts))


def _ask_pages_hash(prompts: Prompts) -> str:
    """Ask twice for the password of the pages; return its argon2id hash."""
    while True:
        first = prompts.password("ask_pages_password", option="--listen 127.0.0.1:8080")
        if wrong := password_problem(first):
            key = "blank_password" if wrong == "blank" else "short_password"
            prompts.show(key, least=MIN_PASSWORD_CHARS)
        elif prompts.password("ask_pages_again", option="--listen 127.0.0.1:8080") != first:
            prompts.show("passwords_differ")
        else:
            return pages_hash(first)
