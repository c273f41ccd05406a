"""Asks for the password and tries it, until it is clear what works.

Tries the login, as `mailwatch run` will do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import SecretStr
from rich.console import Console

from mailwatch.cli.init.prompts import USERNAME, Asker, Stopped, Wrong
from mailwatch.cli.init.servers import Servers
from mailwatch.cli.live_table import Pulse, live
from mailwatch.config.catalogue import server as catalogue_server
from mailwatch.config.errors import Fault
from mailwatch.config.schema import ClockSection, GuardSection
from mailwatch.config.secrets import read_plain, readable_by_others
from mailwatch.config.types import split_endpoint
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.expiry import Expiry
from mailwatch.guard.login_backoff import LoginGate, unanswered
from mailwatch.model import Cause, Kind, Observation, Outcome
from mailwatch.probes import TlsContexts, observe
from mailwatch.probes.internal_errors import Begun, our_fault
from mailwatch.settings import Login, Target

SECONDS = 20.0


async def look(targets: Sequence[Target], console: Console) -> dict[Kind, Observation]:
    """Look at each, and give what was seen of those that were looked at.

    One after the other until a server has said what it thinks of the password; a rejected one is shown to no
    other, so that one slip of the fingers is one rejection, and nor is one that got no answer: it may be a slow
    rejection, as for `mailwatch run`. Then the rest at once.
    """
    contexts = TlsContexts()
    # As a config without these sections has them.
    expiry = Expiry(Guard.of(GuardSection()), [split_endpoint(server) for server in ClockSection().servers])
    begun: list[Pulse] = []

    async def one(target: Target) -> Observation:
        begun.append(pulse := Pulse(target))
        start, seen = Begun(), None
        try:
            seen = await observe(
                replace(target, timeout=SECONDS), scheduled_at=start.at, contexts=contexts, watch=pulse.watch
            )
            # No ledger is there yet: nothing was accepted before.
            pulse.seen = await expiry.judge(LoginGate().heard(target, seen, lambda _: ""))
        except Exception as error:
            # One server's answer is never taken away by another's.
            pulse.seen = our_fault(target, start.at, start, error, seen)
        return pulse.seen

    async def each() -> None:
        for number, target in enumerate(targets):
            seen = await one(target)
            if seen.cause is Cause.CREDENTIALS:
                return
            if seen.cause is None:
                await asyncio.gather(*(one(other) for other in targets[number + 1 :]))
                return

    await live(each(), begun, console)
    return {pulse.target.kind: pulse.seen for pulse in begun if pulse.seen}


TRIES = 3
"""How often a password is tried in all: providers lock accounts after a few more."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What worked, and what is left out and why; `unproven` if nothing could be tried to the end."""

    password: SecretStr
    username: str
    kinds: tuple[Kind, ...]
    left: dict[Kind, str]
    unproven: bool = False


def log_in(
    asker: Asker, address: str, servers: Servers, *, username: str | None, password_file: Path | None
) -> Tried:
    """Try the login at each server, TRIES times at most. Raises Stopped, Wrong, Missing, NotHidden, EOFError.

    The user name is asked for, unless it is given, where the catalogue does not know what the server wants.
    """
    if servers.provider and any("oauth2" in server.auth for server in servers.provider.servers):
        asker.say("app_password", provider=servers.provider.name)
    name = username or address
    for tried in range(1, TRIES + 1):
        if servers.provider is None and username is None:
            name = asker.ask("ask_username", "--username NAME", default=name, check=USERNAME)
        password = _password(asker, password_file)
        targets = _targets(address, servers, name, password)
        asker.say("trying")
        seen = asyncio.run(look(targets, Console(stderr=True)))
        up = tuple(kind for kind in seen if seen[kind].outcome is Outcome.UP)
        if up:
            asker.say("works")
            return _working(asker, name, password, up, seen)
        rejected = next((one for one in seen.values() if one.cause is Cause.CREDENTIALS), None)
        if rejected is None or unanswered(rejected):
            return _unproven(asker, name, password, tuple(target.kind for target in targets))
        asker.say("rejected", detail=rejected.detail)
        if password_file is not None or tried == TRIES:
            break
        asker.say("rejected_why")
        asker.say("again", tried=tried, most=TRIES)
    asker.say("rejected_why" if password_file else "rejected_last")
    asker.say("nothing")
    raise Stopped


def _working(
    asker: Asker, username: str, password: SecretStr, up: tuple[Kind, ...], seen: dict[Kind, Observation]
) -> Tried:
    left = {kind: f"{one.cause}: {one.detail}" for kind, one in seen.items() if kind not in up}
    for kind, why in left.items():
        asker.say("left", kind=asker.words["kinds"][kind], why=why)
    return Tried(password, username, up, left)


def _unproven(asker: Asker, username: str, password: SecretStr, kinds: tuple[Kind, ...]) -> Tried:
    asker.say("none_works")
    if not asker.agree("ask_anyway", default=False):
        asker.say("nothing")
        raise Stopped
    return Tried(password, username, kinds, {}, unproven=True)


def _password(asker: Asker, file: Path | None) -> SecretStr:
    if file is None:
        return asker.password()
    try:
        password = read_plain(file, None)
    except Fault as fault:
        raise Wrong(asker.text("bad_file", file="--password-file", what=fault)) from None
    if readable_by_others(file):
        asker.say("open_file", file=file)
    return password


def _targets(address: str, servers: Servers, username: str, password: SecretStr) -> list[Target]:
    made = []
    for door in servers.doors:
        known = catalogue_server(servers.provider.key, door.kind) if servers.provider else None
        login = Login(username=known.username_for(address) if known else username, password=password)
        made.append(
            Target(
                name=f"{address}/{door.kind}",
                kind=door.kind,
                host=door.host,
                port=door.port,
                tls=door.tls,
                login=login,
            )
        )
    return made
