"""mailwatch hub: invites vantage points to this hub, lists them, and removes one."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Container, Iterator, Mapping
from urllib.parse import urlsplit

from rich.text import Text
from typing_extensions import TypedDict

from mailwatch.analysis.confirmation import ConfirmedOutage, Sight, is_ahead, is_late
from mailwatch.cli import hub_evidence
from mailwatch.cli.common import add_options, open_config, open_reader, stdout
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr
from mailwatch.cli.terminal_format import TerminalFormat, add_utc_option, terminal_format
from mailwatch.cli.text_table import Column, TextTable, print_lines
from mailwatch.config import Config
from mailwatch.errors import OperationError
from mailwatch.hub.consents import agreements
from mailwatch.ledger.consent import Consent
from mailwatch.store import StoreError, load_keys
from mailwatch.store.hub_register import HubMember, HubRegister, HubRegisterError, Invitation
from mailwatch.store.place import Place, configured_place
from mailwatch.times import Millis, now, rfc3339

MAX_NAME_CHARS = 100


class MemberJson(TypedDict):
    """A member in the output of `mailwatch hub list --json`. Times are RFC 3339."""

    name: str
    state: str
    """invited, joined, pushing, replaced or removed."""
    ledger: str | None
    vantage_point: str | None
    joined: str | None
    entries: int
    pushed: str | None
    """When its last push was taken."""
    newest: str | None
    """How it dated its newest entry."""
    clock: str | None
    """ahead, or late, where that does not fit when it arrived: its clock is wrong, or it is catching up."""
    until: str | None
    """Of an invitation: until when it may be used."""
    send: str | list[str] | None
    """What it agreed to send: all, checkpoints, or the names of targets; null where it stated nothing."""
    agreed: str | None
    """Since when it agrees to that."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = verb.add_subparsers(required=True, metavar="invite|list|confirmed|evidence|revoke")
    action = actions.add_parser("invite", help="print a token with which one vantage point may join within a day")
    action.add_argument("name", metavar="NAME", help="what you call it")
    add_options(action, json=False)
    action.set_defaults(run=_invite)
    action = actions.add_parser("list", help="list the vantage points: how far and when each pushed")
    add_options(action)
    add_utc_option(action)
    action.set_defaults(run=_list)
    action = actions.add_parser("confirmed", help="list the outages that enough vantage points confirmed")
    add_options(action)
    add_utc_option(action)
    action.set_defaults(run=_confirmed)
    action = actions.add_parser("evidence", help="make one joint zip of what the vantage points pushed")
    hub_evidence.add(action)
    action = actions.add_parser("revoke", help="take nothing more from a vantage point; what it sent stays")
    action.add_argument("name", metavar="NAME")
    add_options(action, json=False)
    action.set_defaults(run=_revoke)


def _invite(args: argparse.Namespace) -> int:
    config, name = open_config(args), args.name.strip()
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        print_error(f"mailwatch: a name is printable and has at most {MAX_NAME_CHARS} characters")
        return 2
    if config.hub_server is None:
        print_error("mailwatch: the config has no hub_server: write it and restart MailWatch (docs/how-to/hub.md)")
        return 2
    with _register(config) as register:
        try:
            token = register.invite(name, now())
        except HubRegisterError as error:
            print_error(f"mailwatch: {error}")
            return 1
    print(token)
    print_error(
        tr("on the machine of {name}, within a day: mailwatch join {url}", name=name, url=_address(config))
    )
    print_error(tr("it asks for the token, which works once"))
    return 0


def _list(args: argparse.Namespace) -> int:
    config = open_config(args)
    with _register(config, read_only=True) as register:
        members, invited = register.members(), register.invitations(now())
    newest = _newest_times(configured_place(config), members)
    replaced = _replaced(configured_place(config), members)
    with open_reader(config) as reader:
        agreed = agreements(reader, load_keys(config.data_dir).origin)
    if args.json:
        found = [member_json(one, newest.get(one.origin), replaced, agreed.get(one.origin)) for one in members]
        found += map(_invitation_json, invited)
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_lines(stdout(), _table(members, newest, replaced, agreed, invited, terminal_format(args, config)))
    return 0


def _replaced(hub: Place, members: list[HubMember]) -> dict[str, str]:
    """Return which ledgers do not count, since another one goes on for them (hub/successions.py)."""
    from mailwatch.hub.successions import Successions

    return Successions(hub).replaced([one for one in members if one.revoked_at is None])


def _newest_times(hub: Place, members: list[HubMember]) -> dict[str, Millis]:
    """Return how each member dated its newest entry here, by the name of its ledger."""
    from mailwatch.hub.quorum import newest_time

    found = dict[str, Millis]()
    for one in members:
        try:
            at = newest_time(hub, one.origin, one.size)
        except (StoreError, ValueError):
            # `mailwatch ledger audit` says what is wrong with it.
            continue
        if at is not None:
            found[one.origin] = at
    return found


def _confirmed(args: argparse.Namespace) -> int:
    from mailwatch.hub.quorum import confirmed_outages

    config = open_config(args)
    with open_reader(config) as reader:
        found = confirmed_outages(reader)
    if args.json:
        print(json.dumps([confirmed_json(one) for one in found], indent=2, ensure_ascii=False))
        return 0
    form = terminal_format(args, config)
    columns = (
        Column(header="entry", right=True),
        Column(header="what", shrinks=True),
        Column(header="down since"),
        Column(header="confirmed until"),
        Column(header="vantage points", right=True),
    )
    table = TextTable(columns, form.zone_note())
    for one in found:
        until = tr("still") if one.ended_at is None else form.second(one.ended_at)
        down = f"{one.begun.count(Sight.DOWN)}/{len(one.begun.views)}"
        table.add_row(
            f"{one.entry}", str(one.begun.channel), form.second(one.begun.since or one.begun.at), until, down
        )
    print_lines(stdout(), table)
    return 0


def confirmed_json(one: ConfirmedOutage) -> dict[str, object]:
    """Return a confirmed outage as JSON."""
    begun, channel = one.begun, one.begun.channel
    return {
        "entry": one.entry,
        "provider": channel.provider,
        "kind": channel.kind,
        "target": channel.target or None,
        "not_before": None if begun.not_before is None else rfc3339(begun.not_before),
        "since": None if begun.since is None else rfc3339(begun.since),
        "confirmed": rfc3339(begun.at),
        "ended": None if one.ended_at is None else rfc3339(one.ended_at),
        "k": begun.k,
        "vantage_points": [{"ledger": view.ledger, "says": view.sight.value} for view in begun.views],
    }


def _revoke(args: argparse.Namespace) -> int:
    with _register(open_config(args)) as register:
        try:
            member = register.revoke(args.name, now())
        except HubRegisterError as error:
            print_error(f"mailwatch: {error}")
            return 1
    print(tr("{name} is removed: nothing more is taken from it; its {size} entries stay", name=member.name,
             size=member.size))  # fmt: skip
    return 0


@contextlib.contextmanager
def _register(config: Config, *, read_only: bool = False) -> Iterator[HubRegister]:
    place = configured_place(config)
    if place.absence():
        raise OperationError("there is no ledger here yet; `mailwatch run` creates it")
    with contextlib.closing(HubRegister(place, read_only=read_only)) as register:
        yield register


def _address(config: Config) -> str:
    """Return how others may reach this hub, as far as the config says it."""
    host = urlsplit(config.web.url or "").hostname
    if host:
        return f"https://{host}/"
    return f"http://{config.hub_server.listen}/" if config.hub_server else ""


def state_of(member: HubMember, replaced: Container[str] = ()) -> str:
    """Return the state of a member in one word. `replaced`: the ledgers that do not count (hub/successions.py)."""
    if member.revoked_at is not None:
        return "removed"
    if member.origin in replaced:
        return "replaced"
    return "joined" if member.pushed_at is None else "pushing"


def clock_fault(newest: Millis | None, pushed_at: Millis | None) -> str:
    """Return "ahead" or "late" if the newest entry is dated otherwise than it arrived, else ""."""
    if newest is None or pushed_at is None:
        return ""
    return "ahead" if is_ahead(newest, pushed_at) else "late" if is_late(newest, pushed_at) else ""


def member_json(
    member: HubMember, newest: Millis | None, replaced: Container[str] = (), agreed: Consent | None = None
) -> MemberJson:
    """Return a member as JSON. `newest`: how it dated its newest entry. `replaced`: as `state_of`. `agreed`: what
    it agreed to send.
    """
    send = None if agreed is None else agreed.send
    return {
        "name": member.name,
        "state": state_of(member, replaced),
        "ledger": member.origin,
        "vantage_point": member.vantage_point,
        "joined": rfc3339(member.joined_at),
        "entries": member.size,
        "pushed": None if member.pushed_at is None else rfc3339(member.pushed_at),
        "newest": None if newest is None else rfc3339(newest),
        "clock": clock_fault(newest, member.pushed_at) or None,
        "until": None,
        "send": list(send) if isinstance(send, tuple) else send,
        "agreed": None if agreed is None else rfc3339(agreed.at),
    }


def _invitation_json(invited: Invitation) -> MemberJson:
    return {
        "name": invited.name,
        "state": "invited",
        "ledger": None,
        "vantage_point": None,
        "joined": None,
        "entries": 0,
        "pushed": None,
        "newest": None,
        "clock": None,
        "until": rfc3339(invited.until),
        "send": None,
        "agreed": None,
    }


def _agreed_text(agreed: Consent | None) -> str:
    """Return what a member agreed to send in a word or two."""
    if agreed is None:
        return tr("not stated")
    return tr("targets: {count}", count=len(agreed.send)) if isinstance(agreed.send, tuple) else tr(agreed.send)


def _table(
    members: list[HubMember],
    newest: dict[str, Millis],
    replaced: Mapping[str, str],
    agreed: Mapping[str, Consent],
    invited: list[Invitation],
    form: TerminalFormat,
) -> TextTable:
    columns = (
        Column(header="name", shrinks=True),
        Column(header="state"),
        Column(header="vantage point", shrinks=True),
        Column(header="sends"),
        Column(header="entries", right=True),
        Column(header="last push"),
        Column(header="clock"),
        Column(header="ledger"),
    )
    table = TextTable(columns, form.zone_note())
    for member in members:
        state = state_of(member, replaced)
        style = {"pushing": "bold green", "removed": "bold red"}.get(state, "")
        pushed = "" if member.pushed_at is None else form.second(member.pushed_at)
        clock = Text(_clock_text(newest.get(member.origin), member.pushed_at), "bold red")
        table.add_row(
            member.name, Text(tr(state), style), member.vantage_point, _agreed_text(agreed.get(member.origin)),
            f"{member.size:,}", pushed, clock, member.origin,
        )  # fmt: skip
    for one in invited:
        until = tr("until {time}", time=form.second(one.until))
        table.add_row(one.name, Text(tr("invited")), "", "", "", until, "", "")
    return table


def _clock_text(newest: Millis | None, pushed_at: Millis | None) -> str:
    fault = clock_fault(newest, pushed_at)
    if not fault or newest is None or pushed_at is None:
        return ""
    seconds = f"{abs(newest - pushed_at) // 1000:,} s"
    return tr("{time} ahead", time=seconds) if fault == "ahead" else tr("{time} behind, or late", time=seconds)
